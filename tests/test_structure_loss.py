"""The loss on features that are planted, resized, cropped and flipped as the images are."""

from __future__ import annotations

import pytest
import torch

from pipeline.structure.loss import Geometry, StructuralLoss, sample_grid, structural_loss
from pipeline.structure.sampling import dequantise, grid_positions, quantise

SIDE, STRIDE, CHANNELS, ANCHORS = 32, 4, 6, 20
INPUT_WH = (160, 128)


def pattern(image_index: int, points_xy: torch.Tensor) -> torch.Tensor:
    """A smooth field of features over an image: ... x 2 to ... x CHANNELS."""
    generator = torch.Generator().manual_seed(image_index)
    waves = torch.randn(2, CHANNELS, generator=generator) * 0.02
    return torch.sin(points_xy @ waves + torch.arange(CHANNELS))


def homography(scale_xy: tuple[float, float], crop_xy: tuple[float, float], flip_in: float | None) -> torch.Tensor:
    matrix = torch.diag(torch.tensor([*scale_xy, 1.0]))
    matrix[:2, 2] = -torch.tensor(crop_xy)
    if flip_in is not None:
        matrix = torch.tensor([[-1.0, 0.0, flip_in], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]) @ matrix
    return matrix


HOMOGRAPHIES = torch.stack(
    [
        homography((1.0, 1.0), (0.0, 0.0), None),
        homography((1.7, 1.7), (40.0, 25.0), None),
        homography((0.8, 1.1), (10.0, 0.0), 100.0),
        homography((2.0, 1.5), (60.0, 30.0), 160.0),
    ]
)
GEOMETRY = Geometry(
    image_wh=torch.tensor([[150, 110], [120, 120], [140, 100], [200, 150]]),
    homography=HOMOGRAPHIES,
    visible_wh=torch.tensor([[150, 110], [160, 128], [100, 110], [160, 128]]),
    input_wh=INPUT_WH,
)


