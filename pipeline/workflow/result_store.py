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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.errors import StoreError
from pipeline.files.identity import hash_file, hash_text
from pipeline.files.leftovers import remove_leftovers
from pipeline.files.writing import sync_folder, sync_tree, write_atomically
from pipeline.workflow.fingerprint import Fingerprint
from pipeline.workflow.graph import STAGES
from pipeline.workflow.references import References
from pipeline.workflow.result_locks import ResultLocks, now, user_name

SEAL = "seal.json"
FILES = "files.json"
FORMAT = 1
EMBEDDINGS = "embeddings"
"""The folder of kept embeddings, beside those of the stages."""
_REMOVED = ".removed-"


@dataclass(frozen=True)
class Seal:
    """The completion record of a result.

    digest: of the names and contents of all files; the same wherever the result was made.
    made_by: experiment, user, host and versions of the libraries.
    summary: the stage's own figures, shown by `s4m status`.
    record_digest: of all other fields; empty in records of earlier versions.
    """

    stage: str
    id: str
    fingerprint: Mapping[str, Any]
    digest: str
    files: int
    size_bytes: int
    made_at: str
    seconds: float
    made_by: Mapping[str, str]
    summary: Mapping[str, Any]
    format: int = FORMAT
    record_digest: str = ""


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
    return Path(environment.get("S4M_STORE", "stores")).expanduser()


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
        path = self.path(stage, result_id) / SEAL
        try:
            return Seal(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise StoreError(
                f"{path}: not a completion record that can be read ({error}). "
                f"Remove the folder {path.parent} to make the result again."
            ) from error

    def is_sealed(self, stage: str, result_id: str) -> bool:
        """Return whether a result is sealed, without reading its record."""
        return (self.path(stage, result_id) / SEAL).is_file()

    def seal(
        self,
        fingerprint: Fingerprint,
        experiment: str,
        seconds: float,
        summary: Mapping[str, Any],
        versions: Mapping[str, str],
    ) -> Seal:
        """Turn an unfinished result into a sealed one, atomically, after its record is on disk."""
        stage, result_id = fingerprint.stage, fingerprint.id
        partial, final = self.partial(stage, result_id), self.path(stage, result_id)
        remove_leftovers(partial)
        sync_tree(partial)
        files = _hash_folder(partial)
        seal = Seal(
            stage=stage,
            id=result_id,
            fingerprint=fingerprint.to_dict(),
            digest=_digest(files),
            files=len(files),
            size_bytes=sum(size for size, _ in files.values()),
            made_at=now(),
            seconds=round(seconds, 3),
            made_by={"experiment": experiment, "user": user_name(), "host": socket.gethostname(), **versions},
            summary=summary,
        )
        seal = replace(seal, record_digest=_record_digest(seal))
        write_atomically(partial / FILES, json.dumps(files, indent=0))
        write_atomically(partial / SEAL, json.dumps(asdict(seal), indent=1) + "\n")
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
        try:
            expected = {name: tuple(value) for name, value in json.loads((folder / FILES).read_text()).items()}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            return [f"{folder / FILES}: cannot be read: {error}"]
        found = _hash_folder(folder)
        problems: list[str] = []
        if seal.record_digest and seal.record_digest != _record_digest(seal):
            problems.append(f"{folder / SEAL}: content changed")
        problems += [f"{folder / name}: missing" for name in expected if name not in found]
        problems += [f"{folder / name}: not part of the result" for name in found if name not in expected]
        problems += [
            f"{folder / name}: content changed" for name in found if name in expected and found[name] != expected[name]
        ]
        if not problems and _digest(found) != seal.digest:
            problems.append(f"{folder / SEAL}: its digest is not that of the files")
        return problems

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


def _hash_folder(folder: Path) -> dict[str, tuple[int, str]]:
    """Return size and digest of every file below a folder except the records themselves, by relative name."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_size, hash_file(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).as_posix() not in (SEAL, FILES)
    }


def _digest(files: Mapping[str, tuple[int, str]]) -> str:
    return hash_text("\n".join(f"{name}\t{size}\t{digest}" for name, (size, digest) in sorted(files.items())))


def _record_digest(seal: Seal) -> str:
    fields = asdict(seal)
    del fields["record_digest"]
    return hash_text(json.dumps(fields))


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
