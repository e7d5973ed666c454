"""`train-teacher` and `train-student`, whole: what they publish, exact resuming, bad losses, several processes."""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import runpy
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.machinery import ModuleSpec
from itertools import islice
from multiprocessing import active_children
from pathlib import Path
from types import ModuleType
from typing import Any

import mmdet
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine import Config, ConfigDict
from mmengine.runner import Runner

from pipeline.detection import hooks, launching, training
from pipeline.detection.checkpoints import checkpoints, load_checkpoint
from pipeline.detection.published import build_published, read_published
from pipeline.detection.sampler import Apportionment
from pipeline.errors import StageError
from pipeline.labels.label_store import LabelStore
from pipeline.labels.label_writing import write_label_store
from pipeline.labels.rows import Decision, ImageLabels
from pipeline.masks.run_lengths import encode_mask
from pipeline.workflow.experiment import Experiment
from pipeline.workflow.loading import load_experiment
from pipeline.workflow.result_files import LABELS
from stages import predict, refine
from stages.options import workspace
from stages.runner import run_stage
from tests.made_once import made_once
from tests.processes import forked, kill, session_of, start_s4m
from tests.tiny_coco import tiny_coco
from tests.tiny_experiment import environment
from tests.tiny_training import TEACHER, training_experiment


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("S4M_WORK", str(tmp_path / "work"))
    torch.set_num_threads(1)  # predicting sets it too, and another number rounds differently
    return tmp_path


def trained(experiment: Experiment, *stages: str) -> Path:
    for stage in ("split", *stages):
        run_stage(experiment, stage, 1)
    return workspace(experiment).result(stages[-1])


@pytest.fixture(scope="session")
def taught(tmp_path_factory) -> Path:
    """The store of an experiment whose teacher has labelled the unlabelled images; not to be changed."""

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("S4M_WORK", str(folder / "work"))
            trained(training_experiment(folder), "train-teacher", "predict")

    return made_once(tmp_path_factory, "taught", make) / "stores"


@pytest.fixture
def teacher(taught) -> Path:
    """The result of a training that nothing interrupted."""
    (seal,) = taught.glob("train-teacher/*/seal.json")
    return seal.parent


def losses(result: Path) -> list[dict[str, float]]:
    return [json.loads(line)["losses"] for line in (result / "log.jsonl").read_text().splitlines()]


def weights(result: Path) -> dict[str, torch.Tensor]:
    return torch.load(result / "weights.pth", weights_only=True)["state_dict"]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_a_teacher_is_published_as_tensors_a_config_and_a_card(folder, capsys):
    result = trained(training_experiment(folder), "train-teacher")
    published = read_published(result)
    assert [category.id for category in published.card.categories] == [3, 7]
    assert (published.card.iterations, published.card.stage) == (6, "train-teacher")
    model = build_published(published)
    assert not model.training
    logged = losses(result)
    assert len(logged) == 6
    assert all(math.isfinite(value) for step in logged for value in step.values())
    assert not (result / "checkpoints").exists()
    assert list((result / "tensorboard").iterdir())
    run_stage(training_experiment(folder), "train-teacher", 1)
    told = capsys.readouterr()
    assert re.search(r"loss: [\d.]+, area under curve of features: [01]\.\d+\n", told.out)
    assert "train-teacher: up to date, " in told.err


@pytest.mark.slow
def test_weights_fit_mmdetections_own_model(teacher):
    published = read_published(teacher)
    plain = json.loads(json.dumps(published.config["model"].to_dict()).replace("s4m.", "mmdet."))
    model = MODELS.build(ConfigDict(plain))
    model.load_state_dict(weights(published.folder))


@pytest.mark.slow
def test_mmdetections_own_runner_tests_what_was_trained(folder, teacher):
    config = Config.fromfile(teacher / "training.py")
    config.load_from = str(teacher / "weights.pth")
    config.work_dir = str(folder / "mmdetection")
    config.experiment_name = "mmdetection"
    metrics = Runner.from_cfg(config).test()
    assert {"coco/segm_mAP", "coco/bbox_mAP"} <= metrics.keys()


