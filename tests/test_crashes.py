"""Every stage, killed at every point where it changes the disk, ends as if nothing had been.

`make test` runs a sample, `make torture` every point.
"""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Final

import pytest

from pipeline.workflow.result_store import StoreRoot
from tests.faults import AFTER, BEFORE, Call, Fault, start_with_fault
from tests.faulty_runs import (
    NO_FAULT,
    RUN_STAGES,
    Whole,
    calls_of,
    end,
    environment_of,
    folder_for,
    require_as_undisturbed,
    run_undisturbed,
    start,
)

CHANGES: Final = Call.SYNC | Call.RENAME | Call.UNLINK
MOST_CALLS_OF_PRUNING: Final = 200
PARTS: Final = 20
"""The points of a stage are divided, so that several processes share them."""


def crash(whole: Whole, stage: str, fault: Fault, tmp_path: Path) -> bool:
    """Kill a stage at a point, then run it again; return whether it was killed."""
    with folder_for(tmp_path, f"{stage}-{int(fault.calls)}-{fault.nth}") as folder:
        status, told = end(start(whole, stage, whole.before(stage, folder), fault), folder)
        assert status in (0, -signal.SIGKILL), told
        run_undisturbed(whole, stage, folder)
        require_as_undisturbed(whole, stage, folder)
        return status != 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "calls", "nth", "action"),
    [
        ("split", CHANGES, 7, BEFORE),
        ("split", CHANGES, 40, AFTER),
        ("train-teacher", Call.RENAME, 3, AFTER),
        ("train-teacher", Call.WRITE, 60, AFTER),
        ("refine", Call.RENAME, 5, BEFORE),
        ("refine", CHANGES, 380, BEFORE),
        ("report", Call.RENAME, 4, BEFORE),
    ],
)
def test_a_killed_stage_ends_as_an_undisturbed_one(whole, stage, calls, nth, action, tmp_path):
    assert crash(whole, stage, Fault(calls, nth, action), tmp_path)


@pytest.mark.torture
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("stage", RUN_STAGES)
@pytest.mark.parametrize(("calls", "action"), [(CHANGES, BEFORE), (Call.WRITE, AFTER)], ids=["changes", "torn"])
def test_a_stage_that_is_killed_at_every_point_ends_as_an_undisturbed_one(
    whole, stage, calls, action, part, tmp_path, record_tries
):
    """Killed before each call that flushes, renames or removes, and in the middle of each that writes."""
    points = range(1 + part, 1 + calls_of(whole, stage, calls), PARTS)
    with record_tries(points) as attempt:
        for nth in points:
            with attempt(f"{stage} {nth}"):
                crash(whole, stage, Fault(calls, nth, action), tmp_path)


def crash_while_pruning(whole: Whole, nth: int, action: int, tmp_path: Path) -> bool:
    """Kill `stores prune` at a point, then prune again; return whether it was killed. The used results stay whole."""
    with folder_for(tmp_path, f"prune-{nth}-{-action}") as folder:
        whole.before("evaluate", folder)
        shutil.rmtree(folder / "stores/.references")  # to the undisturbed run's own records
        (folder / "work/tiny/augment.done").unlink()
        (folder / "work/tiny/distill.done").unlink()
        statuses = [prune(folder, Fault(CHANGES, nth, action))[0], prune(folder, NO_FAULT)[0]]
        assert statuses in ([0, 0], [-signal.SIGKILL, 0])
        stores = StoreRoot(folder / "stores")
        left = {result.stage: result for result in stores.results()}
        assert set(left) == {"split", "train-teacher", "predict", "refine", "train-student"}
        assert [stores.verify(stage, result.id) for stage, result in left.items()] == [[]] * len(left)
        assert list((folder / "stores").rglob(".removed-*")) == []
        return statuses[0] != 0


def prune(folder: Path, fault: Fault) -> tuple[int, str]:
    words = ["stores", "prune", "--yes", "--older-than", "0"]
    output = folder.with_name(f"{folder.name}.txt")
    return end(start_with_fault(words, environment_of(folder), fault, folder, output), folder)


@pytest.mark.slow
def test_a_killed_pruning_is_ended_by_the_next(whole, tmp_path):
    assert crash_while_pruning(whole, 9, BEFORE, tmp_path)


@pytest.mark.torture
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("action", [BEFORE, AFTER], ids=["before", "after"])
def test_a_pruning_that_is_killed_at_every_point_is_ended_by_the_next(whole, action, part, tmp_path, record_tries):
    points = range(1 + part, MOST_CALLS_OF_PRUNING, PARTS)
    with record_tries(points) as attempt:
        for nth in points:
            with attempt(str(nth)):
                crash_while_pruning(whole, nth, action, tmp_path)
