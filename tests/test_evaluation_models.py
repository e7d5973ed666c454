"""Average precision of masks, boxes and boundaries, against pycocotools."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipeline.coco.reading import read_coco
from pipeline.evaluation import models
from pipeline.evaluation.models import RESAMPLES, MeasuredModel, measure_model
from pipeline.evaluation.results import Metrics, ModelResult
from pipeline.evaluation.settings import EvaluateSettings
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import Decision, ImageLabels, label_from_mask
from tests.coco_reference import reference_metrics, run_reference, store_results
from tests.tiny_coco import write_json
from tests.tiny_labels import tiny_store

WIDTH, HEIGHT = 150, 130
CATEGORIES = (3, 7, 11)  # nothing shows the last
KINDS = {"mask": "segm", "box": "bbox", "boundary": "boundary"}


def blob(rng: np.random.Generator) -> np.ndarray:
    """A rectangle with a ragged corner: small, medium or large."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    side = rng.choice([14, 50, 120], 2, p=[0.4, 0.4, 0.2]) + rng.integers(-9, 9, 2)
    top, left = int(rng.integers(0, HEIGHT - 10)), int(rng.integers(0, WIDTH - 10))
    part = mask[top : top + side[0], left : left + side[1]]
    part[:] = True
    corner = part[: part.shape[0] // 3, : part.shape[1] // 3]
    corner[:] = rng.uniform(size=corner.shape) < 0.5
    return mask


def annotation(number: int, image_id: int, category_id: int, mask: np.ndarray, **given: Any) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": coco_mask.toBbox(rle).tolist(),
        "area": float(mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode()},
        **given,
    }


def dataset_content(annotations: list[dict[str, Any]], images: int) -> dict[str, Any]:
    return {
        "images": [
            {"id": number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT}
            for number in range(1, images + 1)
        ],
        "categories": [{"id": each, "name": f"category {each}"} for each in CATEGORIES],
        "annotations": annotations,
    }


def row(image_id: int, found: list[tuple[np.ndarray, int, float]]) -> ImageLabels:
    instances = tuple(label_from_mask(mask, category_id, score, Decision.TEACHER) for mask, category_id, score in found)
    return ImageLabels.of_instances(image_id, f"{image_id}.png", WIDTH, HEIGHT, instances)


def random_case(seed: int, images: int = 12) -> tuple[dict[str, Any], list[ImageLabels]]:
    """Images with crowds, areas that are not those of the masks, tied scores; some without truth or finds."""
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    rows: list[ImageLabels] = []
    for image_id in range(1, images + 1):
        found: list[tuple[np.ndarray, int, float]] = []
        for _ in range(int(rng.integers(0, 7))):
            mask, category_id = blob(rng), int(rng.choice(CATEGORIES[:2]))
            crowd = int(rng.uniform() < 0.15)
            area = float(mask.sum()) * rng.choice([1.0, 0.5, 3.0], p=[0.8, 0.1, 0.1])
            annotations.append(annotation(len(annotations) + 1, image_id, category_id, mask, iscrowd=crowd, area=area))
            for _ in range(int(rng.integers(0, 4))):
                moved = np.roll(mask, tuple(rng.integers(-4, 5, 2)), axis=(0, 1))
                found.append((moved, category_id if rng.uniform() < 0.9 else 11, rng.integers(1, 6) / 5))
        found += [(blob(rng), int(rng.choice(CATEGORIES)), rng.integers(1, 6) / 5) for _ in range(rng.integers(0, 4))]
        rows.append(row(image_id, found if image_id % 5 else []))
    return dataset_content(annotations, images), rows


def measured(folder: Path, content: dict[str, Any], rows: list[ImageLabels], **settings: Any) -> ModelResult:
    dataset = read_coco(write_json(folder / "truth.json", content))
    store = tiny_store(folder / "labels.zarr", rows)
    model = MeasuredModel("train-teacher", "teacher", 1, "detections/train-teacher.json", store.path)
    return measure_model(model, dataset, EvaluateSettings(**settings))


def assert_equals(ours: Metrics | None, theirs: Metrics) -> None:
    assert ours is not None
    assert msgspec.structs.asdict(ours) == pytest.approx(msgspec.structs.asdict(theirs), abs=1e-9)


