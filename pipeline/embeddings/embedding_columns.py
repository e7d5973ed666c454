"""The declaration of kept embeddings: what is kept of an image, and in which columns.

`docs/embeddings.md` tells the same to users. Whatever changes here raises the version.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.tables.columns import Column, as_columns, layout
from pipeline.tables.table_format import CountedColumn, TableAttributes, TableFormat

Shape = tuple[int, int, int]
"""Channels, height and width of one image's features."""

_LEFT_OUT, _ENCODED = "left out", "encoded"
_SIDES: Final = ("channels", "height", "width")


@dataclass(frozen=True, eq=False)
class ImageRow:
    """What is kept of an image. features: C x h x w float16; None where the image cannot be read or encoded."""

    image_id: int
    width: int
    height: int
    features: NDArray[np.float16] | None


class EmbeddingAttributes(TableAttributes, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The attributes of kept embeddings. statuses: how many images have features, and how many have none."""

    statuses: dict[str, int]

    @property
    def images(self) -> int:
        """Number of images, those without features included."""
        return self.rows["image"]

    @property
    def encoded(self) -> int:
        """Number of images that have features."""
        return self.statuses[_ENCODED]

    @property
    def shape(self) -> Shape:
        """The shape of one image's features."""
        channels, height, width = (self.sizes[side] for side in _SIDES)
        return channels, height, width


EMBEDDING_FORMAT: Final = TableFormat(
    name="s4m-embeddings",
    version=2,
    content="embeddings",
    make_again="Remove the folder of their result to make them again.",
    ids="id",
    attributes=EmbeddingAttributes,
    counts=(CountedColumn("statuses", "encoded", (_LEFT_OUT, _ENCODED)),),
    columns=(
        Column("id", "image", "int64", "the image's id in the dataset"),
        Column("width", "image", "int32", "pixels of the image"),
        Column("height", "image", "int32", "pixels of the image"),
        Column("encoded", "image", "uint8", "1; 0 where the image could not be encoded and its features are zeros"),
        Column(
            "features",
            "image",
            "float16",
            "what SAM's encoder makes of the image: channels, rows, columns",
            sized_by=_SIDES,
            in_place=True,
        ),
    ),
)


def format_of_shape(shape: Shape) -> TableFormat[EmbeddingAttributes]:
    """Return the format of embeddings of a shape."""
    return EMBEDDING_FORMAT.with_sizes(dict(zip(_SIDES, shape, strict=True)))


def embedded_images_per_shard(shape: Shape, images: int) -> int:
    """Return the images in one file of the features: the unit of work, so that a shard writes a whole file."""
    return layout(format_of_shape(shape).column("features"), images).file_rows


def embedding_bytes(shape: Shape) -> int:
    """Return the bytes of one image's features before compression, which takes off little."""
    return format_of_shape(shape).column("features").row_bytes


def columns_from_embeddings(rows: Sequence[ImageRow], shape: Shape) -> dict[str, NDArray[Any]]:
    """Return the columns of some images."""
    features = np.zeros((len(rows), *shape), dtype=np.float16)
    for index, row in enumerate(rows):
        if row.features is not None:
            features[index] = row.features
    values: dict[str, Any] = {
        "id": [row.image_id for row in rows],
        "width": [row.width for row in rows],
        "height": [row.height for row in rows],
        "encoded": [row.features is not None for row in rows],
        "features": features,
    }
    return as_columns(format_of_shape(shape).columns, values)
