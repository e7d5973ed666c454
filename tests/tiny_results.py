"""Sealed results of a whole experiment for tests: real stores and pictures, invented figures, nothing trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from pipeline.adaptation.card import Adaptation, write_adaptation
from pipeline.adaptation.guard import QualityResult
from pipeline.coco.model import CocoDataset
from pipeline.coco.reading import read_coco
from pipeline.datasets.split import TRUTH
from pipeline.evaluation import results as ev
from pipeline.labels.label_writing import write_label_store
from pipeline.labels.rows import Decision, ImageLabels, InstanceLabel, label_from_mask
from pipeline.structure.separation import EMBEDDING_AREA, FEATURES_AREA, TARGETS_AREA
from pipeline.structure.target_columns import ImageTargets
from pipeline.structure.target_writing import seal_targets, write_target_shard
from pipeline.workflow.workspace import Workspace

BEFORE_AP, AFTER_AP = 0.294, 0.338
FAILED_ID = 1
UNREADABLE_ID = 2
"""The first image has failed in the stores; the second has labels, but its file is gone by the time of the report."""

ADAPTATION = Adaptation(
    model="sam_tiny",
    chosen="adapted",
    format=1,
    trained="all",
    reason="it gains <b>",
    images=3,
    folds=3,
    failures={},
    results=(
        QualityResult(20, 0.72, {"shipped": 0.807, "half-way": 0.828, "adapted": 0.847}),
        QualityResult(20, 0.94, {"shipped": 0.920, "half-way": 0.920, "adapted": 0.920}),
    ),
)


@dataclass(frozen=True)
class TinyResults:
    """Folders by node; what was measured; the truth, which the split's folder holds too."""

    folders: Mapping[str, Path]
    evaluation: ev.Evaluation
    truth: CocoDataset


def make_results(space: Workspace, annotations: Path, gain: float = AFTER_AP - BEFORE_AP) -> TinyResults:
    """Seal a result for every stage but the report. `annotations`: all images, taken to be the unlabelled ones."""
    truth = read_coco(annotations)
    evaluation = make_evaluation(truth, gain)
    folders = {}
    for key, fingerprint in space.fingerprints.items():
        node = space.nodes[key]
        if node.stage != "report":
            folder = space.store.partial(fingerprint.stage, fingerprint.id)
            folder.mkdir(parents=True)
            made = _made(node.stage, annotations.read_bytes(), gain)
            if not made:
                made["summary"] = _fill(node.stage, folder, truth, annotations, evaluation)
                made["files"] = {path.relative_to(folder): path.read_bytes() for path in _files(folder)}
            for name, content in made["files"].items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
            summary = made["summary"]
            space.store.seal(fingerprint, space.experiment.name, 12.3, summary, {"torch": "2.11.0"})
            folders[key] = space.result(key)
    return TinyResults(folders, evaluation, truth)


def make_evaluation(truth: CocoDataset, gain: float) -> ev.Evaluation:
    """Figures of a teacher and a student, and of labels of which each becomes a little better or worse."""
    changes = []
    for number, annotation in enumerate(truth.annotations):
        if annotation.image_id != FAILED_ID:
            siblings = truth.annotations_by_image[annotation.image_id]
            x, y, width, height = annotation.bbox
            changes.append(
                ev.InstanceChange(
                    image_id=annotation.image_id,
                    file_name=truth.image_by_id[annotation.image_id].file_name,
                    position=siblings.index(annotation),
                    category_id=annotation.category_id,
                    truth_id=annotation.id,
                    truth_category_id=annotation.category_id,
                    score=0.9,
                    decision=Decision.SAM,
                    box_xyxy=(x, y, x + width, y + height),
                    iou_before=0.7,
                    iou_after=0.7 + 0.02 * (number % 5 - 2),
                    boundary_iou_before=None,
                    boundary_iou_after=None,
                )
            )
    before, after = (ev.MaskFigures(len(changes), iou, iou - 0.1, 0.5, 0.1) for iou in (0.712, 0.777))
    labels = ev.PseudoLabelResult(
        round=1,
        predict_node="predict",
        refine_node="refine",
        images=len(truth.images) - 1,
        failed_images=1,
        truths=len(truth.annotations),
        paired=len(changes),
        class_accuracy=None,
        before=_quality(before),
        after=_quality(after),
        decisions=(ev.DecisionResult(Decision.SAM, len(changes), 0.9, before, after),),
        most_improved=tuple(sorted(changes, key=lambda each: -each.iou_after)),
        most_harmed=tuple(sorted(changes, key=lambda each: each.iou_after)),
    )
    models = (_model(truth, "teacher", BEFORE_AP), _model(truth, "student", BEFORE_AP + gain))
    return ev.Evaluation(ev.FORMAT, ev.FORMAT_VERSION, 100, truth.categories, models, (labels,), ("a note",))