def planted_features(geometry: Geometry) -> torch.Tensor:
    """What a network would give that sees the pattern in its transformed input; rubbish on the padding."""
    width, height = INPUT_WH
    y, x = torch.meshgrid(torch.arange(height // STRIDE) + 0.5, torch.arange(width // STRIDE) + 0.5, indexing="ij")
    centres = torch.stack([x, y, torch.full_like(x, 1 / STRIDE)], dim=-1) * STRIDE
    maps = []
    for index, matrix in enumerate(geometry.homography):
        original = centres @ torch.linalg.inv(matrix).T
        features = pattern(index, original[..., :2] / original[..., 2:]).permute(2, 0, 1)
        # The first feature beyond the visible part still takes part in interpolation.
        beyond = (centres[..., :2] > geometry.visible_wh[index] + STRIDE).any(dim=-1)
        maps.append(torch.where(beyond, 100.0, features))
    return torch.stack(maps)


def planted_targets(geometry: Geometry) -> tuple[torch.Tensor, torch.Tensor]:
    """Anchors and exact maps of the pattern over the original images."""
    generator = torch.Generator().manual_seed(99)
    images = len(geometry.image_wh)
    anchors_xy = torch.rand(images, ANCHORS, 2, generator=generator) * geometry.image_wh[:, None]
    positions_xy = grid_positions(SIDE, geometry.image_wh.float())
    maps = [
        torch.nn.functional.cosine_similarity(
            pattern(index, anchors_xy[index])[:, None], pattern(index, positions_xy[index])[None], dim=-1
        ).reshape(ANCHORS, SIDE, SIDE)
        for index in range(images)
    ]
    return anchors_xy, torch.stack(maps)


# Features are 4 pixels apart: the waves are not straight between them, and flat in the outermost 2 pixels.
TOLERANCE = 2e-6


def test_features_that_agree_cost_nothing_under_any_resize_crop_and_flip():
    anchors_xy, maps = planted_targets(GEOMETRY)
    grid = sample_grid(anchors_xy, SIDE, GEOMETRY)
    assert 0 < grid.anchors_seen[1].sum() < ANCHORS  # a crop that loses some
    assert structural_loss(planted_features(GEOMETRY), maps.flatten(2), grid) < TOLERANCE
    stored = StructuralLoss()(planted_features(GEOMETRY), anchors_xy, quantise(maps), GEOMETRY)
    assert stored < TOLERANCE + (1 / 255) ** 2 / 2  # what bytes add at most


@pytest.mark.parametrize("wrong", ["flip", "shift", "scale", "transposed maps", "other features"])
def test_what_does_not_agree_costs(wrong):
    features, (anchors_xy, maps) = planted_features(GEOMETRY), planted_targets(GEOMETRY)
    change = torch.eye(3)
    if wrong == "flip":
        change = torch.tensor([[-1.0, 0, 160], [0, 1, 0], [0, 0, 1]])
    elif wrong == "shift":
        change[0, 2] = 1  # a quarter of a feature
    elif wrong == "scale":
        change[0, 0] = 1.3
    elif wrong == "transposed maps":
        maps = maps.transpose(2, 3)
    else:
        features = torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
    geometry = Geometry(GEOMETRY.image_wh, change @ HOMOGRAPHIES, GEOMETRY.visible_wh, INPUT_WH)
    grid = sample_grid(anchors_xy, SIDE, geometry)
    assert structural_loss(features, maps.flatten(2), grid) > 10 * TOLERANCE


def test_the_loss_is_the_mean_over_seen_pairs():
    geometry = Geometry(torch.tensor([[8, 8]]), torch.eye(3)[None], torch.tensor([[4, 8]]), (8, 8))
    features = torch.ones(1, 2, 4, 4)
    maps = torch.zeros(1, 2, 2, 2)
    maps[..., 1] = 55.0  # right half: not visible
    maps[:, 1] = 77.0  # an anchor that is not visible
    grid = sample_grid(torch.tensor([[[1.0, 1.0], [6.0, 1.0]]]), 2, geometry)
    assert structural_loss(features, maps.flatten(2), grid).item() == pytest.approx(0.5)
    stored = maps[:, :1].repeat_interleave(2, 2).repeat_interleave(2, 3).byte()
    assert StructuralLoss(3.0)(features, torch.tensor([[[1.0, 1.0]]]), stored, geometry).item() == pytest.approx(4.5)


def test_a_step_looks_at_a_quarter_of_the_positions_and_at_all_in_turn():
    features, (anchors_xy, maps) = planted_features(GEOMETRY), planted_targets(GEOMETRY)
    everywhere = Geometry(GEOMETRY.image_wh, torch.eye(3).repeat(4, 1, 1), torch.tensor([INPUT_WH] * 4), INPUT_WH)
    maps = quantise(maps)
    torch.manual_seed(0)
    found = {StructuralLoss()(features, anchors_xy.clamp(max=100), maps, everywhere).item() for _ in range(40)}
    grid = sample_grid(anchors_xy.clamp(max=100), SIDE, everywhere)
    parts = [
        structural_loss(features, dequantise(maps.flatten(2)[..., chosen]), grid.at(chosen)).item()
        for row in (0, 1)
        for column in (0, 1)
        for chosen in [torch.arange(SIDE**2).view(SIDE, SIDE)[row::2, column::2].flatten()]
    ]
    assert len(set(parts)) == 4
    assert sorted(found) == pytest.approx(sorted(parts))


def test_gradients_flow_and_lessen_the_loss():
    anchors_xy, maps = planted_targets(GEOMETRY)
    grid = sample_grid(anchors_xy, SIDE, GEOMETRY)
    features = torch.randn(4, CHANNELS, 32, 40, generator=torch.Generator().manual_seed(0)).requires_grad_()
    optimizer = torch.optim.Adam([features], lr=0.1)
    first = structural_loss(features, maps.flatten(2), grid)
    for _ in range(20):
        optimizer.zero_grad()
        loss = structural_loss(features, maps.flatten(2), grid)
        loss.backward()
        optimizer.step()
    assert features.grad is not None
    assert features.grad.isfinite().all()
    assert loss < first / 2


@pytest.mark.parametrize(
    "anchors", [torch.full((1, 3, 2), torch.nan), torch.full((1, 3, 2), 70.0), torch.zeros(1, 0, 2)]
)
def test_no_anchor_seen_is_a_loss_of_zero_with_a_gradient(anchors):
    geometry = Geometry(torch.tensor([[80, 80]]), torch.eye(3)[None], torch.tensor([[64, 64]]), (64, 64))
    features = torch.randn(1, 4, 16, 16, requires_grad=True)
    maps = torch.zeros(1, anchors.shape[1], 8, 8)
    loss = structural_loss(features, maps.flatten(2), sample_grid(anchors, 8, geometry))
    loss.backward()
    assert loss.item() == 0
    assert features.grad is not None
    assert (features.grad == 0).all()


def test_half_precision_features_are_compared_in_full():
    anchors_xy, maps = planted_targets(GEOMETRY)
    grid = sample_grid(anchors_xy, SIDE, GEOMETRY)
    loss = structural_loss(planted_features(GEOMETRY).bfloat16(), maps.flatten(2), grid)
    assert loss.dtype == torch.float32
    assert loss < 1e-4


def test_a_projective_homography_is_followed():
    matrix = torch.tensor([[1.0, 0.1, 3.0], [0.05, 0.9, 2.0], [0.0005, 0.0003, 1.0]])[None]
    geometry = Geometry(torch.tensor([[150, 110]]), matrix, torch.tensor([[160, 128]]), INPUT_WH)
    anchors_xy, maps = planted_targets(geometry)
    assert (
        structural_loss(planted_features(geometry), maps.flatten(2), sample_grid(anchors_xy, SIDE, geometry))
        < TOLERANCE
    )