@pytest.mark.slow
def test_mmdetections_own_entry_point_trains_it_again_by_itself(folder, teacher, monkeypatch):
    started_with = f"teacher.init_weights={teacher / 'weights.pth'}"
    result = trained(training_experiment(folder, None, started_with), "train-teacher")
    sealed = sorted(result.parent.rglob("*"))
    config, own = str(result / "training.py"), folder / "own"
    arguments = ["train.py", config, "--work-dir", str(own), "--cfg-options", "train_cfg.max_iters=2"]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setenv("LOCAL_RANK", "0")
    runpy.run_path(str(Path(mmdet.__file__).parent / ".mim/tools/train.py"), run_name="__main__")
    started = torch.load(own / "iter_2.pth", weights_only=False)["state_dict"]
    apart = [(started[name] - tensor).abs().max().item() for name, tensor in weights(teacher).items() if "conv" in name]
    assert max(apart) < 0.01  # two steps of a warm-up: random weights would be further away
    assert sorted(result.parent.rglob("*")) == sealed


@pytest.mark.slow
def test_the_record_of_a_training_names_files_where_they_will_be(folder, taught, monkeypatch):
    settings = {
        "augment": {"mode": "on-the-fly", "partners": "labelled-too", "decisions": ["sam", "teacher"]},
        "student": {"iterations": 2, "batch_size": 1, "unlabelled_batch_size": 3, "mixture": {"pseudo": 2}},
    }
    colours = ("student.repeat_threshold=10.0", "student.labelled_distortion=0.5")
    experiment = taught_experiment(folder, taught, settings, *colours)
    put_refined(experiment, monkeypatch)
    record = Config.fromfile(trained(experiment, *STUDENT) / "training.py")
    labelled, pseudo, composites = record.train_dataloader.dataset.datasets
    assert [each.type for each in (labelled, pseudo, composites)] == [
        "s4m.LabelledImages",
        "s4m.StoredLabels",
        "s4m.Composites",
    ]
    assert Path(composites.labelled_store).exists()
    sampler = record.train_dataloader.sampler
    assert (sampler.batch_sizes, sampler.amounts, record.train_dataloader.batch_size) == (
        [1, 3],
        [[1.0], [2.0, 1.0]],
        4,
    )
    assert labelled.repeat_threshold == 10
    ways = [[each.type for each in source.pipeline] for source in (labelled, pseudo, composites)]
    assert ["s4m.DistortColours" in way for way in ways] == [True, False, False]
    assert ["s4m.Photometric" in way for way in ways] == [False, True, True]


class Stop(Exception):
    pass


def interrupted_at(monkeypatch: pytest.MonkeyPatch, iteration: int) -> None:
    """The next training stops as soon as it has done an iteration."""
    original = hooks.ExactResume.before_train_iter

    def stop(self, runner, batch_idx, data_batch=None):
        if batch_idx == iteration:
            monkeypatch.setattr(hooks.ExactResume, "before_train_iter", original)
            raise Stop
        original(self, runner, batch_idx, data_batch)

    monkeypatch.setattr(hooks.ExactResume, "before_train_iter", stop)


@pytest.mark.slow
def test_an_interrupted_teacher_ends_as_an_uninterrupted_one(folder, teacher, monkeypatch):
    again = training_experiment(folder)
    interrupted_at(monkeypatch, 5)
    with pytest.raises(Stop):
        trained(again, "train-teacher")
    (left,) = (folder / "stores/train-teacher").glob("*.partial")
    assert [path.name for path in checkpoints(left / "checkpoints")] == [
        "iteration-00000002.pt",
        "iteration-00000004.pt",
    ]
    result = trained(again, "train-teacher")
    assert losses(result) == losses(teacher)
    assert same(weights(result), weights(teacher))


