"""Processes that train together: when one dies or fails, all end soon, and the reason is told as it is."""

from __future__ import annotations

import os
import signal
import threading
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from torch import distributed

from pipeline.detection import launching
from pipeline.detection.launching import Group, run_together
from pipeline.errors import ImageError, StageError
from pipeline.files.locks import lives
from pipeline.files.writing import write_atomically
from tests.processes import forked, kill, start

TWO = Group(2, on_gpus=False)


@pytest.fixture(autouse=True)
def forked_members(monkeypatch):
    """Has the processes forked: they need not import torch again."""
    forked()
    monkeypatch.setattr(launching, "START_METHOD", "forkserver")


def reduce_for_ever() -> None:
    while True:
        distributed.all_reduce(torch.ones(1))


def note_process(folder: Path) -> int:
    rank = distributed.get_rank()
    write_atomically(folder / f"rank{rank}", str(os.getpid()))
    return rank


def processes(folder: Path) -> list[int]:
    return [int(path.read_text()) for path in sorted(folder.glob("rank*"))]


def all_ended(folder: Path) -> bool:
    deadline = time.monotonic() + 10
    while any(map(lives, processes(folder))) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(lives, processes(folder)))


def count_ranks(folder: Path) -> None:
    total = torch.ones(1)
    distributed.all_reduce(total)
    (folder / f"total{distributed.get_rank()}").write_text(str(int(total)))


@pytest.mark.slow
def test_all_run_in_one_group(tmp_path):
    run_together(count_ranks, (tmp_path,), Group(3, on_gpus=False))
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == ["3", "3", "3"]


def one_is_killed(folder: Path) -> None:
    if note_process(folder) == 1:
        if (child := os.fork()) == 0:
            time.sleep(60)  # as a loader that outlives its training, with all that it inherited
        (folder / "rank1-child").write_text(str(child))
        os.kill(os.getpid(), signal.SIGKILL)
    reduce_for_ever()


@pytest.mark.slow
def test_a_killed_process_ends_the_others_within_ten_seconds(tmp_path):
    begun = time.monotonic()
    with pytest.raises(StageError) as caught:
        run_together(one_is_killed, (tmp_path,), TWO)
    child = int((tmp_path / "rank1-child").read_text())
    (tmp_path / "rank1-child").unlink()
    os.kill(child, signal.SIGKILL)
    assert time.monotonic() - begun < 10 + 10  # the second ten: starting, on a busy machine
    assert str(caught.value) == (
        "process 2 of the 2 that train was ended (SIGKILL), as when memory runs out; the others were ended too. "
        "Give the same command to continue from the last checkpoint."
    )
    assert all_ended(tmp_path)


class Odd(Exception):
    """An error that no other process can read."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)
        self.second = second


def one_fails(folder: Path, error: Exception) -> None:
    if note_process(folder) == 1:
        raise error
    reduce_for_ever()


@pytest.mark.slow
@pytest.mark.parametrize("error", [ImageError("no image"), OSError(28, "No space left on device", "/there")])
def test_an_error_is_raised_as_it_is_and_not_those_that_follow_from_it(tmp_path, error):
    with pytest.raises(type(error)) as caught:
        run_together(one_fails, (tmp_path, error), TWO)
    assert str(caught.value) == str(error)
    assert all_ended(tmp_path)


def one_fails_oddly(folder: Path) -> None:
    one_fails(folder, Odd("first", "second"))


@pytest.mark.slow
def test_an_error_that_cannot_be_read_elsewhere_keeps_its_text_and_place(tmp_path):
    with pytest.raises(RuntimeError, match="Odd: first") as caught:
        run_together(one_fails_oddly, (tmp_path,), TWO)
    assert "in one_fails" in "".join(caught.value.__notes__)


def stops_at_once(folder: Path) -> None:
    note_process(folder)
    try:
        while True:
            time.sleep(0.01)
    finally:
        (folder / f"stopped{distributed.get_rank()}").touch()


@pytest.mark.slow
def test_a_stop_reaches_all(tmp_path):
    def stop() -> None:
        while len(processes(tmp_path)) < 2:
            time.sleep(0.02)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop).start()
    with pytest.raises(KeyboardInterrupt):
        run_together(stops_at_once, (tmp_path,), TWO)
    assert len(list(tmp_path.glob("stopped*"))) == 2
    assert all_ended(tmp_path)


def reduces(folder: Path) -> None:
    note_process(folder)
    reduce_for_ever()


def launches(folder: Path) -> None:
    launching.START_METHOD = "forkserver"
    get_context("forkserver").set_forkserver_preload(["torch.distributed"])  # this process starts a server of its own
    run_together(reduces, (folder,), TWO)


@pytest.mark.slow
def test_all_end_with_the_process_that_started_them(tmp_path):
    process = start(launches, tmp_path)
    deadline = time.monotonic() + 60
    while len(processes(tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)  # alone, not the others of its session
    assert all_ended(tmp_path)
    kill(process)
