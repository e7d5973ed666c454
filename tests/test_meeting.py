"""Machines that train together meet at one address, refuse what does not belong there, and notice who is gone."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from torch import distributed

from pipeline.detection import launching, meeting
from pipeline.detection.launching import Group, run_together
from pipeline.detection.meeting import Machines, Meeting, meet
from pipeline.errors import DatasetError, Problem, StageError
from tests.processes import forked, kill, start

ALONE = Machines(2, 0, "127.0.0.1", 0, "result a, program b")


@pytest.fixture
def first() -> Machines:
    """The first of two machines, at a port that is free."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return replace(ALONE, port=free.getsockname()[1])


def never() -> bool:
    return False


class Coming:
    """A machine that meets the others, in a thread; `said` is what it said meanwhile."""

    def __init__(self, machines: Machines, store_port: int = 0, is_over: Callable[[], bool] = never) -> None:
        self.said: list[str] = []
        self.met: Meeting | None = None
        self.error: StageError | None = None
        self._arguments = (machines, store_port, self.said.append, is_over)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.met = meet(*self._arguments)
        except StageError as error:
            self.error = error

    def done(self) -> Coming:
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self


def close(*coming: Coming) -> None:
    for each in coming:
        if each.met is not None:
            each.met.ends("")
            each.met.__exit__()


def test_all_learn_the_port_of_the_store_whoever_comes_first(first):
    three = [replace(first, count=3, rank=rank) for rank in range(3)]
    coming = [Coming(three[2])]
    time.sleep(0.3)
    coming += [Coming(three[0], 1234), Coming(three[1])]
    assert [each.done().met.store_port for each in coming] == [1234] * 3
    assert not any(each.met.problem() for each in coming)
    close(*coming)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"agreement": "result c, program b"}, "machine 2 does not train the same as the first, or runs another ver"),
        ({"count": 3}, "compute.nodes is 3 on machine 2, and 2 on the first"),
    ],
)
def test_a_machine_that_does_something_else_ends_both(first, second, message):
    both = [Coming(first), Coming(replace(first, rank=1, **second))]
    for each in both:
        assert str(each.done().error).startswith(message)


def test_what_does_not_belong_there_is_sent_away(first):
    coming = Coming(replace(first, count=3))
    second = Coming(replace(first, count=3, rank=1))
    time.sleep(0.5)
    for text in (b"GET / HTTP/1.1\r\n\r\n", b"[" * 70_000, b"{}\n", b""):
        with socket.create_connection((first.host, first.port)) as stranger:
            stranger.sendall(text)
    again = Coming(replace(first, count=3, rank=1))
    assert str(again.done().error) == "another process has come as compute.node_rank = 1"
    third = Coming(replace(first, count=3, rank=2))
    assert all(each.done().met for each in (coming, second, third))
    close(coming, second, third)


def test_a_machine_that_was_ended_while_it_waited_may_come_again(first):
    coming = Coming(replace(first, count=3))
    time.sleep(0.3)
    gone = socket.create_connection((first.host, first.port))
    meeting._send(gone, meeting._Hello(1, 3, first.agreement))
    time.sleep(0.3)
    gone.close()
    last = Coming(replace(first, count=3, rank=2))
    time.sleep(0.3)  # the one that is gone does not count
    again = Coming(replace(first, count=3, rank=1))
    assert all(each.done().met for each in (coming, last, again))
    close(coming, last, again)


def test_who_does_not_come_is_named(first, monkeypatch):
    monkeypatch.setattr(meeting, "MEET_SECONDS", 0.5)
    monkeypatch.setattr(meeting, "_SAY_AFTER_SECONDS", 0.1)
    coming = Coming(first).done()
    assert coming.said == ["waiting for machine 2 of the 2 that train"]
    assert str(coming.error) == (
        "machine 2 of the 2 that train did not come within 0 s: give the same command there, with its own NODE_RANK "
        f"and with MASTER=127.0.0.1:{first.port}"
    )
    alone = Coming(replace(first, rank=1)).done()
    assert alone.said == [f"waiting for the first of the 2 machines, at 127.0.0.1:{first.port}"]
    assert "the first machine was not to be met" in str(alone.error)
    assert "(Connection refused): give the same command there, with NODE_RANK=0" in str(alone.error)


def test_a_port_in_use_is_told(first):
    with socket.create_server(("", first.port), family=socket.AF_INET, reuse_port=False):
        assert f"cannot listen at port {first.port} (Address already in use)" in str(Coming(first).done().error)


def test_a_training_that_is_over_is_not_waited_for(first):
    coming = Coming(replace(first, rank=1), is_over=lambda: True).done()
    assert (coming.met, coming.error) == (None, None)


@pytest.fixture
def two(first):
    """Two machines that have met."""
    coming = [Coming(first), Coming(replace(first, rank=1))]
    yield [each.done().met for each in coming]
    close(*coming)


