"""Run lengths as pycocotools has them.

Checked here is what it takes on trust: that a text does not end too early, that runs fill the image.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray


class CompressedRle(TypedDict):
    """What pycocotools calls an RLE: `size` is [height, width], `counts` its run lengths as ASCII bytes."""

    size: list[int]
    counts: bytes


# A character holds 5 bits, and all but the last of a run length have the "more follows" bit set.
COMPRESSED_COUNTS = re.compile("[0-o]*[0-O]")
# 6 characters hold any run of an image with fewer than 2**29 pixels; from the seventh on, pycocotools shifts
# bits out of its integers.
_MAX_RUN_CHARACTERS = 6


def counts_problem(total: int, shortest: int, pixels: int) -> str | None:
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
        else counts_problem(int(total), int(least), wanted)
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
