"""Imitate gross errors of a teacher: a mask without one of its sides, or with a part of the instance next to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np

from pipeline.masks.windows import BoolMask, nonzero_window, whole_image

SHARE: Final = 0.8
"""Share of masks with a gross error for noise of 1 or more; in proportion to the noise below."""

LOST: Final = (0.15, 0.5)
"""Least and largest share of a mask's pixels that are left out."""

ADDED: Final = (0.2, 0.8)
"""Least and largest number of a neighbour's pixels that are added, as a share of the mask's own."""


def with_gross_errors(mask: BoolMask, masks: Sequence[BoolMask], noise: float, rng: np.random.Generator) -> BoolMask:
    """Return what a teacher takes for an instance: its mask (height, width), with a gross error or without.

    masks: of instances of the image, this one among them or not. noise: that of the imitated teacher; a worse one errs
    more often. A mask without a pixel stays as it is.
    """
    if rng.random() >= SHARE * min(noise, 1.0) or not mask.any():
        return mask
    neighbour = _neighbour(mask, masks) if rng.random() < 0.5 else None
    return _without_a_side(mask, rng) if neighbour is None else _joined(mask, neighbour, rng)


def _without_a_side(mask: BoolMask, rng: np.random.Generator) -> BoolMask:
    rows, columns = np.nonzero(mask)
    angle = rng.uniform(0, 2 * np.pi)
    along = columns * np.cos(angle) + rows * np.sin(angle)
    kept = along >= np.quantile(along, rng.uniform(*LOST))
    part = np.zeros_like(mask)
    part[rows[kept], columns[kept]] = True
    return part


def _joined(mask: BoolMask, neighbour: BoolMask, rng: np.random.Generator) -> BoolMask:
    """Return the mask with the pixels of a neighbour that are nearest to its middle."""
    own, others = np.argwhere(mask), np.argwhere(neighbour & ~mask)
    away = np.linalg.norm(others - own.mean(axis=0), axis=1)
    added = others[np.argsort(away, kind="stable")[: max(1, round(rng.uniform(*ADDED) * len(own)))]]
    joined = mask.copy()
    joined[added[:, 0], added[:, 1]] = True
    return joined


def _neighbour(mask: BoolMask, masks: Sequence[BoolMask]) -> BoolMask | None:
    """Return the nearest mask with pixels of its own; None if no gap is under a quarter of the mask's own extent."""
    farthest = np.sqrt(np.count_nonzero(mask)) / 4
    near = (nonzero_window(mask).grown(int(farthest) + 1) & whole_image(*mask.shape)).in_image
    distance = cv2.distanceTransform((~mask[near]).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    gaps = [distance[other[near] & ~mask[near]].min(initial=np.inf) for other in masks]
    if not gaps or min(gaps) > farthest:
        return None
    return masks[int(np.argmin(gaps))]
