"""The loss on features that are planted, resized, cropped and flipped as the images are."""

from __future__ import annotations

import pytest
import torch

from pipeline.structure import loss as loss_module
from pipeline.structure.loss import Geometry, ImageStructure, StructuralLoss
from pipeline.structure.sampling import dequantise, grid_positions, quantise, sample_features

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
IMAGES_WH = torch.tensor([[150, 110], [120, 120], [140, 100], [200, 150]])
GEOMETRY = Geometry(
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


def windows_of(image_wh: torch.Tensor, tiles: int) -> torch.Tensor:
    """Overlapping windows of an image, tiles x 4: the whole image where it is one."""
    width, height = image_wh.tolist()
    if tiles == 1:
        return torch.tensor([[0, 0, width, height]], dtype=torch.int32)
    starts = torch.linspace(0, width // 3, tiles).int().tolist()
    return torch.tensor([[x, x // 2, x + width // 2, x // 2 + height // 2] for x in starts], dtype=torch.int32)


def planted_targets(images_wh: torch.Tensor = IMAGES_WH, tiles: int = 1) -> list[ImageStructure]:
    """Anchors and exact maps of the pattern over windows of the original images, but for what bytes lose."""
    generator = torch.Generator().manual_seed(99)
    targets = []
    for index, image_wh in enumerate(images_wh):
        windows_xyxy = windows_of(image_wh, tiles)[torch.arange(ANCHORS) % tiles]
        low, sides = windows_xyxy[:, :2].float(), (windows_xyxy[:, 2:] - windows_xyxy[:, :2]).float()
        anchors_xy = low + torch.rand(ANCHORS, 2, generator=generator) * sides
        positions_xy = grid_positions(SIDE, sides) + low[:, None]
        maps = torch.nn.functional.cosine_similarity(
            pattern(index, anchors_xy)[:, None], pattern(index, positions_xy), dim=-1
        )
        targets.append(ImageStructure(anchors_xy, windows_xyxy, quantise(maps).unflatten(1, (SIDE, SIDE))))
    return targets


def naive_losses(
    features: torch.Tensor, targets: list[ImageStructure], geometry: Geometry, starts: list[tuple[int, int]], every: int
) -> tuple[torch.Tensor, int]:
    """The sum of losses and the number of pairs, anchor by anchor; `starts`: of the positions, for each image."""
    total, pairs = torch.zeros(()), 0
    for index, (image, (first_row, first_column)) in enumerate(zip(targets, starts, strict=True)):
        side = image.maps.shape[-1]

        def mapped(xy: torch.Tensor, index: int = index) -> torch.Tensor:
            homogeneous = geometry.homography[index] @ torch.cat([xy, torch.ones(1)])
            return homogeneous[:2] / homogeneous[2]

        def seen(xy: torch.Tensor, index: int = index) -> bool:
            return bool(((xy >= 0) & (xy <= geometry.visible_wh[index])).all())

        def feature(xy: torch.Tensor, index: int = index) -> torch.Tensor:
            return sample_features(features[index : index + 1], (xy / torch.tensor(geometry.input_wh))[None, None])[
                0, 0
            ]

        for anchor_xy, window, map_ in zip(image.anchors_xy, image.windows_xyxy, image.maps, strict=True):
            if anchor_xy.isnan().any() or not seen(mapped(anchor_xy)):
                continue
            left, top, right, bottom = window.tolist()
            for row in range(first_row, side, every):
                for column in range(first_column, side, every):
                    x = left + (column + 0.5) / side * (right - left)
                    y = top + (row + 0.5) / side * (bottom - top)
                    position = mapped(torch.tensor([x, y]))
                    if not seen(position):
                        continue
                    difference = (feature(mapped(anchor_xy)) @ feature(position) - dequantise(map_[row, column])).abs()
                    total = total + (difference**2 / 2 if difference < 1 else difference - 0.5)
                    pairs += 1
    return total, pairs


# Features are 4 pixels apart: the waves are not straight between them, and flat in the outermost 2 pixels.
EXACT = 2e-6
# Rounding to bytes adds half the mean square of an error that is even between -1/255 and 1/255.
TOLERANCE = EXACT + (1 / 255) ** 2 / 6


@pytest.fixture
def all_positions(monkeypatch):
    monkeypatch.setattr(loss_module, "EVERY", 1)


@pytest.mark.parametrize("tiles", [1, 3])
@pytest.mark.parametrize("every", [1, 2])
def test_features_that_agree_cost_nothing_under_any_resize_crop_and_flip(monkeypatch, tiles, every):
    monkeypatch.setattr(loss_module, "EVERY", every)
    targets = planted_targets(tiles=tiles)
    cropped_xy = targets[1].anchors_xy * 1.7 - torch.tensor([40.0, 25.0])
    seen = ((cropped_xy >= 0) & (cropped_xy <= GEOMETRY.visible_wh[1])).all(dim=1)
    assert 0 < seen.sum() < ANCHORS  # a crop that loses some
    assert StructuralLoss()(planted_features(GEOMETRY), targets, GEOMETRY) < TOLERANCE


@pytest.mark.parametrize("tiles", [1, 3])
@pytest.mark.parametrize("wrong", ["flip", "shift", "scale", "transposed maps", "other features", "other windows"])
def test_what_does_not_agree_costs(all_positions, wrong, tiles):
    features, targets = planted_features(GEOMETRY), planted_targets(tiles=tiles)
    change = torch.eye(3)
    if wrong == "flip":
        change = torch.tensor([[-1.0, 0, 160], [0, 1, 0], [0, 0, 1]])
    elif wrong == "shift":
        change[0, 2] = 1 if tiles == 1 else 2  # a quarter of a feature; in smaller windows all is more alike
    elif wrong == "scale":
        change[0, 0] = 1.3
    elif wrong == "transposed maps":
        targets = [ImageStructure(each.anchors_xy, each.windows_xyxy, each.maps.mT) for each in targets]
    elif wrong == "other windows":
        targets = [ImageStructure(each.anchors_xy, each.windows_xyxy + 2, each.maps) for each in targets]
    else:
        features = torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
    geometry = Geometry(change @ HOMOGRAPHIES, GEOMETRY.visible_wh, INPUT_WH)
    assert StructuralLoss()(features, targets, geometry) > 10 * EXACT > 4 * TOLERANCE


def small_batch(seed: int) -> tuple[torch.Tensor, list[ImageStructure], Geometry]:
    """Two images with random features and targets: several windows, anchors that are NaN or cut away."""
    generator = torch.Generator().manual_seed(seed)
    geometry = Geometry(
        torch.stack([homography((1.5, 1.2), (20.0, 5.0), None), homography((0.9, 1.0), (0.0, 10.0), 40.0)]),
        torch.tensor([[48, 40], [40, 48]]),
        (48, 48),
    )
    windows_xyxy = torch.tensor([[0, 0, 32, 24], [20, 10, 60, 50], [0, 0, 0, 0]], dtype=torch.int32)
    targets = []
    for _ in range(2):
        chosen = torch.randint(2, (9,), generator=generator)
        anchors_xy = torch.rand(9, 2, generator=generator) * 50
        anchors_xy[6], anchors_xy[8] = torch.nan, torch.tensor([500.0, 3.0])
        chosen[6] = 2  # as a sample pads them
        maps = torch.randint(256, (9, 5, 5), generator=generator, dtype=torch.uint8)
        targets.append(ImageStructure(anchors_xy, windows_xyxy[chosen], maps))
    return torch.randn(2, CHANNELS, 12, 12, generator=generator), targets, geometry


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_sum_over_anchors_each_in_its_window_divided_by_the_pairs_seen(all_positions, seed):
    features, targets, geometry = small_batch(seed)
    expected, pairs = naive_losses(features, targets, geometry, [(0, 0)] * 2, every=1)
    assert 0 < pairs < 2 * 7 * 25
    found = StructuralLoss(2.5)(features, targets, geometry)
    assert found.item() == pytest.approx(2.5 * expected.item() / pairs, rel=1e-5)


def test_a_step_uses_a_quarter_of_the_positions_of_each_image_and_all_in_turn():
    features, targets, geometry = small_batch(0)
    torch.manual_seed(0)
    found = {StructuralLoss()(features, targets, geometry).item() for _ in range(200)}
    starts = [(row, column) for row in (0, 1) for column in (0, 1)]
    alone = [
        [naive_losses(features[[index]], [targets[index]], geometry.of_image(index), [start], 2) for start in starts]
        for index in (0, 1)
    ]
    expected = [(one + two).item() / (pairs + more) for one, pairs in alone[0] for two, more in alone[1]]
    assert len(set(expected)) == 16  # each image has a start of its own
    assert sorted(found) == pytest.approx(sorted(expected), rel=1e-5)


def test_anchors_that_are_nan_change_nothing(all_positions):
    features, targets, geometry = small_batch(1)
    padded = [
        ImageStructure(
            torch.cat([each.anchors_xy, torch.full((4, 2), torch.nan)]),
            torch.cat([each.windows_xyxy, torch.zeros(4, 4, dtype=torch.int32)]),
            torch.cat([each.maps, torch.zeros(4, 5, 5, dtype=torch.uint8)]),
        )
        for each in targets
    ]
    features.requires_grad_()
    loss, expected = (StructuralLoss()(features, each, geometry) for each in (padded, targets))
    assert loss.item() == expected.item() > 0
    loss.backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_the_loss_is_the_mean_over_seen_pairs(all_positions):
    geometry = Geometry(torch.eye(3)[None], torch.tensor([[4, 8]]), (8, 8))
    features = torch.ones(1, 2, 4, 4)
    maps = torch.zeros(2, 2, 2, dtype=torch.uint8)  # a similarity of -1, where the features say 1
    maps[..., 1] = 255  # the right half, which is not visible, would agree
    maps[1] = 200  # an anchor that is not visible
    anchors_xy = torch.tensor([[1.0, 1.0], [6.0, 1.0]])
    windows_xyxy = torch.tensor([[0, 0, 8, 8]] * 2, dtype=torch.int32)
    found = StructuralLoss(3.0)(features, [ImageStructure(anchors_xy, windows_xyxy, maps)], geometry)
    assert found.item() == pytest.approx(3 * 1.5)


def test_gradients_flow_and_lessen_the_loss(all_positions):
    targets = planted_targets(tiles=3)
    features = torch.randn(4, CHANNELS, 32, 40, generator=torch.Generator().manual_seed(0)).requires_grad_()
    optimizer = torch.optim.Adam([features], lr=0.1)
    first = StructuralLoss()(features, targets, GEOMETRY)
    for _ in range(20):
        optimizer.zero_grad()
        loss = StructuralLoss()(features, targets, GEOMETRY)
        loss.backward()
        optimizer.step()
    assert features.grad is not None
    assert features.grad.isfinite().all()
    assert loss < first / 2


@pytest.mark.parametrize("anchors", [torch.full((3, 2), torch.nan), torch.full((3, 2), 70.0), torch.zeros(0, 2)])
def test_no_anchor_seen_is_a_loss_of_zero_with_a_gradient(anchors):
    geometry = Geometry(torch.eye(3)[None], torch.tensor([[64, 64]]), (64, 64))
    features = torch.randn(1, 4, 16, 16, requires_grad=True)
    count = len(anchors)
    windows_xyxy = torch.tensor([[0, 0, 80, 80]], dtype=torch.int32).expand(count, 4)
    targets = [ImageStructure(anchors, windows_xyxy, torch.zeros(count, 8, 8, dtype=torch.uint8))]
    loss = StructuralLoss()(features, targets, geometry)
    loss.backward()
    assert loss.item() == 0
    assert features.grad is not None
    assert (features.grad == 0).all()


def test_half_precision_features_are_compared_in_full(all_positions):
    targets = planted_targets()
    features = planted_features(GEOMETRY).bfloat16()
    loss = StructuralLoss()(features, targets, GEOMETRY)
    assert loss.dtype == torch.float32
    assert loss < 1e-4
    assert loss.item() == StructuralLoss()(features.float(), targets, GEOMETRY).item()


@pytest.mark.parametrize("tiles", [1, 2])
def test_a_projective_homography_is_followed(all_positions, tiles):
    matrix = torch.tensor([[1.0, 0.1, 3.0], [0.05, 0.9, 2.0], [0.0005, 0.0003, 1.0]])[None]
    geometry = Geometry(matrix, torch.tensor([[160, 128]]), INPUT_WH)
    targets = planted_targets(torch.tensor([[150, 110]]), tiles)
    assert StructuralLoss()(planted_features(geometry), targets, geometry) < TOLERANCE
