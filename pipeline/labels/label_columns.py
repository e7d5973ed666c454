"""The format of label stores: columns and attributes, and the conversion between labels and columns.

`docs/label-store.md` describes the same format. Every change of it raises the version.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Final

from numpy.typing import NDArray

from pipeline.coco.model import CocoCategory
from pipeline.labels.rows import Decision, ImageLabels, InstanceLabel, Status
from pipeline.masks.logit_codes import codes_of_bytes
from pipeline.masks.soft_masks import SOFT_MASK_SIDE, SoftMask
from pipeline.tables.columns import (
    Column,
    ColumnData,
    as_columns,
    bytes_values,
    offsets_of,
    text_columns,
    text_values,
    texts_of,
)
from pipeline.tables.table_format import CountedColumn, TableAttributes, TableFormat

STATUSES: Final = (Status.OK, Status.EMPTY, Status.FAILED)
"""On disk a status is its index in this tuple."""
DECISIONS: Final = (Decision.SAM, Decision.TEACHER, Decision.DROPPED)
"""On disk a decision is its index in this tuple."""
NO_CANDIDATE: Final = -1


class LabelAttributes(TableAttributes, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The attributes of a label store. statuses, decisions: the number of images and instances with each."""

    statuses: dict[str, int]
    decisions: dict[str, int]
    categories: tuple[CocoCategory, ...]

    @property
    def images(self) -> int:
        """Count the images, failed ones included."""
        return self.rows["image"]

    @property
    def instances(self) -> int:
        """Count the instances, dropped ones included."""
        return self.rows["instance"]

    @property
    def names(self) -> dict[int, str]:
        """Return the names of the categories by id."""
        return {category.id: category.name for category in self.categories}


_STATUS_MEANING = ", ".join(f"{code} {name}" for code, name in enumerate(STATUSES))
_DECISION_MEANING = ", ".join(f"{code} {name}" for code, name in enumerate(DECISIONS))

_COLUMNS: Final = (
    Column("images/id", "image", "int64", "the image's id in the dataset"),
    Column("images/width", "image", "int32", "pixels; 0 where a failed image has no known size"),
    Column("images/height", "image", "int32", "pixels; 0 where a failed image has no known size"),
    Column("images/status", "image", "uint8", _STATUS_MEANING),
    *text_columns("images/file_name", "image", "file name", "file names, UTF-8, end to end"),
    *text_columns("images/message", "image", "message", "why images failed, UTF-8, end to end"),
    Column("images/instance_offsets", "image", "int64", "the first instance of each image", points_into="instance"),
    Column("instances/category_id", "instance", "int64", "the category's id in the dataset"),
    Column("instances/score", "instance", "float32", "the detector's confidence in the class, 0 to 1"),
    Column("instances/mask_score", "instance", "float32", "the detector's confidence in its mask, 0 to 1, or NaN"),
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
    Column("instances/class_vote", "instance", "int64", "the category of similar labelled instances; 0 without any"),
    Column("instances/class_agreement", "instance", "float32", "share of comparisons that class_vote won, or NaN"),
    Column(
        "instances/rle_offsets", "instance", "int64", "where each mask begins in rle_bytes", points_into="mask byte"
    ),
    Column("instances/rle_bytes", "mask byte", "uint8", "masks as COCO's compressed RLE, end to end", bulk=True),
    *text_columns("instances/uncertain", "instance", "uncertain mask", "uncertain pixels as COCO's RLE, or nothing"),
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
        "instances/soft_mask_logit",
        "soft mask",
        "uint8",
        "logits in the crop on an even grid, rows then columns, as codes",
        row_shape=(SOFT_MASK_SIDE, SOFT_MASK_SIDE),
        bulk=True,
    ),
)

_VERSION_2_PROBABILITY: Final = Column(
    "instances/soft_mask_probability",
    "soft mask",
    "uint8",
    "probabilities in the crop on an even grid, rows then columns, 255 is 1.0",
    row_shape=(SOFT_MASK_SIDE, SOFT_MASK_SIDE),
    bulk=True,
)

_SINCE_VERSION_4: Final = frozenset(
    f"instances/{name}" for name in ("class_vote", "class_agreement", "uncertain_offsets", "uncertain_bytes")
)

_VERSION_4: Final = TableFormat(
    name="s4m-labels",
    version=4,
    content="labels",
    make_again="Make them again, or read them with the version of s4m that made them.",
    ids="images/id",
    attributes=LabelAttributes,
    counts=(
        CountedColumn("statuses", "images/status", tuple(map(str, STATUSES))),
        CountedColumn("decisions", "instances/decision", tuple(map(str, DECISIONS))),
    ),
    facts=("categories",),
    columns=_COLUMNS,
)
_VERSION_3: Final = replace(
    _VERSION_4, version=3, columns=tuple(column for column in _COLUMNS if column.name not in _SINCE_VERSION_4)
)
_VERSION_2: Final = replace(
    _VERSION_3,
    version=2,
    columns=tuple(
        _VERSION_2_PROBABILITY if column.name == "instances/soft_mask_logit" else column
        for column in _VERSION_3.columns
        if column.name != "instances/mask_score"
    ),
)
LABEL_FORMAT: Final = replace(_VERSION_4, earlier=(_VERSION_3, _VERSION_2))

