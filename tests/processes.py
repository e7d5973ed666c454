"""Processes for tests, forked from a server that has imported once what takes every new interpreter seconds.

A test process has one such server, started when it is first asked for. Its children have the environment that
the server started with, unless they are given another.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from multiprocessing import forkserver, get_context
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Final

IMPORTED: Final = ("distributed", "mmdet.datasets", "mmdet.models", "mmengine.runner", "segment_anything", "zarr")


@cache
def forked() -> ForkServerContext:
    """Return the context of the server's processes; start the server."""
    context = get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    forkserver.ensure_running()
    return context


def start(target: Callable[..., object], *arguments: object, output: Path | str = os.devnull) -> ForkServerProcess:
    """Start a function in a session of its own, so that all of its processes can be killed at once.

    What it says goes to the file `output`.
    """
    process = forked().Process(target=_apart, args=(str(output), target, arguments))
    process.start()
    with suppress(ProcessLookupError):  # it may be over already
        while os.getsid(process.pid) != process.pid:
            time.sleep(0.001)
    return process


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


def _apart(output: str, target: Callable[..., object], arguments: tuple[object, ...]) -> None:
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
