"""Kept embeddings in a folder: each shard writes its own file of the one array; a sealed store is read by image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pipeline.embeddings.embedding_columns import (
    EMBEDDING_FORMAT,
    EmbeddingAttributes,
    ImageRow,
    Shape,
    columns_from_embeddings,
    embedding_bytes,
    format_of_shape,
)
from pipeline.files.disk import require_room
from pipeline.sam.encoded import EncodedImage
from pipeline.tables.in_place import TableInPlace
from pipeline.tables.shard_files import ShardPlan
from pipeline.tables.table_store import TableStore

ARRAYS: Final = "embeddings.zarr"
"""Name of the Zarr group in its folder of the store."""


class EmbeddingStore(TableStore[EmbeddingAttributes]):
    """A sealed store of embeddings."""

    table_format = EMBEDDING_FORMAT

    def encoded_image(self, image_id: int, image_hw: tuple[int, int]) -> EncodedImage | None:
        """Return an image of this height and width; None if the store has no features of it.

        Raise StoreError if the features do not match their checksum.
        """
        index = self.find(image_id)
        if index is None or not self._value("encoded", index):
            return None
        if (self._value("height", index), self._value("width", index)) != image_hw:
            return None
        return EncodedImage(self.values("features", index, index + 1)[0], image_hw)

    def _value(self, column: str, index: int) -> int:
        return int(self.values(column, index, index + 1)[0])


def embeddings_in(folder: Path, shape: Shape) -> TableInPlace[EmbeddingAttributes]:
    """Return the embeddings that are made in a folder."""
    return TableInPlace(format_of_shape(shape), folder / ARRAYS, folder / "shards")


def prepare_embeddings(folder: Path, plan: ShardPlan, shape: Shape) -> frozenset[int]:
    """Make the empty arrays, unless an interrupted run made them; return the shards that exist.

    Raise StageError if the disk has no room for the missing shards.
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
    """Publish the embeddings of a shard, a whole file of the array; raise StageError if the disk is full.

    first: index of the shard's first image among all images.
    """
    embeddings_in(folder, shape).write(index, first, columns_from_embeddings(rows, shape))