def assert_as_pycocotools(folder: Path, content: dict[str, Any], rows: list[ImageLabels], max_detections: int) -> None:
    result = measured(folder, content, rows, max_detections=max_detections)
    for name, kind in KINDS.items():
        results = store_results(LabelStore.open(folder / "labels.zarr"), kind)
        reference = run_reference(copy.deepcopy(content), results, kind, max_detections)
        assert_equals(getattr(result, name), reference_metrics(reference))
        for place, category in enumerate(result.categories):
            assert_equals(getattr(category, name), reference_metrics(reference, place))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("max_detections", [100, 2])
def test_random_images_measure_as_with_pycocotools(tmp_path, seed, max_detections):
    content, rows = random_case(seed)
    assert_as_pycocotools(tmp_path, content, rows, max_detections)


def test_boxes_that_are_not_those_of_the_masks_measure_as_with_pycocotools(tmp_path):
    content, rows = random_case(20)
    wider = [replace(each, instances=tuple(_widened(instance) for instance in each.instances)) for each in rows]
    assert_as_pycocotools(tmp_path, content, wider, 100)


def _widened(instance):
    x0, y0, x1, y1 = instance.box_xyxy
    return replace(instance, box_xyxy=(x0, y0, min(x1 + 2.25, WIDTH), min(y1 + 1.5, HEIGHT)))


def test_same_scores_and_same_overlaps_are_told_apart_as_pycocotools_does(tmp_path):
    left, right = np.zeros((HEIGHT, WIDTH), bool), np.zeros((HEIGHT, WIDTH), bool)
    left[10:60, 10:60] = right[10:60, 30:80] = True
    middle = np.zeros((HEIGHT, WIDTH), bool)
    middle[10:60, 20:70] = True  # overlaps both alike
    annotations = [annotation(1, 1, 3, left, area=100.0), annotation(2, 1, 3, right, area=5000.0)]
    annotations += [annotation(3, 2, 3, left), annotation(4, 2, 3, left), annotation(5, 3, 3, right, iscrowd=1)]
    rows = [
        row(1, [(middle, 3, 0.5), (left, 3, 0.5), (right, 3, 0.5)]),
        row(2, [(left, 3, 0.5), (left, 3, 0.5), (left, 3, 0.5)]),
        row(3, [(middle, 3, 0.9), (right, 3, 0.9), (right, 3, 0.9)]),
    ]
    assert_as_pycocotools(tmp_path, dataset_content(annotations, 3), rows, 100)


def test_a_detection_goes_to_a_truth_that_counts_before_one_that_fits_better_but_is_ignored(tmp_path):
    exact, near = np.zeros((HEIGHT, WIDTH), bool), np.zeros((HEIGHT, WIDTH), bool)
    exact[10:60, 10:60] = near[10:60, 15:65] = True
    annotations = [annotation(1, 1, 3, exact, iscrowd=1), annotation(2, 1, 3, near)]
    result = measured(tmp_path, dataset_content(annotations, 1), [row(1, [(exact, 3, 0.5)])])
    assert result.mask.ap_50 == pytest.approx(1.0)
    assert_as_pycocotools(tmp_path / "same", dataset_content(annotations, 1), [row(1, [(exact, 3, 0.5)])], 100)


def test_the_lesser_of_mask_and_boundary_overlap_counts(tmp_path):
    whole = np.zeros((HEIGHT, WIDTH), bool)
    whole[5:125, 5:125] = True
    hollow = whole.copy()
    hollow[23:107, 23:107] = False  # mask IoU 0.51, boundary IoU 0.57
    content = dataset_content([annotation(1, 1, 3, whole)], 1)
    result = measured(tmp_path, content, [row(1, [(hollow, 3, 0.5)])])
    assert result.boundary is not None
    assert result.boundary.ar == pytest.approx(0.1)  # found at 0.50, not at 0.55
    assert_as_pycocotools(tmp_path / "same", content, [row(1, [(hollow, 3, 0.5)])], 100)


def test_a_class_without_truth_has_no_figures_and_lowers_no_mean(tmp_path):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:60, 10:60] = True
    content = dataset_content([annotation(1, 1, 3, mask)], 1)
    result = measured(tmp_path, content, [row(1, [(mask, 3, 0.5), (mask, 11, 0.9)])])
    assert result.mask.ap == pytest.approx(1.0)
    assert [(each.truths, each.mask.ap) for each in result.categories] == [
        (1, pytest.approx(1.0)),
        (0, None),
        (0, None),
    ]
    assert result.mask.ap_small is None  # nothing small is shown


