"""Tiles: parts of a large image that are distilled on their own, so that the cells of their maps are small enough."""

from __future__ import annotations

from math import ceil
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.masks.windows import Window, whole_image

OVERLAP: Final = 0.25
"""Least share of a tile's side that it has in common with the next one."""


def tiles_of(image_hw: tuple[int, int], cell_px: float | None, side: int) -> list[Window]:
    """Return overlapping tiles that cover an image; a map of side x side over one has cells of at most cell_px.

    None: the image is one tile. A tile is cut to the image along an axis on which the image is smaller.
    """
    height, width = image_hw
    if cell_px is None:
        return [whole_image(height, width)]
    tile_px = max(1, int(cell_px * side))
    return [
        Window(x0, y0, min(x0 + tile_px, width), min(y0 + tile_px, height))
        for y0 in _starts(height, tile_px)
        for x0 in _starts(width, tile_px)
    ]


def nearest_tiles(anchors_xy: NDArray[np.float32], tiles: list[Window]) -> NDArray[np.int64]:
    """Return for each anchor (A, 2), in pixels of the image, the index of the tile in whose middle it is most."""
    edges = np.array([(tile.x0, tile.y0, tile.x1, tile.y1) for tile in tiles], dtype=np.float64)
    low, high = edges[:, :2], edges[:, 2:]
    # Shares of half a tile's side: 1 at its rim, so that an anchor outside of a tile is above 1.
    offsets = np.abs(anchors_xy[:, None] - (low + high) / 2) / ((high - low) / 2)
    return np.asarray(offsets.max(axis=2).argmin(axis=1))


def _starts(length: int, tile_px: int) -> list[int]:
    """Where tiles begin along an axis: evenly, the first at 0, the last so that it ends with the image."""
    if length <= tile_px:
        return [0]
    count = ceil((length - tile_px) / (tile_px * (1 - OVERLAP))) + 1
    return [int(start) for start in np.linspace(0, length - tile_px, count).round()]
