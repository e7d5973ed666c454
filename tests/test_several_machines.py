"""One training on two machines, which are two commands here: the result of one machine, resumed after a loss."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.compute.settings import ComputeSettings
from pipeline.detection import launching
from pipeline.detection.jobs import StepBatch, Subject, Training, training_job
from pipeline.detection.settings import TrainSettings
from pipeline.errors import StageError
from pipeline.workflow import result_locks, result_store
from pipeline.workflow.fingerprint import Fingerprint
from pipeline.workflow.result_store import StoreRoot
from stages.cli import main
from stages.options import workspace
from stages.runner import run_stage
from tests.processes import kill, start
from tests.test_detection_config import CATEGORIES, detector
from tests.test_train_stages import forked_trainings, losses  # noqa: F401
from tests.tiny_experiment import environment
from tests.tiny_training import training_experiment

ITERATIONS = 24
SET = ("compute.loader_workers=1", f"teacher.iterations={ITERATIONS}", "student.iterations=4", "compute.device=cpu")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("S4M_WORK", str(tmp_path / "work"))
    return tmp_path


@pytest.fixture
def machines(folder):
    """Two machines with one store, each with records of its own; start a stage on one of them by its rank."""
    started: list = []
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def begin(stage: str, rank: int):
        given = (*SET, f"store={folder / 'stores'}", "compute.nodes=2", f"compute.node_rank={rank}")
        settings = [word for each in (*given, f"compute.master=127.0.0.1:{port}") for word in ("--set", each)]
        own = {**environment(folder), "S4M_WORK": str(folder / f"work{rank}"), "OMP_NUM_THREADS": "1"}
        output = folder / f"{stage}-{rank}.txt"
        words = [stage, "--exp", str(folder / "tiny.yaml"), *settings]
        started.append(start(forking_s4m, words, own, output=output))
        return started[-1]

    yield begin
    for process in started:
        kill(process)


def forking_s4m(words: list[str], given: dict[str, str]) -> None:
    """Run a command whose training processes are forked: they need not import MMDetection again."""
    os.environ.clear()
    os.environ.update(given)
    launching.START_METHOD = "fork"
    sys.argv = ["s4m", *words]
    main()


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


def ended(*processes) -> list[int | None]:
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


def said(folder: Path, stage: str, rank: int) -> str:
    return (folder / f"{stage}-{rank}.txt").read_text()


@pytest.mark.slow
def test_two_machines_train_what_one_does_also_after_one_was_lost(folder, machines, forked_trainings):  # noqa: F811
    training_experiment(folder, None)
    assert ended(machines("split", 1), machines("split", 0)) == [0, 0]
    assert "split: waiting for the first machine, which makes it" in said(folder, "split", 1)
    both = [machines("train-teacher", rank) for rank in (1, 0)]
    wait_until(lambda: list(folder.glob("stores/train-teacher/*.partial/checkpoints/*.pt")), 120)
    os.killpg(both[0].pid, signal.SIGKILL)
    assert ended(both[1]) == [1]
    assert "machine 2 of the 2 that train is gone" in said(folder, "train-teacher", 0)
    assert "Traceback" not in said(folder, "train-teacher", 0)
    (log,) = folder.glob("stores/train-teacher/*.partial/log.jsonl")
    kept = log.read_text().splitlines()[:2]
    assert ended(*(machines("train-teacher", rank) for rank in (0, 1))) == [0, 0]
    (result,) = (path.parent for path in folder.glob("stores/train-teacher/*/seal.json"))
    assert (result / "log.jsonl").read_text().splitlines()[:2] == kept
    for rank in (0, 1):  # each has its own record of the one result
        assert len(list(folder.glob(f"work{rank}/*/train-teacher.done"))) == 1
    assert "train-teacher: training with the first machine" in said(folder, "train-teacher", 1)
    assert ended(machines("train-teacher", 1)) == [0]
    assert "train-teacher: up to date" in said(folder, "train-teacher", 1)

    alone = training_experiment(folder, None, *SET, "compute.gpus=2", f"store={folder / 'other'}")
    for stage in ("split", "train-teacher"):
        run_stage(alone, stage, 1)
    assert losses(workspace(alone).result("train-teacher")) == losses(result)
    assert len(losses(result)) == ITERATIONS


@pytest.mark.slow
def test_a_stop_of_one_machine_stops_all_in_order(folder, machines):
    training_experiment(folder, None)
    assert ended(machines("split", 0), machines("split", 1)) == [0, 0]
    both = [machines("train-teacher", rank) for rank in (0, 1)]
    wait_until(lambda: list(folder.glob("stores/train-teacher/*.partial/checkpoints/*.pt")), 120)
    os.kill(both[1].pid, signal.SIGINT)
    assert ended(*both) == [130, 130]
    for rank in (0, 1):
        assert "Traceback" not in said(folder, "train-teacher", rank)


def test_batches_are_shared_by_the_gpus_of_all_machines(tmp_path):
    def job(compute: ComputeSettings, size: int):
        training = Training(detector(tmp_path), TrainSettings(), (StepBatch("teacher.batch_size", size, ()),), None)
        return training_job(Subject("mine", "train-teacher", CATEGORIES, {}), training, compute, tmp_path / "result")

    four = ComputeSettings(nodes=2, gpus=2, master="host:29500")
    assert job(four, 8).config["train_dataloader"]["batch_size"] == 2
    assert job(ComputeSettings(nodes=2, master="host:29500"), 8).config["launcher"] == "pytorch"
    with pytest.raises(StageError) as caught:
        job(four, 6)
    assert str(caught.value) == (
        "teacher.batch_size is 6: not divisible by compute.gpus x compute.nodes = 2 x 2; change one of them"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"nodes": 2}, "machines that train together need it: the host of machine 0 and a port"),
        ({"node_rank": 1}, "machines are counted from 0, and nodes is 1"),
        ({"nodes": 2, "node_rank": 2, "master": "a:1"}, "machines are counted from 0, and nodes is 2"),
        ({"nodes": 2, "master": "host"}, "should match pattern"),
        ({"nodes": 2, "master": "host:port"}, "should match pattern"),
    ],
)
def test_machines_that_cannot_meet_are_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        ComputeSettings(**given)


def test_a_result_that_nobody_makes_is_told_once(tmp_path, monkeypatch):
    monkeypatch.setattr(result_locks, "WAIT_SECONDS", 0.01)
    monkeypatch.setattr(result_store, "UNUSED_SECONDS", 0.05)
    store, fingerprint, notes = StoreRoot(tmp_path), Fingerprint("split", 1, {}, {}, {}), []

    def say(text: str) -> None:
        notes.append(text)
        if len(notes) == 2:
            store.partial("split", fingerprint.id).mkdir(parents=True)
            store.seal(fingerprint, "mine", 1.0, {}, {})

    store.wait_until_sealed(fingerprint, "split", say)
    assert notes == [
        "split: waiting for the first machine, which makes it",
        "split: no process has made it for 0 s: does the first machine's command run?",
    ]
    store.wait_until_sealed(fingerprint, "split", say)  # it is there: nothing to say
    assert len(notes) == 2
