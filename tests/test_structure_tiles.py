"""Tiles of large images: they cover all of it, overlap, and are fine enough; each anchor has a tile that holds it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from pipeline.masks.run_lengths import encode_mask
from pipeline.masks.windows import Window, whole_image
from pipeline.structure.anchors import sample_anchors
from pipeline.structure.settings import DistillSettings
from pipeline.structure.target_columns import MAP_SIDE
from pipeline.structure.tiles import OVERLAP, nearest_tiles, tiles_of
from tests.test_augment_composite import rectangle

CASES = [
    ((1024, 2048), 4.0, 64),
    ((100, 300), 1.0, 64),
    ((100, 300), 1.3, 17),
    ((65, 64), 1.0, 64),
    ((1, 5000), 2.5, 64),
    ((97, 31), 1.0, 2),
]
SIZES = pytest.mark.parametrize(("image_hw", "cell_px", "side"), CASES)


@SIZES
def test_every_pixel_is_in_a_tile_and_every_tile_in_the_image(image_hw, cell_px, side):
    covered = np.zeros(image_hw, dtype=bool)
    tiles = tiles_of(image_hw, cell_px, side)
    for tile in tiles:
        assert whole_image(*image_hw).contains(tile)
        assert not tile.is_empty
        covered[tile.in_image] = True
    assert covered.all()
    assert len(set(tiles)) == len(tiles)


@SIZES
def test_cells_are_small_enough_and_no_smaller_than_must_be(image_hw, cell_px, side):
    height, width = image_hw
    for tile in tiles_of(image_hw, cell_px, side):
        assert max(tile.width, tile.height) / side <= cell_px
        assert (tile.width, tile.height) == (min(width, int(cell_px * side)), min(height, int(cell_px * side)))


@SIZES
def test_neighbouring_tiles_overlap(image_hw, cell_px, side):
    tiles = tiles_of(image_hw, cell_px, side)
    for low, high in (("x0", "x1"), ("y0", "y1")):
        spans = sorted({(getattr(tile, low), getattr(tile, high)) for tile in tiles})
        for (_, end), (start, next_end) in pairwise(spans):
            assert end - start >= OVERLAP * (next_end - start)
    # They are a grid: each column with each row.
    columns, rows = ({getattr(tile, edge) for tile in tiles} for edge in ("x0", "y0"))
    assert {(tile.x0, tile.y0) for tile in tiles} == {(x, y) for x in columns for y in rows}


def test_an_image_as_a_whole():
    assert tiles_of((48, 64), None, 64) == [Window(0, 0, 64, 48)]
    assert tiles_of((48, 64), 1.0, 64) == [Window(0, 0, 64, 48)]
    assert len(tiles_of((48, 65), 1.0, 64)) == 2


@SIZES
def test_each_anchor_lies_in_its_tile_as_near_to_the_middle_as_in_any(image_hw, cell_px, side):
    height, width = image_hw
    rng = np.random.default_rng(0)
    corners_xy = np.array([[x, y] for x in (0, width - 1) for y in (0, height - 1)])
    anchors_xy = (np.concatenate([corners_xy, rng.integers(0, (width, height), (300, 2))]) + 0.5).astype(np.float32)
    tiles = tiles_of(image_hw, cell_px, side)
    indices = nearest_tiles(anchors_xy, tiles)
    assert indices.shape == (304,)

    def margin(tile: Window, x: float, y: float) -> float:
        """The share of a tile's side between a point and the nearest edge; negative outside."""
        in_x, in_y = (x - tile.x0) / tile.width, (y - tile.y0) / tile.height
        return min(in_x, 1 - in_x, in_y, 1 - in_y)

    for (x, y), index in zip(anchors_xy.tolist(), indices.tolist(), strict=True):
        assert margin(tiles[index], x, y) > 0
        assert margin(tiles[index], x, y) == pytest.approx(max(margin(tile, x, y) for tile in tiles))


def cityscapes_crops(seed: int, count: int) -> list[Window]:
    """Random 512 x 256 px regions of a 2048 x 1024 image: 1024 x 512 px crops at scale 2."""
    rng = np.random.default_rng(seed)
    return [Window(x, y, x + 512, y + 256) for x, y in rng.integers(0, (2048 - 512 + 1, 1024 - 256 + 1), (count, 2))]


STREET = [encode_mask(rectangle((1024, 2048), x, 400, x + 90, 600)) for x in range(20, 1900, 150)]
"""Instances that lie in a band across the middle, as in a street."""


@pytest.mark.slow
@pytest.mark.parametrize(("instances", "least"), [([], 64), (STREET, 48)])
def test_a_crop_of_cityscapes_has_fine_cells_and_enough_anchors(instances, least):
    settings = DistillSettings(cell_px=4, anchors=2048)
    tiles = tiles_of((1024, 2048), settings.cell_px, MAP_SIDE)
    assert len(tiles) == 55
    assert max(max(tile.width, tile.height) / MAP_SIDE for tile in tiles) * 2 <= 8  # in pixels of the crop
    enough, seen_shares = [], []
    for image_id in range(10):
        anchors_xy = sample_anchors(image_id, (1024, 2048), instances, settings).xy
        tile_of = nearest_tiles(anchors_xy, tiles)
        for crop in cityscapes_crops(image_id, 40):
            low, high = (crop.x0, crop.y0), (crop.x1, crop.y1)
            seen = np.flatnonzero(((anchors_xy >= low) & (anchors_xy <= high)).all(axis=1))
            enough.append(len(seen) >= least)
            # A tile lies around its anchor, so that a crop with the anchor shows a good part of the tile.
            shown = [tiles[tile_of[index]] & crop for index in seen.tolist()]
            seen_shares.append(np.mean([part.width * part.height for part in shown]) / 256**2)
    assert np.mean(enough) >= 0.99
    assert min(seen_shares) > 0.4


def test_tiles_with_cells_of_at_most_eight_pixels_cover_every_crop():
    tiles = tiles_of((1024, 2048), 4, MAP_SIDE)
    fine = np.zeros((1024, 2048), dtype=bool)
    for tile in tiles:
        if max(tile.width, tile.height) / MAP_SIDE * 2 <= 8:
            fine[tile.in_image] = True
    for crop in cityscapes_crops(0, 50):
        assert fine[crop.in_image].all()
    (whole,) = tiles_of((1024, 2048), None, MAP_SIDE)
    assert whole.width / MAP_SIDE * 2 == 64  # what tiles are for


def test_cells_of_less_than_a_pixel_are_refused():
    with pytest.raises(ValueError, match="cell_px"):
        DistillSettings(cell_px=0.5)
