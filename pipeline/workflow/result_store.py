"""The store of results, named by their fingerprints, that experiments, users and machines share.

<root>/<stage>/<id>/            a sealed result: it never changes again
<root>/<stage>/<id>/seal.json   its completion record, written last
<root>/<stage>/<id>.partial/    an unfinished result: being made, or left by an interrupted run
<root>/.locks/                  locks of the results that are being made, read or removed (`ResultLocks`)
<root>/.references/             the experiments that use each result (`References`)
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from pipeline.errors import StoreError
from pipeline.files.leftovers import remove_leftovers
from pipeline.files.writing import sync_folder, sync_tree, write_atomically
from pipeline.workflow import result_locks
from pipeline.workflow.fingerprint import Fingerprint
from pipeline.workflow.graph import STAGES
from pipeline.workflow.references import References
from pipeline.workflow.result_locks import ResultLocks, now, user_name
from pipeline.workflow.seals import (
    FILES,
    FORMAT,
    SEAL,
    Seal,
    changes,
    digest_of,
    hash_folder,
    read_seal,
    record_digest,
    write_seal_text,
)

EMBEDDINGS = "embeddings"
"""The folder of kept embeddings, beside those of the stages."""
UNUSED_SECONDS = 600.0
"""Time after which it is said that a result that is waited for is not being made."""
_REMOVED = ".removed-"


@dataclass(frozen=True)
class StoredResult:
    """A result in the store, sealed or partial.

    references: experiments that use it.
    changed_at: time of the last change, in seconds since 1970.
    problem: why its completion record cannot be read; empty if it can.
    """

    stage: str
    id: str
    path: Path
    seal: Seal | None
    size_bytes: int
    references: tuple[str, ...]
    changed_at: float = 0.0
    problem: str = ""


def default_root(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the root of the store that is used without an experiment."""
    return Path(environment.get("S4M_STORE") or "stores").expanduser()


