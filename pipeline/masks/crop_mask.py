"""Masks in crops: a mask within a window never becomes a dense array of the whole image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.masks.run_lengths import (
    CompressedRle,
    decode_mask,
    decode_window,
    encode_mask,
    encode_window,
    tight_window,
    union,
)
from pipeline.masks.windows import BoolMask, Window, nonzero_window


@dataclass(frozen=True)
class CropMask:
    """A mask that lies within a window; `rle` is of the window alone, its `size` that of the window."""

    window: Window
    rle: CompressedRle

    @classmethod
    def of_array(cls, mask: BoolMask, window: Window) -> CropMask:
        """Encode an array (height, width) that shows `window`; cut off the empty margin around the mask."""
        tight = nonzero_window(mask)
        return cls(tight.moved(window.x0, window.y0), encode_mask(mask[tight.in_image]))

    @classmethod
    def of_rle(cls, rle: CompressedRle) -> CropMask:
        """Cut out the mask of a whole image, which is decoded for that."""
        window = tight_window(rle)
        return cls.of_array(decode_window(rle, window), window)

    @property
    def is_empty(self) -> bool:
        """Return whether it has no pixel."""
        return self.window.is_empty

    def array(self) -> BoolMask:
        """Decode the mask in its window: bool (height, width)."""
        if self.is_empty:
            return np.zeros((self.window.height, self.window.width), dtype=np.bool_)
        return decode_mask(self.rle)

    def moved(self, dx: int, dy: int) -> CropMask:
        """Return the same mask `dx` columns and `dy` rows further."""
        return CropMask(self.window.moved(dx, dy), self.rle)

    def to_rle(self, height: int, width: int) -> CompressedRle:
        """Encode the mask in an image of this size, which must hold the window."""
        return encode_window(self.array(), self.window, height, width)


def disagreement(one: CompressedRle, other: CompressedRle) -> CompressedRle:
    """Return the pixels that belong to just one of two masks of an image."""
    height, width = one["size"]
    window = tight_window(union([one, other]))
    return encode_window(decode_window(one, window) ^ decode_window(other, window), window, height, width)


def without_overlap(masks: Sequence[CropMask], scores: Sequence[float]) -> list[CropMask]:
    """Return masks of one image that share no pixel: the higher score keeps it, or the earlier mask of equals."""
    order = sorted(range(len(masks)), key=lambda index: -scores[index])
    meets = _meets([mask.window for mask in masks])
    separate = list(masks)
    for rank, index in enumerate(order):
        rivals = [masks[other] for other in order[:rank] if meets[index, other]]
        separate[index] = _minus(masks[index], rivals)
    return separate


def _meets(windows: Sequence[Window]) -> NDArray[np.bool_]:
    """Return which windows share a pixel, (N, N)."""
    x0, y0, x1, y1 = np.array([astuple(window) for window in windows], dtype=np.int64).reshape(-1, 4).T
    across = np.minimum.outer(x1, x1) > np.maximum.outer(x0, x0)
    down = np.minimum.outer(y1, y1) > np.maximum.outer(y0, y0)
    meets: NDArray[np.bool_] = across & down
    return meets


def _minus(mask: CropMask, rivals: Sequence[CropMask]) -> CropMask:
    if not rivals:
        return mask
    left = mask.array()
    for rival in rivals:
        shared = mask.window & rival.window
        left[mask.window.slices(shared)] &= ~rival.array()[rival.window.slices(shared)]
    return CropMask.of_array(left, mask.window)
