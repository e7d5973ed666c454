"""Writes labels: shard by shard and then sealed, or all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from pipeline.coco.model import CocoCategory
from pipeline.errors import ProblemsError
from pipeline.labels.checking import row_problems
from pipeline.labels.class_thresholds import ThresholdRule, above_thresholds, recorded
from pipeline.labels.label_columns import LABEL_FORMAT, LabelAttributes, columns_from_labels, labels_from_columns
from pipeline.labels.rows import ImageLabels
from pipeline.tables.columns import ColumnData
from pipeline.tables.sealing import seal, write_table
from pipeline.tables.shard_files import ShardPlan, read_shard, write_shard

_IMAGES_PER_SHARD = 256


def write_label_shard(folder: Path, index: int, rows: Sequence[ImageLabels]) -> Path:
    """Publish the labels of a batch of images atomically. Of two writers of the same shard, the first wins.

    Raises ProblemsError for rows that cannot be stored, StageError where the disk is full.
    """
    return write_shard(LABEL_FORMAT, folder, index, _checked(f"labels of shard {index}", rows))


def seal_labels(
    shards_folder: Path,
    plan: ShardPlan,
    store_path: Path,
    categories: Sequence[CocoCategory],
    provenance: Mapping[str, Any],
) -> LabelAttributes:
    """Make the store from all shards of a plan, see `pipeline.tables.sealing.seal`."""
    return seal(LABEL_FORMAT, shards_folder, plan, store_path, _facts(categories), provenance)


def write_label_store(
    store_path: Path, labels: Iterable[ImageLabels], categories: Sequence[CocoCategory], provenance: Mapping[str, Any]
) -> LabelAttributes:
    """Make a store of labels that exist already, such as imported ones, in their order."""
    return write_table(LABEL_FORMAT, store_path, _parts(labels), _facts(categories), provenance)


def shard_labels(folder: Path, plan: ShardPlan) -> Iterator[ImageLabels]:
    """Yield the labels of all shards of a plan, in its order. Raise StoreError if a shard is missing or damaged."""
    for index, ids in enumerate(plan):
        yield from labels_from_columns(read_shard(LABEL_FORMAT, folder, index, ids))


def write_above_thresholds(
    candidates: Callable[[], Iterable[ImageLabels]],
    rule: ThresholdRule,
    store_path: Path,
    categories: Sequence[CocoCategory],
    provenance: Mapping[str, Any],
) -> LabelAttributes:
    """Make a store of the labels that reach the thresholds of their classes, which its provenance records.

    candidates: gives all labels, twice: to choose the thresholds, and to write.
    """
    thresholds = rule.thresholds(candidates(), categories)
    chosen = (above_thresholds(row, thresholds) for row in candidates())
    return write_label_store(store_path, chosen, categories, {**provenance, **recorded(thresholds)})


def _parts(labels: Iterable[ImageLabels]) -> Iterator[ColumnData]:
    remaining = iter(labels)
    while rows := list(islice(remaining, _IMAGES_PER_SHARD)):
        yield _checked("labels", rows)


def _checked(what: str, rows: Sequence[ImageLabels]) -> ColumnData:
    problems = row_problems(rows)
    if problems:
        raise ProblemsError(what, problems)
    return columns_from_labels(rows)


def _facts(categories: Sequence[CocoCategory]) -> Mapping[str, Any]:
    return {"categories": msgspec.to_builtins(list(categories))}
