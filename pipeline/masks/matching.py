"""Pairs of masks by their overlap: the best overlap first, each mask used once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.masks.overlap import rle_ious
from pipeline.masks.run_lengths import CompressedRle


def best_pairs(ious: NDArray[np.float64], min_iou: float) -> list[tuple[int, int]]:
    """Pair rows and columns of (D, G) by their IoU down to `min_iou`, each used once; the best pair comes first.

    Of equal IoUs the lower row goes first, then the lower column.
    """
    rows, columns = np.nonzero(ious >= min_iou)
    best_first = np.argsort(-ious[rows, columns], kind="stable")
    paired: dict[int, int] = {}
    taken: set[int] = set()
    for row, column in zip(rows[best_first].tolist(), columns[best_first].tolist(), strict=True):
        if row not in paired and column not in taken:
            paired[row] = column
            taken.add(column)
    return list(paired.items())


def match_to_truth(
    masks: Sequence[CompressedRle], truths: Sequence[CompressedRle], min_iou: float = 0.5
) -> list[int | None]:
    """Return for each mask the index of the truth it shows, or None; each truth is given away once."""
    pairs = dict(best_pairs(rle_ious(masks, truths), min_iou))
    return [pairs.get(index) for index in range(len(masks))]
