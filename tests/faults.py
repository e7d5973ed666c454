"""A process that is killed, or whose calls of the system fail, at a chosen point: see `faults.c`."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntFlag
from functools import cache
from multiprocessing import forkserver, get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Final

from pipeline.files.identity import hash_file
from tests.processes import IMPORTED, begin_apart, wait_for_session


class Call(IntFlag):
    """Calls of the system, by what they do."""

    SYNC = 1
    RENAME = 2
    UNLINK = 4
    WRITE = 8
    READ = 16


BEFORE: Final = -1
AFTER: Final = -2
"""The process dies before the call, or after it; in the middle of a writing."""
NEVER: Final = 1 << 60
_SPARED: Final = b"/.identity.sqlite"
"""What SQLite writes has tests of its own: faults there say nothing about results."""


@dataclass(frozen=True)
class Fault:
    """What happens at the n-th call of a kind on a path below a folder.

    action: BEFORE or AFTER, or the errno that the call fails with; then also all that follow, if `for_ever`.
    """

    calls: Call
    nth: int = NEVER
    action: int = BEFORE
    for_ever: bool = False


def build_library() -> Path:
    """Compile the library that faults come from, once."""
    source = Path(__file__).with_name("faults.c")
    library = source.parent.parent / ".pytest_cache" / f"faults-{hash_file(source)}.so"
    library.parent.mkdir(exist_ok=True)
    if not library.exists():
        aside = library.with_suffix(f".{os.getpid()}")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", aside, source, "-ldl"], check=True)
        aside.replace(library)
    return library


def start_with_fault(
    words: Sequence[object],
    environment: dict[str, str],
    fault: Fault,
    folder: Path,
    output: Path,
    counted: Path | None = None,
) -> ForkServerProcess:
    """Start a command line in a session of its own, with a fault below a folder.

    counted: where the number of calls is written at the end, outside of the folder.
    """
    with _faulty_processes():
        arguments = (str(output), _armed, ([*map(str, words)], environment, fault, str(folder), counted))
        process = get_context("forkserver").Process(target=begin_apart, args=arguments)
        process.start()
    wait_for_session(process)
    return process


@contextmanager
def _faulty_processes() -> Iterator[None]:
    usual = forkserver.connect_to_new_process
    forkserver.connect_to_new_process = _server().connect_to_new_process
    try:
        yield
    finally:
        forkserver.connect_to_new_process = usual


@cache
def _server() -> forkserver.ForkServer:
    """Start the server of processes with the library."""
    library = build_library()
    server = forkserver.ForkServer()
    server.set_forkserver_preload([*IMPORTED, "stages.cli", "pipeline.detection.registered"])
    os.environ["LD_PRELOAD"] = str(library)
    try:
        server.ensure_running()
    finally:
        del os.environ["LD_PRELOAD"]
    return server


def _armed(words: list[str], environment: dict[str, str], fault: Fault, folder: str, counted: Path | None) -> None:
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["s4m", *words]
    from stages.cli import main

    library = ctypes.CDLL(None)
    library.faults_arm.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_long, *[ctypes.c_int] * 2)
    library.faults_count.restype = ctypes.c_long
    library.faults_arm(folder.encode(), _SPARED, int(fault.calls), fault.nth, fault.action, int(fault.for_ever))
    try:
        main()
    finally:
        if counted is not None:
            counted.write_text(str(library.faults_count()))
