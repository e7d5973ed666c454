"""The format of structural targets: what an image has, and the columns it is kept in.

`docs/structural-targets.md` tells the same to users. Whatever changes here changes `FORMAT_VERSION`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.labels.columns import offsets_of, texts_of
from pipeline.labels.rows import Status
from pipeline.labels.schema import Column, layout

FORMAT: Final = "s4m-structure"
FORMAT_VERSION: Final = 1

MAP_SIDE: Final = 64
"""Positions along each side of a map, whatever the image's size."""
LEVELS: Final = 255
"""The quantised similarity that stands for 1.0; 0 stands for -1.0."""

STATUSES: Final = (Status.OK, Status.FAILED)
"""On disk a status is its place in this tuple."""


@dataclass(frozen=True, eq=False)
class ImageTargets:
    """The structural targets of an image.

    anchors_xy: (A, 2) float32, pixels of the image; NaN where the image failed.
    maps: (A, side, side) uint8, rows first: the similarity to each anchor, 0 is -1.0 and 255 is 1.0.
    """

    image_id: int
    file_name: str
    width: int
    height: int
    status: Status
    message: str
    anchors_xy: NDArray[np.float32]
    maps: NDArray[np.uint8]


def columns_of(anchors: int) -> dict[str, Column]:
    """The columns of a store, given the anchors of an image."""
    status_meaning = ", ".join(f"{code} {name}" for code, name in enumerate(STATUSES))
    columns = (
        Column("id", "image", "int64", "the image's id in the dataset"),
        Column("width", "image", "int32", "pixels"),
        Column("height", "image", "int32", "pixels"),
        Column("status", "image", "uint8", status_meaning),
        Column(
            "file_name_offsets",
            "image",
            "int64",
            "where each file name begins in file_name_bytes",
            points_into="file name byte",
        ),
        Column("file_name_bytes", "file name byte", "uint8", "file names, UTF-8, end to end"),
        Column(
            "message_offsets",
            "image",
            "int64",
            "where each message begins in message_bytes",
            points_into="message byte",
        ),
        Column("message_bytes", "message byte", "uint8", "why images failed, UTF-8, end to end"),
        Column("anchors_xy", "image", "float32", "x, y in pixels of the image; NaN where it failed", (anchors, 2)),
        Column(
            "maps",
            "image",
            "uint8",
            "similarity to each anchor on an even grid over the image, rows then columns, 0 is -1.0, 255 is 1.0",
            (anchors, MAP_SIDE, MAP_SIDE),
        ),
    )
    return {column.name: column for column in columns}


def images_per_shard(anchors: int, images: int) -> int:
    """Images in one file of the maps: the unit of work, so that sealing writes whole files."""
    return layout(columns_of(anchors)["maps"], images).shard_rows


def columns_from_rows(rows: Sequence[ImageTargets]) -> dict[str, NDArray[Any]]:
    """The columns of some images, one at least."""
    # Names that are not valid Unicode exist on disks; Python has them as surrogates.
    names = [row.file_name.encode("utf-8", "surrogateescape") for row in rows]
    messages = [row.message.encode("utf-8", "surrogateescape") for row in rows]
    values: dict[str, Any] = {
        "id": [row.image_id for row in rows],
        "width": [row.width for row in rows],
        "height": [row.height for row in rows],
        "status": [STATUSES.index(row.status) for row in rows],
        "file_name_offsets": offsets_of([len(name) for name in names]),
        "file_name_bytes": np.frombuffer(b"".join(names), dtype=np.uint8),
        "message_offsets": offsets_of([len(message) for message in messages]),
        "message_bytes": np.frombuffer(b"".join(messages), dtype=np.uint8),
        "anchors_xy": [row.anchors_xy for row in rows],
        "maps": [row.maps for row in rows],
    }
    columns = columns_of(len(rows[0].anchors_xy))
    return {
        name: np.asarray(values[name], dtype=column.dtype).reshape(-1, *column.row_shape)
        for name, column in columns.items()
    }


def rows_from_columns(columns: Mapping[str, NDArray[Any]]) -> list[ImageTargets]:
    """The rows that columns hold; offsets count from the first row."""
    names, messages = (
        texts_of(columns[f"{part}_bytes"], columns[f"{part}_offsets"]) for part in ("file_name", "message")
    )
    return [
        ImageTargets(image_id, name, width, height, STATUSES[status], message, anchors_xy, maps)
        for image_id, name, width, height, status, message, anchors_xy, maps in zip(
            columns["id"].tolist(),
            names,
            columns["width"].tolist(),
            columns["height"].tolist(),
            columns["status"].tolist(),
            messages,
            columns["anchors_xy"],
            columns["maps"],
            strict=True,
        )
    ]
