"""Convert pixels of the image to a SAM's input frame, and low-resolution logits back to any region of the image.

segment_anything upsamples logits to its input side, cuts the padding off and resizes to the image. Both steps
are bilinear, so the two together are one matrix for the rows and one for the columns, and any region of the
result is a product of three small matrices: no array of the input's or the image's size is made. A SAM without
padding resizes the logits to the image in one step.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

KEPT_MATRICES = 64
"""Images of a dataset mostly have the same sizes; a matrix needs 1 to 2 MB for images of 1,000 to 2,000 pixels."""


@dataclass(frozen=True)
class InputFrame:
    """The square that a SAM resizes images into, and the square of its low-resolution logits.

    input_side, lowres_side: their sides in pixels; mask prompts have the low-resolution side too. keeps_aspect: the
    longer side of an image fills the input, with padding right and below; otherwise the image is stretched to fill it.
    """

    input_side: int
    lowres_side: int
    keeps_aspect: bool = True

    def filled_by(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        """Return the height and width, in pixels of an image, that fill the input."""
        return (max(image_hw), max(image_hw)) if self.keeps_aspect else image_hw

    def resized_hw(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        """Return the height and width of an image in the input, before padding, rounded as segment_anything does."""
        if not self.keeps_aspect:
            return self.input_side, self.input_side
        scale = self.input_side * 1.0 / max(image_hw)
        height, width = (max(int(side * scale + 0.5), 1) for side in image_hw)
        return height, width

    def to_input_xy(self, points_xy_full: NDArray[np.float32], image_hw: tuple[int, int]) -> NDArray[np.float32]:
        """Convert points (..., 2) in pixels of the image to pixels of the input."""
        height, width = image_hw
        resized_height, resized_width = self.resized_hw(image_hw)
        scale_xy = np.array([resized_width / width, resized_height / height])
        return np.asarray(points_xy_full * scale_xy, dtype=np.float32)

    def full_logits(
        self,
        mask_logits_lowres: NDArray[np.float32],
        image_hw: tuple[int, int],
        region_xyxy: tuple[int, int, int, int],
    ) -> NDArray[np.float32]:
        """Return logits in pixels of the image, for a region of it: (..., region height, region width).

        mask_logits_lowres: (..., lowres_side, lowres_side). region_xyxy: whole pixels, the ends excluded. The result is
        that of segment_anything's `postprocess_masks`, or of transformers' `post_process_masks`.
        """
        x0, y0, x1, y1 = region_xyxy
        rows, columns = (
            _interpolation(self, resized, full)
            for resized, full in zip(self.resized_hw(image_hw), image_hw, strict=True)
        )
        row_weights, seen_rows = _used(rows[y0:y1])
        column_weights, seen_columns = _used(columns[x0:x1])
        seen = mask_logits_lowres[..., seen_rows, seen_columns]
        return np.asarray(row_weights @ seen @ column_weights.T, dtype=np.float32)


def _used(weights: NDArray[np.float32]) -> tuple[NDArray[np.float32], slice]:
    """Return interpolation weights without the logits that no pixel uses, and which logits are left."""
    used = np.flatnonzero(weights.any(axis=0))
    kept = slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0, 0)
    return weights[:, kept], kept


@lru_cache(maxsize=KEPT_MATRICES)
def _interpolation(frame: InputFrame, resized: int, full: int) -> NDArray[np.float32]:
    """Return the weight of each logit in each of `full` pixels along one axis: (full, lowres_side)."""
    logits = np.eye(frame.lowres_side, dtype=np.float32)
    matrix = _bilinear(_bilinear(logits, frame.input_side)[:resized] if frame.keeps_aspect else logits, full)
    matrix.setflags(write=False)  # it is shared
    return matrix


def _bilinear(values: NDArray[np.float32], target: int) -> NDArray[np.float32]:
    """Do `torch.nn.functional.interpolate` along the first axis, bilinear, align_corners False, no antialiasing."""
    source = values.shape[0]
    positions = np.maximum((np.arange(target) + 0.5) * (source / target) - 0.5, 0)
    lower = positions.astype(np.intp)
    upper = np.minimum(lower + 1, source - 1)
    share = (positions - lower).astype(np.float32)[:, None]
    return np.asarray(values[lower] * (1 - share) + values[upper] * share, dtype=np.float32)
