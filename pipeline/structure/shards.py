"""Shards: the targets of a few images in one file, the unit in which targets are made.

As with labels, data and completion record are one file, so that its rename publishes both. It begins with a
line of JSON that tells what is inside; the rest is the shard's columns, as MessagePack, compressed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import xxhash
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from pipeline.errors import StoreError
from pipeline.files.writing import open_atomically
from pipeline.labels.shards import explained_if_full, shard_path, sync_folder
from pipeline.structure.schema import FORMAT, FORMAT_VERSION, ImageTargets, columns_from_rows, columns_of

_ZSTD = Zstd(level=1)  # a shard lives for hours: speed goes before size


class ShardHeader(msgspec.Struct, frozen=True):
    """The first line of a shard file. digest: of all that follows the line."""

    format: str
    version: int
    anchors: int
    digest: str


def write_shard(folder: Path, index: int, rows: Sequence[ImageTargets]) -> Path:
    """Publish the targets of some images, atomically. StageError where the disk is full."""
    path = shard_path(folder, index, [row.image_id for row in rows])
    content = _encode(columns_from_rows(rows), len(rows[0].anchors_xy))
    with explained_if_full(path, len(content)):
        with open_atomically(path) as file:
            file.write(content)
        sync_folder(folder)
    return path


def read_shard(folder: Path, index: int, image_ids: Sequence[int], anchors: int) -> dict[str, NDArray[Any]]:
    """The columns of a shard. StoreError where it is missing, damaged, or of another format."""
    path = shard_path(folder, index, image_ids)
    try:
        line, _, payload = path.read_bytes().partition(b"\n")
        header = msgspec.json.decode(line, type=ShardHeader)
    except FileNotFoundError as error:
        raise StoreError(f"{path}: the shard is missing. Run the stage again: it makes what is missing.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _damaged(path, "its first line is not that of a shard") from error
    if (header.format, header.version, header.anchors) != (FORMAT, FORMAT_VERSION, anchors):
        raise StoreError(
            f"{path}: a shard of {header.format} {header.version} with {header.anchors} anchors; wanted is {FORMAT} "
            f"{FORMAT_VERSION} with {anchors}. Delete the folder {folder} to make its targets again."
        )
    if xxhash.xxh3_128_hexdigest(payload) != header.digest:
        raise _damaged(path, "its content does not match its digest")
    encoded = msgspec.msgpack.decode(_ZSTD.decode(payload), type=dict[str, bytes])
    columns = {
        name: np.frombuffer(encoded[name], dtype=column.dtype).reshape(-1, *column.row_shape)
        for name, column in columns_of(anchors).items()
    }
    if columns["id"].tolist() != list(image_ids):
        raise _damaged(path, "it does not hold what it should")
    return columns


def _encode(columns: Mapping[str, NDArray[Any]], anchors: int) -> bytes:
    packed = msgspec.msgpack.encode({name: values.tobytes() for name, values in columns.items()})
    payload = bytes(_ZSTD.encode(packed))
    header = ShardHeader(FORMAT, FORMAT_VERSION, anchors, xxhash.xxh3_128_hexdigest(payload))
    return msgspec.json.encode(header) + b"\n" + payload


def _damaged(path: Path, reason: str) -> StoreError:
    return StoreError(
        f"{path}: the shard is damaged: {reason}. Delete the file and run the stage again: the other shards are kept."
    )
