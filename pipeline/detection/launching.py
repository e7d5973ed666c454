"""Runs a function in several processes that train together, of one or more machines; when one dies, all end soon."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Final

import torch
from torch import distributed

from pipeline.compute.children import end_with_starter
from pipeline.compute.execution import ignore
from pipeline.detection.meeting import Machines, Meeting, meet
from pipeline.errors import S4MError, StageError

START_METHOD = "spawn"
GRACE_SECONDS = 5.0
"""Time that the others have to end after one has died, or after a second stop: then they are killed."""
SAVE_SECONDS = 300.0
"""Time that the others have to end after one has stopped in order: the first one saves a checkpoint."""
STOPPED: Final = 130
_FAILED: Final = 1
_LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True)
class Place:
    """The place of a process among those that train together, and the address where they find each other.

    local_rank: its place among those of its machine.
    """

    rank: int
    local_rank: int
    processes: int
    host: str
    port: int


@dataclass(frozen=True)
class Group:
    """The processes of a training. processes: of each machine. machines: None for one alone.

    is_over: called while other machines are waited for; whether the training is over, without this one.
    """

    processes: int
    on_gpus: bool
    machines: Machines | None = None
    say: Callable[[str], None] = ignore
    is_over: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class MemberError:
    """The error of a process. at: time on the clock of this machine, to tell the first error from its consequences."""

    at: float
    error: BaseException
    details: str


def run_together(function: Callable[..., None], arguments: Sequence[Any], group: Group) -> None:
    """Run a function in several processes, in one process group of torch; raise what the first failure raised.

    Raise KeyboardInterrupt if they were stopped, StageError if one was killed or another machine failed.
    """
    machines = group.machines
    store = _store_here() if machines is None or machines.rank == 0 else None
    if machines is None:
        assert store is not None
        _run_here(function, arguments, group, Place(0, 0, group.processes, _LOOPBACK, store.port), None)
        return
    meeting = meet(machines, 0 if store is None else store.port, group.say, group.is_over)
    if meeting is None:
        return
    host = _LOOPBACK if store is not None else machines.host
    first = Place(machines.rank * group.processes, 0, machines.count * group.processes, host, meeting.store_port)
    with meeting:
        try:
            _run_here(function, arguments, group, first, meeting)
        except (S4MError, OSError) as error:
            meeting.ends(str(error))
            raise
        meeting.ends("")
        if store is not None:  # the processes of other machines may still need it
            meeting.wait_for_others(GRACE_SECONDS)


def _store_here() -> Any:
    """Return a store of torch on this machine, at a port that is free."""
    return distributed.TCPStore(_LOOPBACK, 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]


def _run_here(
    function: Callable[..., None], arguments: Sequence[Any], group: Group, first: Place, meeting: Meeting | None
) -> None:
    """Run the function in the processes of this machine. first: the place of the first of them."""
    context: Any = get_context(START_METHOD)
    members: list[BaseProcess] = []
    pipes: list[Connection] = []
    try:
        for number in range(group.processes):
            receiver, sender = context.Pipe(duplex=False)
            place = replace(first, rank=first.rank + number, local_rank=number)
            process = context.Process(target=_member, args=(sender, place, group.on_gpus, function, tuple(arguments)))
            process.start()
            sender.close()
            members.append(process)
            pipes.append(receiver)
        ended = _wait(members, pipes, meeting)
    finally:
        _end(members)
        for pipe in pipes:
            pipe.close()
    _raise_first(members, ended, meeting)
    if ended.is_stopped or any(process.exitcode == STOPPED for process in members):
        if meeting is not None:
            in_order = all(process.exitcode in (0, STOPPED) for process in members)
            meeting.ends("" if in_order else "it was stopped at once")
        raise KeyboardInterrupt


@dataclass
class _Ended:
    """How the processes of this machine ended. killed: by their places here. elsewhere: what failed on another machine.

    is_stopped: whether a stop was asked for here.
    """

    is_stopped: bool = False
    failures: list[MemberError] = field(default_factory=list)
    killed: list[int] = field(default_factory=list)
    elsewhere: str = ""


def _wait(members: Sequence[BaseProcess], pipes: Sequence[Connection], meeting: Meeting | None = None) -> _Ended:
    """Wait until all have ended; return how.

    A first stop is passed on: the processes end after their iteration. A second one, or a death, starts the grace.
    """
    stops, deadline = 0, float("inf")
    ended = _Ended()
    left = dict(enumerate(members))
    while left:
        try:
            others = [] if meeting is None else meeting.connections
            sentinels = [process.sentinel for process in left.values()]
            wait([*sentinels, *others], min(max(deadline - time.monotonic(), 0.0), 1.0))
            for number in [number for number, process in left.items() if not process.is_alive()]:
                status = left.pop(number).exitcode
                ended.failures += _received(pipes[number])
                if status:
                    ended.killed += [number] if status not in (STOPPED, _FAILED) else []
                    deadline = min(deadline, time.monotonic() + (SAVE_SECONDS if status == STOPPED else GRACE_SECONDS))
            if meeting is not None and (problem := meeting.problem()):
                ended.elsewhere = ended.elsewhere or problem
                deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
            if time.monotonic() >= deadline:
                _end(list(left.values()))
                break
        except KeyboardInterrupt:
            stops += 1
            ended.is_stopped = True
            for process in left.values():
                if process.is_alive():
                    process.terminate()
            if stops > 1:
                deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
    return ended


def _end(members: Sequence[BaseProcess]) -> None:
    for process in members:
        if process.is_alive():
            process.kill()
    for process in members:
        process.join()


def _raise_first(members: Sequence[BaseProcess], ended: _Ended, meeting: Meeting | None) -> None:
    """Raise the failure that the others follow from: the loss of a process, an error of this program, another machine.

    The loss of a machine may show in the processes here before it is known: then it is waited for.
    """
    if ended.killed:
        status = members[ended.killed[0]].exitcode or 0
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        raise StageError(
            f"process {ended.killed[0] + 1} of the {len(members)} that train was ended ({how}), as when memory runs "
            "out; the others were ended too. Give the same command to continue from the last checkpoint."
        )
    told = [each for each in ended.failures if isinstance(each.error, S4MError | OSError)]
    if not told and ended.failures and meeting is not None:
        deadline = time.monotonic() + GRACE_SECONDS
        while not ended.elsewhere and meeting.connections and time.monotonic() < deadline:
            wait(meeting.connections, 0.1)
            ended.elsewhere = meeting.problem()
    if not told and ended.elsewhere:
        raise StageError(
            f"{ended.elsewhere}\nThe processes of this machine were ended too. Give the same command on every machine "
            "to continue from the last checkpoint."
        )
    for failure in sorted(told or ended.failures, key=lambda each: each.at):
        if not isinstance(failure.error, S4MError):
            failure.error.add_note(failure.details)
        raise failure.error


def _received(pipe: Connection) -> list[MemberError]:
    try:
        return [pipe.recv()] if pipe.poll() else []
    except EOFError:
        return []


def _member(
    sender: Connection, place: Place, on_gpus: bool, function: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    """Run the function as one of several processes; send an error to the process that started this one."""
    end_with_starter()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _join(place, on_gpus)
        function(*arguments)
        distributed.destroy_process_group()
    except KeyboardInterrupt:
        _leave(STOPPED)
    except BaseException as error:  # noqa: BLE001  the starter raises it
        # A pipe takes 64 KiB without a reader.
        sender.send(MemberError(time.monotonic(), _portable(error), traceback.format_exc()[-20_000:]))
        _leave(_FAILED)


def _portable(error: BaseException) -> BaseException:
    """Return an error that another process can read."""
    try:
        copy: BaseException = pickle.loads(pickle.dumps(error))  # noqa: S301  made here
    except (pickle.PickleError, TypeError, AttributeError, ValueError, RecursionError):
        return RuntimeError(f"{type(error).__name__}: {error}"[:2000])
    return copy


def _join(place: Place, on_gpus: bool) -> None:
    # As torchrun does: libraries look here.
    ranks = {"RANK": place.rank, "LOCAL_RANK": place.local_rank, "WORLD_SIZE": place.processes}
    os.environ |= {name: str(value) for name, value in ranks.items()}
    if on_gpus:
        torch.cuda.set_device(place.local_rank)
    store = distributed.TCPStore(  # type: ignore[attr-defined]
        place.host, place.port, is_master=False
    )
    backend = "nccl" if on_gpus else "gloo"
    distributed.init_process_group(backend, store=store, rank=place.rank, world_size=place.processes)


def _leave(status: int) -> None:
    """End at once: closing the process group would wait for processes that may be gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
