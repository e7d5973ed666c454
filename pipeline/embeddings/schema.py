"""The format of kept embeddings, and what they are named by.

`docs/embeddings.md` tells the same to users. Whatever changes here changes `FORMAT_VERSION`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.labels.schema import Column, layout

FORMAT: Final = "s4m-embeddings"
FORMAT_VERSION: Final = 1

Shape = tuple[int, int, int]
"""Channels, height and width of one image's features."""


@dataclass(frozen=True, eq=False)
class ImageRow:
    """What is kept of an image. features: C x h x w float16; None where the image cannot be read or encoded."""

    image_id: int
    width: int
    height: int
    features: NDArray[np.float16] | None


def columns_of(shape: Shape) -> dict[str, Column]:
    """The columns of a store of embeddings of a shape."""
    columns = (
        Column("id", "image", "int64", "the image's id in the dataset"),
        Column("width", "image", "int32", "pixels of the image"),
        Column("height", "image", "int32", "pixels of the image"),
        Column("encoded", "image", "uint8", "1; 0 where the image could not be encoded and its features are zeros"),
        Column("features", "image", "float16", "what SAM's encoder makes of the image: channels, rows, columns", shape),
    )
    return {column.name: column for column in columns}


def images_per_shard(shape: Shape, images: int) -> int:
    """Images in one file of the features: the unit of work, so that a shard writes a whole file."""
    return layout(columns_of(shape)["features"], images).shard_rows


def image_bytes(shape: Shape) -> int:
    """Bytes of one image's features before compression, which takes off little."""
    return columns_of(shape)["features"].row_bytes
