"""The format of the label store: its columns, their types, and how they are cut into chunks.

`docs/label-store.md` tells the same to users. Whatever changes here changes `FORMAT_VERSION`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.labels.rows import Decision, Status
from pipeline.masks.soft_masks import SOFT_MASK_SIDE

FORMAT: Final = "s4m-labels"
FORMAT_VERSION: Final = 2

STATUSES: Final = (Status.OK, Status.EMPTY, Status.FAILED)
"""On disk a status is its place in this tuple."""
DECISIONS: Final = (Decision.SAM, Decision.TEACHER, Decision.DROPPED)
"""On disk a decision is its place in this tuple."""
NO_CANDIDATE: Final = -1

ColumnData = Mapping[str, NDArray[Any]]
"""Column values by column name; offsets count from the first row that is there."""


@dataclass(frozen=True)
class Column:
    """One array of the store.

    name: its path in the Zarr group.
    table: what one row of it is about.
    row_shape: the shape of one row; the array has one more axis ahead.
    points_into: for offsets, the table they point into. Row i of the column's own table owns the rows
        from offsets[i] to offsets[i + 1] there, so that an offsets column has one row more than its table.
    """

    name: str
    table: str
    dtype: str
    meaning: str
    row_shape: tuple[int, ...] = ()
    points_into: str = ""

    @property
    def row_bytes(self) -> int:
        """Size of one row in memory."""
        return np.dtype(self.dtype).itemsize * prod(self.row_shape)


_STATUS_MEANING = ", ".join(f"{code} {name}" for code, name in enumerate(STATUSES))
_DECISION_MEANING = ", ".join(f"{code} {name}" for code, name in enumerate(DECISIONS))

COLUMNS: Final[dict[str, Column]] = {
    column.name: column
    for column in (
        Column("images/id", "image", "int64", "the image's id in the dataset"),
        Column("images/width", "image", "int32", "pixels; 0 where a failed image has no known size"),
        Column("images/height", "image", "int32", "pixels; 0 where a failed image has no known size"),
        Column("images/status", "image", "uint8", _STATUS_MEANING),
        Column(
            "images/file_name_offsets",
            "image",
            "int64",
            "where each file name begins in file_name_bytes",
            points_into="file name byte",
        ),
        Column("images/file_name_bytes", "file name byte", "uint8", "file names, UTF-8, end to end"),
        Column(
            "images/message_offsets",
            "image",
            "int64",
            "where each message begins in message_bytes",
            points_into="message byte",
        ),
        Column("images/message_bytes", "message byte", "uint8", "why images failed, UTF-8, end to end"),
        Column(
            "images/instance_offsets",
            "image",
            "int64",
            "the first instance of each image",
            points_into="instance",
        ),
        Column("instances/category_id", "instance", "int64", "the category's id in the dataset"),
        Column("instances/score", "instance", "float32", "the detector's confidence in the class, 0 to 1"),
        Column(
            "instances/box_xyxy",
            "instance",
            "float32",
            "left, top, right, bottom in pixels, right and bottom exclusive",
            row_shape=(4,),
        ),
        Column("instances/area", "instance", "int32", "pixels of the mask"),
        Column("instances/decision", "instance", "uint8", f"whose mask it is: {_DECISION_MEANING}"),
        Column("instances/predicted_iou", "instance", "float32", "SAM's own estimate of its IoU, or NaN"),
        Column("instances/stability", "instance", "float32", "IoU under a shifted threshold, or NaN"),
        Column("instances/agreement", "instance", "float32", "IoU of SAM's mask and the teacher's, or NaN"),
        Column("instances/candidate", "instance", "int8", "which of SAM's candidates was chosen, or -1"),
        Column("instances/gate_confidence", "instance", "float32", "how sure the gate is of the mask, 0 to 1, or NaN"),
        Column(
            "instances/rle_offsets",
            "instance",
            "int64",
            "where each mask begins in rle_bytes",
            points_into="mask byte",
        ),
        Column("instances/rle_bytes", "mask byte", "uint8", "masks as COCO's compressed RLE, end to end"),
        Column(
            "instances/soft_mask_offsets",
            "instance",
            "int64",
            "the soft mask of each instance, if it has one",
            points_into="soft mask",
        ),
        Column(
            "instances/soft_mask_crop_xyxy",
            "soft mask",
            "int32",
            "left, top, right, bottom of the crop in pixels, right and bottom exclusive",
            row_shape=(4,),
        ),
        Column(
            "instances/soft_mask_probability",
            "soft mask",
            "uint8",
            "probabilities in the crop on an even grid, rows then columns, 255 is 1.0",
            row_shape=(SOFT_MASK_SIDE, SOFT_MASK_SIDE),
        ),
    )
}

TABLES: Final = tuple(dict.fromkeys(column.table for column in COLUMNS.values()))

# One chunk is what reading any image costs to decode; a shard is one file of many chunks. Columns of bytes
# and of soft masks are the bulk and get large files; the others stay small, so that sealing, which holds
# one shard of every column in memory, needs the same memory for few images and for many.
_CHUNK_BYTES: Final = 1 << 16
_CHUNKS_PER_SHARD: Final = 16
_CHUNKS_PER_BULK_SHARD: Final = 256
_BULK_COLUMNS: Final = ("instances/rle_bytes", "instances/soft_mask_probability")


@dataclass(frozen=True)
class Layout:
    """How a column of a given length is cut. All counts are rows; a shard is a whole number of chunks."""

    rows: int
    chunk_rows: int
    shard_rows: int


def layout(column: Column, rows: int) -> Layout:
    """The layout of a column; it follows from nothing but the column and its length."""
    chunk_rows = max(1, min(_CHUNK_BYTES // column.row_bytes, rows))
    most_chunks = _CHUNKS_PER_BULK_SHARD if column.name in _BULK_COLUMNS else _CHUNKS_PER_SHARD
    return Layout(rows, chunk_rows, chunk_rows * min(most_chunks, max(1, ceil(rows / chunk_rows))))


def column_rows(column: Column, table_rows: Mapping[str, int]) -> int:
    """The length of a column, given the length of every table."""
    return table_rows[column.table] + bool(column.points_into)
