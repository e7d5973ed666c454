"""Making embeddings: each shard writes its own file of the one array; a marker beside it says that it is whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import zarr

from pipeline.embeddings.embedding_store import EmbeddingAttributes, EmbeddingStore
from pipeline.embeddings.schema import FORMAT, FORMAT_VERSION, ImageRow, Shape, columns_of, image_bytes
from pipeline.errors import StageError, StoreError
from pipeline.files.writing import open_atomically
from pipeline.labels.arrays import create_column
from pipeline.labels.shards import ShardPlan, completed_shards, explained_if_full, shard_path, sync_folder, sync_tree

ARRAYS: Final = "embeddings.zarr"
"""Name of the Zarr group in its folder of the store."""

_MARKERS: Final = "shards"


class ShardMarker(msgspec.Struct, frozen=True):
    """What is known of a shard whose features are on disk: its images' sizes, and which of them were encoded."""

    width: tuple[int, ...]
    height: tuple[int, ...]
    encoded: tuple[bool, ...]


def prepare(folder: Path, plan: ShardPlan, shape: Shape) -> frozenset[int]:
    """Make the empty arrays, unless an interrupted run has; gives the shards that are there.

    StageError where the disk has not the room for what is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    complete = completed_shards(folder / _MARKERS, plan)
    missing_bytes = image_bytes(shape) * sum(len(ids) for index, ids in enumerate(plan) if index not in complete)
    free_bytes = shutil.disk_usage(folder).free
    if missing_bytes > free_bytes:
        raise StageError(
            f"{folder}: the embeddings still to make take up to {missing_bytes / 1e6:,.1f} MB, "
            f"{free_bytes / 1e6:,.1f} MB are free. Make room, or set compute.cache_embeddings to false: "
            "refining does without them, and runs SAM's encoder each time"
        )
    if not complete:
        # Of a run that was killed before its first shard there may be anything.
        shutil.rmtree(folder / ARRAYS, ignore_errors=True)
        group = zarr.create_group(folder / ARRAYS)
        create_column(group, columns_of(shape)["features"], sum(map(len, plan)))
    return complete


def write_shard(folder: Path, index: int, first: int, rows: Sequence[ImageRow], shape: Shape) -> None:
    """Publish the embeddings of some images, a whole file of the array: the features, then their marker.

    first: place of the first image among all. StageError where the disk is full.
    """
    features = np.zeros((len(rows), *shape), dtype=np.float16)
    for place, row in enumerate(rows):
        if row.features is not None:
            features[place] = row.features
    path = folder / ARRAYS / "features"
    with explained_if_full(path, features.nbytes):
        # Zarr does not store that empty chunks are to be written: without it, features that are all zeros, as those
        # of images that cannot be read are, would make no file.
        array = zarr.open_array(path, mode="r+").with_config({"write_empty_chunks": True})
        array[first : first + len(rows)] = features
        written = path.joinpath("c", str(index), *"0" * len(shape))
        with written.open("rb") as file:
            os.fsync(file.fileno())
        sync_folder(written.parent)
        marker = ShardMarker(
            width=tuple(row.width for row in rows),
            height=tuple(row.height for row in rows),
            encoded=tuple(row.features is not None for row in rows),
        )
        with open_atomically(shard_path(folder / _MARKERS, index, [row.image_id for row in rows])) as file:
            file.write(msgspec.json.encode(marker))


def finish(folder: Path, plan: ShardPlan, shape: Shape, provenance: Mapping[str, Any]) -> EmbeddingAttributes:
    """Turn what the shards wrote into a store that can be opened. StoreError where a shard is missing."""
    missing = sorted(set(range(len(plan))) - completed_shards(folder / _MARKERS, plan))
    if missing:
        raise StoreError(f"{folder}: {len(missing)} of {len(plan)} shards are missing. Run the stage again.")
    markers = [
        msgspec.json.decode(shard_path(folder / _MARKERS, index, ids).read_bytes(), type=ShardMarker)
        for index, ids in enumerate(plan)
    ]
    path = folder / ARRAYS
    for left_by_killed_run in path.rglob("*.partial"):
        left_by_killed_run.unlink()
    values: dict[str, list[int]] = {
        "id": [image_id for ids in plan for image_id in ids],
        "width": [width for marker in markers for width in marker.width],
        "height": [height for marker in markers for height in marker.height],
        "encoded": [encoded for marker in markers for encoded in marker.encoded],
    }
    group = zarr.open_group(path, mode="r+")
    columns = columns_of(shape)
    for name, of_images in values.items():
        if name in group:
            del group[name]
        create_column(group, columns[name], len(of_images))[:] = np.array(of_images, dtype=columns[name].dtype)
    attributes = EmbeddingAttributes(
        format=FORMAT,
        version=FORMAT_VERSION,
        images=len(values["id"]),
        encoded=sum(values["encoded"]),
        shape=shape,
        provenance=dict(provenance),
    )
    sync_tree(path)  # the attributes, last, say that all is there: see `finished`
    group.update_attributes(msgspec.to_builtins(attributes))
    sync_tree(path)
    _remove_markers(folder)
    return attributes


def finished(folder: Path) -> EmbeddingAttributes | None:
    """What an interrupted run has finished, and only not sealed; None where there is more to do."""
    try:
        attributes = EmbeddingStore.open(folder / ARRAYS).attributes
    except StoreError:
        return None
    _remove_markers(folder)
    return attributes


def _remove_markers(folder: Path) -> None:
    shutil.rmtree(folder / _MARKERS, ignore_errors=True)
