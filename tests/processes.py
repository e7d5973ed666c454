"""Processes for tests, forked from a server that has imported once what takes every new interpreter seconds.

A test process has one such server, started when it is first asked for. Its children have the environment that
the server started with, unless they are given another.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing import current_process, forkserver, get_context
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Final

from pipeline.files.locks import lives

IMPORTED: Final = ("distributed", "mmdet.datasets", "mmdet.models", "mmengine.runner", "segment_anything", "zarr")


@cache
def forked() -> ForkServerContext:
    """Return the context of the server's processes; start the server."""
    context = get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    forkserver.ensure_running()
    return context


@contextmanager
def forked_lightly() -> Iterator[ForkServerContext]:
    """Give the context of processes that need no torch: of another server, which is forked ten times as fast."""
    usual = forkserver.connect_to_new_process
    forkserver.connect_to_new_process = _light_server().connect_to_new_process
    try:
        yield get_context("forkserver")
    finally:
        forkserver.connect_to_new_process = usual


@cache
def _light_server() -> forkserver.ForkServer:
    server = forkserver.ForkServer()
    server.set_forkserver_preload(["zarr", "pipeline.labels.label_store", "pipeline.labels.sealing"])
    return server


def start(target: Callable[..., object], *arguments: object, output: Path | str = os.devnull) -> ForkServerProcess:
    """Start a function in a session of its own, so that all of its processes can be killed at once.

    What it says goes to the file `output`.
    """
    process = forked().Process(target=begin_apart, args=(str(output), target, arguments))
    process.start()
    wait_for_session(process)
    return process


def wait_for_session(process: ForkServerProcess) -> None:
    """Wait until a process that begins with `begin_apart` has its own session, or is over."""
    with suppress(ProcessLookupError):
        while os.getsid(process.pid) != process.pid:
            time.sleep(0.001)


def kill(process: ForkServerProcess) -> bool:
    """Kill a process that was started here, with all of its own; return whether it was still at work."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.join()
    return process.exitcode == -signal.SIGKILL


def start_s4m(
    words: Sequence[object], environment: Mapping[str, str], output: Path | str = os.devnull
) -> ForkServerProcess:
    """Start a command line, as `start` does."""
    return start(_s4m, [*map(str, words)], dict(environment), output=output)


def begin_apart(output: str, target: Callable[..., object], arguments: tuple[object, ...]) -> None:
    """Run a function in a session of its own; what it says goes to a file."""
    os.setsid()
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)
    target(*arguments)


def _s4m(words: list[str], environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["s4m", *words]
    from stages.cli import main

    main()


def session_of(process: int) -> set[int]:
    """Return the processes of a session that have not ended."""
    found: set[int] = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(ProcessLookupError):
            if os.getsid(int(entry.name)) == process and lives(int(entry.name)):
                found.add(int(entry.name))
    return found


NOT_OURS = ("dask-scratch-space", "pymp-", "pytorch-errorfile-", ".org.chromium.")
"""What Dask, Python, torch and browsers leave: locks, and what belonged to processes that were killed or failed."""


def swept(folder: Path) -> list[str]:
    """Remove from a folder what killed processes left there; gives the names of all else in it."""
    own = current_process()._config.get("tempdir")  # multiprocessing removes it when this process ends
    found = [path for path in folder.iterdir() if str(path) != own]
    for path in found:
        if path.name.startswith(NOT_OURS):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return sorted(path.name for path in found if path.exists())