def stopped_in(monkeypatch: pytest.MonkeyPatch, place: type, iteration: int, number: int) -> None:
    """Send this process a signal at the end of the hook's `before_train_iter` of an iteration."""
    original = place.before_train_iter

    def stop(self, runner, batch_idx, data_batch=None):
        original(self, runner, batch_idx, data_batch)
        if batch_idx == iteration:
            monkeypatch.setattr(place, "before_train_iter", original)
            os.kill(os.getpid(), number)

    monkeypatch.setattr(place, "before_train_iter", stop)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "iteration", "number", "status", "done"),
    [
        (hooks.ExactResume, 3, signal.SIGINT, 130, 4),
        (hooks.ExactResume, 3, signal.SIGTERM, 143, 4),
        (hooks.ExactResume, 5, signal.SIGINT, 130, 6),
        (hooks.StepLog, 3, signal.SIGINT, 130, 3),
    ],
    ids=["Ctrl-C", "SIGTERM", "in the last iteration", "between two"],
)
def test_a_stopped_teacher_goes_on_where_it_was(folder, teacher, monkeypatch, place, iteration, number, status, done):
    again = training_experiment(folder, None, "compute.checkpoint_every=1000")
    stopped_in(monkeypatch, place, iteration, number)
    with pytest.raises(SystemExit) as stopped:
        trained(again, "train-teacher")
    assert stopped.value.code == status
    (left,) = (folder / "stores/train-teacher").glob("*.partial")
    assert [path.name for path in checkpoints(left / "checkpoints")] == [f"iteration-{done:08d}.pt"]
    steps: list[int] = []
    original = hooks.StepLog.after_train_iter

    def note(self, runner, batch_idx, data_batch=None, outputs=None):
        steps.append(batch_idx)
        original(self, runner, batch_idx, data_batch, outputs)

    monkeypatch.setattr(hooks.StepLog, "after_train_iter", note)
    result = trained(again, "train-teacher")
    assert steps == list(range(done, 6))
    assert losses(result) == losses(teacher)
    assert same(weights(result), weights(teacher))


@pytest.mark.slow
def test_other_loader_workers_change_nothing(folder, teacher):
    there = trained(training_experiment(folder, None, "compute.loader_workers=2"), "train-teacher")
    assert losses(teacher) == losses(there)
    assert same(weights(teacher), weights(there))


def taught_experiment(folder: Path, taught: Path, settings: dict[str, Any], *overrides: str) -> Experiment:
    """An experiment whose store begins as a copy, so that its teacher need not be trained."""
    experiment = training_experiment(folder, settings, *overrides)
    shutil.copytree(taught, experiment.store)
    return experiment


def put_refined(experiment: Experiment, monkeypatch: pytest.MonkeyPatch, change=lambda row: row) -> None:
    """Let the refine stage take the teacher's labels as they are, or as `change` makes them."""

    def run(context):
        store = LabelStore.open(context.results["predict"] / LABELS)
        write_label_store(context.folder / LABELS, map(change, store), store.attributes.categories, {})
        return {}

    monkeypatch.setattr(refine, "run", run)


STUDENT = ("train-teacher", "predict", "refine", "train-student")
NO_COMPOSITES = {"augment": {"mode": "none"}}


@pytest.mark.slow
def test_an_interrupted_student_ends_as_an_uninterrupted_one(folder, taught, teacher, monkeypatch):
    augment = {"mode": "on-the-fly", "views": True, "decisions": ["sam", "teacher"], "min_area_px": 1.0}
    settings = {"augment": augment}
    experiment = taught_experiment(folder, taught, settings)
    put_refined(experiment, monkeypatch)
    whole = trained(experiment, *STUDENT)
    again = taught_experiment(folder, taught, settings, "store=" + str(folder / "two"))
    trained(again, *STUDENT[:-1])
    result = student_after_a_stop(monkeypatch, again, 5)
    assert losses(result) == losses(whole)
    assert same(weights(result), weights(whole))
    assert any(name.startswith("pseudo_") for name in losses(result)[0])
    assert not same(weights(teacher), weights(result))


def student_after_a_stop(monkeypatch, experiment: Experiment, iteration: int) -> Path:
    """Train a student that is interrupted at an iteration and started again; give its result."""
    interrupted_at(monkeypatch, iteration)
    with pytest.raises(Stop):
        run_stage(experiment, "train-student", 1)
    run_stage(experiment, "train-student", 1)
    return workspace(experiment).result("train-student")


