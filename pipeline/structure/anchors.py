"""Where the anchors of an image lie: part of them inside its instances, the rest anywhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.masks.run_lengths import CompressedRle, area_px, decode_mask
from pipeline.structure.settings import DistillSettings

_IDS = 1 << 64  # ids may be negative, seeds may not


def sample_anchors(
    image_id: int, image_hw: tuple[int, int], instances: Sequence[CompressedRle], settings: DistillSettings
) -> NDArray[np.float32]:
    """Anchors (A, 2) as x, y in pixels of the image; each is the centre of a pixel (column + 0.5, row + 0.5).

    The first ones lie inside instances, as evenly spread over these as can be, the rest anywhere in the image.
    Which pixels depends on the seed, the image's id and its instances, on nothing else.
    """
    rng = np.random.default_rng(np.random.SeedSequence([settings.seed, image_id % _IDS]))
    height, width = image_hw
    visible = [rle for rle in instances if area_px(rle)]
    inside = round(settings.anchors * settings.inside_share) if visible else 0
    pixels = [
        _pixels_inside(visible[index], count, rng) for index, count in enumerate(_shares(inside, len(visible), rng))
    ]
    pixels.append(rng.integers(0, height * width, settings.anchors - inside))
    rows, columns = np.divmod(np.concatenate(pixels), width)
    return (np.stack([columns, rows], axis=1) + 0.5).astype(np.float32)


def _shares(total: int, instances: int, rng: np.random.Generator) -> list[int]:
    """How many anchors each instance gets: numbers that differ by one at most, which get more being drawn."""
    if not instances:
        return []
    shares = np.full(instances, total // instances)
    shares[rng.permutation(instances)[: total % instances]] += 1
    return [int(share) for share in shares]


def _pixels_inside(rle: CompressedRle, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Pixels of a mask, counted along the rows of the image; one twice only where there are too few."""
    if not count:
        return np.empty(0, dtype=np.int64)  # many instances get none: their masks need not be decoded
    pixels = np.flatnonzero(decode_mask(rle))
    return rng.choice(pixels, count, replace=len(pixels) < count)
