"""Writing labels: shard by shard and then sealed, or all at once where they are there already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from pipeline.coco.model import CocoCategory
from pipeline.errors import ProblemsError
from pipeline.labels.checking import row_problems
from pipeline.labels.label_columns import LABEL_FORMAT, LabelAttributes, columns_from_labels
from pipeline.labels.rows import ImageLabels
from pipeline.tables.columns import ColumnData
from pipeline.tables.sealing import seal, write_table
from pipeline.tables.shard_files import ShardPlan, write_shard

_IMAGES_PER_SHARD = 256


def write_label_shard(folder: Path, index: int, rows: Sequence[ImageLabels]) -> Path:
    """Publish the labels of some images, atomically. Of two writers of the same shard, the first wins.

    ProblemsError where a row is not fit to be stored; StageError where the disk is full.
    """
    return write_shard(LABEL_FORMAT, folder, index, _checked(f"labels of shard {index}", rows))


def seal_labels(
    shards_folder: Path,
    plan: ShardPlan,
    store_path: Path,
    categories: Sequence[CocoCategory],
    provenance: Mapping[str, Any],
) -> LabelAttributes:
    """Make the store of all shards of a plan, see `pipeline.tables.sealing.seal`."""
    return seal(LABEL_FORMAT, shards_folder, plan, store_path, _facts(categories), provenance)


def write_label_store(
    store_path: Path,
    labels: Iterable[ImageLabels],
    categories: Sequence[CocoCategory],
    provenance: Mapping[str, Any],
) -> LabelAttributes:
    """Make a store of labels that are there already, such as imported ones, in their order."""
    return write_table(LABEL_FORMAT, store_path, _parts(labels), _facts(categories), provenance)


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
