"""How well maps separate instances, against a comparison of every position inside with every one outside."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.masks.run_lengths import encode_mask
from pipeline.masks.windows import whole_image
from pipeline.structure.anchors import Anchors
from pipeline.structure.maps import truth_maps
from pipeline.structure.sampling import quantise
from pipeline.structure.separation import HALF, Separation, pooled, separation

SIDE = 9


def truth(seed: int, anchors: int = 5) -> NDArray[np.uint8]:
    """Truth maps with cells on both sides: shares of 0 to 1."""
    shares = np.random.default_rng(seed).uniform(size=(anchors, SIDE, SIDE)).round(2)
    return quantise(torch.from_numpy(shares)).numpy()


def naive(maps: NDArray[np.uint8], own: NDArray[np.bool_]) -> tuple[float, float, float]:
    """The area under the curve, and the mean similarity inside and outside, pair by pair."""
    areas, insides, outsides = [], [], []
    for map_, inside in zip(maps / 127.5 - 1, own, strict=True):
        pairs = [(float(a > b) + float(a == b) / 2) for a in map_[inside] for b in map_[~inside]]
        areas.append(np.mean(pairs))
        insides.append(map_[inside].mean())
        outsides.append(map_[~inside].mean())
    return float(np.mean(areas)), float(np.mean(insides)), float(np.mean(outsides))


def as_tuple(found: Separation | None) -> tuple[float, float, float]:
    assert found is not None
    return found.area_under_curve, found.inside, found.outside


@pytest.mark.parametrize("levels", [256, 4])  # few levels: many pairs are equal
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_mean_over_all_pairs(seed, levels):
    own = truth(seed)
    maps = np.random.default_rng(100 + seed).integers(0, levels, own.shape, dtype=np.uint8)
    found = separation(maps, own)
    assert as_tuple(found) == pytest.approx(naive(maps, own / 127.5 - 1 > 0.498))
    assert found is not None
    assert found.anchors == 5


def test_perfect_maps_separate_perfectly_and_inverted_ones_not_at_all():
    own = truth(0)
    perfect = np.where(own >= HALF, 255, 0).astype(np.uint8)
    assert as_tuple(separation(perfect, own)) == pytest.approx((1, 1, -1))
    assert as_tuple(separation(255 - perfect, own)) == pytest.approx((0, -1, 1))
    assert as_tuple(separation(own, own))[0] == 1
    assert as_tuple(separation(np.full_like(own, 77), own))[0] == 0.5


def test_random_maps_separate_by_chance():
    own = truth(1, anchors=400)
    maps = np.random.default_rng(2).integers(0, 256, own.shape, dtype=np.uint8)
    found = as_tuple(separation(maps, own))
    assert found[0] == pytest.approx(0.5, abs=0.015)
    assert found[1:] == pytest.approx((0, 0), abs=0.03)


def test_a_cell_of_which_half_belongs_to_the_instance_is_inside():
    mask = np.zeros((2, 8), dtype=bool)
    mask[:, :3] = True
    anchors = Anchors(np.array([[0.5, 0.5]], np.float32), np.array([0]))
    own = truth_maps(whole_image(2, 8), anchors, [encode_mask(mask)], 4)  # cells of two columns
    assert own[0, 0].tolist() == [255, HALF, 128, 128]
    maps = np.array([[[200, 100, 50, 0]] * 4], dtype=np.uint8)
    assert as_tuple(separation(maps, own)) == pytest.approx((1, 150 / 127.5 - 1, 25 / 127.5 - 1))


def test_anchors_whose_maps_show_one_side_alone_do_not_count():
    own = truth(3)
    maps = np.random.default_rng(4).integers(0, 256, own.shape, dtype=np.uint8)
    own[1], own[3] = 255, 128
    found, of_others = separation(maps, own), separation(maps[[0, 2, 4]], own[[0, 2, 4]])
    assert found == of_others
    assert found is not None
    assert found.anchors == 3
    assert separation(maps[[1, 3]], own[[1, 3]]) is None
    assert separation(maps[:0], own[:0]) is None


def test_parts_are_pooled_by_their_anchors():
    own = truth(5, anchors=10)
    own[2] = 255
    maps = np.random.default_rng(6).integers(0, 256, own.shape, dtype=np.uint8)
    parts = [separation(maps[part], own[part]) for part in (slice(0, 2), slice(2, 3), slice(3, 10))]
    together, found = separation(maps, own), pooled(parts)
    assert parts[1] is None
    assert as_tuple(found) == pytest.approx(as_tuple(together))
    assert found is not None
    assert found.anchors == 9
    assert pooled([None, None]) is None
