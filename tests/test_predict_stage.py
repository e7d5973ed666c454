"""The stage `predict` with a model, whole; labels from a results file are tested with `refine`."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import stages.predict
from pipeline.coco.image_folder import ImageFolder
from pipeline.coco.model import CocoCategory, CocoImage
from pipeline.compute.execution import Execution
from pipeline.compute.shards import Shard
from pipeline.detection import predicting, prediction_labels
from pipeline.detection.painted_masks import PaintedMask, Prediction
from pipeline.detection.predict_work import PredictWork
from pipeline.detection.prediction_labels import LabelLimits
from pipeline.detection.predictor import build_predictor
from pipeline.detection.published import DetectorChoice
from pipeline.errors import StageError
from pipeline.files.images import read_image
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import Decision, Status
from pipeline.masks.soft_masks import SOFT_MASK_SIDE, crop_probability
from pipeline.workflow.graph import plan
from pipeline.workflow.loading import load_experiment
from pipeline.workflow.result_files import LABELS
from stages.context import StageContext
from tests.tiny_coco import write_json
from tests.tiny_detectors import publish_tiny
from tests.tiny_experiment import make_experiment_files

CATEGORIES = [{"id": 3, "name": "three"}, {"id": 7, "name": "seven"}]
Run = Callable[..., LabelStore]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return publish_tiny(tmp_path_factory.mktemp("models") / "teacher", "mask_rcnn")


@pytest.fixture
def predict(tmp_path, model, monkeypatch) -> Run:
    """Runs the stage on images by id, or on five of noise, with an experiment's overrides."""
    monkeypatch.setenv("S4M_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("S4M_STORE", str(tmp_path / "stores"))

    def run(*overrides: str, name: str = "result", key: str = "predict", **images: np.ndarray | bytes) -> LabelStore:
        context = context_of(tmp_path, images or NOISE, overrides, key)
        model_key = "train-teacher" if key == "predict" else "train-student"
        stages.predict.run(replace(context, folder=folder(tmp_path / name), results={model_key: model}))
        return LabelStore.open(tmp_path / name / LABELS)

    return run


def folder(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    return path


def noise(seed: int, size_hw: tuple[int, int] = (48, 64)) -> np.ndarray:
    cells = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(cells).resize((size_hw[1], size_hw[0]), Image.Resampling.NEAREST))


NOISE = {str(number): noise(number, (48, 64) if number % 2 else (40, 40)) for number in range(1, 6)}


def context_of(
    tmp_path: Path, images: dict[str, np.ndarray | bytes], overrides: tuple[str, ...], key: str = "predict"
) -> StageContext:
    """A context with a split of its own; without results."""
    root, split = folder(tmp_path / "unlabelled"), folder(tmp_path / "split")
    listed = []
    for name, pixels in images.items():
        path = root / f"{name}.png"
        height, width = (48, 64) if isinstance(pixels, bytes) else pixels.shape[:2]
        if isinstance(pixels, bytes):
            path.write_bytes(pixels)
        else:
            Image.fromarray(pixels).save(path, compress_level=1)
        listed.append({"id": int(name.removeprefix("image")), "file_name": path.name, "width": width, "height": height})
    write_json(split / "unlabelled.json", {"images": listed, "categories": CATEGORIES})
    write_json(tmp_path / "unlabelled.json", {"images": listed})
    make_experiment_files(tmp_path)
    data = {
        "labelled": {"annotations": "annotations.json", "images": "images"},
        "unlabelled": {"annotations": "unlabelled.json", "images": "unlabelled"},
    }
    experiment = load_experiment(
        make_experiment_files(tmp_path, {"data": data, "student": {"rounds": 2}}),
        ["predict.score_threshold=0.5", "compute.device=cpu", "compute.precision=fp32", *overrides],
    )
    node = plan(experiment)[key]
    execution = Execution(experiment.compute)
    return StageContext(experiment, node, {"stage": "predict"}, tmp_path / "result", {}, split, execution)


@pytest.mark.slow
def test_labels_are_the_teachers_with_soft_masks(predict):
    store = predict()
    assert [row.image_id for row in store] == [1, 2, 3, 4, 5]
    assert [(category.id, category.name) for category in store.attributes.categories] == [(3, "three"), (7, "seven")]
    assert store.attributes.provenance["fingerprint"] == {"stage": "predict"}
    instances = [(row, instance) for row in store for instance in row.instances]
    assert len(instances) > 5
    agreements = []
    for row, instance in instances:
        assert instance.decision is Decision.TEACHER
        assert instance.category_id in (3, 7)
        assert instance.score >= 0.5
        assert 0.5 < instance.mask_score <= 1
        assert instance.soft_mask is not None
        assert instance.soft_mask.codes.shape == (SOFT_MASK_SIDE, SOFT_MASK_SIDE)
        x0, y0, x1, y1 = instance.soft_mask.crop_box_xyxy
        mask = row.mask(instance)[y0:y1, x0:x1]
        assert mask.sum() == instance.area  # the crop holds all of it
        agreements.append(((crop_probability(instance.soft_mask) > 0.5) == mask).mean())
    assert np.mean(agreements) > 0.9  # of a grid, where this model is nowhere sure


def test_images_that_cannot_be_read_are_rows_and_odd_ones_are_predicted_on(predict):
    store = predict(
        "compute.failed_share=0.5",
        image1=noise(1),
        image2=b"",
        image3=b"\x89PNG\r\n\x1a\nand no more",
        image4=np.full((1, 1, 3), 9, np.uint8),
        image5=noise(2)[..., 0],
        image6=noise(3, (7, 300)),
    )
    assert [row.status is Status.FAILED for row in store] == [False, True, True, False, False, False]
    assert store[1].message == "the file is empty"
    assert (store[1].width, store[1].height) == (64, 48)
    assert store[0].instances == predict(name="alone", image1=noise(1))[0].instances


def test_an_image_without_a_detection_is_empty(predict):
    store = predict("predict.score_threshold=1")
    assert {row.status for row in store} <= {Status.EMPTY, Status.OK}
    assert Status.EMPTY in {row.status for row in store}


def test_the_best_are_kept_the_best_first(predict):
    (everything, few) = (
        predict(f"predict.max_instances={most}", name=f"most{most}", image1=noise(1))[0].instances for most in (100, 3)
    )
    scores = [instance.score for instance in everything]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) > 3
    assert few == everything[:3]