_MEASURES = ("mask_score", "predicted_iou", "stability", "agreement", "gate_confidence", "class_agreement")


def columns_from_labels(rows: Sequence[ImageLabels]) -> dict[str, NDArray[Any]]:
    """Return the columns of a batch of images that `row_problems` has checked."""
    instances = [instance for row in rows for instance in row.instances]
    soft_masks = [instance.soft_mask for instance in instances if instance.soft_mask is not None]

    def optional(name: str, absent: float) -> list[float]:
        return [absent if (value := getattr(instance, name)) is None else value for instance in instances]

    values: dict[str, Any] = {
        "images/id": [row.image_id for row in rows],
        "images/width": [row.width for row in rows],
        "images/height": [row.height for row in rows],
        "images/status": [STATUSES.index(row.status) for row in rows],
        **text_values("images/file_name", [row.file_name for row in rows]),
        **text_values("images/message", [row.message for row in rows]),
        "images/instance_offsets": offsets_of([len(row.instances) for row in rows]),
        "instances/category_id": [instance.category_id for instance in instances],
        "instances/score": [instance.score for instance in instances],
        "instances/box_xyxy": [instance.box_xyxy for instance in instances],
        "instances/area": [instance.area for instance in instances],
        "instances/decision": [DECISIONS.index(instance.decision) for instance in instances],
        **{f"instances/{name}": optional(name, math.nan) for name in _MEASURES},
        "instances/candidate": optional("candidate", NO_CANDIDATE),
        "instances/class_vote": optional("class_vote", 0),
        **bytes_values("instances/rle", [instance.rle_counts for instance in instances]),
        **bytes_values("instances/uncertain", [instance.uncertain_counts for instance in instances]),
        "instances/soft_mask_offsets": offsets_of([instance.soft_mask is not None for instance in instances]),
        "instances/soft_mask_crop_xyxy": [soft_mask.crop_box_xyxy for soft_mask in soft_masks],
        "instances/soft_mask_logit": [soft_mask.codes for soft_mask in soft_masks],
    }
    return as_columns(LABEL_FORMAT.columns, values)


def labels_from_columns(columns: ColumnData) -> list[ImageLabels]:
    """Return the labels of a batch of images from their columns, of this version or an earlier one."""
    instances = _instances(columns)
    owned = pairwise(columns["images/instance_offsets"].tolist())
    return [
        ImageLabels(image_id, name, width, height, STATUSES[status], message, tuple(instances[first:end]))
        for image_id, name, width, height, status, message, (first, end) in zip(
            columns["images/id"].tolist(),
            texts_of("images/file_name", columns),
            columns["images/width"].tolist(),
            columns["images/height"].tolist(),
            columns["images/status"].tolist(),
            texts_of("images/message", columns),
            owned,
            strict=True,
        )
    ]


def _instances(columns: ColumnData) -> list[InstanceLabel]:
    def values(name: str) -> list[Any]:
        return list(columns[f"instances/{name}"].tolist())

    def texts(name: str) -> list[bytes]:
        if f"instances/{name}_bytes" not in columns:  # a store of an earlier version
            return [b""] * len(columns["instances/score"])
        content = columns[f"instances/{name}_bytes"].tobytes()
        return [content[start:end] for start, end in pairwise(values(f"{name}_offsets"))]

    def measures(name: str) -> list[float | None]:
        if f"instances/{name}" not in columns:  # a store of an earlier version
            return [None] * len(columns["instances/score"])
        return [None if math.isnan(value) else value for value in values(name)]

    mask_score, predicted_iou, stability, agreement, gate_confidence, class_agreement = map(measures, _MEASURES)
    votes = values("class_vote") if "instances/class_vote" in columns else class_agreement
    class_vote = [None if share is None else vote for vote, share in zip(votes, class_agreement, strict=True)]
    fields = zip(
        values("category_id"),
        values("score"),
        map(tuple, values("box_xyxy")),
        texts("rle"),
        values("area"),
        (DECISIONS[code] for code in values("decision")),
        mask_score,
        predicted_iou,
        stability,
        agreement,
        (None if candidate == NO_CANDIDATE else candidate for candidate in values("candidate")),
        gate_confidence,
        _soft_masks(columns),
        class_vote,
        class_agreement,
        texts("uncertain"),
        strict=True,
    )
    return [InstanceLabel(*each) for each in fields]


def _soft_masks(columns: ColumnData) -> Iterator[SoftMask | None]:
    crops = columns["instances/soft_mask_crop_xyxy"].tolist()
    version_2 = columns.get("instances/soft_mask_probability")
    codes = columns["instances/soft_mask_logit"] if version_2 is None else codes_of_bytes(version_2)
    for index, end in pairwise(columns["instances/soft_mask_offsets"].tolist()):
        yield SoftMask(tuple(crops[index]), codes[index]) if end > index else None