def without(evaluation: ev.Evaluation, *fields: str) -> ev.Evaluation:
    """The same with nothing measured of some kinds."""
    return msgspec.structs.replace(evaluation, **dict.fromkeys(fields, ()))


def replace_evaluation(results: TinyResults, evaluation: ev.Evaluation) -> None:
    """Put another evaluation in the place of the one that was sealed."""
    ev.write_evaluation(results.folders["evaluate"] / ev.EVALUATION, evaluation)


@cache
def _made(stage: str, annotations: bytes, gain: float) -> dict[str, Any]:
    """Give what a stage has made of annotations before, empty at first: stores take a second to write."""
    return {}


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _fill(
    stage: str, folder: Path, truth: CocoDataset, annotations: Path, evaluation: ev.Evaluation
) -> dict[str, object]:
    if stage == "split":
        (folder / TRUTH).parent.mkdir()
        shutil.copy(annotations, folder / TRUTH)
        return {"labelled": 3, "unlabelled": 3}
    if stage in ("predict", "refine", "augment"):
        rows = [_row(truth, image_id, stage) for image_id in truth.image_by_id]
        write_label_store(folder / "labels.zarr", rows, truth.categories, {})
        if stage == "augment":
            for row in rows:
                Image.new("RGB", (row.width, row.height), (90, 120, 60)).save(folder / row.file_name)
        return {"images": len(rows), "nested": {"left": "out"}}
    if stage.startswith("train"):
        lines = [
            {"iteration": number, "lr": 0.01, "seconds": 0.1, "data_seconds": 0.0, "losses": _losses(number)}
            for number in range(1, 1001)
        ]
        (folder / "log.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + '\n{"iterat')
        return {FEATURES_AREA: 0.871} if stage == "train-teacher" else {}
    if stage == "distill":
        # One image, which has failed.
        row = ImageTargets.of_failure(1, "labelled.png", 64, 48, "cut off too")
        write_target_shard(folder / "shards", 0, [row])
        seal_targets(folder / "shards", [[1]], folder / "structure.zarr", {})
        shutil.rmtree(folder / "shards")
        return {TARGETS_AREA: 0.943, EMBEDDING_AREA: 0.822}
    if stage == "adapt":
        write_adaptation(ADAPTATION, folder)
    if stage == "evaluate":
        for model in evaluation.models:
            failure = ImageLabels.of_failure(9, "validation.png", "no image", 64, 48)
            write_label_store(folder / "predictions" / model.node / "labels.zarr", [failure], truth.categories, {})
        ev.write_evaluation(folder / ev.EVALUATION, evaluation)
    return {}


def _losses(number: int) -> dict[str, float | None]:
    return {"loss_mask": 1 / number, "loss_cls": None if number == 5 else 0.5, "loss": 0.5 + 1 / number}


def _row(truth: CocoDataset, image_id: int, stage: str) -> ImageLabels:
    image = truth.image_by_id[image_id]
    if image_id == FAILED_ID:
        return ImageLabels.of_failure(image_id, image.file_name, "<b>cut off</b>", image.width, image.height)
    instances: list[InstanceLabel] = []
    for annotation in truth.annotations_by_image[image_id]:
        mask = truth.mask(annotation)
        if stage == "predict":
            mask = np.roll(mask, 2, axis=1)
        label = label_from_mask(mask, annotation.category_id, 0.9, Decision.SAM)
        instances.append(replace(label, agreement=0.6, predicted_iou=0.8))
    file_name = f"composite-{image_id}.png" if stage == "augment" else image.file_name
    return ImageLabels.of_instances(image_id, file_name, image.width, image.height, tuple(instances))


def _quality(figures: ev.MaskFigures) -> ev.LabelQuality:
    at = tuple(ev.PrecisionRecall(iou, 5, 1, 2, 5 / 6, 5 / 7) for iou in (0.5, 0.75, 0.9))
    return ev.LabelQuality(20, at, figures, tuple(range(20)))


def _model(truth: CocoDataset, role: str, ap: float) -> ev.ModelResult:
    metrics = ev.Metrics(ap, 0.5, 0.3, 0.1, 0.2, None, 0.4)
    categories = tuple(
        ev.CategoryResult(
            each.id, each.name, 10 * place, msgspec.structs.replace(metrics, ap=ap - place / 10), metrics, None
        )
        for place, each in enumerate(truth.categories)
    )
    return ev.ModelResult(
        node=f"train-{role}",
        role=role,
        round=1,
        images=len(truth.images),
        failed_images=1,
        detections=60,
        mask=metrics,
        box=metrics,
        boundary=None,
        categories=categories,
        detections_file="detections.json",
        iterations=600,
        confusion=ev.Confusion(0.5, ((1,) * (len(truth.categories) + 1),) * (len(truth.categories) + 1)),
    )