def test_the_mask_threshold_is_on_the_mask_score(predict):
    everything = predict(image1=noise(1))[0].instances
    least = float(np.median([each.mask_score for each in everything]))
    kept = predict(f"predict.mask_threshold={least}", name="kept", image1=noise(1))[0].instances
    assert 0 < len(kept) < len(everything)
    assert kept == tuple(each for each in everything if each.mask_score >= least)


@dataclass(frozen=True)
class Square:
    """A mask that is there already."""

    def paint(self) -> PaintedMask:
        probability = np.full((4, 20), 0.75, np.float32)
        return PaintedMask(probability, 1 - probability, probability > 0.5, 0.5)


class FakePredictor:
    """Finds instances that mask scores bring into another order."""

    categories = (CocoCategory(3, "three"),)

    def predict(self, images, min_score=0.0):
        scores = [(0.9, 0.6), (0.8, 0.9), (0.6, 1.0), (0.9, 0.4)]
        return [[Prediction(0, *both, True, (0.0, 0.0, 20.0, 4.0), Square()) for both in scores] for _ in images]


@pytest.mark.parametrize(
    ("measured", "scores", "mask_scores"),
    [(False, [0.9, 0.8], [0.6, 0.9]), (True, [0.72, 0.54], [None, None])],
    ids=["to refine", "measured"],
)
def test_labels_have_both_scores_apart_and_what_is_measured_the_detectors_own(measured, scores, mask_scores):
    limits = LabelLimits(0.7, 10, 0.5, measured)
    work = PredictWork(Path(), ImageFolder(Path()), Path(), DetectorChoice(Path(), "cpu", "fp32", 1), limits)
    image = (CocoImage(1, "1.png", 20, 4), np.zeros((4, 20, 3), np.uint8))
    (row,) = work._predicted([image], FakePredictor())
    assert [each.score for each in row.instances] == pytest.approx(scores)
    assert [each.mask_score for each in row.instances] == mask_scores


