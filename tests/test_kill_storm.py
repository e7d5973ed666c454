"""Kills at random times, and writers that share a store while it is pruned: the results are as if nothing had been."""

from __future__ import annotations

import os
import random
import signal
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from pipeline.workflow.graph import STAGES
from tests.faults import start_with_fault
from tests.faulty_runs import (
    NO_FAULT,
    Whole,
    end,
    environment_of,
    folder_for,
    require_as_undisturbed,
    run_undisturbed,
    start,
)
from tests.processes import kill, session_of

KILLS = 100


def kill_some(process: ForkServerProcess, rng: random.Random) -> None:
    """Kill all processes of a run, or only the first one, or one that it started."""
    others = session_of(process.pid) - {process.pid}
    match rng.choice(("all", "first", "one")):
        case "first":
            os.kill(process.pid, signal.SIGKILL)
        case "one" if others:
            os.kill(rng.choice(sorted(others)), signal.SIGKILL)
        case _:
            kill(process)


def storm(whole: Whole, kills: int, seed: int, tmp_path: Path, attempt) -> None:
    """Run whole experiments, killed at random times, until there were so many kills."""
    rng, done, rounds = random.Random(seed), 0, 0
    while done < kills:
        rounds += 1
        with folder_for(tmp_path, f"storm-{rounds}") as folder:
            folder.mkdir()
            for stage in STAGES:
                longest = 1.0
                while done < kills:
                    longest *= 1.3  # else a stage would never come to its end on a busy machine
                    process = start(whole, stage, folder, NO_FAULT, "--set", "compute.loader_workers=1")
                    process.join(rng.uniform(0, longest))
                    if not process.is_alive():
                        break
                    kill_some(process, rng)
                    done += 1
                    with attempt(f"{stage}, kill {done}"):
                        status, told = end(process, folder)
                        assert status in (0, 1, -signal.SIGKILL), told
                with attempt(f"{stage}, round {rounds}"):
                    run_undisturbed(whole, stage, folder)
                    require_as_undisturbed(whole, stage, folder)


@pytest.mark.slow
def test_a_stage_that_is_killed_at_random_times_ends_as_an_undisturbed_one(whole, tmp_path):
    rng = random.Random(7)
    with folder_for(tmp_path, "storm") as folder:
        whole.before("refine", folder)
        for _ in range(3):
            process = start(whole, "refine", folder, NO_FAULT)
            process.join(rng.uniform(0, 0.8))
            kill_some(process, rng)
            end(process, folder)
        run_undisturbed(whole, "refine", folder)
        require_as_undisturbed(whole, "refine", folder)


@pytest.mark.torture
def test_an_experiment_that_is_killed_a_hundred_times_ends_as_an_undisturbed_one(whole, tmp_path, record_tries):
    with record_tries(range(KILLS)) as attempt:
        storm(whole, KILLS, 1, tmp_path, attempt)


@pytest.mark.torture
def test_three_writers_of_one_store_beside_a_pruning_loop_end_as_undisturbed_ones(whole, tmp_path, record_tries):
    """Each has its own work folder; whatever nobody points at, makes or reads is removed at every moment."""
    names = ["one", "two", "three"]
    pruned = 0
    with record_tries(range(len(STAGES) * len(names))) as attempt, folder_for(tmp_path, "shared") as folder:
        folder.mkdir()
        for stage in STAGES:
            writers = {name: writer(whole, stage, folder, name) for name in names}
            while any(process.is_alive() for process in writers.values()):
                pruning = start_with_fault(
                    ["stores", "prune", "--yes", "--older-than", "0"],
                    environment_of(folder, "pruning"),
                    NO_FAULT,
                    folder,
                    tmp_path / "pruning.txt",
                )
                status, told = end(pruning, tmp_path / "pruning")
                assert status == 0, told
                pruned += 1
            for name, process in writers.items():
                with attempt(f"{stage} of {name}"):
                    status, told = end(process, tmp_path / name)
                    assert status == 0, told
                    (folder / "work").symlink_to(folder / f"work-{name}")
                    try:
                        require_as_undisturbed(whole, stage, folder)
                    finally:
                        (folder / "work").unlink()
    assert pruned >= len(STAGES)


def writer(whole: Whole, stage: str, folder: Path, name: str) -> ForkServerProcess:
    words = [stage, "--exp", whole.experiment]
    return start_with_fault(words, environment_of(folder, name), NO_FAULT, folder, folder.with_name(f"{name}.txt"))


@pytest.mark.torture
def test_two_runs_of_one_training_wait_for_each_other_and_a_kill_hands_over(whole, tmp_path):
    """The one that waits takes over as soon as the one that trains is killed."""
    with folder_for(tmp_path, "handed") as folder:
        whole.before("train-teacher", folder)
        first = start(whole, "train-teacher", folder, NO_FAULT)
        deadline = time.monotonic() + 60
        while not list(folder.glob("stores/train-teacher/*.partial/checkpoints/*.pt")) and time.monotonic() < deadline:
            time.sleep(0.01)
        second = start(whole, "train-teacher", folder, NO_FAULT)
        os.kill(first.pid, signal.SIGKILL)
        first.join()
        status, told = end(second, folder)
        assert status == 0, told
        require_as_undisturbed(whole, "train-teacher", folder)


@pytest.mark.slow
def test_dasks_workers_end_with_the_command_that_started_them(whole, tmp_path):
    with folder_for(tmp_path, "workers") as folder:
        whole.before("predict", folder)
        process = start(whole, "predict", folder, NO_FAULT, "--set", "compute.workers=2")
        deadline = time.monotonic() + 60
        while len(session_of(process.pid)) < 2 and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.5)
        assert process.is_alive()
        os.kill(process.pid, signal.SIGKILL)
        assert end(process, folder)[0] == -signal.SIGKILL
        run_undisturbed(whole, "predict", folder)
        require_as_undisturbed(whole, "predict", folder)
