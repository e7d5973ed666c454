"""Geometry, colours and packing: everything an instance has stays with it, and pixels lie where they should."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.dataset import Compose
from pycocotools import mask as coco_mask
from torchvision.transforms import v2

from pipeline.detection.packing import sample_pipeline
from pipeline.detection.sample_seed import Sample
from pipeline.detection.transforms import DistortColours, DrawAnchors, Photometric, distorted
from pipeline.detection.window_masks import MaskWindow, WindowMasks
from tests.test_augment_composite import rectangle
from tests.tiny_labels import random_mask

HW = (60, 90)
GEOMETRY = [
    {"type": "RandomResize", "resize_type": "mmdet.Resize", "scale": (90, 60), "ratio_range": (0.6, 1.7)},
    {"type": "mmdet.RandomCrop", "crop_size": (50, 40), "crop_type": "absolute", "allow_negative_crop": True},
    {"type": "mmdet.RandomFlip", "prob": 0.5, "direction": ["horizontal", "vertical", "diagonal"]},
]


def windows(masks: list[np.ndarray]) -> list[MaskWindow]:
    return [MaskWindow.of_rle(coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))) for mask in masks]


def results(masks: list[np.ndarray], image: np.ndarray, ignored: list[bool]) -> dict:
    """As a dataset gives them: instance n has the label 10 + n and the weight n / 100."""
    lazy = WindowMasks.of_image(windows(masks), *image.shape[:2])
    count = len(masks)
    return {
        "img": image.copy(),
        "img_shape": image.shape[:2],
        "ori_shape": image.shape[:2],
        "img_id": 5,
        "img_path": "5.png",
        "source": "pseudo",
        "gt_bboxes": lazy.get_bboxes(),
        "gt_masks": lazy,
        "gt_ignore_flags": np.array(ignored, dtype=bool),
        "gt_bboxes_labels": np.arange(count),
        "label_by_number": 10 + np.arange(count),
        "weight_by_number": np.arange(count, dtype=np.float32) / 100,
    }


def squares() -> tuple[list[np.ndarray], np.ndarray]:
    """A grid of 24 squares, each in a grey of its own: 10 times (1 + its number)."""
    masks = [rectangle(HW, x, y, x + 12, y + 12) for y in (2, 17, 32, 47) for x in range(1, 90, 15)]
    image = np.zeros((*HW, 3), dtype=np.uint8)
    for number, mask in enumerate(masks):
        image[mask] = 10 * (1 + number)
    return masks, image


@pytest.mark.parametrize("draw", range(12))
def test_labels_weights_masks_and_boxes_stay_with_their_instance(draw):
    masks, image = squares()
    ignored = [number % 3 == 0 for number in range(len(masks))]
    nearest = [GEOMETRY[0] | {"interpolation": "nearest"}, *GEOMETRY[1:]]
    with Sample(0, 0, draw, 1).randomness():
        packed = Compose(sample_pipeline(nearest, photometric=None))(results(masks, image, ignored))
    pixels = packed["inputs"].numpy()[0]
    sample = packed["data_samples"]
    assert packed["inputs"].dtype == torch.uint8
    assert sample.source == "pseudo"
    seen = []
    for instances, is_ignored in ((sample.gt_instances, False), (sample.ignored_instances, True)):
        for label, box, mask in zip(
            instances.labels.tolist(), instances.bboxes.tensor.tolist(), instances.masks.masks, strict=True
        ):
            number = label - 10
            seen.append(number)
            assert ignored[number] == is_ignored
            np.testing.assert_array_equal(mask.astype(bool), pixels == 10 * (1 + number))
            x, y, width, height = cv2.boundingRect(mask)
            assert box == [x, y, x + width, y + height]
    expected = (sample.gt_instances.labels - 10).float() / 100
    torch.testing.assert_close(sample.gt_instances.weights, expected)
    assert set(sample.ignored_instances.keys()) == {"bboxes", "labels", "masks"}
    shown = {value // 10 - 1 for value in np.unique(pixels).tolist() if value}
    assert set(seen) <= shown
    assert len(seen) == len(set(seen)) > 3
    for number in shown - set(seen):  # what nearly vanished
        _, _, width, height = cv2.boundingRect((pixels == 10 * (1 + number)).astype(np.uint8))
        assert min(width, height) < 2 or width * height < 4


@pytest.mark.parametrize("draw", range(8))
def test_the_homography_leads_from_original_to_input_pixels(draw):
    rows, columns = np.mgrid[: HW[0], : HW[1]]
    image = np.stack([columns, rows, np.zeros(HW, int)], axis=2).astype(np.uint8)
    with Sample(0, 0, draw, 2).randomness():
        geometry = [GEOMETRY[0] | {"interpolation": "nearest"}, *GEOMETRY[1:]]
        packed = Compose(sample_pipeline(geometry, photometric=None))(results([], image, []))
    inputs = packed["inputs"].numpy()
    found_yx = np.stack(np.mgrid[: inputs.shape[1], : inputs.shape[2]], axis=-1) + 0.5
    inverse = np.linalg.inv(packed["data_samples"].homography_matrix)
    original_x = inverse[0, 0] * found_yx[..., 1] + inverse[0, 2]
    original_y = inverse[1, 1] * found_yx[..., 0] + inverse[1, 2]
    # The nearest pixel of the original lies within half a new pixel's step and half an original one's.
    reach = 0.5 + 0.5 * np.abs(np.diag(inverse))[:2] + 1e-3
    assert np.abs(original_x - (inputs[0] + 0.5)).max() <= reach[0]
    assert np.abs(original_y - (inputs[1] + 0.5)).max() <= reach[1]


def test_flips_and_crops_are_exact():
    rows, columns = np.mgrid[: HW[0], : HW[1]]
    image = np.stack([columns, rows, np.zeros(HW, int)], axis=2).astype(np.uint8)
    geometry = [GEOMETRY[1], {"type": "mmdet.RandomFlip", "prob": 1.0, "direction": "diagonal"}]
    packed = Compose(sample_pipeline(geometry, photometric=None))(results([], image, []))
    inputs = packed["inputs"].numpy()
    original = np.stack([inputs[0] + 0.5, inputs[1] + 0.5, np.ones_like(inputs[0])]).reshape(3, -1)
    x, y, _ = packed["data_samples"].homography_matrix @ original
    found_yx = np.stack(np.mgrid[: inputs.shape[1], : inputs.shape[2]]).reshape(2, -1) + 0.5
    np.testing.assert_array_equal(np.stack([y, x]), found_yx)


def test_without_geometry_the_homography_is_the_identity():
    packed = Compose(sample_pipeline([], photometric=None))(results([], np.zeros((*HW, 3), np.uint8), []))
    np.testing.assert_array_equal(packed["data_samples"].homography_matrix, np.eye(3))
    assert packed["data_samples"].gt_instances.masks.masks.shape == (0, *HW)
    assert packed["data_samples"].gt_instances.bboxes.shape == (0, 4)


def test_an_image_smaller_than_the_crop_stays_whole():
    packed = Compose(sample_pipeline(GEOMETRY[1:2], photometric=None))(results([], np.zeros((20, 30, 3), np.uint8), []))
    assert packed["inputs"].shape == (3, 20, 30)


def test_other_transforms_that_drop_instances_keep_the_order():
    masks, image = squares()
    dropping = [*GEOMETRY[1:2], {"type": "mmdet.FilterAnnotations", "min_gt_bbox_wh": (11, 11), "keep_empty": False}]
    with Sample(0, 0, 3, 0).randomness():
        packed = Compose(sample_pipeline(dropping, photometric=None))(results(masks, image, [False] * len(masks)))
    instances = packed["data_samples"].gt_instances
    assert 0 < len(instances) < len(masks)
    for label, weight, mask in zip(instances.labels, instances.weights, instances.masks.masks, strict=True):
        assert weight == pytest.approx((label.item() - 10) / 100)
        assert set(packed["inputs"].numpy()[0][mask > 0]) == {10 * (label.item() - 9)}


@pytest.mark.parametrize("seed", range(6))
def test_window_masks_are_bitmap_masks_pixel_by_pixel(seed):
    rng = np.random.default_rng(seed)
    masks = [random_mask(rng, 90, 60) for _ in range(5)]
    ours = WindowMasks.of_image(windows(masks), *HW)
    theirs = BitmapMasks(np.stack(masks).astype(np.uint8), *HW)
    for _ in range(6):
        kind = rng.integers(4)
        if kind == 0:
            size_hw = tuple(int(side) for side in rng.integers(20, 120, 2))
            ours, theirs = ours.resize(size_hw), theirs.resize(size_hw)
        elif kind == 1:
            scale = (int(rng.integers(40, 160)), int(rng.integers(40, 160)))
            ours, theirs = ours.rescale(scale), theirs.rescale(scale)
        elif kind == 2:
            direction = rng.choice(["horizontal", "vertical", "diagonal"])
            ours, theirs = ours.flip(direction), theirs.flip(direction)
        else:
            left, top = rng.integers(0, 8, 2)
            box = np.array([left, top, left + ours.width - 9, top + ours.height - 9])
            ours, theirs = ours.crop(box), theirs.crop(box)
        np.testing.assert_array_equal(ours.to_ndarray(), theirs.masks)
        np.testing.assert_array_equal(ours.areas, theirs.areas)
        torch.testing.assert_close(ours.get_bboxes().tensor, theirs.get_bboxes("hbox").tensor)
    chosen = np.array([True, False, True, False, True])
    np.testing.assert_array_equal(ours[chosen].to_ndarray(), theirs[chosen].masks)
    np.testing.assert_array_equal(ours[2].to_ndarray(), theirs[2].masks)


@pytest.mark.parametrize(
    "change",
    [
        lambda masks: masks.pad((130, 130)),
        lambda masks: masks.translate((60, 90), 7),
        lambda masks: masks.rotate((60, 90), 30),
        lambda masks: masks.shear((60, 90), 0.3),
        lambda masks: masks.expand(100, 120, 5, 9),
        lambda masks: masks.resize((30, 40), "bilinear"),
        lambda masks: masks.crop_and_resize(np.array([[0, 0, 30, 30.0]], np.float32), (8, 8), np.array([1])),
    ],
)
def test_what_window_masks_leave_to_bitmap_masks(change):
    masks = [random_mask(np.random.default_rng(seed), 90, 60) for seed in range(3)]
    theirs = change(BitmapMasks(np.stack(masks).astype(np.uint8), *HW))
    np.testing.assert_array_equal(change(WindowMasks.of_image(windows(masks), *HW)).masks, theirs.masks)


# Structural anchors

MAP_SIDE = 3


def with_anchors(count: int) -> dict:
    """A sample with so many anchors, anywhere in the image; each map and window is its number."""
    rng = np.random.default_rng(count)
    numbers = np.arange(count)
    return results([], np.zeros((*HW, 3), np.uint8), []) | {
        "structure_anchors_xy": (rng.integers(0, HW[::-1], (count, 2)) + 0.5).astype(np.float32),
        "structure_windows_xyxy": np.repeat(numbers, 4).reshape(count, 4).astype(np.int32),
        "structure_maps": np.repeat(numbers, MAP_SIDE**2).reshape(count, MAP_SIDE, MAP_SIDE).astype(np.uint8),
    }


def drawn_of(sample: DetDataSample, count: int) -> list[int]:
    """The numbers of the anchors drawn, all with their own windows and maps; the rest of `count` are empty."""
    anchors_xy = sample.structure_anchors_xy.numpy()
    assert anchors_xy.shape == (count, 2)
    assert (sample.structure_windows_xyxy.shape, sample.structure_maps.shape) == ((count, 4), (count, 3, 3))
    dtypes = [getattr(sample, f"structure_{key}").dtype for key in ("anchors_xy", "windows_xyxy", "maps")]
    assert dtypes == [torch.float32, torch.int32, torch.uint8]
    seen = ~np.isnan(anchors_xy).any(axis=1)
    numbers = sample.structure_maps[:, 0, 0].tolist()
    for index, number in enumerate(numbers):
        assert set(sample.structure_maps[index].flatten().tolist()) == {number}
        assert set(sample.structure_windows_xyxy[index].tolist()) == {number}
    assert not any(number for number, is_seen in zip(numbers, seen, strict=True) if not is_seen)
    assert np.isnan(anchors_xy[~seen]).all()
    return [number for number, is_seen in zip(numbers, seen, strict=True) if is_seen]


def packed_with(count: int, draw: int, stored: int = 200, geometry=GEOMETRY) -> tuple[DetDataSample, dict]:
    given = with_anchors(stored)
    with Sample(0, 0, draw, 0).randomness():
        packed = Compose(sample_pipeline(geometry, photometric=None, anchors=count))(dict(given))
    return packed["data_samples"], given


def shown_by(sample: DetDataSample, anchors_xy: np.ndarray) -> set[int]:
    height, width = sample.img_shape
    homogeneous = np.column_stack([anchors_xy, np.ones(len(anchors_xy))]) @ sample.homography_matrix.T
    x, y = homogeneous[:, 0] / homogeneous[:, 2], homogeneous[:, 1] / homogeneous[:, 2]
    return set(np.flatnonzero((x >= 0) & (x <= width) & (y >= 0) & (y <= height)).tolist())


@pytest.mark.parametrize("draw", range(8))
def test_anchors_are_drawn_among_those_that_the_crop_shows_none_twice(draw):
    sample, given = packed_with(20, draw)
    numbers, shown = drawn_of(sample, 20), shown_by(sample, given["structure_anchors_xy"])
    assert len(numbers) == len(set(numbers)) == 20
    assert 20 < len(shown) < 200  # the crop shows some
    assert set(numbers) <= shown
    for number, xy in zip(numbers, sample.structure_anchors_xy.numpy(), strict=True):
        np.testing.assert_array_equal(xy, given["structure_anchors_xy"][number])


@pytest.mark.parametrize("draw", range(8))
def test_where_the_crop_shows_too_few_anchors_all_of_them_come_and_the_rest_is_nan(draw):
    sample, given = packed_with(190, draw)
    numbers, shown = drawn_of(sample, 190), shown_by(sample, given["structure_anchors_xy"])
    assert len(numbers) < 190
    assert sorted(numbers) == sorted(shown)


def test_each_sample_draws_anew_and_the_same_sample_the_same():
    whole = [drawn_of(packed_with(20, draw, geometry=[])[0], 20) for draw in (0, 0, 1)]
    assert whole[0] == whole[1]
    assert set(whole[0]) != set(whole[2])
    # In time every anchor is drawn, each about as often.
    counts = np.zeros(50, dtype=int)
    for draw in range(200):
        counts[drawn_of(packed_with(20, draw, stored=50, geometry=[])[0], 20)] += 1
    assert counts.sum() == 200 * 20
    assert counts.min() > 50
    assert counts.max() < 115


def test_an_image_without_anchors_gets_nan_alone():
    sample, _ = packed_with(4, 0, stored=0)
    assert drawn_of(sample, 4) == []


def test_samples_without_structural_targets_stay_without():
    packed = Compose(sample_pipeline(GEOMETRY, photometric=None, anchors=4))(
        results([], np.zeros((*HW, 3), np.uint8), [])
    )
    assert "structure_maps" not in packed["data_samples"]


def test_anchors_behind_a_projective_transform_are_not_drawn():
    given = with_anchors(60)
    given["homography_matrix"] = np.array([[1.0, 0, 0], [0, 1, 0], [-1 / 45, 0, 1]])  # the scale is 0 in the middle
    found = DrawAnchors(60).transform(given)
    anchors_xy = found["structure_anchors_xy"]
    seen = anchors_xy[~np.isnan(anchors_xy).any(axis=1)]
    assert len(seen) > 5
    scale = 1 - seen[:, :1] / 45
    assert (scale > 0).all()
    assert (seen / scale <= (90, 60)).all()


def natural_image() -> np.ndarray:
    return cv2.GaussianBlur(np.random.default_rng(0).integers(60, 190, (40, 50, 3), dtype=np.uint8), (0, 0), 2)


def changed(image: np.ndarray, draw: int = 0, **probabilities) -> np.ndarray:
    settings = {"jitter": 0.0, "grey": 0.0, "blur": 0.0} | probabilities
    with Sample(0, 0, draw, 0).randomness():
        return Photometric(**settings).transform({"img": image})["img"]


def test_no_probability_no_change():
    image = natural_image()
    np.testing.assert_array_equal(changed(image), image)


def test_grey_is_opencvs_grey():
    image = natural_image()
    grey = changed(image, grey=1.0)
    assert (grey == grey[..., :1]).all()
    assert np.abs(grey[..., 0].astype(int) - cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)).max() <= 1


@pytest.mark.parametrize("draw", range(10))
def test_jitter_without_hue_is_torchvisions(draw, monkeypatch):
    monkeypatch.setattr("pipeline.detection.transforms._HUE_TURNS", 0.0)
    image = natural_image()
    with Sample(0, 0, draw, 0).randomness():
        np.random.uniform(size=3)
        brightness, contrast, saturation = np.random.uniform(0.6, 1.4, 3)
    rgb = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1).double() / 255
    linear = v2.functional.adjust_saturation(rgb, saturation)
    linear = v2.functional.adjust_contrast(v2.functional.adjust_brightness(linear, brightness), contrast)
    expected = (linear.permute(1, 2, 0).numpy() * 255)[..., ::-1]
    found = changed(image, draw, jitter=1.0)
    within = (expected > 1) & (expected < 254)
    assert within.mean() > 0.5
    assert np.abs(found - expected)[within].max() < 1.5


@pytest.mark.parametrize("draw", range(5))
def test_hue_keeps_greys_and_brightness(draw, monkeypatch):
    monkeypatch.setattr("pipeline.detection.transforms._STRENGTH", 0.0)
    image = natural_image()
    turned = changed(image, draw, jitter=1.0)
    assert np.abs(turned.astype(int) - image).max() > 1
    luma = [cv2.cvtColor(each, cv2.COLOR_BGR2GRAY).astype(int) for each in (image, turned)]
    assert np.abs(luma[0] - luma[1]).max() <= 2
    grey = np.repeat(image[..., :1], 3, axis=2)
    assert np.abs(changed(grey, draw, jitter=1.0).astype(int) - grey).max() <= 1


def test_blur_blurs():
    image = natural_image()
    gradients = [np.abs(np.diff(changed(image, 1, blur=blur).astype(int), axis=1)).mean() for blur in (0.0, 1.0)]
    assert gradients[1] < gradients[0]


def test_each_change_has_its_probability():
    image = natural_image()
    share = np.mean([(changed(image, draw, grey=0.25) != image).any() for draw in range(400)])
    assert 0.18 < share < 0.32


NEUTRAL = {"shift": 0.0, "contrast": 1.0, "saturation": 1.0, "hue_steps": 0, "contrast_last": False}
COLOURFUL = np.random.default_rng(3).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def rounded(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def test_neutral_values_distort_nothing():
    np.testing.assert_array_equal(distorted(COLOURFUL, **NEUTRAL), COLOURFUL)
    np.testing.assert_array_equal(distorted(COLOURFUL, **NEUTRAL | {"contrast_last": True}), COLOURFUL)


@pytest.mark.parametrize("shift", [-32.0, -7.3, 11.8, 32.0])
def test_brightness_is_added(shift):
    found = distorted(COLOURFUL, **NEUTRAL | {"shift": shift})
    np.testing.assert_array_equal(found, rounded(COLOURFUL + shift))


@pytest.mark.parametrize("contrast", [0.5, 0.93, 1.5])
@pytest.mark.parametrize("last", [False, True])
def test_contrast_multiplies(contrast, last):
    found = distorted(COLOURFUL, **NEUTRAL | {"contrast": contrast, "contrast_last": last})
    np.testing.assert_array_equal(found, rounded(COLOURFUL * contrast))


def turned_hsv(image: np.ndarray, saturation: float, hue_steps: int) -> np.ndarray:
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    hues = (hsv[..., 0].astype(int) + hue_steps) % 180
    return np.dstack([hues, rounded(hsv[..., 1] * saturation), hsv[..., 2]]).astype(np.uint8)


@pytest.mark.parametrize("saturation", [0.5, 1.0, 1.37])
@pytest.mark.parametrize("hue_steps", [-18, 0, 5, 18])
def test_saturation_multiplies_and_hue_turns_in_hsv(saturation, hue_steps):
    found = distorted(COLOURFUL, **NEUTRAL | {"saturation": saturation, "hue_steps": hue_steps})
    if (saturation, hue_steps) == (1, 0):
        np.testing.assert_array_equal(found, COLOURFUL)
    else:
        expected = cv2.cvtColor(turned_hsv(COLOURFUL, saturation, hue_steps), cv2.COLOR_HSV2BGR)
        np.testing.assert_array_equal(found, expected)


def test_a_hue_of_18_steps_is_a_turn_by_36_degrees():
    red = np.array([[[0, 0, 255]]], np.uint8)
    assert distorted(red, **NEUTRAL | {"hue_steps": 18})[0, 0].tolist() == [0, 153, 255]
    assert distorted(red, **NEUTRAL | {"hue_steps": -18})[0, 0].tolist() == [153, 0, 255]


@pytest.mark.parametrize("last", [False, True])
def test_contrast_comes_before_or_after_the_hue(last):
    values = {"shift": 20.0, "contrast": 1.4, "saturation": 0.6, "hue_steps": -9, "contrast_last": last}
    image = rounded(COLOURFUL + 20.0)
    if not last:
        image = rounded(image * 1.4)
    image = cv2.cvtColor(turned_hsv(image, 0.6, -9), cv2.COLOR_HSV2BGR)
    if last:
        image = rounded(image * 1.4)
    np.testing.assert_array_equal(distorted(COLOURFUL, **values), image)


def distortions(monkeypatch, probability: float, draws: int) -> list[dict]:
    """The values of those draws that distort."""
    told: list[dict] = []

    def note(image: np.ndarray, **values) -> np.ndarray:
        told.append(values)
        return image

    monkeypatch.setattr("pipeline.detection.transforms.distorted", note)
    for draw in range(draws):
        with Sample(0, 0, draw, 0).randomness():
            DistortColours(probability).transform({"img": COLOURFUL})
    return told


@pytest.mark.slow
def test_each_distortion_is_made_half_of_the_time_in_its_whole_range(monkeypatch):
    told = distortions(monkeypatch, 1.0, 4000)
    assert len(told) == 4000
    ranges = {"shift": (-32, 32, 0), "contrast": (0.5, 1.5, 1), "saturation": (0.5, 1.5, 1), "hue_steps": (-18, 18, 0)}
    made = {}
    for key, (low, high, neutral) in ranges.items():
        values = np.array([each[key] for each in told])
        made[key] = values != neutral
        # Of hues one in 37 is no turn.
        assert abs(made[key].mean() - (0.5 * 36 / 37 if key == "hue_steps" else 0.5)) < 0.04
        drawn = values[made[key]]
        assert low <= drawn.min() < low + 0.01 * (high - low)
        assert high >= drawn.max() > high - 0.01 * (high - low)
        assert abs(drawn.mean() - neutral) < 0.03 * (high - low)
    assert abs(np.mean([each["contrast_last"] for each in told]) - 0.5) < 0.04
    assert np.abs(np.corrcoef([made[key] for key in ranges]) - np.eye(4)).max() < 0.08
    assert {each["hue_steps"] for each in told} == set(range(-18, 19))


def test_an_image_is_distorted_with_its_probability(monkeypatch):
    assert not distortions(monkeypatch, 0.0, 100)
    assert abs(len(distortions(monkeypatch, 0.25, 2000)) / 2000 - 0.25) < 0.05


def test_a_pipeline_distorts_between_geometry_and_packing_and_the_same_sample_alike():
    masks, image = squares()

    def packed(draw: int, distortion: float) -> dict:
        with Sample(0, 0, draw, 1).randomness():
            pipeline = sample_pipeline(GEOMETRY, photometric=None, distortion=distortion)
            return Compose(pipeline)(results(masks, image, [False] * len(masks)))

    changed_draws = 0
    for draw in range(8):
        plain, one, again = packed(draw, 0.0), packed(draw, 1.0), packed(draw, 1.0)
        assert torch.equal(one["inputs"], again["inputs"])
        assert one["inputs"].dtype == torch.uint8
        changed_draws += not torch.equal(one["inputs"], plain["inputs"])
        for key in ("masks", "labels"):
            found, expected = (getattr(each["data_samples"].gt_instances, key) for each in (one, plain))
            assert (found.masks == expected.masks).all() if key == "masks" else torch.equal(found, expected)
    assert changed_draws >= 4
    names = [
        each["type"] for each in sample_pipeline([], photometric={"jitter": 1, "grey": 0, "blur": 0}, distortion=1)
    ]
    assert names == ["s4m.SettleInstances", "s4m.DistortColours", "s4m.Photometric", "s4m.PackInputs"]
