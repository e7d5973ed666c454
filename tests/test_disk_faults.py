"""A disk that fails, or is full, at any point: a message, no traceback, and afterwards the same command ends well."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import Self

import pytest

from tests.faults import Call, Fault
from tests.faulty_runs import (
    RUN_STAGES,
    Whole,
    calls_of,
    end,
    folder_for,
    require_as_undisturbed,
    run_undisturbed,
    start,
)

WRITES = Call.WRITE | Call.SYNC | Call.RENAME | Call.UNLINK
PARTS = 20
TOLD = ("the disk is full", "cannot be read", "damaged", "truncated", " first: make ")
"""What a message says in place of the system's words: what cannot be read may be told as damaged or missing."""


def fail(whole: Whole, stage: str, fault: Fault, tmp_path: Path) -> None:
    """Let a call fail; the stage stops with a message or does without it. Run it again on a disk that works."""
    with folder_for(tmp_path, f"{stage}-{int(fault.calls)}-{fault.nth}-{fault.action}") as folder:
        status, told = end(start(whole, stage, whole.before(stage, folder), fault), folder)
        assert status in (0, 1), told
        if status == 0:
            require_as_undisturbed(whole, stage, folder)
        else:
            assert any(each in told for each in (os.strerror(fault.action), *TOLD)), told
        run_undisturbed(whole, stage, folder)
        require_as_undisturbed(whole, stage, folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "fault"),
    [
        ("split", Fault(WRITES, 12, errno.EIO)),
        ("split", Fault(WRITES, 5, errno.ENOSPC, for_ever=True)),
        ("split", Fault(Call.READ, 30, errno.EIO)),
        ("train-teacher", Fault(Call.WRITE, 60, errno.ENOSPC, for_ever=True)),
        ("train-teacher", Fault(Call.SYNC, 4, errno.EIO)),
        ("report", Fault(Call.READ, 150, errno.EIO)),
    ],
)
def test_a_stage_on_a_failing_disk_ends_with_a_message_and_can_be_run_again(whole, stage, fault, tmp_path):
    fail(whole, stage, fault, tmp_path)


@pytest.mark.torture
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("stage", RUN_STAGES)
@pytest.mark.parametrize(
    ("calls", "number", "for_ever"),
    [(WRITES, errno.EIO, False), (WRITES, errno.ENOSPC, True), (Call.READ, errno.EIO, False)],
    ids=["writes", "full", "reads"],
)
def test_a_stage_whose_every_call_fails_once_can_be_run_again(
    whole, stage, calls, number, for_ever, part, tmp_path, record_tries
):
    points = range(1 + part, 1 + calls_of(whole, stage, calls), PARTS)
    with record_tries(points) as attempt:
        for nth in points:
            with attempt(f"{stage} {nth}"):
                fail(whole, stage, Fault(calls, nth, number, for_ever), tmp_path)


class Disk:
    """A small disk in memory that can grow."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kilobytes = 64

    def __enter__(self) -> Self:
        self.folder.mkdir()
        options = f"size={self.kilobytes}k,nr_inodes=100k"
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.folder], check=False, capture_output=True
        )
        if mounted.returncode:
            pytest.skip("this user may not mount; full disks are also tried without")
        return self

    def grow(self) -> None:
        self.kilobytes = self.kilobytes * 3 // 2
        subprocess.run(["mount", "-o", f"remount,size={self.kilobytes}k", self.folder], check=True)

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", self.folder], check=True)


@pytest.mark.torture
def test_an_experiment_on_a_disk_that_grows_when_it_is_full_ends_as_an_undisturbed_one(whole, tmp_path, record_tries):
    """The disk is full again and again, wherever a stage happens to be; then it grows, and the command is repeated."""
    told_full = 0
    with Disk(tmp_path / "disk") as disk, record_tries(RUN_STAGES) as attempt:
        for stage in RUN_STAGES:
            with attempt(stage):
                while True:
                    status, told = end(start(whole, stage, disk.folder, Fault(Call(0))), disk.folder)
                    if status == 0:
                        break
                    assert "full" in told or os.strerror(errno.ENOSPC) in told, told
                    told_full += 1
                    disk.grow()
                require_as_undisturbed(whole, stage, disk.folder)
    assert told_full > 5
