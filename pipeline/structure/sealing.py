"""Sealing: from shards to the one immutable Zarr store."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import xxhash
import zarr
from numpy.typing import NDArray

from pipeline.errors import StoreError
from pipeline.labels.arrays import create_column
from pipeline.labels.schema import Column
from pipeline.labels.shards import ShardPlan, completed_shards, explained_if_full, shard_path, sync_folder, sync_tree
from pipeline.structure.schema import FORMAT, FORMAT_VERSION, MAP_SIDE, STATUSES, columns_of
from pipeline.structure.shards import read_shard
from pipeline.structure.target_store import StructureAttributes


def seal(
    shards_folder: Path, plan: ShardPlan, store_path: Path, anchors: int, provenance: Mapping[str, Any]
) -> StructureAttributes:
    """Make the store of all shards of a plan, in its order; it appears under its name whole or not at all.

    The store is written aside within the shards' folder, which must be on the same file system. The shards
    stay. Only the maps of one shard are in memory at a time. `provenance` is JSON that tells what made them.
    """
    if store_path.exists():
        raise StoreError(f"{store_path} is there already, and sealed targets never change: remove it first.")
    missing = sorted(set(range(len(plan))) - completed_shards(shards_folder, plan))
    if missing:
        raise StoreError(
            f"{shards_folder}: {len(missing)} of {len(plan)} shards are missing, the first is number "
            f"{missing[0]}. Run the stage again: it makes what is missing."
        )
    size_bytes = sum(shard_path(shards_folder, index, ids).stat().st_size for index, ids in enumerate(plan))
    scratch = Path(tempfile.mkdtemp(prefix=".sealing-", dir=shards_folder))
    try:
        with explained_if_full(store_path, size_bytes):
            aside = scratch / store_path.name
            attributes = _write(aside, shards_folder, plan, anchors, provenance)
            sync_tree(aside)
            aside.rename(store_path)
            sync_folder(store_path.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return attributes


def _write(
    aside: Path, shards_folder: Path, plan: ShardPlan, anchors: int, provenance: Mapping[str, Any]
) -> StructureAttributes:
    columns = columns_of(anchors)
    maps = columns.pop("maps")
    group = zarr.create_group(aside)
    array = create_column(group, maps, sum(map(len, plan)))
    maps_digest = xxhash.xxh3_128()
    parts: list[dict[str, NDArray[Any]]] = []
    written = 0
    for index, image_ids in enumerate(plan):
        part = read_shard(shards_folder, index, image_ids, anchors)
        values = part.pop("maps")
        array[written : written + len(values)] = values  # whole files, where shards are `images_per_shard`
        maps_digest.update(values.tobytes())
        written += len(values)
        parts.append(part)
    digests = {}
    for name, column in columns.items():
        joined = _joined(column, [part[name] for part in parts])
        create_column(group, column, len(joined))[:] = joined
        digests[name] = xxhash.xxh3_128_hexdigest(joined.tobytes())
    statuses = np.bincount(np.concatenate([part["status"] for part in parts]), minlength=len(STATUSES))
    attributes = StructureAttributes(
        format=FORMAT,
        version=FORMAT_VERSION,
        digest=_content_digest(written, anchors, digests | {"maps": maps_digest.hexdigest()}),
        images=written,
        anchors=anchors,
        side=MAP_SIDE,
        statuses=dict(zip(map(str, STATUSES), statuses.tolist(), strict=True)),
        lengths={name: sum(len(part[name]) for part in parts) for name in ("file_name_bytes", "message_bytes")},
        provenance=dict(provenance),
    )
    group.update_attributes(msgspec.to_builtins(attributes))
    return attributes


def _joined(column: Column, parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """A column of all shards; offsets of each count from its own beginning."""
    if not column.points_into:
        return np.concatenate(parts)
    offsets = [np.zeros(1, dtype=np.int64)]
    for part in parts:
        offsets.append(part[1:] + offsets[-1][-1])
    return np.concatenate(offsets)


def _content_digest(images: int, anchors: int, column_digests: Mapping[str, str]) -> str:
    lines = [f"{FORMAT} {FORMAT_VERSION} {images} {anchors} {MAP_SIDE}"]
    lines += [f"{name} {column_digests[name]}" for name in columns_of(anchors)]
    return xxhash.xxh3_128_hexdigest("\n".join(lines).encode())
