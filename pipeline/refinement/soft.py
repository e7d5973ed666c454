"""A teacher's soft mask, read on the grids that refinement works on, and soft masks for binary ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, sqrt

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.labels.soft_mask import CROP_MARGIN, MIN_MARGIN_PX, SoftMask, make_soft_mask
from pipeline.masks.distances import distances
from pipeline.masks.run_lengths import CompressedRle
from pipeline.masks.windows import Window, whole_image, window_around
from pipeline.refinement.geometry import LowresFrame

VIEW_SIDE = 128
"""Cells along the longer side of a view, at most; the soft mask itself is stored on fewer."""

RAMP_SIDE = 256
"""Pixels along the longer side of the crop that a binary mask is softened in, at most."""

MOST_LOGIT = 20.0
"""Where a logistic function is as good as flat."""

RAMP_PX = 0.7
RAMP_SHARE = 0.03
"""How soft the edge of a binary mask becomes: pixels, and a share of the square root of its area."""


@dataclass(frozen=True)
class SoftView:
    """A soft mask in cells that are square, or as near as whole numbers of cells allow.

    probability: (rows, columns) float32, 0 to 1. Column c and row r cover what begins at
    (x0 + c * cell_width, y0 + r * cell_height), in pixels of the image.
    """

    probability: NDArray[np.float32]
    x0: float
    y0: float
    cell_width: float
    cell_height: float

    def inside(self) -> NDArray[np.bool_]:
        """The cells that are rather inside than not; where none is, those above half of the highest value."""
        threshold = 0.5 * min(1.0, float(self.probability.max()))
        above_half = self.probability > 0.5
        return above_half if above_half.any() else self.probability > threshold

    def points_xy(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float32]:
        """Centres of cells, (P, 2) float32, x then y, in pixels of the image."""
        xs = self.x0 + (columns + 0.5) * self.cell_width
        ys = self.y0 + (rows + 0.5) * self.cell_height
        return np.stack([xs, ys], axis=-1).astype(np.float32)

    def box_xyxy(self, cells: Window) -> NDArray[np.float32]:
        """Edges of a window of cells, (4,) float32, in pixels of the image."""
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
    """The soft mask in cells of one pixel, or larger ones where `VIEW_SIDE` asks for them."""
    crop = Window(*soft_mask.crop_box_xyxy)
    cell_px = max(1.0, max(crop.width, crop.height) / VIEW_SIDE)
    columns, rows = (max(1, round(side / cell_px)) for side in (crop.width, crop.height))
    view = _grid(soft_mask).resize((columns, rows), Image.Resampling.BILINEAR)
    return SoftView(np.asarray(view), crop.x0, crop.y0, crop.width / columns, crop.height / rows)


def soft_lowres(soft_mask: SoftMask, frame: LowresFrame) -> NDArray[np.float32]:
    """The soft mask in SAM's low-resolution frame: (lowres_side, lowres_side) float32, 0 to 1, 0 in padding."""
    lowres = np.zeros((frame.lowres_side, frame.lowres_side), dtype=np.float32)
    crop = Window(*soft_mask.crop_box_xyxy)
    target = frame.to_lowres(crop)
    if target.is_empty:
        return lowres
    grid = _grid(soft_mask)
    cells_x, cells_y = grid.width / crop.width, grid.height / crop.height
    edges = (
        (target.x0 / frame.scale_x - crop.x0) * cells_x,
        (target.y0 / frame.scale_y - crop.y0) * cells_y,
        (target.x1 / frame.scale_x - crop.x0) * cells_x,
        (target.y1 / frame.scale_y - crop.y0) * cells_y,
    )
    # Whole low-resolution pixels reach a little beyond the crop: its outermost cells are repeated there.
    left, top = max(0, ceil(-edges[0])), max(0, ceil(-edges[1]))
    right, bottom = max(0, ceil(edges[2] - grid.width)), max(0, ceil(edges[3] - grid.height))
    padded = Image.fromarray(np.pad(np.asarray(grid), ((top, bottom), (left, right)), mode="edge"))
    box = (edges[0] + left, edges[1] + top, edges[2] + left, edges[3] + top)
    resized = padded.resize((target.width, target.height), Image.Resampling.BILINEAR, box=box)
    lowres[target.y0 : target.y1, target.x0 : target.x1] = np.asarray(resized)
    return lowres


def soften(mask: CompressedRle) -> SoftMask:
    """A soft mask for a binary one: a half on its outline, falling outwards and rising inwards.

    The mask must have a pixel.
    """
    height, width = mask["size"]
    x, y, box_width, box_height = (float(value) for value in coco_mask.toBbox(mask))
    margin_x, margin_y = (max(CROP_MARGIN * side, MIN_MARGIN_PX) for side in (box_width, box_height))
    around = window_around((x - margin_x, y - margin_y, x + box_width + margin_x, y + box_height + margin_y))
    window = around & whole_image(height, width)
    crop = np.ascontiguousarray(coco_mask.decode(mask)[window.y0 : window.y1, window.x0 : window.x1])
    # What is stored is coarse: there is no need for distances between millions of pixels.
    shrink = max(1.0, max(window.width, window.height) / RAMP_SIDE)
    size = (ceil(window.width / shrink), ceil(window.height / shrink))
    covered = cv2.resize(255 * crop, size, interpolation=cv2.INTER_AREA) > 127
    ramp_px = RAMP_PX + RAMP_SHARE * sqrt(float(coco_mask.area(mask)))
    probability = _ramp(covered, ramp_px / shrink)
    whole = make_soft_mask(probability, (0.0, 0.0, float(size[0]), float(size[1])))
    return replace(whole, crop_box_xyxy=(window.x0, window.y0, window.x1, window.y1))


def shifted(soft_mask: SoftMask, dx: int, dy: int) -> SoftMask:
    """The same soft mask, `dx` columns and `dy` rows further."""
    crop = Window(*soft_mask.crop_box_xyxy).moved(dx, dy)
    return replace(soft_mask, crop_box_xyxy=(crop.x0, crop.y0, crop.x1, crop.y1))


def _grid(soft_mask: SoftMask) -> Image.Image:
    """The stored probabilities as a float image, 0 to 1."""
    return Image.fromarray(soft_mask.probabilities.astype(np.float32) / np.float32(255))


def _ramp(mask: NDArray[np.bool_], ramp_px: float) -> NDArray[np.float32]:
    """Logistic function of the signed distance to the outline, positive inside."""
    # Distances count from pixel centre to pixel centre: the outline lies half a pixel before the first one.
    signed_px = np.where(mask, distances(mask) - 0.5, 0.5 - distances(~mask))
    logits = np.clip(signed_px / ramp_px, -MOST_LOGIT, MOST_LOGIT)
    probability: NDArray[np.float32] = (1 / (1 + np.exp(-logits))).astype(np.float32)
    return probability
