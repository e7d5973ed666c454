"""The stage `evaluate`, whole: models on validation images, pseudo-labels of all rounds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stages.evaluate
from pipeline.coco.reading import read_coco
from pipeline.compute.execution import Execution
from pipeline.compute.shards import Shard
from pipeline.datasets.lists import write_lists
from pipeline.detection import predicting
from pipeline.detection.predict_work import PredictWork
from pipeline.errors import StageError
from pipeline.evaluation.results import EVALUATION, Evaluation, read_evaluation
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import Decision, ImageLabels, InstanceLabel, label_from_mask, label_from_rle
from pipeline.workflow.experiment import Experiment
from pipeline.workflow.graph import plan
from pipeline.workflow.loading import load_experiment
from pipeline.workflow.result_files import LABELS
from stages.context import StageContext
from tests.coco_reference import reference_metrics, run_reference
from tests.tiny_coco import tiny_coco
from tests.tiny_detectors import publish_tiny
from tests.tiny_experiment import POOL, make_experiment_files
from tests.tiny_labels import tiny_store

VALIDATION = {"annotations": "validation/annotations.json", "images": "validation/images"}
APART = {
    "labelled": {"annotations": "annotations.json", "images": "images"},
    "unlabelled": {"images": "unlabelled/images"},
}
SHIFT_PX = 2


@dataclass(frozen=True)
class Measured:
    """What a run of the stage gave and said."""

    evaluation: Evaluation
    summary: dict[str, Any]
    said: list[str]


Evaluate = Callable[..., Measured]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    keys = ("train-teacher", "train-student", "train-student-2")
    return {key: publish_tiny(folder / key, "mask_rcnn", seed=seed) for seed, key in enumerate(keys)}


@pytest.fixture
def evaluate(tmp_path, models) -> Evaluate:
    """Runs the stage into `tmp_path/result`, in an experiment of two rounds."""
    tiny_coco(tmp_path / "validation", images=3, seed=1)
    tiny_coco(tmp_path / "unlabelled", images=3, seed=2)
    (tmp_path / "result").mkdir()

    def run(data: dict[str, Any], *, without: tuple[str, ...] = (), max_detections: int = 100) -> Measured:
        settings = {"data": data, "student": {"rounds": 2}, "evaluate": {"max_detections": max_detections}}
        path = make_experiment_files(tmp_path, settings)
        experiment = load_experiment(path, [f"store={tmp_path / 'stores'}"], {})
        if not (tmp_path / "split").exists():
            write_lists(experiment.data, tmp_path / "split")
        said: list[str] = []
        context = context_of(experiment, tmp_path, said)
        stores = {} if context.unlabelled_truth() is None else pseudo_labels(tmp_path, context)
        results = {key: folder for key, folder in (models | stores).items() if key not in without}
        summary = stages.evaluate.run(replace(context, results=results))
        return Measured(read_evaluation(tmp_path / "result" / EVALUATION), dict(summary), said)

    return run


def context_of(experiment: Experiment, folder: Path, said: list[str]) -> StageContext:
    return StageContext(
        experiment=experiment,
        node=plan(experiment)["evaluate"],
        fingerprint={},
        folder=folder / "result",
        results={},
        split_folder=folder / "split",
        execution=Execution(experiment.compute, say=said.append),
    )


def pseudo_labels(folder: Path, context: StageContext) -> dict[str, Path]:
    """Teacher's labels that are the truth shifted, and refined ones that are the truth."""
    path = context.unlabelled_truth()
    assert path is not None
    truth = read_coco(path)
    shifted, exact = [], []
    for image in truth.images:
        rles = [(truth.rle(each), each.category_id) for each in truth.annotations_by_image[image.id]]
        true_labels = [label_from_rle(rle, category_id, 0.9, Decision.SAM) for rle, category_id in rles]
        row = ImageLabels.of_instances(image.id, image.file_name, image.width, image.height, tuple(true_labels))
        exact.append(row)
        moved = [np.roll(row.mask(each), SHIFT_PX, axis=1) for each in true_labels]
        shifted.append(replace(row, instances=tuple(map(_with_mask, true_labels, moved))))
    folders = {}
    for node, rows in (("predict", shifted), ("refine", exact), ("predict-2", exact), ("refine-2", exact)):
        folders[node] = folder / node
        if not folders[node].exists():
            folders[node].mkdir()
            tiny_store(folders[node] / LABELS, rows)
    return folders


def _with_mask(label: InstanceLabel, mask: np.ndarray) -> InstanceLabel:
    return label_from_mask(mask, label.category_id, label.score, Decision.TEACHER)


