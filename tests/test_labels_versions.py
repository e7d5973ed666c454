"""Label stores of earlier versions: written here by their declarations, read and verified by this program."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from pipeline.labels.label_columns import DECISIONS, LABEL_FORMAT, STATUSES, LabelAttributes, columns_from_labels
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import Decision, ImageLabels, label_from_mask
from pipeline.masks.soft_masks import crop_probability
from pipeline.tables.column_reader import chunk_file
from pipeline.tables.columns import Column, as_columns, bytes_values, offsets_of, text_columns, text_values
from pipeline.tables.sealing import write_table
from pipeline.tables.table_format import CountedColumn, TableFormat
from pipeline.workflow.stored_tables import check_tables
from tests.tiny_labels import CATEGORIES, tiny_row, tiny_store, verify_labels

VERSION_2 = TableFormat(
    name="s4m-labels",
    version=2,
    content="labels",
    make_again="",
    ids="images/id",
    attributes=LabelAttributes,
    counts=(
        CountedColumn("statuses", "images/status", ("ok", "empty", "failed")),
        CountedColumn("decisions", "instances/decision", ("sam", "teacher", "dropped")),
    ),
    facts=("categories",),
    columns=(
        Column("images/id", "image", "int64", ""),
        Column("images/width", "image", "int32", ""),
        Column("images/height", "image", "int32", ""),
        Column("images/status", "image", "uint8", ""),
        *text_columns("images/file_name", "image", "file name", ""),
        *text_columns("images/message", "image", "message", ""),
        Column("images/instance_offsets", "image", "int64", "", points_into="instance"),
        Column("instances/category_id", "instance", "int64", ""),
        Column("instances/score", "instance", "float32", ""),
        Column("instances/box_xyxy", "instance", "float32", "", row_shape=(4,)),
        Column("instances/area", "instance", "int32", ""),
        Column("instances/decision", "instance", "uint8", ""),
        Column("instances/predicted_iou", "instance", "float32", ""),
        Column("instances/stability", "instance", "float32", ""),
        Column("instances/agreement", "instance", "float32", ""),
        Column("instances/candidate", "instance", "int8", ""),
        Column("instances/gate_confidence", "instance", "float32", ""),
        Column("instances/rle_offsets", "instance", "int64", "", points_into="mask byte"),
        Column("instances/rle_bytes", "mask byte", "uint8", "", bulk=True),
        Column("instances/soft_mask_offsets", "instance", "int64", "", points_into="soft mask"),
        Column("instances/soft_mask_crop_xyxy", "soft mask", "int32", "", row_shape=(4,)),
        Column("instances/soft_mask_probability", "soft mask", "uint8", "", row_shape=(64, 64), bulk=True),
    ),
)
VERSION_3 = replace(
    VERSION_2,
    version=3,
    columns=(
        *VERSION_2.columns[:-1],
        Column("instances/mask_score", "instance", "float32", ""),
        Column("instances/soft_mask_logit", "soft mask", "uint8", "", row_shape=(64, 64), bulk=True),
    ),
)
"""In another order of columns: what a store holds is found by name."""
SINCE_VERSION_4 = {"class_vote": None, "class_agreement": None, "uncertain_counts": b""}
ROWS = [tiny_row(image_id) for image_id in range(20)]


def version_2_columns(rows: list[ImageLabels]) -> dict[str, np.ndarray]:
    instances = [each for row in rows for each in row.instances]
    soft = [each.soft_mask for each in instances if each.soft_mask is not None]
    measures = ("predicted_iou", "stability", "agreement", "gate_confidence")
    values: dict[str, Any] = {
        "images/id": [row.image_id for row in rows],
        "images/width": [row.width for row in rows],
        "images/height": [row.height for row in rows],
        "images/status": [STATUSES.index(row.status) for row in rows],
        **text_values("images/file_name", [row.file_name for row in rows]),
        **text_values("images/message", [row.message for row in rows]),
        "images/instance_offsets": offsets_of([len(row.instances) for row in rows]),
        **{
            f"instances/{name}": [getattr(each, name) for each in instances]
            for name in ("category_id", "score", "area")
        },
        "instances/box_xyxy": [each.box_xyxy for each in instances],
        "instances/decision": [DECISIONS.index(each.decision) for each in instances],
        **{
            f"instances/{name}": [
                math.nan if getattr(each, name) is None else getattr(each, name) for each in instances
            ]
            for name in measures
        },
        "instances/candidate": [-1 if each.candidate is None else each.candidate for each in instances],
        **bytes_values("instances/rle", [each.rle_counts for each in instances]),
        "instances/soft_mask_offsets": offsets_of([each.soft_mask is not None for each in instances]),
        "instances/soft_mask_crop_xyxy": [each.crop_box_xyxy for each in soft],
        "instances/soft_mask_probability": [np.rint(each.probabilities * 255) for each in soft],
    }
    return as_columns(VERSION_2.columns, values)


@pytest.fixture
def old(tmp_path) -> Path:
    facts = {"categories": msgspec.to_builtins(list(CATEGORIES))}
    write_table(VERSION_2, tmp_path / "old.zarr", [version_2_columns(ROWS)], facts, {"made by": "test"})
    return tmp_path / "old.zarr"


def without_new(row: ImageLabels) -> ImageLabels:
    return replace(
        row,
        instances=tuple(replace(each, mask_score=None, soft_mask=None, **SINCE_VERSION_4) for each in row.instances),
    )


def test_a_store_of_version_2_is_read_without_mask_scores(old):
    store = LabelStore.open(old)
    assert store.attributes.version == 2
    read = list(store)
    assert [without_new(row) for row in read] == [without_new(row) for row in ROWS]
    assert store.by_id(3) == read[3]
    assert np.isnan(store.mask_scores()).all()
    assert len(store.mask_scores()) == store.attributes.instances
    pairs = [
        (now.soft_mask, then.soft_mask)
        for row, before in zip(read, ROWS, strict=True)
        for now, then in zip(row.instances, before.instances, strict=True)
    ]
    assert all((now is None and then is None) or now.crop_box_xyxy == then.crop_box_xyxy for now, then in pairs)
    soft = [(now, then) for now, then in pairs if now is not None]
    assert len(soft) > 5
    assert max(np.abs(crop_probability(now) - crop_probability(then)).max() for now, then in soft) < 0.01


def test_what_was_read_can_be_written_in_this_version(old, tmp_path):
    read = list(LabelStore.open(old))
    again = tiny_store(tmp_path / "new.zarr", read)
    assert again.attributes.version == 4
    assert list(again) == read


def test_a_store_of_version_2_is_verified_by_the_columns_of_its_own_version(old):
    assert verify_labels(old) == []
    assert check_tables(old.parent) == ([], [])
    column = VERSION_2.column("instances/soft_mask_probability")
    file = old / chunk_file(column, 0)
    content = bytearray(file.read_bytes())
    content[20] ^= 1
    file.write_bytes(content)
    assert any("instances/soft_mask_probability" in problem for problem in verify_labels(old))


def test_a_store_of_version_3_is_read_without_votes_and_uncertain_pixels(tmp_path):
    facts = {"categories": msgspec.to_builtins(list(CATEGORIES))}
    columns = columns_from_labels(ROWS)
    version_3 = LABEL_FORMAT.of_version(3)
    assert version_3 is not None
    assert {column.name for column in VERSION_3.columns} == {column.name for column in version_3.columns}
    part = {column.name: columns[column.name] for column in version_3.columns}
    write_table(version_3, tmp_path / "old.zarr", [part], facts, {"made by": "test"})
    store = LabelStore.open(tmp_path / "old.zarr")
    assert store.attributes.version == 3
    assert list(store) == [
        replace(row, instances=tuple(replace(each, **SINCE_VERSION_4) for each in row.instances)) for row in ROWS
    ]
    assert any(each.class_vote is not None for row in ROWS for each in row.instances)
    assert np.isnan(store.class_doubts()).all()
    assert verify_labels(store.path) == []
    again = tiny_store(tmp_path / "new.zarr", list(store))
    assert (again.attributes.version, list(again)) == (4, list(store))


def test_a_store_keeps_mask_scores_and_nan_for_unknown_ones(tmp_path):
    mask = np.ones((40, 50), bool)
    label = label_from_mask(mask, 3, 0.5, Decision.TEACHER)
    row = ImageLabels.of_instances(1, "a.jpg", 50, 40, (label, replace(label, mask_score=0.25)))
    store = tiny_store(tmp_path / "labels.zarr", [row])
    assert [each.mask_score for each in store[0].instances] == [None, 0.25]
    np.testing.assert_array_equal(store.mask_scores(), [np.nan, 0.25])
    shutil.rmtree(store.path / "instances/mask_score")
    assert any("instances/mask_score is damaged" in problem for problem in verify_labels(store.path))