def test_a_machine_that_ends_in_order_is_no_problem(two):
    one, other = two
    assert (one.problem(), other.problem()) == ("", "")
    other.ends("")
    other.__exit__()
    one.wait_for_others(10)
    assert one.problem() == ""
    assert one.connections == []


@pytest.mark.parametrize(
    ("reason", "problem"),
    [
        ("no image", "machine 2 of the 2 that train failed: no image"),
        ("machine 3 of the 3 that train is gone", "machine 3 of the 3 that train is gone"),
    ],
)
def test_the_failure_of_a_machine_is_told_to_the_others(two, reason, problem):
    one, other = two
    other.ends(reason)
    other.__exit__()
    time.sleep(0.1)
    assert one.problem() == problem


def test_a_machine_that_says_nothing_at_its_end_is_gone(two):
    one, other = two
    for connection in other.connections:
        connection.shutdown(socket.SHUT_RDWR)
    time.sleep(0.1)
    assert one.problem() == "machine 2 of the 2 that train is gone"


# ---- processes of two machines ----------------------------------------------------------------------


def launch(machines: Machines, function: Callable[..., None], folder: Path) -> None:
    """Be the launcher of a machine: note how it ended."""
    launching.START_METHOD = "forkserver"
    get_context("forkserver").set_forkserver_preload(["torch.distributed"])
    outcome = folder / f"machine{machines.rank}"
    try:
        run_together(function, (folder,), Group(2, False, machines, is_over=never))
        outcome.write_text("done")
    except (Exception, KeyboardInterrupt) as error:
        outcome.write_text(f"{type(error).__name__}: {error}")


@pytest.fixture
def launchers(first, tmp_path):
    """Start a function on two machines; their launchers are killed in the end."""
    started: list = []

    def begin(function: Callable[..., None]) -> list:
        forked()
        started.extend(start(launch, replace(first, rank=rank), function, tmp_path) for rank in (0, 1))
        return started

    yield begin
    for process in started:
        kill(process)


def outcomes(folder: Path, started: list) -> list[str]:
    for process in started:
        process.join(60)
        kill(process)
    return [path.read_text() for path in sorted(folder.glob("machine*"))]


def count_ranks(folder: Path) -> None:
    ranks = [None] * distributed.get_world_size()
    distributed.all_gather_object(ranks, (os.environ["RANK"], os.environ["LOCAL_RANK"]))
    (folder / f"rank{distributed.get_rank()}").write_text(str(ranks))


@pytest.mark.slow
def test_the_processes_of_two_machines_are_one_group(tmp_path, launchers):
    assert outcomes(tmp_path, launchers(count_ranks)) == ["done", "done"]
    (ranks,) = {path.read_text() for path in tmp_path.glob("rank*")}
    assert ranks == str([("0", "0"), ("1", "1"), ("2", "0"), ("3", "1")])


def reduce_for_ever(folder: Path) -> None:
    (folder / f"pid{distributed.get_rank()}").write_text(str(os.getpid()))
    while True:
        distributed.all_reduce(torch.ones(1))


def wait_for(folder: Path, pattern: str, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(folder.glob(pattern))) < count and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_the_loss_of_a_machine_ends_the_others_and_says_which(tmp_path, launchers, lost):
    started = launchers(reduce_for_ever)
    wait_for(tmp_path, "pid*", 4)
    begun = time.monotonic()
    os.killpg(started[lost].pid, signal.SIGKILL)
    (told,) = outcomes(tmp_path, started)
    assert time.monotonic() - begun < 20
    assert told == (
        f"StageError: machine {lost + 1} of the 2 that train is gone\nThe processes of this machine were ended too. "
        "Give the same command on every machine to continue from the last checkpoint."
    )
    for path in tmp_path.glob("pid*"):
        assert (
            not Path(f"/proc/{path.read_text()}/cmdline").exists()
            or not Path(f"/proc/{path.read_text()}/cmdline").read_bytes()
        )


def one_fails(folder: Path) -> None:
    if distributed.get_rank() == 3:
        raise DatasetError("set.json", [Problem("images", "are odd")])
    reduce_for_ever(folder)


@pytest.mark.slow
def test_an_error_is_told_on_all_machines(tmp_path, launchers):
    told = outcomes(tmp_path, launchers(one_fails))
    assert told[0].startswith("StageError: machine 2 of the 2 that train failed: set.json: ")
    assert told[1].startswith("DatasetError: set.json: ")
    assert all("are odd" in each for each in told)


def does_not_stop(folder: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / f"pid{distributed.get_rank()}").write_text(str(os.getpid()))
    time.sleep(600)


@pytest.mark.slow
def test_a_machine_that_is_stopped_at_once_ends_the_others(tmp_path, launchers):
    started = launchers(does_not_stop)
    wait_for(tmp_path, "pid*", 4)
    for _ in range(2):
        os.kill(started[1].pid, signal.SIGINT)
        time.sleep(0.3)
    told = outcomes(tmp_path, started)
    assert told[1] == "KeyboardInterrupt: "
    assert told[0].startswith("StageError: machine 2 of the 2 that train failed: it was stopped at once")