def rates(result: Path) -> list[float]:
    return [json.loads(line)["lr"] for line in (result / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_an_interrupted_fine_tuning_ends_as_an_uninterrupted_one(folder, taught, monkeypatch):
    student = {"iterations": 4, "batch_size": 1, "unlabelled_batch_size": 2, "finetune_iterations": 4}
    settings = NO_COMPOSITES | {"student": student | {"finetune_rate": 0.5}}
    experiment = taught_experiment(folder, taught, settings)
    put_refined(experiment, monkeypatch)
    whole = trained(experiment, *STUDENT)
    assert read_published(whole).card.iterations == 8
    pseudo = [any(name.startswith("pseudo_") for name in step) for step in losses(whole)]
    assert pseudo == [True] * 4 + [False] * 4
    # The log has the rate of the next step.
    assert rates(whole)[3:7] == pytest.approx([1e-3 * share for share in (0.5, 0.4275, 0.2525, 0.0775)], rel=1e-3)
    for number, stopped in enumerate((4, 5, 7)):  # checkpoints are after 2, 4 and 6 steps
        again = taught_experiment(folder, taught, settings, "store=" + str(folder / f"again-{number}"))
        trained(again, *STUDENT[:-1])
        result = student_after_a_stop(monkeypatch, again, stopped)
        assert losses(result) == losses(whole)
        assert same(weights(result), weights(whole))


@pytest.mark.slow
def test_fine_tuning_begins_at_the_average_of_the_weights(folder, taught, monkeypatch):
    student = {"iterations": 4, "batch_size": 1, "unlabelled_batch_size": 2}
    plain = taught_experiment(folder, taught, NO_COMPOSITES | {"student": student})
    put_refined(plain, monkeypatch)
    average = weights(trained(plain, *STUDENT))
    # At a rate of next to nothing the result is what it began with; the batch norm of this detector follows images.
    last = {"finetune_iterations": 1, "finetune_rate": 1e-9}
    tuned = taught_experiment(folder, taught, NO_COMPOSITES | {"student": student | last}, f"store={folder / 'two'}")
    result = weights(trained(tuned, *STUDENT))
    trainable = [name for name in average if "running" not in name and "num_batches" not in name]
    assert all(torch.allclose(result[name], average[name], atol=1e-6) for name in trainable)


def dropped(row: ImageLabels) -> ImageLabels:
    instances = tuple(replace(each, decision=Decision.DROPPED) for each in row.instances)
    return replace(row, instances=instances)


def empty(row: ImageLabels) -> ImageLabels:
    return ImageLabels.of_instances(row.image_id, row.file_name, row.width, row.height, ())


def one_category(row: ImageLabels) -> ImageLabels:
    return replace(row, instances=tuple(replace(each, category_id=3) for each in row.instances))


@pytest.mark.slow
@pytest.mark.parametrize("change", [dropped, empty, one_category])
def test_a_student_trains_on_odd_pseudo_labels(folder, taught, monkeypatch, change):
    experiment = taught_experiment(folder, taught, NO_COMPOSITES | {"student": {"iterations": 3, "batch_size": 1}})
    put_refined(experiment, monkeypatch, change)
    result = trained(experiment, *STUDENT)
    assert len(losses(result)) == 3
    assert all(torch.isfinite(tensor).all() for tensor in weights(result).values())


def doubted(row: ImageLabels) -> ImageLabels:
    """Every label is doubted by half, and uncertain in its upper left quarter."""
    uncertain = np.zeros((row.height, row.width), dtype=bool)
    uncertain[: row.height // 2, : row.width // 2] = True
    noted = {"class_agreement": 0.5, "uncertain_counts": encode_mask(uncertain)["counts"]}
    instances = (replace(each, class_vote=10 - each.category_id, **noted) for each in row.instances)
    return replace(row, instances=tuple(instances))


@pytest.mark.slow
def test_a_student_weighs_doubted_classes_and_uncertain_pixels(folder, taught, monkeypatch):
    found = {}
    for name, filters in (
        ("plain", {}),
        ("weighed", {"class_check": "weight", "class_agreement": 0.5}),
        ("corrected", {"class_check": "correct", "class_agreement": 0.5}),
        ("sure", {"class_check": "weight", "class_agreement": 0.6}),
        ("uncertain", {"uncertain_pixel_weight": 0.25}),
    ):
        student = {"iterations": 1, "batch_size": 1, "unlabelled_batch_size": 2, "start": "scratch"}
        settings = NO_COMPOSITES | {"student": student | filters}
        experiment = taught_experiment(folder, taught, settings, f"store={folder / name}")
        put_refined(experiment, monkeypatch, doubted)
        put_predicted(experiment, taught, monkeypatch)
        (found[name],) = losses(trained(experiment, *STUDENT))
    assert found["sure"] == found["plain"]  # nothing is doubted so far
    classes, masks = "pseudo_loss_cls", "pseudo_loss_mask"
    assert found["weighed"][classes] != found["plain"][classes]
    assert found["weighed"][masks] < found["plain"][masks]
    assert found["corrected"][classes] != found["plain"][classes]
    assert found["uncertain"][masks] < found["plain"][masks]
    assert found["uncertain"][classes] == found["plain"][classes]
    assert all(each["loss_cls"] == found["plain"]["loss_cls"] for each in found.values())  # of labelled images


def put_predicted(experiment: Experiment, taught: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the predict stage copy the labels that the teacher gave, whatever is asked of them."""
    (seal,) = taught.glob("predict/*/seal.json")

    def run(context):
        shutil.copytree(seal.parent / LABELS, context.folder / LABELS)
        return {}

    monkeypatch.setattr(predict, "run", run)


@pytest.mark.slow
def test_a_student_may_do_without_one_of_the_batches(folder, taught, monkeypatch):
    for number, (labelled, unlabelled, kind) in enumerate([(0, 2, "s4m.StoredLabels"), (2, 0, "s4m.LabelledImages")]):
        student = {"iterations": 2, "batch_size": labelled, "unlabelled_batch_size": unlabelled}
        store = f"store={folder / str(number)}"
        experiment = taught_experiment(folder, taught, NO_COMPOSITES | {"student": student}, store)
        put_refined(experiment, monkeypatch)
        result = trained(experiment, *STUDENT)
        assert len(losses(result)) == 2
        loader = Config.fromfile(result / "training.py").train_dataloader
        assert ([each.type for each in loader.dataset.datasets], loader.sampler.batch_sizes) == ([kind], [2])


@pytest.mark.slow
def test_one_labelled_image_is_enough(folder):
    chosen = folder / "one.txt"
    chosen.write_text("1\n")
    pool = {"annotated": {"annotations": "annotations.json", "images": "images"}, "labelled_list": str(chosen)}
    assert len(losses(trained(training_experiment(folder, {"data": pool}), "train-teacher"))) == 6


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_with_the_last_good_checkpoint(folder):
    rate = "teacher.overrides.optim_wrapper.optimizer.lr=1e25"
    experiment = training_experiment(folder, None, rate, "compute.checkpoint_every=1")
    with pytest.raises(StageError, match=r"iteration \d+: the loss is not a finite number") as caught:
        trained(experiment, "train-teacher")
    assert "The last good checkpoint is" in str(caught.value)
    assert "\nblocked by this: predict, refine, augment, train-student, evaluate, report" in str(caught.value)


@pytest.mark.slow
def test_losses_that_are_read_late_are_the_same(folder, teacher, monkeypatch):
    monkeypatch.setattr(training, "StepLog", lambda *given, read_every: hooks.StepLog(*given, read_every=4))
    late = trained(training_experiment(folder, None, "store=" + str(folder / "late")), "train-teacher")
    assert losses(late) == losses(teacher)


@pytest.mark.slow
def test_a_bad_loss_that_is_read_late_stops_with_its_own_iteration(folder, monkeypatch):
    monkeypatch.setattr(training, "StepLog", lambda *given, read_every: hooks.StepLog(*given, read_every=100))
    rate = "teacher.overrides.optim_wrapper.optimizer.lr=1e25"
    with pytest.raises(StageError, match=r"iteration [23]: the loss is not a finite number"):
        trained(training_experiment(folder, None, rate, "compute.checkpoint_every=100"), "train-teacher")


@pytest.mark.slow
def test_a_training_that_filled_a_gpu_goes_on_in_parts(folder, monkeypatch):
    with monkeypatch.context() as patch:
        original = hooks.ExactResume.before_train_iter

        def fill(self, runner, batch_idx, data_batch=None):
            original(self, runner, batch_idx, data_batch)
            if batch_idx == 3:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 is full. More.")

        patch.setattr(hooks.ExactResume, "before_train_iter", fill)
        with pytest.raises(StageError, match=r"train-teacher: the memory of the GPU is full .*batch_parts=2, which"):
            trained(training_experiment(folder), "train-teacher")
    result = trained(training_experiment(folder, None, "compute.batch_parts=2"), "train-teacher")
    assert [step["loss"] > 0 for step in losses(result)] == [True] * 6
    assert "batch_parts=2" in (result / "training.py").read_text()


def gradient_overflows(monkeypatch: pytest.MonkeyPatch, iteration: int) -> None:
    """In an iteration whose loss is fine a gradient is not."""
    original = hooks.ExactResume.before_train_iter

    def spoil(self, runner, batch_idx, data_batch=None):
        original(self, runner, batch_idx, data_batch)
        if batch_idx == iteration:
            parameter = next(each for each in runner.model.parameters() if each.requires_grad)
            parameter.register_hook(lambda gradient: gradient * float("nan"))

    monkeypatch.setattr(hooks.ExactResume, "before_train_iter", spoil)


@pytest.mark.slow
@pytest.mark.parametrize(("iteration", "saved"), [(3, 2), (5, 4)], ids=["at a checkpoint", "in the last iteration"])
def test_weights_that_are_no_numbers_are_neither_saved_nor_published(folder, monkeypatch, iteration, saved):
    gradient_overflows(monkeypatch, iteration)
    with pytest.raises(StageError, match=f"iteration {iteration + 1}: weights are not finite numbers") as caught:
        trained(training_experiment(folder), "train-teacher")
    (left,) = (folder / "stores/train-teacher").glob("*.partial")
    last = checkpoints(left / "checkpoints")[-1]
    assert f"The last good checkpoint is {last}" in str(caught.value)
    state = load_checkpoint(last)
    assert state["iteration"] == saved
    assert all(tensor.isfinite().all() for tensor in state["model"].values())
    assert not (left / "weights.pth").exists()


@pytest.mark.slow
def test_two_processes_share_a_batch_and_say_no_more_than_one(folder, capfd, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    experiment = training_experiment(folder, None, "compute.gpus=2", "teacher.iterations=3")
    result = trained(experiment, "train-teacher")
    assert len(losses(result)) == 3
    build_published(read_published(result))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    told = capfd.readouterr().err
    assert not [noise for noise in ("start method", "_NUM_THREADS", "run_id") if noise in told]


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """A TimeoutError after so long."""

    def stop(number, frame):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def forked_trainings(monkeypatch):
    """Has training processes forked: they need not import MMDetection again."""
    forked()
    monkeypatch.setattr(launching, "START_METHOD", "forkserver")


@pytest.mark.slow
def test_two_processes_train_a_mask2former_on_parts_of_a_batch_that_differ_in_kind(
    folder, taught, monkeypatch, forked_trainings
):
    """Both have a labelled and an unlabelled image in every step; in some steps only the second one has a composite."""
    batches = [counts for _, counts in islice(Apportionment([2, 1], 2).batches(0), 3)]
    kinds = [[kind for kind, count in enumerate(counts) for _ in range(count)] for counts in batches]
    assert kinds == [[0, 1], [0, 0], [0, 1]]
    settings = {
        "augment": {"mode": "on-the-fly", "decisions": ["sam", "teacher"], "min_area_px": 1.0},
        "student": {
            "iterations": 3,
            "batch_size": 2,
            "mixture": {"pseudo": 2},
            "detector": "tiny_mask2former.py",
            "start": "scratch",
        },
    }
    experiment = taught_experiment(folder, taught, settings)
    put_refined(experiment, monkeypatch)
    trained(experiment, *STUDENT[:-1])
    with within(240):
        run_stage(training_experiment(folder, settings, "compute.gpus=2"), "train-student", 1)
    assert len(losses(workspace(experiment).result("train-student"))) == 3


@pytest.mark.slow
def test_an_error_in_one_of_two_processes_is_told_as_it_is(folder, forked_trainings):
    (folder / "weights.pth").write_bytes(b"no weights")
    experiment = training_experiment(folder, None, "compute.gpus=2", f"teacher.init_weights={folder / 'weights.pth'}")
    with pytest.raises(StageError, match="weights.pth: truncated, or not a file of torch.save"):
        trained(experiment, "train-teacher")


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


def test_weights_with_code_in_them_are_refused(folder, monkeypatch):
    monkeypatch.chdir(folder)
    torch.save({"state_dict": Evil()}, folder / "weights.pth", pickle_module=pickle)
    experiment = training_experiment(folder, None, f"teacher.init_weights={folder / 'weights.pth'}")
    with pytest.raises(StageError, match="holds more than tensors"):
        trained(experiment, "train-teacher")
    assert not (folder / "evil").exists()


def test_weights_of_another_detector_are_refused_where_nothing_fits(folder):
    torch.save({"other": torch.zeros(2)}, folder / "weights.pth")
    experiment = training_experiment(folder, None, f"teacher.init_weights={folder / 'weights.pth'}")
    with pytest.raises(StageError, match="none of its 1 tensors fits the detector"):
        trained(experiment, "train-teacher")


@pytest.mark.slow
def test_a_killed_training_goes_on(folder):
    experiment = training_experiment(folder, None, "teacher.iterations=400")
    run_stage(experiment, "split", 1)
    arguments = ["train-teacher", "--exp", folder / "tiny.yaml", "--set", "teacher.iterations=400"]
    process = start_s4m(arguments, environment(folder))
    deadline = time.monotonic() + 120
    while not list(folder.glob("stores/train-teacher/*.partial/checkpoints/*4.pt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert kill(process)
    (left,) = (folder / "stores/train-teacher").glob("*.partial")
    reached = load_checkpoint(checkpoints(left / "checkpoints")[-1])["iteration"]
    steps: list[int] = []
    job_of = training.StepLog.after_train_iter

    def note(self, runner, batch_idx, data_batch=None, outputs=None):
        steps.append(batch_idx)
        if len(steps) == 3:
            raise Stop
        job_of(self, runner, batch_idx, data_batch, outputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.StepLog, "after_train_iter", note)
        with pytest.raises(Stop):
            run_stage(experiment, "train-teacher", 1)
    assert reached >= 4
    assert steps == [reached, reached + 1, reached + 2]


@pytest.mark.slow
def test_two_stopped_processes_keep_what_they_have_done(folder):
    overrides = ["teacher.iterations=4000", "compute.gpus=2", "compute.checkpoint_every=100000"]
    run_stage(training_experiment(folder, None, *overrides), "split", 1)
    settings = [argument for each in overrides for argument in ("--set", each)]
    process = start_s4m(["train-teacher", "--exp", folder / "tiny.yaml", *settings], environment(folder))
    deadline = time.monotonic() + 120
    while not list(folder.glob("stores/train-teacher/*.partial/log.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
    process.join(60)
    assert process.exitcode == 130
    (left,) = (folder / "stores/train-teacher").glob("*.partial")
    (checkpoint,) = checkpoints(left / "checkpoints")
    assert load_checkpoint(checkpoint)["iteration"] == len(losses(left)) > 0


def stub_of_wandb(calls: list[tuple[str, dict]]) -> ModuleType:
    """What W&B offers today, as far as it is used; it notes its calls."""
    stub = ModuleType("wandb")
    stub.__spec__ = ModuleSpec("wandb", None)
    stub.init = lambda **settings: calls.append(("init", settings))
    stub.define_metric = lambda **metric: calls.append(("define_metric", metric))
    stub.log = lambda values, **_: calls.append(("log", values))
    stub.finish = lambda: calls.append(("finish", {}))
    stub.config = ModuleType("config")
    stub.config.update = lambda values, **settings: calls.append(("config", settings))
    return stub


@pytest.mark.slow
def test_curves_go_to_wandb(folder, monkeypatch):
    calls: list[tuple[str, dict]] = []
    monkeypatch.setitem(sys.modules, "wandb", stub_of_wandb(calls))
    monkeypatch.delenv("WANDB_DIR", raising=False)
    experiment = training_experiment(folder, None, "compute.logger=wandb", "teacher.iterations=20")
    result = trained(experiment, "train-teacher")
    init = calls[0][1]
    assert (init["project"], init["name"], init["resume"]) == ("s4m", "tiny-train-teacher", "allow")
    assert init["id"] == result.resolve().name
    assert init["dir"].endswith(".partial/scratch")
    assert ("define_metric", {"name": "*", "step_metric": "iteration"}) in calls
    assert ("config", {"allow_val_change": True}) in calls
    logged = [values for name, values in calls if name == "log"]
    assert [values["iteration"] for values in logged] == [10, 20]
    assert logged[-1]["loss"] == losses(result)[-1]["loss"]
    assert [name for name, _ in calls].count("finish") == 1
    assert calls[-1][0] == "finish"


@pytest.mark.slow
@pytest.mark.parametrize(
    "override",
    [
        {"model.backbone.frozen_stage": 4},
        {"optim_wrapper.optimizer.learning_rate": 4},
        {"train_transforms": [{"type": "RandomFlip", "probability": 1}]},
        {"test_transforms": [{"type": "Resize", "no_such_setting": 1}]},
    ],
    ids=lambda override: next(iter(override)),
)
def test_what_cannot_be_built_is_told_with_the_detectors_file(folder, override):
    experiment = training_experiment(folder, {"teacher": TEACHER | {"overrides": override}})
    with pytest.raises(StageError, match=r"tiny_detector\.py: no detector can be built from it and the overrides"):
        trained(experiment, "train-teacher")


@pytest.mark.slow
def test_a_damaged_checkpoint_is_told_and_the_training_ends_as_an_uninterrupted_one(
    folder, teacher, monkeypatch, capsys
):
    again = training_experiment(folder)
    interrupted_at(monkeypatch, 5)
    with pytest.raises(Stop):
        trained(again, "train-teacher")
    (left,) = (folder / "stores/train-teacher").glob("*.partial")
    before, last = checkpoints(left / "checkpoints")
    content = bytearray(last.read_bytes())
    content[10_000:14_096] = bytes(4096)
    last.write_bytes(content)
    result = trained(again, "train-teacher")
    told = capsys.readouterr().err
    assert f"{last}: damaged, or not a checkpoint of this program" in told
    assert f"the one before it is used, {before.name}" in told
    assert "weights_only" not in told
    assert losses(result) == losses(teacher)
    assert same(weights(result), weights(teacher))


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


@pytest.mark.slow
def test_a_training_that_is_killed_alone_leaves_no_process_and_no_lock(folder):
    """As when memory runs out. Its loader had more samples ready than a pipe takes, and would wait for ever."""
    tiny_coco(folder, instances=6, images=6, size=(640, 480))
    overrides = ["teacher.iterations=4000", "compute.loader_workers=1", "compute.checkpoint_every=2"]
    experiment = training_experiment(folder, None, *overrides)
    detector = folder / "tiny_detector.py"
    detector.write_text(detector.read_text().replace("(48, 48)", "(320, 320)"))
    experiment = load_experiment(folder / "tiny.yaml", [f"store={folder / 'stores'}", *overrides], {})
    run_stage(experiment, "split", 1)
    settings = [argument for each in overrides for argument in ("--set", each)]
    process = start_s4m(["train-teacher", "--exp", folder / "tiny.yaml", *settings], environment(folder))
    try:
        wait_until(lambda: list(folder.glob("stores/train-teacher/*.partial/checkpoints/*.pt")), 120)
        assert len(session_of(process.pid)) == 2
        time.sleep(1)
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: not session_of(process.pid), 3)
        space = workspace(experiment)
        fingerprint = space.fingerprints["train-teacher"]
        # The threads of a killed process may end after it.
        wait_until(lambda: space.store.locks.holder(fingerprint.stage, fingerprint.id) is None, 1)
    finally:
        kill(process)


@pytest.mark.slow
def test_a_killed_process_of_two_ends_the_training_and_the_same_command_goes_on(folder, forked_trainings, monkeypatch):
    begun: list[float] = []
    usual = launching._wait

    def kill_one(members, pipes, meeting):
        def later() -> None:
            wait_until(lambda: list(folder.glob("stores/train-teacher/*.partial/checkpoints/*2.pt")), 120)
            os.kill(members[1].pid, signal.SIGKILL)
            begun.append(time.monotonic())

        thread = threading.Thread(target=later)
        thread.start()
        ended = usual(members, pipes, meeting)
        thread.join()
        return ended

    overrides = ("compute.gpus=2", "compute.loader_workers=1", "teacher.iterations=60")
    with monkeypatch.context() as patched, pytest.raises(StageError, match="process 2 of the 2 that train was ended"):
        patched.setattr(launching, "_wait", kill_one)
        trained(training_experiment(folder, None, *overrides), "train-teacher")
    assert time.monotonic() - begun[0] < 10
    (log,) = folder.glob("stores/train-teacher/*.partial/log.jsonl")
    kept = log.read_text().splitlines()[:2]
    result = trained(training_experiment(folder, None, *overrides), "train-teacher")
    assert (result / "log.jsonl").read_text().splitlines()[:2] == kept  # with the seconds that they took
    assert len(losses(result)) == 60


@pytest.mark.slow
def test_a_killed_loader_is_told_in_one_line(folder, monkeypatch):
    original = hooks.ExactResume.after_train_iter
    others = set(active_children())  # of tests before this one, which may end late

    def kill_loader(self, runner, batch_idx, data_batch=None, outputs=None):
        original(self, runner, batch_idx, data_batch, outputs)
        if batch_idx == 3:
            (loader,) = set(active_children()) - others
            os.kill(loader.pid, signal.SIGKILL)

    monkeypatch.setattr(hooks.ExactResume, "after_train_iter", kill_loader)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))  # a killed process leaves its temporary files
    overrides = ("compute.loader_workers=1", "teacher.iterations=4000")
    with pytest.raises(StageError, match=r"a process that loads images for the training was ended"):
        trained(training_experiment(folder, None, *overrides), "train-teacher")
