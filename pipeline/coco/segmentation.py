"""The three forms of a COCO segmentation: polygons, compressed RLE, uncompressed RLE.

A segmentation is kept as its JSON text (`msgspec.Raw`, a view into the file's bytes), so that a dataset of a
million instances holds no decoded coordinates. RLE arithmetic is pycocotools'; checked here is what it takes
on trust: that a text does not end too early, that runs fill the image, that no point is far away.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypedDict

import msgspec
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

Polygons = list[list[float]]


class CompressedRle(TypedDict):
    """What pycocotools calls an RLE: `size` is [height, width], `counts` its run lengths as ASCII bytes."""

    size: list[int]
    counts: bytes


class RleJson(msgspec.Struct, gc=False):
    """An RLE as COCO JSON has it; `counts` is text (compressed) or run lengths (uncompressed)."""

    size: tuple[int, int]
    counts: str | list[int]


class SegmentationError(ValueError):
    """A segmentation is not usable: `field` is the place below `segmentation`, such as `[0]` or `.counts`."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


_decoder = msgspec.json.Decoder(Polygons | RleJson)

# A character holds 5 bits, and all but the last of a run length have the "more follows" bit set.
_COMPRESSED_COUNTS = re.compile("[0-o]*[0-O]")
# 6 characters hold any run of an image with fewer than 2**29 pixels; from the seventh on, pycocotools shifts
# bits out of its integers.
_MAX_RUN_CHARACTERS = 6


def decode_segmentation(segmentation: msgspec.Raw) -> Polygons | RleJson:
    """Decode to plain values; ValueError (msgspec's, or of Unicode) where the JSON has another shape."""
    polygons_or_rle: Polygons | RleJson = _decoder.decode(segmentation)
    return polygons_or_rle


def encode_segmentation(segmentation: Sequence[Sequence[float]] | CompressedRle) -> msgspec.Raw:
    """JSON text of polygons (x, y, x, y, …) or of a pycocotools RLE, for a `CocoAnnotation`."""
    if isinstance(segmentation, Mapping):
        return msgspec.Raw(
            msgspec.json.encode({"size": segmentation["size"], "counts": segmentation["counts"].decode("ascii")})
        )
    return msgspec.Raw(msgspec.json.encode(segmentation))


def require_usable(segmentation: Polygons | RleJson, width: int, height: int) -> None:
    """Raise SegmentationError unless it is fit for an image of width x height.

    Of compressed RLE only the form is checked; `compressed_counts_problems` does the sums, many at a time.
    """
    if isinstance(segmentation, RleJson):
        _require_usable_rle(segmentation, width, height)
        return
    if not segmentation:
        raise SegmentationError("", "is empty: an instance needs a polygon or an RLE")
    shorter_side = min(width, height)
    for index, polygon_xy in enumerate(segmentation):
        if len(polygon_xy) % 2:
            raise SegmentationError(f"[{index}]", f"has an odd count of coordinates ({len(polygon_xy)})")
        if len(polygon_xy) < 6:
            raise SegmentationError(f"[{index}]", f"has {len(polygon_xy) // 2} points: a polygon needs 3")
        # One cheap look at all coordinates; which axis is meant matters only where it fails.
        if min(polygon_xy) < -shorter_side or max(polygon_xy) > 2 * shorter_side:
            _require_near(index, polygon_xy, width, height)


def _require_near(index: int, polygon_xy: list[float], width: int, height: int) -> None:
    # pycocotools walks along every edge pixel by pixel: a far point costs memory, a very far one overflows.
    for axis, values, side in (("x", polygon_xy[0::2], width), ("y", polygon_xy[1::2], height)):
        if min(values) < -side or max(values) > 2 * side:
            reach = f"{axis} {min(values):g} to {max(values):g}"
            raise SegmentationError(f"[{index}]", f"lies far outside the image of {width}x{height}: {reach}")


