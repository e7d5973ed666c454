"""The predictor against MMDetection's own `test_step`; merging with the mirror image without any model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.datasets.transforms import PackDetInputs, Resize
from pycocotools import mask as coco_mask

from pipeline.detection.flip import merge, mirrored_back
from pipeline.detection.painted_masks import MeanMask, MirroredMask, PaintedMask, Prediction, QueryMask, RegionMask
from pipeline.detection.predictor import Predictor, build_predictor
from pipeline.detection.published import WEIGHTS, DetectorChoice, build_published, read_published
from pipeline.errors import StageError
from tests.tiny_detectors import FAMILIES, RESIZE, publish_tiny

SIZES_HW = ((64, 64), (50, 70), (64, 64))


@pytest.fixture(scope="module", params=[(family, resized) for family in FAMILIES for resized in (False, True)])
def published(request, tmp_path_factory):
    family, resized = request.param
    return publish_tiny(tmp_path_factory.mktemp("models") / family, family, resized=resized)


@pytest.fixture(scope="module")
def mask_rcnn(tmp_path_factory):
    return publish_tiny(tmp_path_factory.mktemp("models") / "mask_rcnn", "mask_rcnn")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pictures() -> list[np.ndarray]:
    """Smooth noise, another for each image."""
    rng = np.random.default_rng(1)
    return [
        np.kron(rng.integers(0, 255, (8, 8, 3)), np.ones((10, 10, 1)))[: size_hw[0], : size_hw[1]].astype(np.uint8)
        for size_hw in SIZES_HW
    ]


def predictor_of(folder: Path) -> Predictor:
    return build_predictor(DetectorChoice(folder, "cpu", "fp32", 4))


def mmdetection(folder: Path, image_rgb: np.ndarray) -> Any:
    """`pred_instances` of MMDetection's own `test_step` for one image."""
    published = read_published(folder)
    model = build_published(published, "cpu")
    image: dict[str, Any] = {"img": np.ascontiguousarray(image_rgb[..., ::-1])}
    image |= {"img_shape": image_rgb.shape[:2], "ori_shape": image_rgb.shape[:2], "scale_factor": (1.0, 1.0)}
    if published.config.test_transforms:
        image = Resize(scale=RESIZE["scale"], keep_ratio=True)(image)
    packed = PackDetInputs(meta_keys=("img_shape", "ori_shape", "scale_factor"))(image)
    with torch.no_grad():
        (sample,) = model.test_step({"inputs": [packed["inputs"]], "data_samples": [packed["data_samples"]]})
    return sample.pred_instances


@pytest.mark.slow
def test_detections_are_those_of_mmdetection(published):
    images = pictures()
    several = 0
    for image, found in zip(images, predictor_of(published).predict(images), strict=True):
        expected = mmdetection(published, image)
        assert [each.label for each in found] == expected.labels.tolist()
        # Mask2Former's is a mean over pixels, which PyTorch rounds by how many masks are worked on at once.
        rounding = 2e-7 if published.name == "mask2former" else 0.0
        assert [each.ranking_score for each in found] == pytest.approx(expected.scores.tolist(), rel=rounding, abs=0)
        assert [list(each.box_xyxy) for each in found] == expected.bboxes.tolist()
        masks = [each.source.paint().mask for each in found]
        assert np.array_equal(masks, expected.masks.numpy())
        several += len({mask.tobytes() for mask in masks if 0 < mask.sum() < mask.size}) > 3
    assert several == len(images)  # the comparison was of masks that say something


def test_probabilities_part_at_the_threshold_where_the_mask_does(published):
    for found in predictor_of(published).predict(pictures()):
        for each in found:
            painted = each.source.paint()
            assert painted.probability.dtype == np.float32
            assert 0 <= painted.probability.min() <= painted.probability.max() <= 1
            certain = np.abs(painted.probability - painted.threshold) > 1e-6
            assert np.array_equal((painted.probability > painted.threshold)[certain], painted.mask[certain])


