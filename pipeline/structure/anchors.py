"""Where the anchors of an image lie: part of them inside its instances, the rest anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.masks.run_lengths import CompressedRle, area_px, decode_mask
from pipeline.masks.windows import Window
from pipeline.structure.settings import DistillSettings

_IDS = 1 << 64  # ids may be negative, seeds may not


@dataclass(frozen=True, eq=False)
class Anchors:
    """The anchors of an image, in random order.

    xy: (A, 2) float32, pixels of the image, each the centre of a pixel (column + 0.5, row + 0.5).
    instance: (A,) the index of the instance that an anchor lies in, of several the first; -1 outside of all.
    """

    xy: NDArray[np.float32]
    instance: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.xy)

    def within(self, members: NDArray[np.int64], tile: Window) -> Anchors:
        """Return those at the indices `members`, in pixels of a tile."""
        return Anchors(self.xy[members] - np.array([tile.x0, tile.y0], dtype=np.float32), self.instance[members])


def sample_anchors(
    image_id: int, image_hw: tuple[int, int], instances: Sequence[CompressedRle], settings: DistillSettings
) -> Anchors:
    """Draw anchors: a share inside instances, the rest anywhere in the image.

    The pixels depend on the settings, the image's id, its size and its instances, on nothing else.
    """
    rng = np.random.default_rng(np.random.SeedSequence([settings.seed, image_id % _IDS]))
    height, width = image_hw
    owner = _owners(image_hw, instances)
    visible = [index for index, rle in enumerate(instances) if area_px(rle)]
    inside = round(settings.anchors * settings.inside_share) if visible else 0
    if settings.inside == "uniform":
        drawn = [_drawn(np.flatnonzero(owner >= 0), inside, rng)]
    else:
        drawn = [
            _drawn(np.flatnonzero(decode_mask(instances[visible[index]])), count, rng)
            for index, count in enumerate(_shares(inside, len(visible), rng))
            if count
        ]
    pixels = rng.permutation(np.concatenate([*drawn, rng.integers(0, height * width, settings.anchors - inside)]))
    rows, columns = np.divmod(pixels, width)
    return Anchors((np.stack([columns, rows], axis=1) + 0.5).astype(np.float32), owner[pixels])


def _owners(image_hw: tuple[int, int], instances: Sequence[CompressedRle]) -> NDArray[np.int64]:
    """Return for every pixel, rows first, the index of its instance, of several the first; -1 outside of all."""
    owner = np.full(image_hw[0] * image_hw[1], -1, dtype=np.int64)
    for index in range(len(instances) - 1, -1, -1):
        owner[decode_mask(instances[index]).ravel()] = index
    return owner


def _shares(total: int, instances: int, rng: np.random.Generator) -> list[int]:
    """Return the number of anchors of each instance: equal up to one, which get more being drawn."""
    if not instances:
        return []
    shares = np.full(instances, total // instances)
    shares[rng.permutation(instances)[: total % instances]] += 1
    return [int(share) for share in shares]


def _drawn(pixels: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw `count` of some pixels, none twice where there are enough."""
    return rng.choice(pixels, count, replace=len(pixels) < count) if count else np.empty(0, dtype=np.int64)
