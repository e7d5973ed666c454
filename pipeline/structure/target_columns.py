"""The declaration of structural targets: what an image has, and the columns it is kept in.

`docs/structural-targets.md` tells the same to users. Whatever changes here raises the version.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.labels.rows import Status
from pipeline.tables.columns import Column, ColumnData, as_columns, layout, text_columns, text_values, texts_of
from pipeline.tables.table_format import CountedColumn, TableAttributes, TableFormat

MAP_SIDE: Final = 64
"""Positions along each side of a map, whatever the image's size."""
LEVELS: Final = 255
"""The quantised similarity that stands for 1.0; 0 stands for -1.0."""

TARGET_STATUSES: Final = (Status.OK, Status.FAILED)
"""On disk a status is its index in this tuple."""


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


class TargetAttributes(TableAttributes, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The attributes of structural targets. statuses: how many images have each."""

    statuses: dict[str, int]

    @property
    def images(self) -> int:
        """Number of images, failed ones included."""
        return self.rows["image"]

    @property
    def anchors(self) -> int:
        """Anchors of every image."""
        return self.sizes["anchors"]


TARGET_FORMAT: Final = TableFormat(
    name="s4m-structure",
    version=2,
    content="structural targets",
    make_again="Make them again: make distill.",
    ids="id",
    attributes=TargetAttributes,
    counts=(CountedColumn("statuses", "status", tuple(map(str, TARGET_STATUSES))),),
    columns=(
        Column("id", "image", "int64", "the image's id in the dataset"),
        Column("width", "image", "int32", "pixels"),
        Column("height", "image", "int32", "pixels"),
        Column("status", "image", "uint8", ", ".join(f"{code} {name}" for code, name in enumerate(TARGET_STATUSES))),
        *text_columns("file_name", "image", "file name", "file names, UTF-8, end to end"),
        *text_columns("message", "image", "message", "why images failed, UTF-8, end to end"),
        Column(
            "anchors_xy",
            "image",
            "float32",
            "x, y in pixels of the image; NaN where it failed",
            row_shape=(2,),
            sized_by=("anchors",),
        ),
        Column(
            "maps",
            "image",
            "uint8",
            "similarity to each anchor on an even grid over the image, rows then columns, 0 is -1.0, 255 is 1.0",
            row_shape=(MAP_SIDE, MAP_SIDE),
            sized_by=("anchors",),
        ),
    ),
)


def format_with_anchors(anchors: int) -> TableFormat[TargetAttributes]:
    """Return the format of targets with so many anchors an image."""
    return TARGET_FORMAT.with_sizes({"anchors": anchors})


def target_images_per_shard(anchors: int, images: int) -> int:
    """Return the images in one file of the maps: the unit of work, so that sealing writes whole files."""
    return layout(format_with_anchors(anchors).column("maps"), images).file_rows


def columns_from_targets(rows: Sequence[ImageTargets]) -> dict[str, NDArray[Any]]:
    """Return the columns of some images, one at least."""
    values: dict[str, Any] = {
        "id": [row.image_id for row in rows],
        "width": [row.width for row in rows],
        "height": [row.height for row in rows],
        "status": [TARGET_STATUSES.index(row.status) for row in rows],
        **text_values("file_name", [row.file_name for row in rows]),
        **text_values("message", [row.message for row in rows]),
        "anchors_xy": [row.anchors_xy for row in rows],
        "maps": [row.maps for row in rows],
    }
    return as_columns(format_with_anchors(len(rows[0].anchors_xy)).columns, values)


def targets_from_columns(columns: ColumnData) -> list[ImageTargets]:
    """Return the targets that some images' columns hold."""
    return [
        ImageTargets(image_id, name, width, height, TARGET_STATUSES[status], message, anchors_xy, maps)
        for image_id, name, width, height, status, message, anchors_xy, maps in zip(
            columns["id"].tolist(),
            texts_of("file_name", columns),
            columns["width"].tolist(),
            columns["height"].tolist(),
            columns["status"].tolist(),
            texts_of("message", columns),
            columns["anchors_xy"],
            columns["maps"],
            strict=True,
        )
    ]
