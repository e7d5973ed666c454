"""Completion records of results, and finding out whether a result is still what its record says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import msgspec

from pipeline.errors import StoreError
from pipeline.files.identity import hash_file, hash_text
from pipeline.files.reading import read_file

SEAL: Final = "seal.json"
FILES: Final = "files.json"
FORMAT: Final = 2
_SINCE_2: Final = ("consumed",)

Files = Mapping[str, tuple[int, str]]
"""Size and digest of the files of a result, by their names relative to its folder."""


class Seal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The completion record of a result.

    digest: of the names and contents of all files; the same wherever the result was made.
    made_by: experiment, user, host, versions of the libraries, and the precision that models computed in.
    summary: the stage's own figures, shown by `s4m status`.
    record_digest: of all other fields; may be empty in records of format 1.
    consumed: digests of the results that it was made from, by `stage/id`; empty in records of format 1.
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
    format: int = 1
    record_digest: str = ""
    consumed: Mapping[str, str] = {}


def read_seal(folder: Path) -> Seal | None:
    """Return the completion record of a result's folder; None if it has none. StoreError for one that is no record."""
    path = folder / SEAL
    try:
        content = read_file(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{path}: the completion record cannot be read: {error.strerror}") from error
    try:
        seal = msgspec.json.decode(content, type=Seal)
        msgspec.convert(seal.fingerprint, _Fingerprint)
    except (ValueError, RecursionError) as error:
        newer = _format(content)
        if newer > FORMAT:
            raise _too_new(path, newer) from error
        raise StoreError(
            f"{path}: not a completion record that can be read ({str(error) or type(error).__name__}). "
            f"Remove the folder {folder} to make the result again"
        ) from error
    if seal.format > FORMAT:
        raise _too_new(path, seal.format)
    return seal


def write_seal_text(seal: Seal) -> str:
    """Return the content of a record's file."""
    return json.dumps(msgspec.structs.asdict(seal), indent=1) + "\n"


def record_digest(seal: Seal) -> str:
    """Return the digest of all other fields of a record."""
    left_out = {"record_digest", *(_SINCE_2 if seal.format < FORMAT else ())}
    content = msgspec.structs.asdict(seal)
    return hash_text(json.dumps({name: value for name, value in content.items() if name not in left_out}))


def hash_folder(folder: Path) -> Files:
    """Return size and digest of every file below a folder except the records themselves."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    for record in (SEAL, FILES):
        files.pop(record, None)
    with ThreadPoolExecutor(8) as pool:
        digests = pool.map(hash_file, files.values())
        return {
            name: (path.stat().st_size, digest) for (name, path), digest in zip(files.items(), digests, strict=True)
        }


def digest_of(files: Files) -> str:
    """Return the digest of the names and contents of files."""
    return hash_text("\n".join(f"{name}\t{size}\t{digest}" for name, (size, digest) in sorted(files.items())))


def changes(folder: Path, seal: Seal) -> list[str]:
    """Read a sealed result again; return a line for every file that is not what was sealed."""
    try:
        expected = {name: (int(size), str(digest)) for name, (size, digest) in _files(folder).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return [f"{folder / FILES}: cannot be read: {error}"]
    found = hash_folder(folder)
    problems: list[str] = []
    if (seal.record_digest or seal.format >= FORMAT) and seal.record_digest != record_digest(seal):
        problems.append(f"{folder / SEAL}: content changed")
    problems += [f"{folder / name}: missing" for name in expected if name not in found]
    problems += [f"{folder / name}: not part of the result" for name in found if name not in expected]
    problems += [
        f"{folder / name}: content changed" for name in found if name in expected and found[name] != expected[name]
    ]
    if not problems and digest_of(found) != seal.digest:
        problems.append(f"{folder / SEAL}: its digest is not that of the files")
    return problems


def _files(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / FILES).read_text(encoding="utf-8"))
    return content


def _format(content: bytes) -> int:
    """Return the format of a record that cannot be read otherwise; 0 where it names none."""
    try:
        return msgspec.json.decode(content, type=_Format).format
    except (ValueError, RecursionError):
        return 0


class _Fingerprint(msgspec.Struct):
    """The parts of a fingerprint that commands read."""

    settings: dict[str, Any] = {}
    inputs: dict[str, Any] = {}
    upstream: dict[str, str] = {}


class _Format(msgspec.Struct):
    format: int = 0


def _too_new(path: Path, found: int) -> StoreError:
    return StoreError(
        f"{path}: a record of format {found}, which a newer version of this program wrote; this one reads formats up "
        f"to {FORMAT}. Update this program; the result itself is in order"
    )