def test_masks_without_a_pixel_are_passed_over_and_do_not_count(predict, monkeypatch):
    everything = predict(image1=noise(1))[0].instances
    best = everything[0].score
    real = prediction_labels.label_from_mask

    def emptied(mask, category_id, score, decision):
        return real(mask & (score != pytest.approx(best)), category_id, score, decision)

    monkeypatch.setattr(prediction_labels, "label_from_mask", emptied)
    others = predict("predict.max_instances=2", name="others", image1=noise(1))[0].instances
    assert others == tuple(each for each in everything if each.score != pytest.approx(best))[:2]


@pytest.mark.slow
def test_workers_and_batches_do_not_change_the_result(predict, monkeypatch, forked_workers):
    monkeypatch.setattr(predicting, "IMAGES_PER_SHARD", 2)
    digests = {
        predict(
            f"compute.workers={workers}", f"compute.batch_images={batch}", name=f"{workers}-{batch}"
        ).attributes.digest
        for workers, batch in ((1, 1), (1, 4), (2, 2))
    }
    assert len(digests) == 1


def labelled_of(tmp_path: Path, counts: dict[int, int], images: int = 2) -> None:
    """Write the labelled images of the split, with this many instances of each category, and a crowd."""
    square = {"segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]], "bbox": [0, 0, 4, 4], "area": 16}
    wanted = [category for category, count in counts.items() for _ in range(count)]
    annotations = [
        {"id": number, "image_id": 1, "category_id": category, "iscrowd": 0, **square}
        for number, category in enumerate(wanted, start=1)
    ]
    listed = [
        {"id": number, "file_name": f"{number}.png", "width": 64, "height": 48} for number in range(1, images + 1)
    ]
    content = {"images": listed, "annotations": annotations, "categories": CATEGORIES}
    write_json(folder(tmp_path / "split") / "labelled.json", content)


@pytest.mark.slow
def test_each_class_gets_as_many_labels_as_labelled_images_have(predict, tmp_path, monkeypatch):
    monkeypatch.setattr(predicting, "IMAGES_PER_SHARD", 2)
    low = ("predict.lowest_threshold=0.1", "predict.max_instances=1000")
    everything = predict("predict.score_threshold=0.1", low[1], name="all")
    scores = {
        category: sorted(each.score for row in everything for each in row.instances if each.category_id == category)
        for category in (3, 7)
    }
    assert all(len(found) > 10 for found in scores.values())
    labelled_of(tmp_path, {3: 2, 7: 3})  # 1 and 1.5 an image; 5 and 8 in 5 images
    chosen = predict("predict.threshold=per-class", *low, name="chosen")
    expected = {"3": scores[3][-5], "7": scores[7][-8]}
    assert chosen.attributes.provenance["class_thresholds"] == expected
    assert chosen.attributes.provenance["fingerprint"] == {"stage": "predict"}
    for before, after in zip(everything, chosen, strict=True):
        kept = [each for each in before.instances if each.score >= expected[str(each.category_id)]]
        assert list(after.instances) == kept
        assert after.status is (Status.OK if kept else Status.EMPTY)
    monkeypatch.setattr(predicting, "IMAGES_PER_SHARD", 3)
    again = predict("predict.threshold=per-class", *low, "compute.batch_images=4", name="again")
    assert again.attributes.digest == chosen.attributes.digest


def test_the_chosen_thresholds_are_told(tmp_path, model, monkeypatch):
    labelled_of(tmp_path, {3: 1})
    context = context_of(tmp_path, NOISE, ("predict.threshold=per-class", "predict.lowest_threshold=0.9"))
    given = replace(context, folder=folder(tmp_path / "result"), results={"train-teacher": model})
    assert stages.predict.run(given)["thresholds"] == "three 0.90, seven 0.95"


def test_an_interrupted_run_goes_on_where_it_was(predict, monkeypatch, tmp_path):
    whole = predict().attributes.digest
    monkeypatch.setattr(predicting, "IMAGES_PER_SHARD", 2)
    real, asked = PredictWork.compute, []

    def stopping(self, shard: Shard):
        asked.append(shard.index)
        if shard.index == 1 and asked.count(1) == 1:
            raise KeyboardInterrupt
        return real(self, shard)

    monkeypatch.setattr(PredictWork, "compute", stopping)
    with pytest.raises(KeyboardInterrupt):
        predict(name="again")
    assert predict(name="again").attributes.digest == whole
    assert asked == [0, 1, 1, 2]
    assert [path.name for path in (tmp_path / "again").iterdir()] == [LABELS]


def test_a_finished_store_is_left_alone(predict, monkeypatch):
    digest = predict().attributes.digest
    monkeypatch.delattr(PredictWork, "compute")
    assert predict().attributes.digest == digest


def test_later_rounds_ask_the_student(predict):
    assert predict(key="predict-2").attributes.digest == predict(name="first").attributes.digest


@pytest.mark.slow
def test_mirror_images_change_scores_and_are_asked_for_in_the_experiment(predict):
    settings = ("predict.score_threshold=0", "predict.max_instances=1000")
    once, twice = (
        predict(*settings, f"predict.flip_test={flip}", name=flip, image1=noise(1))[0].instances
        for flip in ("false", "true")
    )
    assert len(once) < len(twice)
    assert max(each.score for each in twice) < max(each.score for each in once)


def test_categories_of_model_and_images_must_agree(predict, tmp_path, model, monkeypatch):
    context = context_of(tmp_path, NOISE, ())
    images = [{"id": 1, "file_name": "1.png", "width": 64, "height": 48}]
    split = context.split_folder / "unlabelled.json"
    write_json(split, {"images": images, "categories": [{"id": 3, "name": "three"}, {"id": 8, "name": "eight"}]})
    with pytest.raises(StageError) as told:
        stages.predict.run(replace(context, folder=folder(tmp_path / "result"), results={"train-teacher": model}))
    assert str(told.value) == (
        f"{model}: the model's categories are not those of {split}. The model's: 3 three, 7 seven. "
        f"The file's: 3 three, 8 eight. Use the same ids and names in both, and train again if the model's are wrong"
    )


def test_a_folder_without_a_model_is_refused(tmp_path, monkeypatch):
    context = context_of(tmp_path, NOISE, ())
    with pytest.raises(StageError, match="there is no trained detector"):
        stages.predict.run(replace(context, results={"train-teacher": tmp_path / "nothing"}))


def test_an_image_that_kills_its_workers_is_a_row(predict, tmp_path, model):
    predict()
    work = PredictWork(
        tmp_path / "split" / "unlabelled.json",
        ImageFolder(tmp_path / "unlabelled"),
        tmp_path / "shards",
        DetectorChoice(model, "cpu", "fp32", 2),
        LabelLimits(0.5, 10),
    )
    assert pickle.loads(pickle.dumps(work)) == work
    row = work.given_up(2, "its worker died")
    assert (row.status, row.file_name, row.message, row.width) == (Status.FAILED, "2.png", "its worker died", 40)


def test_what_is_measured_has_the_detectors_own_boxes_and_no_soft_masks(predict, tmp_path, model):
    predict()
    files = (tmp_path / "split" / "unlabelled.json", ImageFolder(tmp_path / "unlabelled"), tmp_path / "shards")
    labels = PredictWork(*files, DetectorChoice(model, "cpu", "fp32", 2), LabelLimits(0.0, 10))
    measured = replace(labels, limits=LabelLimits(0.0, 10, measured=True))
    shard = Shard(0, (1,))
    (label_row,), (measured_row,) = labels.compute(shard), measured.compute(shard)
    found = build_predictor(labels.detector).predict([read_image(tmp_path / "unlabelled" / "1.png")])[0]
    boxes = {prediction.box_xyxy for prediction in found}
    assert measured_row.instances
    for label, detection in zip(label_row.instances, measured_row.instances, strict=True):
        assert detection.box_xyxy in boxes
        assert detection.soft_mask is None
        assert detection.mask_score is None
        assert replace(label, box_xyxy=detection.box_xyxy, mask_score=None, soft_mask=None) == detection


@pytest.mark.slow
def test_labels_from_a_file_need_no_model_and_no_torch():
    program = "import sys, stages.predict; print({'torch', 'mmdet', 'mmengine', 'mmcv', 'dask'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout == "set()\n"
