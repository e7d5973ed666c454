"""Locks of results: they end with their process, and who waits knows for whom."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from pipeline.errors import StoreError
from pipeline.files.locks import exclusive_lock, is_locked, is_shared, lives, processes_with, shared_lock
from pipeline.workflow import result_locks
from pipeline.workflow.result_locks import Holder, ResultLocks
from tests.tiny_experiment import make_experiment_files


@pytest.fixture
def locks(tmp_path, monkeypatch) -> ResultLocks:
    monkeypatch.setattr(result_locks, "WAIT_SECONDS", 0.01)
    return ResultLocks(tmp_path)


FORKS_AND_DIES = """
import os, signal, sys, time
from pathlib import Path
from pipeline.workflow.result_locks import ResultLocks
with ResultLocks(Path(sys.argv[1])).making("refine", "x", "theirs"):
    child = os.fork()
    if child == 0:
        time.sleep(60)
    print(child, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_child_that_outlives_its_parent_holds_no_lock(locks, tmp_path):
    command = [sys.executable, "-c", FORKS_AND_DIES, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        child = int(process.stdout.readline())
        try:
            assert process.wait() == -signal.SIGKILL
            assert lives(child)
            # The child closes the lock when it first runs: on a busy machine its parent may have died before.
            with locks.making_when_free("refine", "x", "refine", "mine", lambda _: None):
                assert lives(child)
                assert locks.holder("refine", "x").experiment == "mine"
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_childs_end_does_not_free_its_parents_lock(locks, tmp_path):
    with locks.making("refine", "x", "mine"):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        assert locks.holder("refine", "x").pid == os.getpid()
        assert is_locked(tmp_path / ".locks/refine-x")


def held_by(tmp_path: Path, holder: Holder):
    """A lock of a result, kept open by this process as if it were another's, with a holder written into it."""
    path = tmp_path / ".locks/refine-x"
    path.parent.mkdir(exist_ok=True)
    file = path.open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    file.write(json.dumps(asdict(holder)))
    file.flush()
    return file


def said_while_waiting(locks: ResultLocks, file) -> list[str]:
    said: list[str] = []

    def say(message: str) -> None:
        said.append(message)
        file.close()

    with locks.making_when_free("refine", "x", "refine", "mine", say):
        pass
    return said


def ended_process() -> int:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child


def test_waiting_names_the_holder_that_lives(locks, tmp_path):
    holder = Holder("theirs", "ada", socket.gethostname(), os.getpid(), "2026-01-01T00:00:00Z")
    (message,) = said_while_waiting(locks, held_by(tmp_path, holder))
    assert message == f"refine: waiting for {holder}, which makes it"


def test_waiting_names_the_process_that_keeps_the_lock_of_one_that_has_ended(locks, tmp_path, monkeypatch):
    holder = Holder("theirs", "ada", socket.gethostname(), ended_process(), "2026-01-01T00:00:00Z")
    file = held_by(tmp_path, holder)
    assert processes_with(tmp_path / ".locks/refine-x") == (os.getpid(),)
    monkeypatch.setattr(result_locks, "processes_with", lambda _: (4321,))
    (message,) = said_while_waiting(locks, file)
    assert message == (
        f"refine: waiting for {holder}, which has ended; its lock is still kept by process 4321: "
        "end it with `kill 4321`"
    )


def test_waiting_for_another_machine_says_what_cannot_be_seen(locks, tmp_path):
    holder = Holder("theirs", "ada", "elsewhere", 1, "2026-01-01T00:00:00Z")
    (message,) = said_while_waiting(locks, held_by(tmp_path, holder))
    assert message.endswith(
        "on elsewhere) since 2026-01-01T00:00:00Z, which makes it; whether it still runs can be "
        "seen on that machine only"
    )


def test_a_zombie_has_ended():
    child = os.fork()
    if child == 0:
        os._exit(0)
    deadline = time.monotonic() + 10
    while lives(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not lives(child)
    os.waitpid(child, 0)
    assert lives(os.getpid())


def test_many_may_read_and_then_nobody_may_remove(locks):
    with locks.reading("refine", "x"), locks.reading("refine", "x"):
        assert locks.is_used("refine", "x")
        with pytest.raises(BlockingIOError), locks.removing("refine", "x"):
            pass
    assert not locks.is_used("refine", "x")
    with locks.removing("refine", "x"):
        assert locks.is_used("refine", "x")


def test_reading_waits_for_a_removal_and_tells_one_that_lasts(locks, monkeypatch):
    monkeypatch.setattr(result_locks, "_REMOVAL_SECONDS", 0.1)
    with (
        locks.removing("refine", "x"),
        pytest.raises(StoreError, match="refine x: `s4m stores prune` is removing it"),
        locks.reading("refine", "x"),
    ):
        pass


def test_shared_and_exclusive_locks_tell_each_other(tmp_path):
    path = tmp_path / "lock"
    assert not is_locked(path)
    assert not is_shared(path)
    with shared_lock(path):
        assert (is_locked(path), is_shared(path)) == (False, True)
    with exclusive_lock(path):
        assert (is_locked(path), is_shared(path)) == (True, True)


def test_a_file_system_without_locks_is_told(s4m, tmp_path, monkeypatch):
    def flock(_file, _kind):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    path = make_experiment_files(tmp_path)
    monkeypatch.setattr(fcntl, "flock", flock)
    told = s4m("split", "--exp", path)
    assert told.status == 1
    assert f"{tmp_path / 'stores/.locks'}/split-" in told.err
    assert "No locks available: this file system has no locks between processes, see docs/scaling.md" in told.err
