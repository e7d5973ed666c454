"""Making kept embeddings: each shard writes its own file of the one array, where it will lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pipeline.embeddings.embedding_columns import (
    EmbeddingAttributes,
    ImageRow,
    Shape,
    columns_from_embeddings,
    embedding_bytes,
    format_of_shape,
)
from pipeline.files.disk import require_room
from pipeline.tables.in_place import TableInPlace
from pipeline.tables.shard_files import ShardPlan

ARRAYS: Final = "embeddings.zarr"
"""Name of the Zarr group in its folder of the store."""

_SHARDS: Final = "shards"


def embeddings_in(folder: Path, shape: Shape) -> TableInPlace[EmbeddingAttributes]:
    """Return the embeddings that are made in a folder."""
    return TableInPlace(format_of_shape(shape), folder / ARRAYS, folder / _SHARDS)


def prepare_embeddings(folder: Path, plan: ShardPlan, shape: Shape) -> frozenset[int]:
    """Make the empty arrays, unless an interrupted run has; gives the shards that are there.

    StageError where the disk has not the room for what is missing.
    """
    table = embeddings_in(folder, shape)
    complete = table.complete(plan)
    missing = sum(len(ids) for index, ids in enumerate(plan) if index not in complete)
    require_room(
        folder,
        embedding_bytes(shape) * missing,
        "the embeddings still to make",
        "Make room, or set compute.cache_embeddings to false: refining does without them, and runs SAM's encoder "
        "each time",
    )
    table.prepare(plan)
    return complete


def write_embeddings(folder: Path, index: int, first: int, rows: Sequence[ImageRow], shape: Shape) -> None:
    """Publish the embeddings of some images, a whole file of the array. StageError where the disk is full.

    first: index of the first image among all.
    """
    embeddings_in(folder, shape).write(index, first, columns_from_embeddings(rows, shape))
