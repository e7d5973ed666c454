"""The declaration of structural targets: what an image has, and the columns it is kept in.

`docs/structural-targets.md` says the same to users. Every change here raises the version.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.labels.rows import Status
from pipeline.tables.columns import Column, ColumnData, as_columns, offsets_of, text_columns, text_values, texts_of
from pipeline.tables.table_format import CountedColumn, TableAttributes, TableFormat

MAP_SIDE: Final = 64
"""Cells along each side of a map, whatever the size of what it covers."""
LEVELS: Final = 255
"""The quantised similarity that stands for 1.0; 0 stands for -1.0."""
ANCHORS_PER_SHARD: Final = 1024
"""Images of about this many anchors make a shard, 4 MiB of maps: with the default, each image is one."""

TARGET_STATUSES: Final = (Status.OK, Status.FAILED)
"""On disk a status is its index in this tuple."""


@dataclass(frozen=True, eq=False)
class ImageTargets:
    """The structural targets of an image; no anchor where the image failed.

    anchors_xy: (A, 2) float32, pixels of the image, in random order.
    windows_xyxy: (A, 4) int32, what the map of each anchor covers, in pixels of the image, ends excluded.
    maps: (A, side, side) uint8, rows first: the similarity to each anchor, 0 is -1.0 and 255 is 1.0.
    """

    image_id: int
    file_name: str
    width: int
    height: int
    status: Status
    message: str
    anchors_xy: NDArray[np.float32]
    windows_xyxy: NDArray[np.int32]
    maps: NDArray[np.uint8]

    @classmethod
    def of_failure(cls, image_id: int, file_name: str, width: int, height: int, message: str) -> Self:
        """Return the row of an image that cannot be used, with the reason."""
        columns = (TARGET_FORMAT.column(f"anchors/{name}") for name in ("xy", "window_xyxy", "map"))
        anchors_xy, windows_xyxy, maps = (column.no_rows for column in columns)
        return cls(image_id, file_name, width, height, Status.FAILED, message, anchors_xy, windows_xyxy, maps)


class TargetAttributes(TableAttributes, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The attributes of structural targets. statuses: the number of images of each status."""

    statuses: dict[str, int]

    @property
    def images(self) -> int:
        """Number of images, failed ones included."""
        return self.rows["image"]

    @property
    def anchors(self) -> int:
        """Number of anchors of all images."""
        return self.rows["anchor"]


TARGET_FORMAT: Final = TableFormat(
    name="s4m-structure",
    version=3,
    content="structural targets",
    make_again="Make them again: make distill.",
    ids="images/id",
    attributes=TargetAttributes,
    counts=(CountedColumn("statuses", "images/status", tuple(map(str, TARGET_STATUSES))),),
    columns=(
        Column("images/id", "image", "int64", "the image's id in the dataset"),
        Column("images/width", "image", "int32", "pixels"),
        Column("images/height", "image", "int32", "pixels"),
        Column(
            "images/status", "image", "uint8", ", ".join(f"{code} {name}" for code, name in enumerate(TARGET_STATUSES))
        ),
        *text_columns("images/file_name", "image", "file name", "file names, UTF-8, end to end"),
        *text_columns("images/message", "image", "message", "why images failed, UTF-8, end to end"),
        Column("images/anchor_offsets", "image", "int64", "the first anchor of each image", points_into="anchor"),
        Column("anchors/xy", "anchor", "float32", "x, y in pixels of the image", row_shape=(2,)),
        Column(
            "anchors/window_xyxy",
            "anchor",
            "int32",
            "what the map covers: left, top, right, bottom in pixels of the image, right and bottom exclusive",
            row_shape=(4,),
        ),
        Column(
            "anchors/map",
            "anchor",
            "uint8",
            "similarity to the anchor in even cells over its window, rows then columns, 0 is -1.0, 255 is 1.0",
            row_shape=(MAP_SIDE, MAP_SIDE),
            bulk=True,
        ),
    ),
)


def columns_from_targets(rows: Sequence[ImageTargets]) -> dict[str, NDArray[Any]]:
    """Return the columns of one image or more."""
    values: dict[str, Any] = {
        "images/id": [row.image_id for row in rows],
        "images/width": [row.width for row in rows],
        "images/height": [row.height for row in rows],
        "images/status": [TARGET_STATUSES.index(row.status) for row in rows],
        **text_values("images/file_name", [row.file_name for row in rows]),
        **text_values("images/message", [row.message for row in rows]),
        "images/anchor_offsets": offsets_of([len(row.anchors_xy) for row in rows]),
        "anchors/xy": np.concatenate([row.anchors_xy for row in rows]),
        "anchors/window_xyxy": np.concatenate([row.windows_xyxy for row in rows]),
        "anchors/map": np.concatenate([row.maps for row in rows]),
    }
    return as_columns(TARGET_FORMAT.columns, values)


def targets_from_columns(columns: ColumnData) -> list[ImageTargets]:
    """Return the targets that some images' columns hold."""
    return [
        ImageTargets(
            image_id,
            name,
            width,
            height,
            TARGET_STATUSES[status],
            message,
            columns["anchors/xy"][first:end],
            columns["anchors/window_xyxy"][first:end],
            columns["anchors/map"][first:end],
        )
        for image_id, name, width, height, status, message, (first, end) in zip(
            columns["images/id"].tolist(),
            texts_of("images/file_name", columns),
            columns["images/width"].tolist(),
            columns["images/height"].tolist(),
            columns["images/status"].tolist(),
            texts_of("images/message", columns),
            pairwise(columns["images/anchor_offsets"].tolist()),
            strict=True,
        )
    ]
