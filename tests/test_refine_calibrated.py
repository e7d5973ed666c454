"""The stage `refine` with a gate fitted on labelled images that the teacher did not train on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.coco.model import CocoCategory
from pipeline.coco.reading import read_coco
from pipeline.compute.execution import Execution
from pipeline.datasets.held_out import held_out_ids
from pipeline.datasets.split import LABELLED, UNLABELLED
from pipeline.detection.predict_work import PredictWork
from pipeline.errors import StageError, StoreError
from pipeline.labels.label_store import LabelStore
from pipeline.labels.label_writing import write_label_store
from pipeline.labels.rows import Decision, ImageLabels
from pipeline.masks.overlap import mask_iou
from pipeline.refinement import refine_work as job
from pipeline.workflow.fitted_gate import CALIBRATION, read_calibration
from pipeline.workflow.graph import plan
from pipeline.workflow.loading import load_experiment
from pipeline.workflow.result_files import LABELS
from stages import refine as stage
from stages.context import StageContext
from tests.refinement_fake import FakeEngine, disc, encode, paint, teacher_label
from tests.tiny_coco import write_json
from tests.tiny_experiment import make_experiment_files

HEIGHT, WIDTH = 96, 128
LABELLED_IDS = range(1, 31)
UNLABELLED_IDS = range(101, 107)
HELD_OUT = 0.4
CATEGORIES = (CocoCategory(3, "thing"),)


def truths(image_id: int) -> list[np.ndarray]:
    """Two discs: SAM is right about the first and far off with the second."""
    return [disc(HEIGHT, WIDTH, 35 + image_id % 5, 40, 20), disc(HEIGHT, WIDTH, 90, 50 + image_id % 7, 18)]


def taught(image_id: int) -> ImageLabels:
    """The teacher's masks: a few pixels off."""
    masks = [disc(HEIGHT, WIDTH, 39 + image_id % 5, 41, 19), disc(HEIGHT, WIDTH, 92, 51 + image_id % 7, 17)]
    instances = tuple(teacher_label(mask, category_id=3) for mask in masks)
    return ImageLabels.of_instances(image_id, f"{image_id}.png", WIDTH, HEIGHT, instances)


class HalfBlindEngine(FakeEngine):
    """SAM's masks of second objects are moved; only their agreement with the teacher's gives them away."""

    def answer(self, numbers, prompt):
        self.offset_px = 25 if self._asked_for(numbers, prompt) == 2 else 0
        return super().answer(numbers, prompt)


@pytest.fixture
def context(tmp_path, monkeypatch) -> StageContext:
    """As the runner gives it, with a stand-in for the teacher and one for SAM."""
    images = tmp_path / "images"
    images.mkdir()
    for image_id in (*LABELLED_IDS, *UNLABELLED_IDS):
        Image.fromarray(paint(HEIGHT, WIDTH, truths(image_id))).save(images / f"{image_id}.png")
    split = tmp_path / "split"
    write_json(split / LABELLED, coco(LABELLED_IDS, annotated=True))
    write_json(split / UNLABELLED, coco(UNLABELLED_IDS, annotated=False))
    experiment = load_experiment(
        make_experiment_files(tmp_path, {"data": files_of(split, images)}),
        ["refine.gate=calibrated", "refine.choice=predicted_iou", f"teacher.held_out={HELD_OUT}"],
    )
    predicted = tmp_path / "predict"
    write_label_store(predicted / LABELS, map(taught, UNLABELLED_IDS), CATEGORIES, {})
    monkeypatch.setattr(PredictWork, "compute", lambda work, shard: list(map(taught, shard.image_ids)))
    monkeypatch.setattr(job, "build_engine", lambda sam: HalfBlindEngine())
    folder = tmp_path / "partial"
    folder.mkdir()
    return StageContext(
        experiment=experiment,
        node=plan(experiment)["refine"],
        fingerprint={"inputs": {}},
        folder=folder,
        results={"predict": predicted, "train-teacher": tmp_path / "teacher"},
        split_folder=split,
        execution=Execution(experiment.compute),
    )


def coco(image_ids, *, annotated: bool) -> Mapping:
    listed = [
        {"id": image_id, "file_name": f"{image_id}.png", "width": WIDTH, "height": HEIGHT} for image_id in image_ids
    ]
    annotations = []
    for image_id in image_ids if annotated else ():
        for mask in truths(image_id):
            rle = encode(mask)
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": 3,
                "iscrowd": 0,
                "area": int(mask.sum()),
                "bbox": [0, 0, WIDTH, HEIGHT],
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
            }
            annotations.append(annotation)
    return {"images": listed, "categories": [{"id": 3, "name": "thing"}], "annotations": annotations}


def files_of(split: Path, images: Path) -> dict:
    return {
        "labelled": {"annotations": str(split / LABELLED), "images": str(images)},
        "unlabelled": {"annotations": str(split / UNLABELLED), "images": str(images)},
    }