def test_the_mask_score_is_the_mean_probability_inside_the_mask(published):
    compared = 0
    for found in predictor_of(published).predict(pictures()):
        for each in found:
            if isinstance(each.source, RegionMask):  # of the cells that the detector predicts, which pixels blend
                probability = each.source.cells.numpy()
                inside = probability >= each.source.threshold
            else:
                painted = each.source.paint()
                probability, inside = painted.probability, painted.mask
            compared += bool(inside.any())
            expected = probability[inside].mean() if inside.any() else 0.0
            assert each.mask_score == pytest.approx(expected, rel=1e-5)
    assert compared > 5


def test_a_painted_mask_has_the_digits_of_what_is_nearly_certain():
    mask = QueryMask(torch.tensor([[9.0, 14.0], [-9.0, -14.0]]), (2, 2), (2, 2), (2, 2))
    merged = MeanMask(mask, mask)
    for painted in (mask.paint(), merged.paint(), MirroredMask(MirroredMask(mask)).paint()):
        logits = np.log(painted.probability) - np.log(painted.complement)
        assert logits == pytest.approx(np.array([[9, 14], [-9, -14]]), abs=1e-4)


def test_a_mask_holds_no_more_than_its_cells(published):
    (found, *_) = predictor_of(published).predict([np.zeros((64, 512, 3), dtype=np.uint8)])
    assert found
    for each in found:
        held = each.source.cells if isinstance(each.source, RegionMask) else each.source.logits_lowres
        assert held.numel() < 64 * 512


def test_images_do_not_depend_on_those_beside_them(published):
    images = pictures()
    together = predictor_of(published).predict(images)
    for image, found in zip(images, together, strict=True):
        (alone,) = predictor_of(published).predict([image])
        assert [(each.label, each.class_score, each.mask_score, each.box_xyxy) for each in alone] == [
            (each.label, each.class_score, each.mask_score, each.box_xyxy) for each in found
        ]


def test_a_least_score_leaves_out_what_is_below(published):
    predictor = predictor_of(published)
    (everything,) = predictor.predict(pictures()[:1])
    least = float(np.median([each.class_score for each in everything]))
    (some,) = predictor.predict(pictures()[:1], least)
    wanted = [(each.label, pytest.approx(each.class_score)) for each in everything if each.class_score >= least]
    assert 0 < len(wanted) < len(everything)
    assert [(each.label, each.class_score) for each in some if each.class_score >= least] == wanted


@pytest.mark.slow
def test_no_image_is_no_prediction(mask_rcnn):
    assert predictor_of(mask_rcnn).predict([]) == []


def test_a_prediction_on_the_mirror_image_lies_mirrored(published):
    (image, *_) = pictures()
    predictor = predictor_of(published)
    ((seen, *_),) = predictor.predict([np.ascontiguousarray(image[:, ::-1])])
    back = mirrored_back(seen, image.shape[1])
    assert back.box_xyxy == (64 - seen.box_xyxy[2], seen.box_xyxy[1], 64 - seen.box_xyxy[0], seen.box_xyxy[3])
    assert np.array_equal(back.source.paint().mask, seen.source.paint().mask[:, ::-1])
    assert np.array_equal(back.source.paint().probability, seen.source.paint().probability[:, ::-1])


def test_predicting_twice_on_a_symmetric_image_keeps_the_sum_of_scores(published):
    (image, *_) = pictures()
    symmetric = np.concatenate([image, image[:, ::-1]], axis=1)
    predictor = predictor_of(published)
    (once,), (twice,) = predictor.predict([symmetric]), predictor.predict_twice([symmetric])
    assert sum(each.class_score for each in twice) == pytest.approx(sum(each.class_score for each in once))


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("mask_rcnn", "backbone.conv1.weight"),
        ("mask_rcnn", "rpn_head.rpn_cls.bias"),
        ("mask_rcnn", "roi_head.bbox_head.fc_cls.bias"),
        ("mask_rcnn", "roi_head.bbox_head.fc_reg.bias"),
        ("mask_rcnn", "roi_head.mask_head.conv_logits.bias"),
        ("mask2former", "panoptic_head.cls_embed.bias"),
        ("mask2former", "panoptic_head.mask_embed.4.bias"),
    ],
)
def test_a_diverged_model_is_refused(tmp_path, family, name):
    folder = publish_tiny(tmp_path / "diverged", family)
    saved = torch.load(folder / WEIGHTS, weights_only=True)
    saved["state_dict"][name][0] = torch.nan
    torch.save(saved, folder / WEIGHTS)
    with pytest.raises(StageError, match=rf"{folder}: this model answers with values that are not numbers"):
        predictor_of(folder).predict(pictures())


