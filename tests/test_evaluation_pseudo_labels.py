"""Pseudo-labels before and after refinement: pairs, precision and recall, decisions, largest changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipeline.coco.reading import read_coco
from pipeline.errors import StoreError
from pipeline.evaluation.changes import KEPT, LargestChanges
from pipeline.evaluation.pseudo_labels import MIN_IOUS, LabelsToMeasure, measure_pseudo_labels
from pipeline.evaluation.results import InstanceChange, PseudoLabelResult
from pipeline.labels.class_check import NO_CHECK, ClassCheck
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import Decision, ImageLabels, InstanceLabel, label_from_mask
from pipeline.masks.boundaries import boundary_width_px, inner_boundary
from pipeline.masks.overlap import mask_iou
from tests.coco_reference import run_reference, store_results
from tests.test_evaluation_models import CATEGORIES, HEIGHT, WIDTH, annotation, blob, dataset_content
from tests.tiny_coco import write_json
from tests.tiny_labels import tiny_store


def box_mask(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def labels(image_id: int, *instances: InstanceLabel) -> ImageLabels:
    return ImageLabels.of_instances(image_id, f"{image_id}.png", WIDTH, HEIGHT, instances)


def test_votes_on_classes_are_measured_where_there_are_some(tmp_path):
    mask, other = box_mask(5, 5, 25, 25), box_mask(40, 5, 60, 25)
    content = dataset_content([annotation(1, 1, 3, mask), annotation(2, 1, 7, other)], images=1)
    right, wrong = label(mask, 3, 0.9), label(other, 3, 0.8)
    plain = compared(tmp_path / "plain", content, [labels(1, right, wrong)], [labels(1, right, wrong)])
    assert plain.class_check is None
    voted = labels(
        1,
        replace(right, class_vote=3, class_agreement=1.0),
        replace(wrong, class_vote=7, class_agreement=0.75),
    )
    for least, doubted, corrected in ((0.7, 1, 1.0), (0.8, 0, 0.5)):
        folder = tmp_path / str(least)
        result = compared(folder, content, [voted], [voted], class_check=ClassCheck("flag", least)).class_check
        assert result is not None
        assert (result.checked, result.doubted, result.doubted_paired) == (2, doubted, doubted)
        assert (result.accuracy, result.accuracy_corrected) == (0.5, corrected)


def label(mask: np.ndarray, category_id: int, score: float, decision: Decision = Decision.TEACHER) -> InstanceLabel:
    return label_from_mask(mask, category_id, score, decision)


def compared(
    folder: Path,
    content: dict[str, Any],
    before: list[ImageLabels],
    after: list[ImageLabels],
    *,
    boundary: bool = True,
    class_check: ClassCheck = NO_CHECK,
) -> PseudoLabelResult:
    folder.mkdir(exist_ok=True)
    truth = read_coco(write_json(folder / "truth.json", content))
    predicted, refined = (
        tiny_store(folder / name, rows) for name, rows in (("predict.zarr", before), ("refine.zarr", after))
    )
    measured = LabelsToMeasure(1, "predict", "refine", predicted.path, refined.path)
    return measure_pseudo_labels(measured, truth, boundary=boundary, class_check=class_check)


FIRST, SECOND, CROWD = box_mask(10, 10, 50, 50), box_mask(80, 20, 120, 60), box_mask(0, 80, 150, 130)
CONTENT = dataset_content(
    [annotation(1, 1, 3, FIRST), annotation(2, 1, 7, SECOND), annotation(3, 1, 3, CROWD, iscrowd=1)], 1
)
BEFORE = labels(
    1,
    label(box_mask(15, 10, 55, 50), 3, 0.9),  # IoU 7 / 9 with the first
    label(box_mask(80, 20, 120, 45), 3, 0.8),  # IoU 0.625 with the second, of the wrong class
    label(box_mask(20, 90, 60, 120), 3, 0.7),  # in the crowd
    label(box_mask(130, 0, 150, 10), 7, 0.6),  # nothing
)
AFTER = labels(
    1,
    label(FIRST, 3, 0.9, Decision.SAM),
    label(box_mask(80, 20, 120, 40), 3, 0.8, Decision.SAM),  # IoU 0.5
    label(box_mask(20, 90, 60, 120), 3, 0.7, Decision.TEACHER),
    label(box_mask(130, 0, 150, 10), 7, 0.6, Decision.DROPPED),
)


def test_labels_are_counted_by_class_and_overlap(tmp_path):
    result = compared(tmp_path, CONTENT, [BEFORE], [AFTER])
    assert (result.images, result.truths, result.paired) == (1, 2, 2)
    assert result.class_accuracy == 0.5
    assert (result.before.labels, result.after.labels) == (4, 3)
    before = [(each.true_positives, each.false_positives, each.missed) for each in result.before.at]
    after = [(each.true_positives, each.false_positives, each.missed) for each in result.after.at]
    assert before == [(1, 2, 1), (1, 2, 1), (0, 3, 2)]  # what lies in the crowd is neither right nor wrong
    assert after == [(1, 1, 1), (1, 1, 1), (1, 1, 1)]
    assert result.after.at[0].precision == 0.5
    assert result.after.at[0].recall == 0.5


def test_the_same_instances_are_measured_before_and_after(tmp_path):
    result = compared(tmp_path, CONTENT, [BEFORE], [AFTER])
    assert result.before.paired.mean_iou == pytest.approx((7 / 9 + 0.625) / 2)
    assert result.after.paired.mean_iou == pytest.approx((1 + 0.5) / 2)
    assert (result.before.paired.share_75, result.before.paired.share_90) == (0.5, 0.0)
    assert (result.after.paired.share_75, result.after.paired.share_90) == (0.5, 0.5)
    assert {place: count for place, count in enumerate(result.before.iou_histogram) if count} == {25: 1, 31: 1}
    assert {place: count for place, count in enumerate(result.after.iou_histogram) if count} == {20: 1, 39: 1}


def test_figures_by_decision(tmp_path):
    result = compared(tmp_path, CONTENT, [BEFORE], [AFTER])
    by_decision = {each.decision: each for each in result.decisions}
    counts = {decision: (each.instances, each.before.count) for decision, each in by_decision.items()}
    assert counts == {Decision.SAM: (2, 2), Decision.TEACHER: (1, 0), Decision.DROPPED: (1, 0)}
    assert by_decision[Decision.SAM].after.mean_iou == pytest.approx(0.75)
    assert by_decision[Decision.TEACHER].after.mean_iou is None


def test_the_largest_changes_tell_where_to_look(tmp_path):
    result = compared(tmp_path, CONTENT, [BEFORE], [AFTER])
    (improved,), (harmed,) = result.most_improved, result.most_harmed
    assert (improved.image_id, improved.file_name, improved.position, improved.truth_id) == (1, "1.png", 0, 1)
    assert improved.box_xyxy == (10, 10, 55, 50)
    assert (improved.iou_before, improved.iou_after) == (pytest.approx(7 / 9), 1.0)
    assert (harmed.position, harmed.category_id, harmed.truth_category_id) == (1, 3, 7)
    assert (harmed.iou_before, harmed.iou_after) == (0.625, 0.5)
    assert harmed.decision is Decision.SAM


def test_an_instance_that_only_shows_its_truth_after_refinement_counts(tmp_path):
    before = labels(1, label(box_mask(10, 10, 50, 22), 3, 0.9))
    after = labels(1, label(FIRST, 3, 0.9, Decision.SAM))
    result = compared(tmp_path, CONTENT, [before], [after])
    assert result.paired == 1
    assert result.before.paired.mean_iou == pytest.approx(0.3)


def random_labels(seed: int, images: int = 10) -> tuple[dict[str, Any], list[ImageLabels], list[ImageLabels]]:
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    before: list[ImageLabels] = []
    after: list[ImageLabels] = []
    for image_id in range(1, images + 1):
        found: list[tuple[InstanceLabel, InstanceLabel]] = []
        for _ in range(int(rng.integers(0, 6))):
            mask, category_id = blob(rng), int(rng.choice(CATEGORIES[:2]))
            crowd = int(rng.uniform() < 0.2)
            annotations.append(annotation(len(annotations) + 1, image_id, category_id, mask, iscrowd=crowd))
            for _ in range(int(rng.integers(0, 3))):
                decision = Decision(rng.choice(list(Decision)))
                shifts = rng.integers(-5, 6, 2), rng.integers(-5, 6, 2)
                first, second = (np.roll(mask, tuple(shift), axis=(0, 1)) for shift in shifts)
                category_id = int(rng.choice(CATEGORIES[:2]))
                teacher = label(first, category_id, rng.integers(1, 5) / 4)
                refined = label(second, category_id, teacher.score, decision)
                found.append((teacher, refined if decision is Decision.SAM else replace(teacher, decision=decision)))
        before.append(labels(image_id, *(each for each, _ in found)))
        after.append(labels(image_id, *(each for _, each in found)))
    return dataset_content(annotations, images), before, after


@pytest.mark.parametrize("seed", range(4))
def test_right_and_wrong_labels_are_those_of_pycocotools(tmp_path, seed):
    content, before, after = random_labels(seed)
    result = compared(tmp_path, content, before, after)
    for name, quality in (("predict.zarr", result.before), ("refine.zarr", result.after)):
        store = LabelStore.open(tmp_path / name)
        kept = [each.decision is not Decision.DROPPED for row in store for each in row.instances]
        entries = [entry for entry, keep in zip(store_results(store, "segm"), kept, strict=True) if keep]
        evaluation = run_reference(content, entries, "segm", 1000)
        chosen = [round((min_iou - 0.5) / 0.05) for min_iou in MIN_IOUS]
        everywhere = tuple(evaluation.params.areaRng[0])
        images = [each for each in evaluation.evalImgs if each is not None and tuple(each["aRng"]) == everywhere]
        for place, figures in zip(chosen, quality.at, strict=True):
            usable = [(each["dtMatches"][place] > 0, each["dtIgnore"][place] == 0) for each in images]
            assert figures.true_positives == sum(int((matched & counts).sum()) for matched, counts in usable)
            assert figures.false_positives == sum(int((~matched & counts).sum()) for matched, counts in usable)
            assert figures.true_positives + figures.missed == sum(int((each["gtIgnore"] == 0).sum()) for each in images)


@pytest.mark.parametrize("seed", range(4))
def test_changes_are_those_that_whole_masks_show(tmp_path, seed):
    content, before, after = random_labels(seed)
    result = compared(tmp_path, content, before, after)
    truth = read_coco(tmp_path / "truth.json")
    by_id = {each.id: each for each in truth.annotations}
    assert result.most_improved
    for change in (*result.most_improved, *result.most_harmed):
        rle = truth.rle(by_id[change.truth_id])
        for rows, iou, boundary_iou in (
            (before, change.iou_before, change.boundary_iou_before),
            (after, change.iou_after, change.boundary_iou_after),
        ):
            row = rows[change.image_id - 1]
            mask, shown = row.mask(row.instances[change.position]), coco_mask.decode(rle).astype(bool)
            borders = [inner_boundary(each, boundary_width_px(HEIGHT, WIDTH)) for each in (mask, shown)]
            assert (iou, boundary_iou) == pytest.approx((float(mask_iou(mask, shown)), float(mask_iou(*borders))))


def test_a_crowd_among_the_labels_is_no_instance(tmp_path):
    """It came with labels from elsewhere, as a dropped instance: it shows no truth, however well it lies on one."""
    crowd = label(FIRST, 3, 1.0, Decision.DROPPED)
    with_crowd = [replace(row, instances=(*row.instances, crowd)) for row in (BEFORE, AFTER)]
    plain = compared(tmp_path / "plain", CONTENT, [BEFORE], [AFTER])
    assert compared(tmp_path / "crowd", CONTENT, *([row] for row in with_crowd)) == plain


def test_boundaries_are_left_out_where_not_asked_for(tmp_path):
    result = compared(tmp_path, CONTENT, [BEFORE], [AFTER], boundary=False)
    assert result.before.paired.mean_boundary_iou is None
    assert result.most_improved[0].boundary_iou_before is None
    assert result.before.paired.mean_iou is not None


def test_images_without_usable_labels_are_left_out(tmp_path):
    content = dataset_content([*CONTENT["annotations"], annotation(4, 2, 3, FIRST)], 2)
    failed = ImageLabels.of_failure(2, "2.png", "cut off", WIDTH, HEIGHT)
    result = compared(tmp_path, content, [BEFORE, labels(2, label(FIRST, 3, 0.9))], [AFTER, failed])
    assert (result.images, result.failed_images, result.truths) == (1, 1, 2)


def test_labels_of_images_that_show_nothing(tmp_path):
    result = compared(tmp_path, dataset_content([], 1), [labels(1)], [labels(1)])
    assert (result.truths, result.paired, result.class_accuracy) == (0, 0, None)
    assert (result.before.at[0].precision, result.before.at[0].recall) == (None, None)
    assert (result.after.paired.mean_iou, sum(result.after.iou_histogram)) == (None, 0)


def test_labels_that_are_not_the_teachers_refined_are_refused(tmp_path):
    other = labels(1, *AFTER.instances[:-1])
    with pytest.raises(StoreError, match=r"image 1 \(1\.png\).*predict, then refine"):
        compared(tmp_path, CONTENT, [BEFORE], [other])


def test_of_many_changes_the_largest_are_kept():
    changes = LargestChanges()
    rises = np.random.default_rng(0).permutation(np.linspace(-0.5, 0.5, 10 * KEPT + 7))
    for position, rise in enumerate(rises.tolist()):
        box_xyxy, ious = (10.0, 10.0, 50.0, 50.0), (0.5, 0.5 + rise, 0.1, 0.1)
        changes.add(InstanceChange(1, "1.png", position, 3, 1, 3, 0.9, Decision.SAM, box_xyxy, *ious))
    found = [change.iou_after - 0.5 for change in (*changes.improved(), *changes.harmed())]
    assert found == pytest.approx([*sorted(rises, reverse=True)[:KEPT], *sorted(rises)[:KEPT]])
