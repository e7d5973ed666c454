"""The store: results of stages, named by their fingerprints, that experiments, users and machines share.

<root>/<stage>/<id>/            a sealed result: it never changes again
<root>/<stage>/<id>/seal.json   its completion record, written last
<root>/<stage>/<id>.partial/    a result being made, or left by an interrupted run
<root>/.locks/                  who is making what
<root>/.references/             which experiments point at which result
"""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.errors import StoreError
from pipeline.files.identity import hash_file, hash_text
from pipeline.files.locks import exclusive_lock, is_locked
from pipeline.files.writing import write_atomically
from pipeline.workflow.fingerprint import Fingerprint
from pipeline.workflow.graph import STAGES

SEAL = "seal.json"
FILES = "files.json"
FORMAT = 1
EMBEDDINGS = "embeddings"
"""The folder of what is kept beside the results of stages."""
_LOCKS = ".locks"
_REMOVED = ".removed-"


@dataclass(frozen=True)
class Seal:
    """The completion record of a result.

    digest: of all files, names and contents; the same wherever and however often the result was made.
    made_by: experiment, user and host, and versions of the libraries.
    summary: the stage's own figures, shown by `s4m status`.
    record_digest: of all other fields; empty in records that were made before there was one.
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
class Holder:
    """Who is making a result right now."""

    experiment: str
    user: str
    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        return f"{self.experiment} (process {self.pid} of {self.user} on {self.host}) since {self.since}"


@dataclass(frozen=True)
class StoredResult:
    """A result in the store, sealed or partial.

    references: experiments that point at it.
    problem: why its completion record cannot be read, if that is so.
    """

    stage: str
    id: str
    path: Path
    seal: Seal | None
    size_bytes: int
    references: tuple[str, ...]
    problem: str = ""


def default_root(environment: Mapping[str, str] = os.environ) -> Path:
    """The root of the store where no experiment says otherwise."""
    return Path(environment.get("S4M_STORE", "stores")).expanduser()


def now() -> str:
    """The time, to the second, in UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class StoreRoot:
    """One root of shared results."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, stage: str, result_id: str) -> Path:
        """Where a sealed result lies, or would."""
        return self.root / stage / result_id

    def partial(self, stage: str, result_id: str) -> Path:
        """Where a result is being made."""
        return self.root / stage / f"{result_id}.partial"

    def seal_of(self, stage: str, result_id: str) -> Seal | None:
        """The completion record of a result, or None where it is not sealed."""
        path = self.path(stage, result_id) / SEAL
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return Seal(**content)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise StoreError(
                f"{path}: not a completion record that can be read ({error}). "
                f"Remove the folder {path.parent} to make the result again."
            ) from error

    def is_sealed(self, stage: str, result_id: str) -> bool:
        """Whether a result is there; as cheap as one look at the disk."""
        return (self.path(stage, result_id) / SEAL).is_file()

    def seal(
        self,
        fingerprint: Fingerprint,
        experiment: str,
        seconds: float,
        summary: Mapping[str, Any],
        versions: Mapping[str, str],
    ) -> Seal:
        """Turn the partial result into the sealed one, atomically, its record first on disk."""
        stage, result_id = fingerprint.stage, fingerprint.id
        partial, final = self.partial(stage, result_id), self.path(stage, result_id)
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
            made_by={"experiment": experiment, "user": _user(), "host": socket.gethostname(), **versions},
            summary=summary,
        )
        seal = replace(seal, record_digest=_record_digest(seal))
        write_atomically(partial / FILES, json.dumps(files, indent=0))
        write_atomically(partial / SEAL, json.dumps(asdict(seal), indent=1) + "\n")
        partial.rename(final)
        return seal

    def verify(self, stage: str, result_id: str) -> list[str]:
        """Read a sealed result again; one line for every file that is not as it was."""
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
            problems.append(f"{folder / SEAL}: names another digest than the files have")
        return problems

    def results(self) -> Iterator[StoredResult]:
        """Everything in the store, by stage and time. No experiment points at embeddings: they are made again."""
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
        references = () if half_removed else tuple(self._references(stage, result_id))
        size_bytes = seal.size_bytes if seal else _size(folder)
        return StoredResult(stage, result_id, folder, seal, size_bytes, references, problem)

    def in_use(self, result: StoredResult) -> bool:
        """Whether somebody makes or removes a result at this moment, or may be reading one that no record points at."""
        return is_locked(self._lock_path(result.stage, result.id)) or self._may_be_read(result.stage)

    def _may_be_read(self, stage: str) -> bool:
        """No record points at embeddings; whoever reads them refines, and holds the lock of what that makes."""
        return stage == EMBEDDINGS and any(map(is_locked, (self.root / _LOCKS).glob("refine-*")))

    def remove(self, result: StoredResult) -> None:
        """Delete a result that nobody uses; its name is gone first, so that nobody finds half of it.

        StoreError where somebody has taken it into use since it was looked at, or it is gone.
        """
        now_in_use = StoreError(f"{result.path}: left alone: now in use")
        try:
            with self.lock(result.stage, result.id, "s4m stores prune"):
                if self._may_be_read(result.stage) or self._result(result.stage, result.path).references:
                    raise now_in_use
                doomed = result.path.with_name(f"{_REMOVED}{result.path.name.removeprefix(_REMOVED)}")
                if doomed != result.path:
                    if doomed.exists():
                        shutil.rmtree(doomed)
                    result.path.rename(doomed)
                shutil.rmtree(doomed)
        except BlockingIOError as error:
            raise now_in_use from error
        except FileNotFoundError as error:
            raise StoreError(f"{result.path}: left alone: no longer there") from error

    def refer(self, stage: str, result_id: str, record: Path, experiment: str) -> None:
        """Note that an experiment's record points at a result, so that pruning spares it."""
        record = record.absolute()
        host = socket.gethostname()
        folder = self._reference_folder(stage, result_id)
        file = folder / f"{hash_text(f'{host}:{record}')}.json"
        if not file.exists():
            content = {
                "record": str(record),
                "host": host,
                "experiment": experiment,
                "user": _user(),
                "at": now(),
            }
            write_atomically(file, json.dumps(content, indent=1) + "\n")

    def _references(self, stage: str, result_id: str) -> Iterator[str]:
        """Experiments whose records point here. What cannot be looked at counts, as those of other machines."""
        for file in sorted(self._reference_folder(stage, result_id).glob("*.json")):
            try:
                content = json.loads(file.read_text(encoding="utf-8"))
                experiment, host, record = str(content["experiment"]), content["host"], Path(content["record"])
            except (OSError, ValueError, KeyError, TypeError):
                yield f"a reference that cannot be read ({file})"
                continue
            if host != socket.gethostname():
                yield f"{experiment} on {host}"
            elif _points_at(record, result_id):
                yield experiment

    def _reference_folder(self, stage: str, result_id: str) -> Path:
        return self.root / ".references" / stage / result_id

    @contextmanager
    def lock(self, stage: str, result_id: str, experiment: str) -> Iterator[None]:
        """Be the only one to make a result. Raises BlockingIOError where somebody else is.

        The lock is the operating system's: it goes with the process, however that ends.
        """
        with exclusive_lock(self._lock_path(stage, result_id)) as file:
            holder = Holder(experiment, _user(), socket.gethostname(), os.getpid(), now())
            file.truncate(0)
            file.write(json.dumps(asdict(holder)))
            file.flush()
            yield

    def holder(self, stage: str, result_id: str) -> Holder | None:
        """Who is making a result at this moment, or None."""
        path = self._lock_path(stage, result_id)
        try:
            return Holder(**json.loads(path.read_text(encoding="utf-8"))) if is_locked(path) else None
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _lock_path(self, stage: str, result_id: str) -> Path:
        return self.root / _LOCKS / f"{stage}-{result_id}"


def _points_at(record: Path, result_id: str) -> bool:
    try:
        return bool(json.loads(record.read_text(encoding="utf-8"))["id"] == result_id)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _hash_folder(folder: Path) -> dict[str, tuple[int, str]]:
    """Size and digest of every file below a folder but the records themselves, by relative name."""
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


def _size(folder: Path) -> int:
    """Bytes of all files below a folder that others may be writing or removing."""
    size_bytes = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                size_bytes += (Path(parent) / name).stat().st_size
    return size_bytes


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no name for this user id, as in some containers
        return str(os.getuid())
