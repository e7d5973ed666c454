"""Runs a function in several processes that train together; when one of them dies, all end soon."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Final

import torch
from torch import distributed

from pipeline.compute.children import end_with_starter
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
    """The place of a process among those that train together, and the port where they find each other."""

    rank: int
    processes: int
    port: int


@dataclass(frozen=True)
class MemberError:
    """The error of a process. at: time on the clock of this machine, to tell the first error from its consequences."""

    at: float
    error: BaseException
    details: str


def run_together(function: Callable[..., None], arguments: Sequence[Any], processes: int, *, on_gpus: bool) -> None:
    """Run a function in several processes, in one process group of torch; raise what the first failure raised.

    Raise KeyboardInterrupt if they were stopped, StageError if one was killed.
    """
    store = distributed.TCPStore(  # type: ignore[attr-defined]
        _LOOPBACK, 0, is_master=True, wait_for_workers=False
    )
    context: Any = get_context(START_METHOD)
    members: list[BaseProcess] = []
    pipes: list[Connection] = []
    try:
        for rank in range(processes):
            receiver, sender = context.Pipe(duplex=False)
            place = Place(rank, processes, store.port)
            process = context.Process(target=_member, args=(sender, place, on_gpus, function, tuple(arguments)))
            process.start()
            sender.close()
            members.append(process)
            pipes.append(receiver)
        stopped, failures, killed = _wait(members, pipes)
    finally:
        _end(members)
        for pipe in pipes:
            pipe.close()
    _raise_first(members, failures, killed)
    if stopped or any(process.exitcode == STOPPED for process in members):
        raise KeyboardInterrupt


def _wait(members: Sequence[BaseProcess], pipes: Sequence[Connection]) -> tuple[bool, list[MemberError], list[int]]:
    """Wait until all have ended; return whether a stop was asked for, the failures, and the ranks that were killed.

    A first stop is passed on: the processes end after their iteration. A second one, or a death, starts the grace.
    """
    stops, deadline = 0, float("inf")
    failures: list[MemberError] = []
    killed: list[int] = []
    left = dict(enumerate(members))
    while left:
        try:
            wait([process.sentinel for process in left.values()], min(max(deadline - time.monotonic(), 0.0), 1.0))
            for rank in [rank for rank, process in left.items() if not process.is_alive()]:
                status = left.pop(rank).exitcode
                failures += _received(pipes[rank])
                if status:
                    killed += [rank] if status not in (STOPPED, _FAILED) else []
                    deadline = min(deadline, time.monotonic() + (SAVE_SECONDS if status == STOPPED else GRACE_SECONDS))
            if time.monotonic() >= deadline:
                _end(list(left.values()))
                break
        except KeyboardInterrupt:
            stops += 1
            for process in left.values():
                if process.is_alive():
                    process.terminate()
            if stops > 1:
                deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
    return stops > 0, failures, killed


def _end(members: Sequence[BaseProcess]) -> None:
    for process in members:
        if process.is_alive():
            process.kill()
    for process in members:
        process.join()


def _raise_first(members: Sequence[BaseProcess], failures: Sequence[MemberError], killed: Sequence[int]) -> None:
    """Raise the failure that the others follow from: the loss of a process, else the first error."""
    if killed:
        status = members[killed[0]].exitcode or 0
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        raise StageError(
            f"process {killed[0] + 1} of the {len(members)} that train was ended ({how}), as when memory runs out; "
            "the others were ended too. Give the same command to continue from the last checkpoint."
        )
    told = [each for each in failures if isinstance(each.error, S4MError | OSError)] or list(failures)
    for failure in sorted(told, key=lambda each: each.at):
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
    os.environ |= {"RANK": str(place.rank), "LOCAL_RANK": str(place.rank), "WORLD_SIZE": str(place.processes)}
    if on_gpus:
        torch.cuda.set_device(place.rank)
    store = distributed.TCPStore(  # type: ignore[attr-defined]
        _LOOPBACK, place.port, is_master=False
    )
    backend = "nccl" if on_gpus else "gloo"
    distributed.init_process_group(backend, store=store, rank=place.rank, world_size=place.processes)


def _leave(status: int) -> None:
    """End at once: closing the process group would wait for processes that may be gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
