"""Locks of the results in a store: one process makes a result, any number read it, and nobody removes it meanwhile.

<root>/.locks/<stage>-<id>        exclusive, of the process that makes or removes the result; its content names it
<root>/.locks/<stage>-<id>.read   shared by the processes that read the result; exclusive while it is removed
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from getpass import getuser
from pathlib import Path
from typing import Final

from pipeline.errors import StoreError
from pipeline.files.disk import is_read_only
from pipeline.files.locks import exclusive_lock, is_locked, is_shared, lives, processes_with, shared_lock

WAIT_SECONDS = 2.0
_REMOVAL_SECONDS: Final = 10.0
"""Time to wait for the removal of a result, which renames it first, so that it is over soon."""


@dataclass(frozen=True)
class Holder:
    """The process that is making a result."""

    experiment: str
    user: str
    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        return f"{self.experiment} (process {self.pid} of {self.user} on {self.host}) since {self.since}"


def now() -> str:
    """Return the time, to the second, in UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def user_name() -> str:
    """Return the name of the user, or its number if it has none, as in some containers."""
    try:
        return getuser()
    except (OSError, KeyError):
        return str(os.getuid())


class ResultLocks:
    """The locks of a store. The operating system releases them with their process, however that ends."""

    def __init__(self, root: Path) -> None:
        self._folder = root / ".locks"

    @contextmanager
    def making(self, stage: str, result_id: str, experiment: str) -> Iterator[None]:
        """Hold the lock of a result that is made or removed; BlockingIOError if another process holds it."""
        with ExitStack() as lock:
            try:
                file = lock.enter_context(exclusive_lock(self._path(stage, result_id)))
            except OSError as error:
                if not is_read_only(error):
                    raise
                raise StoreError(
                    f"{self._folder.parent}: this store may only be read, and {stage} is not in it as it is needed: "
                    "set S4M_STORE, or `store` in the experiment, to a folder of your own"
                ) from error
            holder = Holder(experiment, user_name(), socket.gethostname(), os.getpid(), now())
            file.truncate(0)
            file.write(json.dumps(asdict(holder)))
            file.flush()
            yield

    @contextmanager
    def making_when_free(
        self, stage: str, result_id: str, what: str, experiment: str, say: Callable[[str], None]
    ) -> Iterator[None]:
        """Hold the lock of a result that is made, after waiting for another holder.

        say: called with a message that names that holder, and again when it has ended or is another one.
        """
        said = ""
        with ExitStack() as lock:
            while True:
                try:
                    lock.enter_context(self.making(stage, result_id, experiment))
                    break
                except BlockingIOError:
                    message = f"{what}: waiting for {self._described_holder(stage, result_id)}"
                    if message != said:
                        say(message)
                        said = message
                    time.sleep(WAIT_SECONDS)
            yield

    @contextmanager
    def reading(self, stage: str, result_id: str) -> Iterator[None]:
        """Keep a result from being removed. Raise StoreError if it is being removed."""
        path, deadline = self._read_path(stage, result_id), time.monotonic() + _REMOVAL_SECONDS
        with ExitStack() as lock:
            while True:
                try:
                    lock.enter_context(shared_lock(path))
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        raise StoreError(f"{stage} {result_id}: `s4m stores prune` is removing it") from error
                    time.sleep(0.05)
            yield

    @contextmanager
    def removing(self, stage: str, result_id: str) -> Iterator[None]:
        """Hold both locks of a result; BlockingIOError if a process makes or reads it."""
        with self.making(stage, result_id, "s4m stores prune"), exclusive_lock(self._read_path(stage, result_id)):
            yield

    def is_used(self, stage: str, result_id: str) -> bool:
        """Return whether a process makes, reads or removes a result now."""
        return is_locked(self._path(stage, result_id)) or is_shared(self._read_path(stage, result_id))

    def is_any_made(self, stage: str) -> bool:
        """Return whether a process makes a result of a stage now."""
        return any(map(is_locked, self._folder.glob(f"{stage}-*")))

    def holder(self, stage: str, result_id: str) -> Holder | None:
        """Return the process that is making a result, or None."""
        path = self._path(stage, result_id)
        try:
            return Holder(**json.loads(path.read_text(encoding="utf-8"))) if is_locked(path) else None
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _described_holder(self, stage: str, result_id: str) -> str:
        """Return who holds the lock, whether it still runs, and what to do if it does not."""
        holder = self.holder(stage, result_id)
        if holder is None:
            return "another process, which makes it"
        if holder.host != socket.gethostname():
            return f"{holder}, which makes it; whether it still runs can be seen on that machine only"
        if lives(holder.pid):
            return f"{holder}, which makes it"
        keepers = [pid for pid in processes_with(self._path(stage, result_id)) if pid != os.getpid()]
        named = " ".join(map(str, keepers))
        keeps = (
            f"kept by process {named}: end it with `kill {named}`" if keepers else "kept by a process of another user"
        )
        return f"{holder}, which has ended; its lock is still {keeps}"

    def _path(self, stage: str, result_id: str) -> Path:
        return self._folder / f"{stage}-{result_id}"

    def _read_path(self, stage: str, result_id: str) -> Path:
        return self._folder / f"{stage}-{result_id}.read"