class StoreRoot:
    """A folder of shared results."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.locks = ResultLocks(root)
        self.references = References(root)

    def path(self, stage: str, result_id: str) -> Path:
        """Return the folder of a sealed result, whether it exists or not."""
        return self.root / stage / result_id

    def partial(self, stage: str, result_id: str) -> Path:
        """Return the folder of an unfinished result."""
        return self.root / stage / f"{result_id}.partial"

    def seal_of(self, stage: str, result_id: str) -> Seal | None:
        """Return the completion record of a result; None if it is not sealed."""
        return read_seal(self.path(stage, result_id))

    def is_sealed(self, stage: str, result_id: str) -> bool:
        """Return whether a result has a completion record that can be read."""
        try:
            return self.seal_of(stage, result_id) is not None
        except StoreError:
            return False

    def require_absent(self, stage: str, result_id: str) -> None:
        """Raise StoreError where a folder without a usable record has the place of a result that is to be made."""
        folder = self.path(stage, result_id)
        self.seal_of(stage, result_id)
        if folder.exists():
            raise StoreError(f"{folder}: it has no completion record. Remove this folder to make the result again")

    def require_unchanged(self, stage: str, result_id: str) -> Seal:
        """Return the record of a sealed result after reading all its files; StoreError where one has changed."""
        folder = self.path(stage, result_id)
        seal = self.seal_of(stage, result_id)
        if seal is None:
            raise StoreError(f"{folder}: not sealed")
        if problems := changes(folder, seal):
            lines = "\n".join(f"  {problem}" for problem in problems)
            raise StoreError(
                f"{folder}: the result is not what was sealed:\n{lines}\n"
                "Nothing was made from it. Remove this folder; make then makes it again"
            )
        return seal

    def made_from_others(self, seal: Seal) -> list[str]:
        """Return a line for each result that a result was made from and that has another content now."""
        lines = []
        for name, digest in seal.consumed.items():
            stage, _, result_id = name.partition("/")
            try:
                now_there = self.seal_of(stage, result_id)
            except StoreError:
                continue
            if now_there is not None and now_there.digest != digest:
                lines.append(
                    f"made from a {stage} of other content ({digest[:8]}) than is in {self.path(stage, result_id)} now "
                    f"({now_there.digest[:8]}): remove {self.path(seal.stage, seal.id)} to make it again"
                )
        return lines

    def seal(
        self,
        fingerprint: Fingerprint,
        experiment: str,
        seconds: float,
        summary: Mapping[str, Any],
        made_with: Mapping[str, str],
        consumed: Mapping[str, str] | None = None,
    ) -> Seal:
        """Turn an unfinished result into a sealed one, atomically, after its record is on disk.

        made_with: versions of the libraries, and what else a person may want to know of how it was made.
        consumed: digests of the results that it was made from, by `stage/id`.
        """
        stage, result_id = fingerprint.stage, fingerprint.id
        partial, final = self.partial(stage, result_id), self.path(stage, result_id)
        remove_leftovers(partial)
        sync_tree(partial)
        files = hash_folder(partial)
        seal = Seal(
            stage=stage,
            id=result_id,
            fingerprint=fingerprint.to_dict(),
            digest=digest_of(files),
            files=len(files),
            size_bytes=sum(size for size, _ in files.values()),
            made_at=now(),
            seconds=round(seconds, 3),
            made_by={"experiment": experiment, "user": user_name(), "host": socket.gethostname(), **made_with},
            summary=summary,
            format=FORMAT,
            consumed=consumed or {},
        )
        seal = msgspec.structs.replace(seal, record_digest=record_digest(seal))
        write_atomically(partial / FILES, json.dumps(files, indent=0))
        write_atomically(partial / SEAL, write_seal_text(seal))
        partial.rename(final)
        sync_folder(final.parent)
        return seal

    def verify(self, stage: str, result_id: str) -> list[str]:
        """Read a sealed result; return a line for every file that changed."""
        folder = self.path(stage, result_id)
        try:
            seal = self.seal_of(stage, result_id)
        except StoreError as error:
            return [str(error)]
        if seal is None:
            return [f"{folder}: not sealed"]
        return [*changes(folder, seal), *(f"{folder}: {line}" for line in self.made_from_others(seal))]

    def results(self) -> Iterator[StoredResult]:
        """Yield all results by stage and id."""
        for stage in (*STAGES, EMBEDDINGS):
            for folder in sorted((self.root / stage).glob("*")):
                if folder.is_dir():
                    yield self._result(stage, folder)

    def _result(self, stage: str, folder: Path) -> StoredResult:
        half_removed = folder.name.startswith(_REMOVED)
        result_id = folder.name.removeprefix(_REMOVED).removesuffix(".partial")
        seal, problem = None, ""
        if folder.suffix != ".partial" and not half_removed:
            try:
                seal = self.seal_of(stage, result_id)
            except StoreError as error:
                problem = str(error)
        references = () if half_removed else tuple(self.references.users(stage, result_id))
        size_bytes, changed_at = (seal.size_bytes, _time_of(folder / SEAL)) if seal else _size_and_time(folder)
        if half_removed:
            changed_at = 0.0
        return StoredResult(stage, result_id, folder, seal, size_bytes, references, changed_at, problem)

    def in_use(self, result: StoredResult) -> bool:
        """Return whether a process makes, reads or removes a result now, or may be reading embeddings."""
        return self.locks.is_used(result.stage, result.id) or self._may_be_read(result.stage)

    def _may_be_read(self, stage: str) -> bool:
        # No record points at embeddings: a process that reads them refines, and holds the lock of its refined labels.
        return stage == EMBEDDINGS and self.locks.is_any_made("refine")

    def remove(self, result: StoredResult) -> None:
        """Delete an unused result; rename it first, so that no process finds half of it.

        Raise StoreError if it came into use meanwhile, or is already removed.
        """
        now_in_use = StoreError(f"{result.path}: not removed: now in use")
        try:
            with self.locks.removing(result.stage, result.id):
                if self._may_be_read(result.stage) or self._result(result.stage, result.path).references:
                    raise now_in_use
                doomed = result.path.with_name(f"{_REMOVED}{result.path.name.removeprefix(_REMOVED)}")
                if doomed != result.path:
                    if doomed.exists():
                        shutil.rmtree(doomed)
                    result.path.rename(doomed)
                    sync_folder(doomed.parent)
                shutil.rmtree(doomed)
        except BlockingIOError as error:
            raise now_in_use from error
        except FileNotFoundError as error:
            raise StoreError(f"{result.path}: already removed") from error

    @contextmanager
    def lock_when_free(
        self, fingerprint: Fingerprint, what: str, experiment: str, say: Callable[[str], None]
    ) -> Iterator[bool]:
        """Hold a result's lock, after waiting for another holder; yield False if that holder made the result."""
        stage, result_id = fingerprint.stage, fingerprint.id
        with self.locks.making_when_free(stage, result_id, what, experiment, say):
            yield not self.is_sealed(stage, result_id)

    def wait_until_sealed(self, fingerprint: Fingerprint, what: str, say: Callable[[str], None]) -> None:
        """Wait for a result that another machine makes; say so, and also if no process seems to make it."""
        stage, result_id = fingerprint.stage, fingerprint.id
        waits_for, alone_since = f"{what}: waiting for the first machine, which makes it", None
        while not self.is_sealed(stage, result_id):
            if waits_for:
                say(waits_for)
                waits_for = ""
            if self.locks.is_used(stage, result_id):
                alone_since = None
            elif alone_since is None:
                alone_since = time.monotonic()
            elif time.monotonic() - alone_since > UNUSED_SECONDS:
                say(f"{what}: no process has made it for {UNUSED_SECONDS:.0f} s: does the first machine's command run?")
                alone_since = float("inf")
            time.sleep(result_locks.WAIT_SECONDS)


def _size_and_time(folder: Path) -> tuple[int, float]:
    """Return the bytes of all files below a folder, and when one last changed; others may write and remove files."""
    size_bytes, changed_at = 0, _time_of(folder)
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                state = (Path(parent) / name).stat()
                size_bytes += state.st_size
                changed_at = max(changed_at, state.st_mtime)
    return size_bytes, changed_at


def _time_of(path: Path) -> float:
    """Return when a file last changed; now, if that cannot be seen."""
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()