def test_no_detections_measure_zero_and_no_truths_nothing(tmp_path):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:60, 10:60] = True
    nothing_found = measured(tmp_path / "a", dataset_content([annotation(1, 1, 3, mask)], 1), [row(1, [])])
    assert (nothing_found.mask.ap, nothing_found.box.ar, nothing_found.detections) == (0.0, 0.0, 0)
    nothing_shown = measured(tmp_path / "b", dataset_content([], 1), [row(1, [(mask, 3, 0.5)])])
    assert set(msgspec.structs.asdict(nothing_shown.mask).values()) == {None}


def test_an_image_that_failed_counts_as_missed(tmp_path):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:60, 10:60] = True
    content = dataset_content([annotation(1, 1, 3, mask), annotation(2, 2, 3, mask)], 2)
    rows = [row(1, [(mask, 3, 0.5)]), ImageLabels.of_failure(2, "2.png", "cut off", WIDTH, HEIGHT)]
    result = measured(tmp_path, content, rows)
    assert result.failed_images == 1
    assert result.mask.ar == pytest.approx(0.5)


def test_boundaries_are_left_out_where_not_asked_for(tmp_path):
    content, rows = random_case(1, images=3)
    result = measured(tmp_path, content, rows, boundary=False)
    assert result.boundary is None
    assert {category.boundary for category in result.categories} == {None}


@pytest.mark.slow
def test_resampled_ap_is_that_of_the_drawn_images(tmp_path):
    """A draw that has an image twice measures as a dataset that has it twice."""
    content, rows = random_case(3, images=6)
    result = measured(tmp_path / "all", content, rows)
    draws = np.random.default_rng(6).multinomial(6, np.full(6, 1 / 6), size=RESAMPLES)
    assert len(result.resampled_ap) == RESAMPLES
    for number in (0, 1, 17):
        drawn_content, drawn_rows = dataset_content([], 0), []
        for image_id, times in enumerate(draws[number].tolist(), start=1):
            for _ in range(times):
                copied = len(drawn_content["images"]) + 1
                image = {"id": copied, "file_name": f"{copied}.png", "width": WIDTH, "height": HEIGHT}
                drawn_content["images"].append(image)
                drawn_rows.append(replace(rows[image_id - 1], image_id=copied, file_name=f"{copied}.png"))
                for each in content["annotations"]:
                    if each["image_id"] == image_id:
                        copy_id = len(drawn_content["annotations"]) + 1
                        drawn_content["annotations"].append(each | {"id": copy_id, "image_id": copied})
        again = measured(tmp_path / str(number), drawn_content, drawn_rows)
        # Copies of a detection count one after the other there, at once here.
        assert result.resampled_ap[number] == pytest.approx(again.mask.ap, abs=0.02)
    assert np.mean(result.resampled_ap) == pytest.approx(result.mask.ap, abs=0.05)


@pytest.mark.slow
def test_draws_of_one_image_are_that_image(tmp_path):
    truth = np.zeros((HEIGHT, WIDTH), bool)
    truth[10:60, 10:60] = True
    result = measured(tmp_path, dataset_content([annotation(1, 1, 3, truth)], 1), [row(1, [(truth, 3, 0.9)])])
    assert set(result.resampled_ap) == {1.0}
    empty = measured(tmp_path / "empty", dataset_content([], 2), [row(1, []), row(2, [])])
    assert (empty.resampled_ap, empty.mask.ap) == ((), None)


def test_many_images_are_not_redrawn(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "MOST_RESAMPLED_IMAGES", 5)
    assert measured(tmp_path, *random_case(3, images=6)).resampled_ap == ()


@pytest.mark.slow
def test_confusions_are_counted_at_the_score_with_the_best_f1(tmp_path):
    masks = [np.zeros((HEIGHT, WIDTH), bool) for _ in range(3)]
    for index, mask in enumerate(masks):
        mask[10:60, 50 * index : 50 * index + 40] = True
    annotations = [annotation(1, 1, 3, masks[0]), annotation(2, 1, 7, masks[1])]
    found = [(masks[0], 3, 0.9), (masks[1], 7, 0.6), (masks[2], 3, 0.5), (masks[2], 7, 0.4)]
    result = measured(tmp_path, dataset_content(annotations, 1), [row(1, found)])
    assert result.confusion.min_score == pytest.approx(0.6)
    assert result.confusion.counts == ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 0, 0), (0, 0, 0, 0))
    nothing = measured(tmp_path / "nothing", dataset_content(annotations, 1), [row(1, [])])
    assert nothing.confusion.min_score == 0
    assert [counts[-1] for counts in nothing.confusion.counts] == [1, 1, 0, 0]
