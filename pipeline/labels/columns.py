"""From rows to columns and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.labels.rows import ImageLabels, InstanceLabel
from pipeline.labels.schema import COLUMNS, DECISIONS, NO_CANDIDATE, STATUSES, ColumnData
from pipeline.masks.soft_masks import SoftMask

_STATUS_CODES = {status: code for code, status in enumerate(STATUSES)}
_DECISION_CODES = {decision: code for code, decision in enumerate(DECISIONS)}


def columns_from_rows(rows: Sequence[ImageLabels]) -> dict[str, NDArray[Any]]:
    """The columns of some images; `row_problems` says beforehand what would not fit."""
    # Names that are not valid Unicode exist on disks; Python has them as surrogates.
    names = [row.file_name.encode("utf-8", "surrogateescape") for row in rows]
    messages = [row.message.encode("utf-8", "surrogateescape") for row in rows]
    instances = [instance for row in rows for instance in row.instances]
    soft_masks = [instance.soft_mask for instance in instances if instance.soft_mask is not None]
    values: dict[str, Any] = {
        "images/id": [row.image_id for row in rows],
        "images/width": [row.width for row in rows],
        "images/height": [row.height for row in rows],
        "images/status": [_STATUS_CODES[row.status] for row in rows],
        "images/file_name_offsets": offsets_of([len(name) for name in names]),
        "images/file_name_bytes": np.frombuffer(b"".join(names), dtype=np.uint8),
        "images/message_offsets": offsets_of([len(message) for message in messages]),
        "images/message_bytes": np.frombuffer(b"".join(messages), dtype=np.uint8),
        "images/instance_offsets": offsets_of([len(row.instances) for row in rows]),
        "instances/category_id": [instance.category_id for instance in instances],
        "instances/score": [instance.score for instance in instances],
        "instances/box_xyxy": [instance.box_xyxy for instance in instances],
        "instances/area": [instance.area for instance in instances],
        "instances/decision": [_DECISION_CODES[instance.decision] for instance in instances],
        "instances/predicted_iou": [_or_nan(instance.predicted_iou) for instance in instances],
        "instances/stability": [_or_nan(instance.stability) for instance in instances],
        "instances/agreement": [_or_nan(instance.agreement) for instance in instances],
        "instances/candidate": [
            NO_CANDIDATE if instance.candidate is None else instance.candidate for instance in instances
        ],
        "instances/gate_confidence": [_or_nan(instance.gate_confidence) for instance in instances],
        "instances/rle_offsets": offsets_of([len(instance.rle_counts) for instance in instances]),
        "instances/rle_bytes": np.frombuffer(b"".join(instance.rle_counts for instance in instances), dtype=np.uint8),
        "instances/soft_mask_offsets": offsets_of([instance.soft_mask is not None for instance in instances]),
        "instances/soft_mask_crop_xyxy": [soft_mask.crop_box_xyxy for soft_mask in soft_masks],
        "instances/soft_mask_probability": [soft_mask.probabilities for soft_mask in soft_masks],
    }
    return {
        name: np.asarray(values[name], dtype=column.dtype).reshape(-1, *column.row_shape)
        for name, column in COLUMNS.items()
    }


def rows_from_columns(columns: ColumnData) -> list[ImageLabels]:
    """The rows that some images' columns hold."""
    instances = list(_instances(columns))
    names, messages = (
        texts_of(columns[f"images/{part}_bytes"], columns[f"images/{part}_offsets"])
        for part in ("file_name", "message")
    )
    owned = pairwise(columns["images/instance_offsets"].tolist())
    return [
        ImageLabels(image_id, name, width, height, STATUSES[status], message, tuple(instances[first:end]))
        for image_id, name, width, height, status, message, (first, end) in zip(
            columns["images/id"].tolist(),
            names,
            columns["images/width"].tolist(),
            columns["images/height"].tolist(),
            columns["images/status"].tolist(),
            messages,
            owned,
            strict=True,
        )
    ]


def _instances(columns: ColumnData) -> Iterator[InstanceLabel]:
    def values(name: str) -> list[Any]:
        return list(columns[f"instances/{name}"].tolist())

    rle_bytes = columns["instances/rle_bytes"].tobytes()
    offsets = values("rle_offsets")
    for (
        category_id, score, box, area, decision, predicted_iou, stability, agreement, candidate,
        gate_confidence, rle_start, rle_end, soft_mask,
    ) in zip(
        values("category_id"), values("score"), values("box_xyxy"), values("area"), values("decision"),
        values("predicted_iou"), values("stability"), values("agreement"), values("candidate"),
        values("gate_confidence"), offsets[:-1], offsets[1:], _soft_masks(columns), strict=True,
    ):  # fmt: skip
        yield InstanceLabel(
            category_id,
            score,
            tuple(box),
            rle_bytes[rle_start:rle_end],
            area,
            DECISIONS[decision],
            _or_none(predicted_iou),
            _or_none(stability),
            _or_none(agreement),
            None if candidate == NO_CANDIDATE else candidate,
            _or_none(gate_confidence),
            soft_mask,
        )


def _soft_masks(columns: ColumnData) -> Iterator[SoftMask | None]:
    crops = columns["instances/soft_mask_crop_xyxy"].tolist()
    probabilities = columns["instances/soft_mask_probability"]
    for index, end in pairwise(columns["instances/soft_mask_offsets"].tolist()):
        yield SoftMask(tuple(crops[index]), probabilities[index]) if end > index else None


def texts_of(text_bytes: NDArray[np.uint8], offsets: NDArray[np.int64]) -> list[str]:
    """Texts that lie end to end, by where each begins and ends."""
    joined = text_bytes.tobytes()
    return [joined[start:end].decode("utf-8", "surrogateescape") for start, end in pairwise(offsets.tolist())]


def offsets_of(lengths: Sequence[int]) -> NDArray[np.int64]:
    """Where things of these lengths begin when they lie end to end, and where the last one ends."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _or_none(value: float) -> float | None:
    return None if value != value else value  # NaN is the only value that differs from itself


def table_rows(columns: ColumnData) -> dict[str, int]:
    """The length of every table."""
    return {column.table: len(columns[name]) for name, column in COLUMNS.items() if not column.points_into}
