"""Masks as run lengths: makes, reads and checks pycocotools' RLE.

pycocotools does not check whether a text ends too early and whether runs fill the image; this module does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from pipeline.masks.windows import BoolMask, BoxXyxy, Window, window_around

_AREAS_AT_ONCE = 255
"""Masks of a call of pycocotools' `area`, which counts them in a byte."""


class CompressedRle(TypedDict):
    """A pycocotools RLE: `size` is [height, width], `counts` the run lengths as ASCII bytes."""

    size: list[int]
    counts: bytes


def encode_mask(mask: BoolMask) -> CompressedRle:
    """Encode a mask (height, width). An array in column order, such as a transposed one, is not copied."""
    rle: CompressedRle = coco_mask.encode(np.asfortranarray(mask).view(np.uint8))
    return rle


def encode_runs(counts: Sequence[int], height: int, width: int) -> CompressedRle:
    """Encode runs of 0, 1, 0, … down the columns, in pixels, which must fill an image of this size."""
    rle: CompressedRle = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return rle


def encode_window(mask: BoolMask, window: Window, height: int, width: int) -> CompressedRle:
    """Encode a mask (height, width) of a window in an image of this size, which must hold the window."""
    # Run lengths go down the columns; a zero at both ends of each keeps runs from continuing in the next.
    columns = np.zeros((window.width, window.height + 2), dtype=np.bool_)
    columns[:, 1:-1] = mask.T
    column, row = np.divmod(np.flatnonzero(columns[:, 1:] != columns[:, :-1]), window.height + 1)
    changes = (column + window.x0) * height + row + window.y0
    if window.height == height:
        # In the image, a run at the bottom continues if the next column begins with ones.
        joined = np.flatnonzero(np.diff(changes) == 0)
        changes = np.delete(changes, np.concatenate([joined, joined + 1]))
    ends = changes.tolist()
    if not ends or ends[-1] < height * width:
        ends.append(height * width)
    return encode_runs([end - start for start, end in pairwise([0, *ends])], height, width)


def encode_polygons(polygons_xy: Sequence[Sequence[float]], height: int, width: int) -> CompressedRle:
    """Encode the union of polygons (x, y, x, y, …), at least one, as pycocotools draws them."""
    parts: list[CompressedRle] = coco_mask.frPyObjects(polygons_xy, height, width)
    return parts[0] if len(parts) == 1 else union(parts)


def union(masks: Sequence[CompressedRle]) -> CompressedRle:
    """Return the union of masks of one image, at least one."""
    rle: CompressedRle = coco_mask.merge(list(masks))
    return rle


def decode_mask(rle: CompressedRle) -> BoolMask:
    """Decode to bool (height, width) of the image, in column order."""
    mask: BoolMask = coco_mask.decode(rle).view(np.bool_)
    return mask


def decode_window(rle: CompressedRle, window: Window) -> BoolMask:
    """Decode a window of the image: bool (height, width) of the window, a copy in row order."""
    return decode_mask(rle)[window.in_image].copy()


def area_px(rle: CompressedRle) -> int:
    """Count the pixels of a mask."""
    return int(coco_mask.area(rle))


def areas_px(rles: Sequence[CompressedRle]) -> NDArray[np.uint32]:
    """Count the pixels of each of many masks."""
    parts = [
        coco_mask.area(list(rles[first : first + _AREAS_AT_ONCE])) for first in range(0, len(rles), _AREAS_AT_ONCE)
    ]
    return np.concatenate([np.empty(0, np.uint32), *parts])


def box_xyxy(rle: CompressedRle) -> BoxXyxy:
    """Return the tight box of a mask; four zeros if it has no pixel."""
    x, y, width, height = box_xywh(rle)
    return x, y, x + width, y + height


def box_xywh(rle: CompressedRle) -> tuple[float, float, float, float]:
    """Return the tight box of a mask as left, top, width, height; four zeros if it has no pixel."""
    x, y, width, height = coco_mask.toBbox(rle).tolist()
    return x, y, width, height


def boxes_xywh(rles: Sequence[CompressedRle]) -> NDArray[np.float64]:
    """Return the tight boxes of many masks as `box_xywh`: (masks, 4)."""
    boxes: NDArray[np.float64] = coco_mask.toBbox(list(rles))
    return boxes