def _require_usable_rle(rle: RleJson, width: int, height: int) -> None:
    if rle.size != (height, width):
        given = f"{list(rle.size)} (height, width)"
        raise SegmentationError(".size", f"is {given}, the image's is {[height, width]}")
    if isinstance(rle.counts, str):
        if not _COMPRESSED_COUNTS.fullmatch(rle.counts):
            raise SegmentationError(".counts", "is not the text of a compressed RLE")
        return
    problem = _counts_problem(sum(rle.counts), min(rle.counts, default=0), width * height)
    if problem is not None:
        raise SegmentationError(".counts", problem)


def _counts_problem(total: int, shortest: int, pixels: int) -> str | None:
    if shortest < 0:
        return "holds a negative run length"
    return f"adds up to {total} pixels, the image has {pixels}" if total != pixels else None


def compressed_counts_problems(counts: Sequence[str], pixels: Sequence[int]) -> list[str | None]:
    """For each compressed RLE's text, say what is wrong with its run lengths, given its image's pixel count.

    All are decoded in one sweep of numpy: pycocotools cannot tell, and Python takes 10 times as long.
    """
    codes = np.frombuffer("".join(counts).encode("ascii"), dtype=np.uint8) - 48
    run_ends = np.flatnonzero(codes < 32) + 1  # in characters, as are the next two
    run_starts = np.concatenate(([0], run_ends[:-1]))
    run_characters = run_ends - run_starts
    text_ends = np.cumsum([len(text) for text in counts])
    ends = np.searchsorted(run_ends, text_ends) + 1  # in runs
    starts = np.concatenate(([0], ends[:-1]))
    runs = _undo_differences(_stored_values(codes, run_starts, run_characters), starts, ends)
    totals, shortest = np.add.reduceat(runs, starts), np.minimum.reduceat(runs, starts)
    most_characters = np.maximum.reduceat(run_characters, starts)
    return [
        f"holds a run of more than {_MAX_RUN_CHARACTERS} characters"
        if characters > _MAX_RUN_CHARACTERS
        else _counts_problem(int(total), int(least), wanted)
        for total, least, characters, wanted in zip(totals, shortest, most_characters, pixels, strict=True)
    ]


def _stored_values(
    codes: NDArray[np.uint8], run_starts: NDArray[np.int64], run_characters: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The signed numbers that stand in the text; their characters past the sixth are not looked at."""
    values = (codes[run_starts] & 31).astype(np.int64)
    last = codes[run_starts]
    longer = np.arange(len(run_starts))
    for place in range(1, _MAX_RUN_CHARACTERS):
        longer = longer[run_characters[longer] > place]  # few runs have more than two characters
        last[longer] = codes[run_starts[longer] + place]
        values[longer] |= (last[longer] & 31).astype(np.int64) << 5 * place
    negative = np.flatnonzero(last & 16)
    values[negative] -= 1 << 5 * np.minimum(run_characters[negative], _MAX_RUN_CHARACTERS)
    return values


def _undo_differences(
    stored: NDArray[np.int64], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Run lengths of several texts; from the fourth on, they store differences to the run before the last."""
    stored = stored.copy()
    third = starts[ends - starts > 2] + 2
    stored[third] -= stored[third - 2]  # the third too, from here on
    lengths = np.empty_like(stored)
    for parity in (0, 1):
        # Every other run of the whole sweep, summed up; less what the texts before its own have added.
        sums = np.cumsum(stored[parity::2])
        begin, end = (starts + 1 - parity) // 2, (ends + 1 - parity) // 2
        before = np.concatenate(([0], sums))[begin]
        lengths[parity::2] = sums - np.repeat(before, end - begin)
    return lengths


def to_rle(segmentation: Polygons | RleJson, width: int, height: int) -> CompressedRle:
    """Make the pycocotools RLE of a usable segmentation (see `require_usable`)."""
    if not isinstance(segmentation, RleJson):
        parts = coco_mask.frPyObjects(segmentation, height, width)
        rle: CompressedRle = parts[0] if len(parts) == 1 else coco_mask.merge(parts)
        return rle
    if isinstance(segmentation.counts, str):
        return {"size": [height, width], "counts": segmentation.counts.encode("ascii")}
    counts = {"size": [height, width], "counts": segmentation.counts}
    compressed: CompressedRle = coco_mask.frPyObjects(counts, height, width)
    return compressed
