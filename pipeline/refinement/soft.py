"""Resamples a teacher's soft mask to the grids of refinement."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.masks.logit_codes import log_odds, logistic
from pipeline.masks.soft_masks import SoftMask
from pipeline.masks.windows import BoolMask, Window
from pipeline.refinement.geometry import LowresFrame

VIEW_SIDE = 128
"""Most cells along the longer side of a view; the soft mask itself is stored on fewer."""


@dataclass(frozen=True)
class SoftView:
    """A soft mask in cells that are square, as far as whole numbers of cells allow.

    probability: (rows, columns) float32, 0 to 1. logits: of the same cells, -16 to 16. Column c and row r begin at
    (x0 + c * cell_width, y0 + r * cell_height), in pixels of the image.
    """

    probability: NDArray[np.float32]
    logits: NDArray[np.float32]
    x0: float
    y0: float
    cell_width: float
    cell_height: float

    def inside(self) -> BoolMask:
        """Return the cells with a probability above 0.5; if there are none, those above half of the highest value."""
        threshold = 0.5 * min(1.0, float(self.probability.max()))
        above_half = self.probability > 0.5
        return above_half if above_half.any() else self.probability > threshold

    def points_xy(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return the centres of cells, (P, 2) float32, x then y, in pixels of the image."""
        xs = self.x0 + (columns + 0.5) * self.cell_width
        ys = self.y0 + (rows + 0.5) * self.cell_height
        return np.stack([xs, ys], axis=-1).astype(np.float32)

    def box_xyxy(self, cells: Window) -> NDArray[np.float32]:
        """Return the edges of a window of cells, (4,) float32, in pixels of the image."""
        return np.array(
            [
                self.x0 + cells.x0 * self.cell_width,
                self.y0 + cells.y0 * self.cell_height,
                self.x0 + cells.x1 * self.cell_width,
                self.y0 + cells.y1 * self.cell_height,
            ],
            dtype=np.float32,
        )


def soft_view(soft_mask: SoftMask) -> SoftView:
    """Return the soft mask in cells of one pixel, or larger ones if it has more pixels than `VIEW_SIDE`."""
    crop = soft_mask.window
    cell_px = max(1.0, max(crop.width, crop.height) / VIEW_SIDE)
    columns, rows = (max(1, round(side / cell_px)) for side in (crop.width, crop.height))

    def shown(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(Image.fromarray(values).resize((columns, rows), Image.Resampling.BILINEAR))

    logits = log_odds(*(shown(logistic(sign * soft_mask.logits)) for sign in (1, -1)))
    return SoftView(shown(soft_mask.probabilities), logits, crop.x0, crop.y0, crop.width / columns, crop.height / rows)


def soft_lowres(soft_mask: SoftMask, frame: LowresFrame) -> NDArray[np.float32]:
    """Return the soft mask in SAM's low-resolution frame: (lowres_side, lowres_side) float32, 0 to 1, 0 in padding."""
    lowres = np.zeros((frame.sam.lowres_side, frame.sam.lowres_side), dtype=np.float32)
    crop = soft_mask.window
    target = frame.to_lowres(crop)
    if target.is_empty:
        return lowres
    grid = Image.fromarray(soft_mask.probabilities)
    cells_x, cells_y = grid.width / crop.width, grid.height / crop.height
    edges = (
        (target.x0 / frame.scale_x - crop.x0) * cells_x,
        (target.y0 / frame.scale_y - crop.y0) * cells_y,
        (target.x1 / frame.scale_x - crop.x0) * cells_x,
        (target.y1 / frame.scale_y - crop.y0) * cells_y,
    )
    # Whole low-resolution pixels reach a little beyond the crop: repeat its outermost cells.
    left, top = max(0, ceil(-edges[0])), max(0, ceil(-edges[1]))
    right, bottom = max(0, ceil(edges[2] - grid.width)), max(0, ceil(edges[3] - grid.height))
    padded = Image.fromarray(np.pad(np.asarray(grid), ((top, bottom), (left, right)), mode="edge"))
    box = (edges[0] + left, edges[1] + top, edges[2] + left, edges[3] + top)
    resized = padded.resize((target.width, target.height), Image.Resampling.BILINEAR, box=box)
    lowres[target.in_image] = np.asarray(resized)
    return lowres