def tight_window(rle: CompressedRle) -> Window:
    """Return the tight window of a mask; `NOTHING` if it has no pixel."""
    return window_around(box_xyxy(rle))


# A character holds 5 bits, and all but the last of a run length have the "more follows" bit set.
COMPRESSED_COUNTS = re.compile("[0-o]*[0-O]")
# 6 characters hold any run of an image with fewer than 2**29 pixels; from the seventh on, pycocotools shifts
# bits out of its integers.
_MAX_RUN_CHARACTERS = 6
# The system gives memory for larger arrays anew at every turn, which takes as long as all of the work on them.
_CHARACTERS_AT_ONCE = 1 << 14


def counts_problem(total: int, shortest: int, pixels: int) -> str | None:
    """Return what is wrong with run lengths of this sum and this shortest run, for an image of so many pixels."""
    if shortest < 0:
        return "holds a negative run length"
    return f"adds up to {total} pixels, the image has {pixels}" if total != pixels else None


def compressed_counts_problems(counts: Sequence[str], pixels: Sequence[int]) -> list[str | None]:
    """Return for each compressed RLE's text what is wrong with its run lengths, given its image's pixel count.

    Decode many at once with NumPy: pycocotools does not check them, and a loop in Python takes 20 times as long.
    """
    problems: list[str | None] = []
    first = characters = 0
    for end, text in enumerate(counts, start=1):
        characters += len(text)
        if characters >= _CHARACTERS_AT_ONCE or end == len(counts):
            problems += _counts_problems(counts[first:end], pixels[first:end])
            first, characters = end, 0
    return problems


def _counts_problems(counts: Sequence[str], pixels: Sequence[int]) -> list[str | None]:
    codes = np.frombuffer("".join(counts).encode("ascii"), dtype=np.uint8) - 48
    run_ends = np.flatnonzero(codes < 32) + 1  # in characters, as is the next
    run_characters = np.diff(run_ends, prepend=0)
    text_ends = np.cumsum([len(text) for text in counts])
    ends = np.searchsorted(run_ends, text_ends) + 1  # in runs
    starts = np.concatenate(([0], ends[:-1]))
    runs = _undo_differences(_stored_values(codes, run_ends, run_characters), starts, ends)
    totals, shortest = np.add.reduceat(runs, starts), np.minimum.reduceat(runs, starts)
    most_characters = np.maximum.reduceat(run_characters, starts)
    return [
        f"holds a run of more than {_MAX_RUN_CHARACTERS} characters"
        if characters > _MAX_RUN_CHARACTERS
        else counts_problem(total, least, wanted)
        for total, least, characters, wanted in zip(
            totals.tolist(), shortest.tolist(), most_characters.tolist(), pixels, strict=True
        )
    ]


def _stored_values(
    codes: NDArray[np.uint8], run_ends: NDArray[np.int64], run_characters: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the signed numbers in the text, without their characters before the last six."""
    last = codes[run_ends - 1]
    values = ((last ^ 16).view(np.int8) - 16).astype(np.int64)  # the last character has the sign
    longer = np.flatnonzero(run_characters > 1)
    for index in range(1, _MAX_RUN_CHARACTERS):
        values[longer] = values[longer] << 5 | codes[run_ends[longer] - 1 - index] & 31
        longer = longer[run_characters[longer] > index + 1]  # few runs have more than two characters
    return values


def _undo_differences(
    stored: NDArray[np.int64], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the runs of several texts; from the fourth on, a text stores the difference to the run before the last."""
    stored = stored.copy()
    third = starts[ends - starts > 2] + 2
    stored[third] -= stored[third - 2]  # the third too, from here on
    lengths = np.empty_like(stored)
    for parity in (0, 1):
        # Sum every other run of all texts, then subtract the sums of the texts before.
        sums = np.cumsum(stored[parity::2])
        begin, end = (starts + 1 - parity) // 2, (ends + 1 - parity) // 2
        before = np.concatenate(([0], sums))[begin]
        lengths[parity::2] = sums - np.repeat(before, end - begin)
    return lengths
