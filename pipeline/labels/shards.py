"""Shards: the labels of a few images in one file, the unit in which labels are made.

A shard is one file because then its rename is all there is: data and completion record become visible in
the same instant, and a file that has its final name is whole. It begins with a line of JSON that tells what
is inside (`head -1` shows it); the rest is the shard's columns, as MessagePack, compressed. Its name holds
a digest of its images' ids: a run that divides the images otherwise does not take it for one of its own.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import xxhash
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from pipeline.errors import ProblemsError, StageError, StoreError
from pipeline.labels.checking import row_problems
from pipeline.labels.columns import columns_from_rows, table_rows
from pipeline.labels.rows import ImageLabels
from pipeline.labels.schema import COLUMNS, FORMAT, FORMAT_VERSION, ColumnData

_SUFFIX = ".shard"
_ZSTD = Zstd(level=1)  # a shard lives for hours: speed goes before size
_OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_HARD_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)

ShardPlan = Sequence[Sequence[int]]
"""The ids of the images of every shard: shards in the order of the store, images in that of the shard."""


class ShardHeader(msgspec.Struct, frozen=True):
    """The first line of a shard file. rows: length of every table; digest: of all that follows the line."""

    format: str
    version: int
    rows: dict[str, int]
    digest: str


def divide(image_ids: Sequence[int], images_per_shard: int) -> tuple[tuple[int, ...], ...]:
    """Images in shards of the same size; the last may be smaller."""
    return tuple(
        tuple(image_ids[start : start + images_per_shard]) for start in range(0, len(image_ids), images_per_shard)
    )


def shard_path(folder: Path, index: int, image_ids: Sequence[int]) -> Path:
    """Where a shard lies, or would."""
    digest = xxhash.xxh3_64_hexdigest(np.asarray(image_ids, dtype="<i8").tobytes())
    return folder / f"{index:06d}-{digest}{_SUFFIX}"


def completed_shards(folder: Path, plan: ShardPlan) -> frozenset[int]:
    """Which shards of a plan are there. What killed writers left in the folder is never one of them."""
    try:
        names = {entry.name for entry in folder.iterdir()}
    except FileNotFoundError:
        return frozenset()
    return frozenset(
        index for index, image_ids in enumerate(plan) if shard_path(folder, index, image_ids).name in names
    )


def write_shard(folder: Path, index: int, rows: Sequence[ImageLabels]) -> Path:
    """Publish the labels of some images, atomically. Of two writers of the same shard, the first wins.

    ProblemsError where a row is not fit to be stored; StageError where the disk is full.
    """
    problems = row_problems(rows)
    if problems:
        raise ProblemsError(f"labels of shard {index}", problems)
    path = shard_path(folder, index, [row.image_id for row in rows])
    content = _encode(columns_from_rows(rows))
    aside = folder / f".{path.name}.{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}"
    with explained_if_full(path, len(content)):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            _publish(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        sync_folder(folder)
    return path


def read_shard(folder: Path, index: int, image_ids: Sequence[int]) -> dict[str, NDArray[Any]]:
    """The columns of a shard. StoreError where it is missing, damaged, or of another format."""
    path = shard_path(folder, index, image_ids)
    header, payload = _split(path, _read(path))
    if xxhash.xxh3_128_hexdigest(payload) != header.digest:
        raise _damaged(path, "its content does not match its digest")
    encoded = msgspec.msgpack.decode(_ZSTD.decode(payload), type=dict[str, bytes])
    columns = {
        name: np.frombuffer(encoded[name], dtype=column.dtype).reshape(-1, *column.row_shape)
        for name, column in COLUMNS.items()
    }
    if table_rows(columns) != header.rows or columns["images/id"].tolist() != list(image_ids):
        raise _damaged(path, "it does not hold what it should")
    return columns


def shard_rows(folder: Path, index: int, image_ids: Sequence[int]) -> dict[str, int]:
    """The length of every table of a shard; reads no more than its first line."""
    path = shard_path(folder, index, image_ids)
    try:
        with path.open("rb") as file:
            return _split(path, file.readline())[0].rows
    except FileNotFoundError as error:
        raise _missing(path) from error


def _encode(columns: ColumnData) -> bytes:
    packed = msgspec.msgpack.encode({name: values.tobytes() for name, values in columns.items()})
    payload = _ZSTD.encode(packed)
    header = ShardHeader(FORMAT, FORMAT_VERSION, table_rows(columns), xxhash.xxh3_128_hexdigest(payload))
    return msgspec.json.encode(header) + b"\n" + bytes(payload)


def _split(path: Path, content: bytes) -> tuple[ShardHeader, memoryview]:
    line, _, _ = content.partition(b"\n")
    try:
        header = msgspec.json.decode(line, type=ShardHeader)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _damaged(path, "its first line is not that of a shard") from error
    if (header.format, header.version) != (FORMAT, FORMAT_VERSION):
        raise StoreError(
            f"{path}: a shard of {header.format} {header.version}; this program writes and reads "
            f"{FORMAT} {FORMAT_VERSION}. Delete the folder {path.parent} to make its labels again."
        )
    return header, memoryview(content)[len(line) + 1 :]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise _missing(path) from error


def _missing(path: Path) -> StoreError:
    return StoreError(f"{path}: the shard is missing. Run the stage again: it makes what is missing.")


def _damaged(path: Path, reason: str) -> StoreError:
    return StoreError(
        f"{path}: the shard is damaged: {reason}. Delete the file and run the stage again: the other shards are kept."
    )


def _publish(aside: Path, path: Path) -> None:
    """Give a finished file its name, unless there is one of that name already."""
    try:
        path.hardlink_to(aside)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        aside.replace(path)  # some shared folders know no hard links: the last wins, with the same content


def sync_folder(folder: Path) -> None:
    """Make sure that the names in a folder survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Make sure that everything below a folder survives a power failure."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with (Path(parent) / name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(parent))


@contextmanager
def explained_if_full(path: Path, size_bytes: int) -> Iterator[None]:
    """Turn the system's "no space left" into a StageError that says how much is needed and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in _OUT_OF_SPACE:
            raise
        free_bytes = shutil.disk_usage(_existing(path)).free
        raise StageError(
            f"{path}: the disk is full ({os.strerror(error.errno)}): {size_bytes / 1e6:.1f} MB to write, "
            f"{free_bytes / 1e6:.1f} MB free. Make room and run the stage again: finished shards are kept."
        ) from error


def _existing(path: Path) -> Path:
    return next(parent for parent in path.absolute().parents if parent.exists())