def mean_iou(rows, pick=lambda index: True) -> float:
    """Of masks with the truth that they are about."""
    return float(
        np.mean(
            [
                mask_iou(row.mask(instance), truths(row.image_id)[index])
                for row in rows
                for index, instance in enumerate(row.instances)
                if pick(index)
            ]
        )
    )


@pytest.mark.slow
def test_the_fitted_gate_beats_both_the_teacher_and_sam(context):
    summary = stage.run(context)
    fitted = read_calibration(context.folder / CALIBRATION)
    assert fitted.instances == 2 * round(HELD_OUT * len(LABELLED_IDS))
    assert fitted.gated_iou > max(fitted.teacher_iou, fitted.sam_iou) + 0.02
    assert fitted.expected_gain > 0.02
    assert summary["gate"] == fitted.summary
    refined = LabelStore.open(context.folder / LABELS)
    assert [[each.decision for each in row.instances] for row in refined] == [[Decision.SAM, Decision.TEACHER]] * 6
    assert mean_iou(refined) > mean_iou(map(taught, UNLABELLED_IDS)) + 0.02
    # How sure the gate is of a mask is what it learned to expect of such masks.
    for index in (0, 1):
        expected = mean_iou(refined, lambda place, index=index: place == index)
        confidences = [row.instances[index].gate_confidence for row in refined]
        assert np.mean(confidences) == pytest.approx(expected, abs=0.05)


@pytest.mark.slow
def test_it_is_fitted_on_held_out_images_alone(context, monkeypatch):
    predicted: list[int] = []

    def predict(work, shard):
        predicted.extend(shard.image_ids)
        assert work.detector.folder == context.results["train-teacher"]
        return list(map(taught, shard.image_ids))

    monkeypatch.setattr(PredictWork, "compute", predict)
    stage.run(context)
    labelled = read_coco(context.labelled())
    assert set(predicted) == held_out_ids([image.id for image in labelled.images], HELD_OUT)
    assert not (context.folder / "calibration").exists()


@pytest.mark.slow
def test_a_later_round_is_judged_by_the_first_teacher(context):
    later = replace(
        context,
        node=replace(context.node, round=2),
        results={"predict-2": context.results["predict"], "train-teacher": context.results["train-teacher"]},
    )
    assert "gate" in stage.run(later)


def test_an_interrupted_run_keeps_its_gate(context, monkeypatch):
    refine = job.refine_images

    def stopped(inputs, engine, settings, gate, *, note_uncertain):
        if inputs[0].labels.image_id in UNLABELLED_IDS:
            raise KeyboardInterrupt
        return refine(inputs, engine, settings, gate, note_uncertain=note_uncertain)

    monkeypatch.setattr(job, "refine_images", stopped)
    with pytest.raises(KeyboardInterrupt):
        stage.run(context)
    monkeypatch.setattr(job, "refine_images", refine)
    monkeypatch.setattr(PredictWork, "compute", lambda work, shard: pytest.fail("predicted again"))
    before = (context.folder / CALIBRATION).read_bytes()
    stage.run(context)
    assert (context.folder / CALIBRATION).read_bytes() == before


def test_where_sam_is_always_wrong_the_teacher_stays(context, monkeypatch):
    monkeypatch.setattr(job, "build_engine", lambda sam: FakeEngine(offset_px=25))
    stage.run(context)
    fitted = read_calibration(context.folder / CALIBRATION)
    assert fitted.gated_iou == fitted.teacher_iou
    refined = LabelStore.open(context.folder / LABELS)
    assert {each.decision for row in refined for each in row.instances} == {Decision.TEACHER}


def test_an_unreadable_labelled_image_is_passed_over(context):
    some = min(held_out_ids(LABELLED_IDS, HELD_OUT))
    (context.labelled_images() / f"{some}.png").write_bytes(b"")
    stage.run(context)
    fitted = read_calibration(context.folder / CALIBRATION)
    assert fitted.instances == 2 * round(HELD_OUT * len(LABELLED_IDS)) - 2


def test_one_labelled_image_is_too_few(context):
    write_json(context.labelled(), coco([1], annotated=True))
    with pytest.raises(StageError, match=r"refine\.gate is calibrated, but teacher\.held_out = 0\.4 of 1 labelled"):
        stage.run(context)


def test_a_teacher_that_finds_nothing_is_told(context, monkeypatch):
    monkeypatch.setattr(
        PredictWork,
        "compute",
        lambda work, shard: [
            ImageLabels.of_instances(each, f"{each}.png", WIDTH, HEIGHT, ()) for each in shard.image_ids
        ],
    )
    with pytest.raises(StageError, match="the gate cannot be calibrated: no labelled instance"):
        stage.run(context)


def test_a_damaged_gate_is_told(context):
    path = context.folder / CALIBRATION
    path.write_text('{"gate": {}}')
    with pytest.raises(StoreError, match=r"calibration\.json: not a fitted gate that can be read .*delete it"):
        stage.run(context)