@pytest.mark.slow
def test_models_and_labels_of_every_round_are_measured(evaluate):
    measured = evaluate(POOL | {"validation": VALIDATION})
    evaluation = measured.evaluation
    names = [(model.node, model.role, model.round) for model in evaluation.models]
    assert names == [
        ("train-teacher", "teacher", 1),
        ("train-student", "student", 1),
        ("train-student-2", "student", 2),
    ]
    first, second = evaluation.pseudo_labels
    assert (first.predict_node, second.refine_node) == ("predict", "refine-2")
    assert first.before.paired.mean_iou < first.after.paired.mean_iou == 1.0
    assert first.images == 3  # half of six
    assert evaluation.notes == ()
    assert set(measured.summary) == {
        "teacher AP",
        "student AP",
        "student-2 AP",
        "predict mask IoU",
        "refine mask IoU",
        "predict-2 mask IoU",
        "refine-2 mask IoU",
    }
    assert measured.summary["refine mask IoU"] == 1.0


@pytest.mark.slow
def test_a_detections_file_gives_the_same_figures_in_pycocotools(evaluate, tmp_path):
    measured = evaluate(POOL | {"validation": VALIDATION})
    truth = json.loads((tmp_path / "split" / "validation.json").read_text())
    for model in measured.evaluation.models:
        entries = json.loads((tmp_path / "result" / model.detections_file).read_text())
        assert len(entries) == model.detections > 0
        for kind, extra, metrics in (("segm", "bbox", model.mask), ("bbox", "segmentation", model.box)):
            alone = [{name: value for name, value in entry.items() if name != extra} for entry in entries]
            reference = reference_metrics(run_reference(truth, alone, kind, 100))
            assert metrics.ap == pytest.approx(reference.ap, abs=1e-6)
            assert metrics.ar == pytest.approx(reference.ar, abs=1e-6)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_where_it_stopped(evaluate, tmp_path, monkeypatch):
    monkeypatch.setattr(predicting, "IMAGES_PER_SHARD", 1)
    computed: list[tuple[str, int]] = []
    compute = PredictWork.compute

    def until_the_fifth(self: PredictWork, shard: Shard) -> list[ImageLabels]:
        if len(computed) == 4:
            raise StageError("stopped")
        return counted(self, shard)

    def counted(self: PredictWork, shard: Shard) -> list[ImageLabels]:
        computed.append((self.detector.folder.name, shard.index))
        return compute(self, shard)

    monkeypatch.setattr(PredictWork, "compute", until_the_fifth)
    with pytest.raises(StageError, match="stopped"):
        evaluate(POOL | {"validation": VALIDATION})
    monkeypatch.setattr(PredictWork, "compute", counted)
    evaluate(POOL | {"validation": VALIDATION})
    assert len(computed) == len(set(computed)) == 9  # 3 models, 3 images
    evaluate(POOL | {"validation": VALIDATION})
    assert len(computed) == 9
    left = [path for path in (tmp_path / "result").rglob("*") if path.name == "shards"]
    assert left == []


@pytest.mark.slow
def test_detections_count_at_any_score_and_no_more_than_allowed(evaluate, tmp_path):
    evaluate(POOL | {"validation": VALIDATION}, max_detections=5)
    store = LabelStore.open(tmp_path / "result" / "predictions" / "train-teacher" / LABELS)
    assert {len(row.instances) for row in store} == {5}
    assert min(each.score for row in store for each in row.instances) < 0.7  # predict's own threshold


def test_without_validation_images_only_labels_are_measured(evaluate):
    measured = evaluate(POOL)
    assert measured.evaluation.models == ()
    assert len(measured.evaluation.pseudo_labels) == 2
    assert "Models were not measured: set data.validation to images with annotations." in measured.said


@pytest.mark.slow
def test_without_truth_only_models_are_measured(evaluate):
    measured = evaluate(APART | {"validation": VALIDATION})
    assert len(measured.evaluation.models) == 3
    assert measured.evaluation.pseudo_labels == ()
    (note,) = measured.evaluation.notes
    assert note.startswith("Pseudo-labels were not measured")


def test_with_nothing_to_measure_the_notes_say_so(evaluate):
    measured = evaluate(APART)
    assert (measured.evaluation.models, measured.evaluation.pseudo_labels) == ((), ())
    assert len(measured.evaluation.notes) == 2
    assert measured.summary == {}


@pytest.mark.slow
def test_without_a_teacher_the_students_are_measured(evaluate):
    measured = evaluate(POOL | {"validation": VALIDATION}, without=("train-teacher",))
    assert [model.node for model in measured.evaluation.models] == ["train-student", "train-student-2"]


@pytest.mark.slow
def test_an_image_that_cannot_be_read_counts_as_missed(evaluate, tmp_path):
    (tmp_path / "validation" / "images" / "0002.png").write_bytes(b"no image")
    measured = evaluate(POOL | {"validation": VALIDATION})
    assert {(model.images, model.failed_images) for model in measured.evaluation.models} == {(3, 1)}
