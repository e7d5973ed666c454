"""From a detector's file to a whole training config: class counts, our classes, schedules, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.coco.model import CocoCategory
from pipeline.compute.settings import ComputeSettings
from pipeline.detection.config import (
    model_config,
    optimizer_config,
    published_config,
    read_detector,
    schedule_config,
    without_pretrained,
)
from pipeline.detection.jobs import Source, StepBatch, Subject, Training, training_job
from pipeline.detection.settings import TrainSettings
from pipeline.errors import StageError

CONFIGS = sorted(Path("configs/detectors").glob("*.py"))
CATEGORIES = (CocoCategory(3, "cat"), CocoCategory(7, "dog"))

PLAIN = """
model = dict(
    type="MaskRCNN",
    backbone=dict(type="ResNet", depth=18, init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet18")),
    roi_head=dict(type="StandardRoIHead", bbox_head=dict(num_classes=80), mask_head=dict(num_classes=80)),
)
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.02))
schedule = dict(warmup_iterations=100, decay="step", decay_at=[0.5, 0.9], factor=0.1)
train_transforms = [dict(type="RandomFlip", prob=0.5), dict(type="RandomCrop", crop_size=(128, 128))]
test_transforms = []
"""


def detector(folder: Path, text: str = PLAIN, overrides: dict[str, object] | None = None):
    path = folder / "detector.py"
    path.write_text(text)
    return read_detector(path, overrides or {})


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_every_shipped_config_is_complete_and_fits_any_number_of_classes(path):
    read = read_detector(path, {})
    model = model_config(read, 3)
    assert model["type"].startswith("s4m.")
    counts = {value for key, value in walk(model) if key in ("num_classes", "num_things_classes")}
    assert counts == {3}
    assert all(len(value) == 4 for key, value in walk(model) if key == "class_weight" and isinstance(value, list))
    assert not any(key == "batch_augments" and value for key, value in walk(model) if "small" in path.stem)
    schedule_config(read, 1000)
    assert "Pretrained" not in str(published_config(read, CATEGORIES).to_dict())


def walk(value):
    if isinstance(value, dict):
        for key, each in value.items():
            yield key, each
            yield from walk(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from walk(each)


def test_class_counts_and_our_classes_are_filled_in(tmp_path):
    model = model_config(detector(tmp_path), 5)
    assert model["type"] == "s4m.MaskRCNN"
    assert model["roi_head"]["type"] == "s4m.StandardRoIHead"
    assert model["roi_head"]["bbox_head"]["num_classes"] == model["roi_head"]["mask_head"]["num_classes"] == 5
    assert model["backbone"]["type"] == "ResNet"


def test_overrides_go_by_dotted_key(tmp_path):
    read = detector(tmp_path, overrides={"model.backbone.depth": 50, "optim_wrapper.optimizer.lr": 0.5})
    assert model_config(read, 2)["backbone"]["depth"] == 50
    assert optimizer_config(read, TrainSettings())["optimizer"]["lr"] == 0.5
    assert optimizer_config(read, TrainSettings(learning_rate=0.1))["optimizer"]["lr"] == 0.1


def test_the_schedule_is_stretched_over_the_iterations(tmp_path):
    warm, steps = schedule_config(detector(tmp_path), 1000)
    assert (warm["end"], steps["milestones"], steps["end"]) == (100, [500, 900], 1000)
    warm, steps = schedule_config(detector(tmp_path), 40)
    assert (warm["end"], steps["milestones"]) == (10, [20, 36])


def test_crops_are_the_experiments(tmp_path):
    read = detector(tmp_path)
    assert read.train_transforms(None)[1]["crop_size"] == (128, 128)
    assert read.train_transforms(64)[1]["crop_size"] == (64, 64)
    assert read.train_transforms(None)[1]["crop_size"] == (128, 128)


def test_weights_from_elsewhere_are_left_out_where_they_would_be_replaced(tmp_path):
    model = without_pretrained(model_config(detector(tmp_path), 2))
    assert "init_cfg" not in model["backbone"]
    assert model["backbone"]["depth"] == 18


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = dict(", "not a detector config that can be read"),
        ("model = dict(type='MaskRCNN')", "optim_wrapper, schedule, train_transforms, test_transforms missing"),
        (
            PLAIN.replace('type="MaskRCNN"', 'type="YOLOX"'),
            "model.type is YOLOX; supported are MaskRCNN and Mask2Former",
        ),
        ('_base_ = "nowhere.py"\n' + PLAIN, "not a detector config that can be read"),
        ("x = 1 / 0\n" + PLAIN, "not a detector config that can be read: division by zero"),
        (PLAIN + "model = 'a'", "model must be a dict, it is 'a'"),
        (PLAIN + "test_transforms = None", "test_transforms must be a list of transforms, it is None"),
        (
            PLAIN + "train_transforms = [dict(typ='RandomFlip')]",
            r"train_transforms\[0\] must be a dict with a type, it is {'typ': 'RandomFlip'}",
        ),
    ],
)
def test_what_is_no_detector_is_refused_with_the_reason(tmp_path, text, message):
    with pytest.raises(StageError, match=message):
        detector(tmp_path, text)


@pytest.mark.parametrize(
    "override",
    [
        {"schedule.decay": "polynomial"},
        {"schedule.steps": [1, 2]},
        {"schedule": {"_delete_": True, "warmup_iterations": 0, "decay": "step"}},
        {"schedule.decay_at": 0.5},
        {"schedule.decay_at": ["late"]},
        {"schedule.warmup_iterations": "some"},
    ],
    ids=str,
)
def test_a_strange_schedule_is_refused(tmp_path, override):
    read = detector(tmp_path, overrides=override)
    with pytest.raises(StageError, match="detector.py: schedule has warmup_iterations, decay \\(step or cosine\\)"):
        schedule_config(read, 100)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("optim_wraper.optimizer.lr", "; did you mean optim_wrapper.optimizer.lr?"),
        ("backbone.frozen_stages", "; did you mean model.backbone.frozen_stages?"),
        ("models", "; did you mean model?"),
        ("train_dataloader.batch_size", ""),
    ],
)
def test_an_override_of_what_is_no_part_of_a_detector_is_refused(tmp_path, key, meant):
    with pytest.raises(StageError) as caught:
        detector(tmp_path, overrides={key: 5})
    parts = "model, optim_wrapper, schedule, train_transforms, test_transforms"
    path = tmp_path / "detector.py"
    assert str(caught.value) == f"{path}: an override of {key} changes nothing: a detector has {parts}{meant}"


def test_an_optimizer_wrapper_needs_an_optimizer(tmp_path):
    read = detector(tmp_path, overrides={"optim_wrapper": {"_delete_": True, "type": "OptimWrapper"}})
    with pytest.raises(StageError, match="detector.py: optim_wrapper has no optimizer; found"):
        optimizer_config(read, TrainSettings(learning_rate=0.1))


def test_a_crop_needs_a_transform_that_crops(tmp_path):
    read = detector(tmp_path, PLAIN.replace(', dict(type="RandomCrop", crop_size=(128, 128))', ""))
    with pytest.raises(StageError, match="crop_px is 64, but train_transforms has no RandomCrop"):
        read.train_transforms(64)


def job(folder: Path, settings: TrainSettings, compute: ComputeSettings, unlabelled: int = 6):
    sources = [Source({"type": f"s4m.D{number}"}, amount) for number, amount in enumerate((1.0, 0.5, 0.0, 2.0))]
    batches = (
        StepBatch("student.batch_size", settings.batch_size, (sources[0],)),
        StepBatch("student.unlabelled_batch_size", unlabelled, tuple(sources[1:])),
    )
    training = Training(detector(folder), settings, batches, None, 1.0, 2.0, 0.01)
    return training_job(Subject("mine", "train-student", CATEGORIES, {}), training, compute, folder / "result")


def test_each_batch_is_shared_by_the_gpus_and_mixed_as_asked(tmp_path):
    made = job(tmp_path, TrainSettings(batch_size=8), ComputeSettings(gpus=2))
    loader = made.config["train_dataloader"]
    assert (loader["batch_size"], loader["sampler"]["batch_sizes"]) == (7, [4, 3])
    assert loader["sampler"]["amounts"] == [[1.0], [0.5, 2.0]]
    assert [each["type"] for each in loader["dataset"]["datasets"]] == ["s4m.D0", "s4m.D1", "s4m.D3"]
    assert made.config["launcher"] == "pytorch"


@pytest.mark.parametrize(
    ("labelled", "unlabelled", "message"),
    [
        (9, 6, "student.batch_size is 9: not divisible by compute.gpus = 2; change one of them"),
        (8, 5, "student.unlabelled_batch_size is 5: not divisible by compute.gpus = 2; change one of them"),
    ],
)
def test_a_batch_that_the_gpus_cannot_share_is_refused(tmp_path, labelled, unlabelled, message):
    with pytest.raises(StageError) as caught:
        job(tmp_path, TrainSettings(batch_size=labelled), ComputeSettings(gpus=2), unlabelled)
    assert str(caught.value) == message


def test_a_batch_that_has_no_equal_parts_is_refused(tmp_path):
    compute = ComputeSettings(gpus=2, nodes=2, batch_parts=3, master="host:1")
    with pytest.raises(StageError) as caught:
        job(tmp_path, TrainSettings(batch_size=8), compute, 12)
    named = "compute.gpus x compute.nodes x compute.batch_parts = 2 x 2 x 3"
    assert str(caught.value) == f"student.batch_size is 8: not divisible by {named}; change one of them"


@pytest.mark.parametrize("on_gpu", [True, False])
def test_samples_go_to_a_gpu_from_pinned_memory_without_waiting(tmp_path, monkeypatch, on_gpu):
    device = torch.device("cuda" if on_gpu else "cpu")
    monkeypatch.setattr("pipeline.detection.jobs.usable_device", lambda asked: device)
    training = Training(
        read_detector(Path("configs/detectors/mask_rcnn_small.py"), {}),
        TrainSettings(),
        (StepBatch("teacher.batch_size", 8, (Source({"type": "s4m.D"}, 1.0),)),),
        None,
    )
    subject = Subject("mine", "train-teacher", CATEGORIES, {})
    made = training_job(subject, training, ComputeSettings(precision="fp32"), tmp_path / "result")
    assert made.config["train_dataloader"]["pin_memory"] is on_gpu
    assert made.config["model"]["data_preprocessor"].get("non_blocking", False) is on_gpu


def test_losses_and_the_average_are_set(tmp_path):
    made = job(tmp_path, TrainSettings(), ComputeSettings())
    assert (made.config["model"]["structural_weight"], made.config["model"]["pseudo_weight"]) == (1.0, 2.0)
    assert made.config["custom_hooks"][0]["momentum"] == 0.01
    assert "structural_weight" not in made.published["model"]


def test_curves_go_to_wandb_by_one_setting_if_it_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.detection.jobs.find_spec", lambda name: None)
    with pytest.raises(StageError, match="compute.logger is wandb, which is not installed"):
        job(tmp_path, TrainSettings(), ComputeSettings(logger="wandb"))
    monkeypatch.setattr("pipeline.detection.jobs.find_spec", lambda name: object())
    made = job(tmp_path, TrainSettings(), ComputeSettings(logger="wandb"))
    (curves,) = made.config["visualizer"]["vis_backends"]
    assert curves["type"] == "s4m.WandbCurves"
    assert curves["save_dir"] == str(tmp_path / "result/scratch")
    monkeypatch.setenv("WANDB_DIR", "/elsewhere")
    made = job(tmp_path, TrainSettings(), ComputeSettings(logger="wandb"))
    assert made.config["visualizer"]["vis_backends"][0]["save_dir"] == "/elsewhere"