def test_scales_in_json_are_scales_again(tmp_path):
    folder = publish_tiny(tmp_path / "resized", "mask_rcnn", resized=True)
    (step,) = json.loads((folder / "detector.json").read_text())["test_transforms"]
    assert step["scale"] == [96, 80]
    assert predictor_of(folder).predict(pictures())[0]


@dataclass(frozen=True)
class Drawn:
    """A mask that is there already."""

    probability: np.ndarray

    def paint(self) -> PaintedMask:
        return PaintedMask(self.probability, 1 - self.probability, self.probability > 0.5, 0.5)


def drawn(label: int, score: float, columns: slice, value: float = 1.0) -> Prediction:
    probability = np.zeros((4, 20), dtype=np.float32)
    probability[:, columns] = value
    return Prediction(label, score, value, True, (columns.start, 0, columns.stop, 4), Drawn(probability))


def test_what_both_images_show_is_averaged():
    (both,) = merge([drawn(0, 0.9, slice(0, 10), 0.8)], [drawn(0, 0.7, slice(0, 8), 0.6)])
    assert (both.class_score, both.mask_score) == pytest.approx((0.8, 0.7))
    assert both.box_xyxy == (0, 0, 9, 4)
    painted = both.source.paint()
    assert painted.probability[0, [0, 9, 12]] == pytest.approx([0.7, 0.4, 0.0])
    assert painted.mask[0].tolist() == [True] * 8 + [False] * 12


def test_what_one_image_shows_keeps_half_its_score():
    merged = merge([drawn(0, 0.8, slice(0, 5))], [drawn(0, 0.6, slice(10, 15))])
    assert [(each.class_score, each.mask_score) for each in merged] == [(0.4, 1.0), (0.3, 1.0)]
    assert merged[1].source.paint().mask[0].nonzero()[0].tolist() == [10, 11, 12, 13, 14]


def test_another_class_is_another_object():
    assert len(merge([drawn(0, 0.8, slice(0, 5))], [drawn(1, 0.8, slice(0, 5))])) == 2


def test_half_an_overlap_is_enough_and_less_is_not():
    assert len(merge([drawn(0, 0.8, slice(0, 10))], [drawn(0, 0.8, slice(0, 5))])) == 1
    assert len(merge([drawn(0, 0.8, slice(0, 10))], [drawn(0, 0.8, slice(0, 4))])) == 2


def test_the_best_by_score_chooses_first_and_the_nearest():
    direct = [drawn(0, 0.5, slice(0, 10)), drawn(0, 0.9, slice(0, 9))]
    mirrored = [drawn(0, 0.3, slice(0, 8)), drawn(0, 0.2, slice(0, 10))]
    first, second = merge(direct, mirrored)
    assert first.class_score == pytest.approx((0.9 + 0.2) / 2)  # IoU 0.9, before 8/9
    assert second.class_score == pytest.approx((0.5 + 0.3) / 2)


def test_empty_masks_and_sides_are_merged_with_nothing():
    nothing = drawn(0, 0.8, slice(5, 5))
    assert [each.class_score for each in merge([nothing], [nothing])] == [0.4, 0.4]
    assert merge([], []) == []
    assert len(merge([], [drawn(0, 0.8, slice(0, 5))])) == 1


def test_a_query_mask_is_resized_in_two_steps():
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    mask = QueryMask(logits, (16, 24), (14, 20), (28, 40))
    painted = mask.paint()
    assert painted.mask.shape == (28, 40)
    assert coco_mask.area(coco_mask.encode(np.asfortranarray(painted.mask, dtype=np.uint8))) == painted.mask.sum() > 0
