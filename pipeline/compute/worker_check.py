"""Check that the workers of a cluster see the same files, and run the same program, before they are given work."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import xxhash

from pipeline.errors import OutageError


@dataclass(frozen=True)
class WorkPaths:
    """The paths of sharded work: the files and folders that it reads, and the folder that it writes into."""

    reads: tuple[Path, ...]
    writes: Path


@dataclass(frozen=True)
class WorkerCheck:
    """What a worker must find, as the process that gives the work found it.

    sizes: bytes of each file that is read, -1 for a folder. mark: a new file in the folder that is written into.
    program: digest of this program's code.
    """

    sizes: tuple[tuple[Path, int], ...]
    mark: Path
    program: str

    def problems(self) -> list[str]:
        """Return what is wrong in this process."""
        found = [] if program_digest() == self.program else ["another version of this program"]
        for path, size in self.sizes:
            if not path.exists():
                found.append(f"{path} is missing")
            elif size >= 0 and _size(path) != size:
                found.append(f"{path} is another file")
        if not self.mark.exists():
            found.append(f"{self.mark.parent} is not the same folder")
        return found


@contextmanager
def worker_check(paths: WorkPaths) -> Iterator[WorkerCheck]:
    """Yield the check of a work's paths. Its mark is removed at the end."""
    paths.writes.mkdir(parents=True, exist_ok=True)
    mark = paths.writes / f".worker-check-{secrets.token_hex(8)}"
    mark.touch()
    try:
        yield WorkerCheck(tuple((path, _size(path)) for path in paths.reads), mark, program_digest())
    finally:
        mark.unlink(missing_ok=True)


@lru_cache(maxsize=4)
def require_checked(check: WorkerCheck) -> None:
    """Raise OutageError if this process is not fit for the work; processes are checked once."""
    if problems := check.problems():
        raise OutageError(refusal([f"{os.uname().nodename} (process {os.getpid()}): {each}" for each in problems]))


def refusal(problems: list[str]) -> str:
    """Return the message for workers that cannot do the work."""
    lines = "\n".join(f"  {problem}" for problem in sorted(set(problems)))
    return (
        f"compute.scheduler: not every worker of the cluster can do this work:\n{lines}\nGive all workers the same "
        "files under the same paths, and the same version of this program; then give the same command"
    )


@lru_cache(maxsize=1)
def program_digest() -> str:
    """Return a digest of the code of this package."""
    root = Path(__file__).parent.parent
    digest = xxhash.xxh3_128()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
