"""Decode and check the three forms of a COCO segmentation: polygons, compressed RLE, uncompressed RLE.

A segmentation is kept as its JSON text (`msgspec.Raw`, a view into the file's bytes), so that a dataset of a
million instances holds no decoded coordinates. The checks are those that pycocotools leaves out: that a text does
not end too early, that runs fill the image, that no point is far away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

import msgspec

from pipeline.coco.json_text import field_problem
from pipeline.masks.run_lengths import (
    COMPRESSED_COUNTS,
    CompressedRle,
    compressed_counts_problems,
    counts_problem,
    encode_polygons,
    encode_runs,
)

Polygons = list[list[float]]

_COUNTS_AT_ONCE = 1024
"""Number of compressed RLEs summed up at once: more of them no longer fit the processor's cache."""

Key = TypeVar("Key")


class RleJson(msgspec.Struct, gc=False):
    """An RLE as it is in COCO JSON; `counts` is text (compressed) or run lengths (uncompressed)."""

    size: tuple[int, int]
    counts: str | list[int]


class SegmentationError(ValueError):
    """A segmentation is not usable: `field` says where below `segmentation`, such as `[0]` or `.counts`."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


_decoder = msgspec.json.Decoder(Polygons | RleJson)


def decode_segmentation(segmentation: msgspec.Raw) -> Polygons | RleJson:
    """Decode to plain values; ValueError (msgspec's, or of Unicode) where the JSON has another shape."""
    polygons_or_rle: Polygons | RleJson = _decoder.decode(segmentation)
    return polygons_or_rle


def encode_segmentation(segmentation: Sequence[Sequence[float]] | CompressedRle) -> msgspec.Raw:
    """Return the JSON text of polygons (x, y, x, y, …) or of a pycocotools RLE, for a `CocoAnnotation`."""
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
        # One cheap check of all coordinates; the axis matters only where it fails.
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
        if not COMPRESSED_COUNTS.fullmatch(rle.counts):
            raise SegmentationError(".counts", "is not the text of a compressed RLE")
        return
    problem = counts_problem(sum(rle.counts), min(rle.counts, default=0), width * height)
    if problem is not None:
        raise SegmentationError(".counts", problem)


class SegmentationChecker(Generic[Key]):
    """Check of many segmentations, which calls `refuse` with the key, the field and what is wrong.

    The run lengths of compressed RLEs are summed up many at a time: `finish` sums up the rest.
    """

    def __init__(self, refuse: Callable[[Key, str, str], None]) -> None:
        self._refuse = refuse
        # Compressed RLEs whose run lengths are not summed yet: key, counts, pixels of the image.
        self._pending: list[tuple[Key, str, int]] = []

    def check(self, key: Key, text: msgspec.Raw, width: int, height: int) -> Polygons | RleJson | None:
        """Decode a segmentation for an image of width x height; None where it is not usable."""
        try:
            segmentation: Polygons | RleJson = _decoder.decode(text)
            require_usable(segmentation, width, height)
        except SegmentationError as error:
            self._refuse(key, f"segmentation{error.field}", str(error))
            return None
        except (ValueError, RecursionError) as error:
            self._refuse(key, *field_problem("segmentation", text, error))
            return None
        if isinstance(segmentation, RleJson) and isinstance(segmentation.counts, str):
            self._pending.append((key, segmentation.counts, width * height))
            if len(self._pending) == _COUNTS_AT_ONCE:
                self.finish()
        return segmentation

    def finish(self) -> None:
        """Check the run lengths that are left."""
        if not self._pending:
            return
        keys, counts, pixels = zip(*self._pending, strict=True)
        for key, problem in zip(keys, compressed_counts_problems(counts, pixels), strict=True):
            if problem is not None:
                self._refuse(key, "segmentation.counts", problem)
        self._pending.clear()


def to_rle(segmentation: Polygons | RleJson, width: int, height: int) -> CompressedRle:
    """Return the pycocotools RLE of a usable segmentation (see `require_usable`)."""
    if not isinstance(segmentation, RleJson):
        return encode_polygons(segmentation, height, width)
    if isinstance(segmentation.counts, str):
        return {"size": [height, width], "counts": segmentation.counts.encode("ascii")}
    return encode_runs(segmentation.counts, height, width)
