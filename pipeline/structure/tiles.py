"""Tiles: parts of a large image that are distilled on their own, so that the cells of their maps are small enough."""

from __future__ import annotations

from math import ceil
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.masks.windows import Window, whole_image

OVERLAP: Final = 0.25
"""Smallest share of a tile's side that it has in common with the next tile."""


def tiles_of(image_hw: tuple[int, int], cell_px: float | None, side: int) -> list[Window]:
    """Return overlapping tiles that cover an image; a map of side x side over a tile has cells of at most cell_px.

    cell_px: 1 or more; None makes the whole image one tile. Where the image is shorter than a tile along an axis, the
    tile is as long as the image.
    """
    height, width = image_hw
    if cell_px is None:
        return [whole_image(height, width)]
    tile_px = int(cell_px * side)
    return [
        Window(x0, y0, min(x0 + tile_px, width), min(y0 + tile_px, height))
        for y0 in _starts(height, tile_px)
        for x0 in _starts(width, tile_px)
    ]


def nearest_tiles(anchors_xy: NDArray[np.float32], tiles: list[Window]) -> NDArray[np.int64]:
    """Return for each anchor (A, 2), in pixels of the image, the index of the tile that has it nearest its middle."""
    edges = np.array([(tile.x0, tile.y0, tile.x1, tile.y1) for tile in tiles], dtype=np.float64)
    low, high = edges[:, :2], edges[:, 2:]
    # As shares of half a tile's side: 0 in the middle, 1 at the edge, more outside.
    offsets = np.abs(anchors_xy[:, None] - (low + high) / 2) / ((high - low) / 2)
    return np.asarray(offsets.max(axis=2).argmin(axis=1))


def _starts(length: int, tile_px: int) -> list[int]:
    """Return where tiles begin along an axis: evenly, the first at 0, the last so that it ends with the image."""
    if length <= tile_px:
        return [0]
    longest_step = int(tile_px * (1 - OVERLAP))
    count = ceil((length - tile_px) / longest_step) + 1
    return [int(start) for start in np.linspace(0, length - tile_px, count).round()]
