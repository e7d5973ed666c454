"""How rough outlines are: smooth shapes from frayed ones, at any size."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipeline.masks.roughness import LEAST_PX, roughness
from pipeline.masks.run_lengths import encode_mask


def disc(radius: float, side: int | None = None) -> np.ndarray:
    side = side or int(2.5 * radius)
    ys, xs = np.mgrid[:side, :side] + 0.5
    return (xs - side / 2) ** 2 + (ys - side / 2) ** 2 <= radius**2


def steps(mask: np.ndarray, cell: int) -> np.ndarray:
    """The mask drawn in cells, as when small logits are enlarged without smoothing."""
    small = mask[cell // 2 :: cell, cell // 2 :: cell]
    return np.kron(small, np.ones((cell, cell), bool))


@pytest.mark.parametrize("radius", [6, 20, 100, 400])
def test_a_disc_is_smooth_at_any_size(radius):
    measured = roughness(encode_mask(disc(radius)))
    assert measured == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("radius", [48, 192])
def test_steps_frays_and_specks_are_rough(radius):
    smooth, cell = disc(radius), radius // 24
    cells = np.random.default_rng(0).uniform(size=(80, 80)) < 0.05
    specks = np.kron(cells, np.ones((cell, cell), bool))[: smooth.shape[0], : smooth.shape[1]]
    specks = np.pad(specks, [(0, side - length) for side, length in zip(smooth.shape, specks.shape, strict=True)])
    frayed, holed = smooth | specks, smooth & ~specks
    level = roughness(encode_mask(smooth))
    rough = [roughness(encode_mask(mask)) for mask in (steps(smooth, radius // 8), frayed, holed)]
    assert level is not None
    assert all(each is not None and each > level + 0.05 for each in rough), rough


def test_it_counts_the_frays_not_the_place_or_the_image():
    small = encode_mask(steps(disc(40), 5))
    large = np.zeros((900, 700), bool)
    large[500:600, 10:110] = steps(disc(40), 5)
    assert roughness(encode_mask(large)) == roughness(small)


def test_what_has_no_outline_to_speak_of_is_not_measured():
    assert roughness(encode_mask(np.zeros((20, 20), bool))) is None
    tiny = np.zeros((20, 20), bool)
    tiny[:7, :9] = True
    assert tiny.sum() < LEAST_PX
    assert roughness(encode_mask(tiny)) is None
    line = np.zeros((200, 200), np.uint8)
    cv2.line(line, (0, 0), (199, 150), 1)
    assert roughness(encode_mask(line.astype(bool))) is None  # smoothing leaves nothing of it
