"""Every stage, killed at every point where it changes the disk, ends as if nothing had been.

`make test` runs a sample, `make torture` every point.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Final

import pytest

from pipeline.workflow.graph import STAGES
from tests.faults import AFTER, BEFORE, Call, Fault
from tests.faulty_runs import Whole, calls_of, end, folder_for, require_as_undisturbed, run_undisturbed, start

CHANGES: Final = Call.SYNC | Call.RENAME | Call.UNLINK
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
@pytest.mark.parametrize("stage", STAGES)
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
