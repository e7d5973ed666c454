"""Reading a sealed store: any image, in any order, from any process, and never a damaged one."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from pipeline.errors import StoreError
from pipeline.labels.label_columns import LABEL_FORMAT, columns_from_labels
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import ImageLabels
from pipeline.tables import columns, table_store
from pipeline.tables.columns import layout
from tests.tiny_labels import HARD_NAMES, tiny_row, tiny_store

IMAGE_IDS = np.random.default_rng(0).permutation(100).tolist()
ROWS = [tiny_row(image_id) for image_id in IMAGE_IDS]


@pytest.fixture(scope="module")
def labels(tmp_path_factory) -> LabelStore:
    return tiny_store(tmp_path_factory.mktemp("store") / "labels.zarr", ROWS)


def test_images_come_in_the_order_of_the_plan(labels):
    assert len(labels) == 100
    assert labels.image_ids.tolist() == IMAGE_IDS
    assert list(labels) == ROWS
    assert labels.file_names() == [row.file_name for row in ROWS]


def test_an_image_is_found_by_position_id_and_name(labels):
    for position in (0, 63, 64, 99, -1, -100):
        assert labels[position] == ROWS[position]
    for row in ROWS:
        assert labels.by_id(row.image_id) == row
        assert labels.by_name(row.file_name) == row
    assert all(labels.by_name(name).image_id == image_id for image_id, name in enumerate(HARD_NAMES))


@pytest.mark.parametrize("cut", [(0, 100), (10, 75), (90, 1000), (5, 5), (70, 3), (200, 300)], ids=str)
def test_a_range_of_images_is_what_a_list_would_give(labels, cut):
    assert labels.rows(*cut) == ROWS[slice(*cut)]


def test_what_is_not_there_is_told(labels):
    for position in (100, -101):
        with pytest.raises(IndexError):
            labels[position]
    for image_id in (-1, 100, 10**12):
        with pytest.raises(StoreError, match=f"labels.zarr: there is no image with the id {image_id}"):
            labels.by_id(image_id)
    with pytest.raises(StoreError, match=r"labels.zarr: there is no image named 'nobody\.jpg'"):
        labels.by_name("nobody.jpg")


def test_columns_come_whole(labels):
    for name, expected in columns_from_labels(ROWS).items():
        assert np.array_equal(labels.column(name), expected, equal_nan=expected.dtype.kind == "f")


def test_rows_that_span_chunks_and_files_are_put_together(tmp_path, monkeypatch):
    monkeypatch.setattr(columns, "CHUNK_BYTES", 48)
    monkeypatch.setattr(columns, "_CHUNKS_PER_FILE", 2)
    monkeypatch.setattr(columns, "_CHUNKS_PER_BULK_FILE", 3)
    monkeypatch.setattr(table_store, "_CACHED_CHUNKS", 4)
    rows = ROWS[:30]
    labels = tiny_store(tmp_path / "labels.zarr", rows)
    assert len(list((labels.path / "instances/rle_bytes/c").iterdir())) > 10
    assert list(labels) == rows
    assert [labels[position] for position in range(len(rows))] == rows


def test_a_layout_has_whole_chunks_and_is_small_where_there_is_little():
    for column in LABEL_FORMAT.columns:
        for rows in (0, 1, 1000, 10**7):
            cut = layout(column, rows)
            assert cut.file_rows % cut.chunk_rows == 0
            assert cut.chunk_rows * column.row_bytes <= 1 << 16
            assert cut.chunk_rows <= max(rows, 1)


@pytest.mark.slow
def test_a_store_goes_to_other_processes_and_threads(labels):
    copy = pickle.loads(pickle.dumps(labels))
    assert copy.by_id(17) == labels.by_id(17)
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(copy.by_id, IMAGE_IDS)) == ROWS
    list(labels)  # a store with filled caches is forked, and sent to a process that starts from nothing
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map(labels.by_id, IMAGE_IDS[:20]) == ROWS[:20]


def test_reading_imports_neither_zarr_nor_torch(labels):
    code = (
        "import sys; from pathlib import Path; from pipeline.labels.label_store import LabelStore;"
        f"list(LabelStore.open(Path({str(labels.path)!r})));"
        "print(sorted({'zarr', 'torch', 'dask', 'mmdet'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_flipped_byte_is_found_when_it_is_read(labels, tmp_path):
    path = Path(shutil.copytree(labels.path, tmp_path / "labels.zarr"))
    file = path / "instances/score/c/0"
    content = bytearray(file.read_bytes())
    content[10] ^= 4
    file.write_bytes(content)
    with pytest.raises(StoreError, match=r"labels.zarr: column instances/score is damaged: .*checksum"):
        list(LabelStore.open(path))
    file.unlink()
    with pytest.raises(StoreError, match=r"column instances/score is damaged: .*No such file"):
        list(LabelStore.open(path))


def test_a_flipped_bit_of_the_attributes_is_refused_or_changes_nothing(tmp_path):
    store = tiny_store(tmp_path / "labels.zarr", ROWS[:12])
    file = store.path / "zarr.json"
    content = file.read_bytes()
    refused = 0
    for place in range(0, len(content), 2):
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place // 2) % 8
        file.write_bytes(damaged)
        try:
            read = LabelStore.open(store.path)
        except StoreError as error:
            assert str(store.path) in str(error)
            refused += 1
            continue
        # Nothing can tell what the provenance was.
        assert replace(read.attributes, provenance={}) == replace(store.attributes, provenance={})
        assert list(read) == ROWS[:12]
    assert refused > len(content) // 4


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("rows", {"image": 100}, "rows does not have the tables"),
        ("column_digests", {}, "column_digests does not have the columns"),
        ("statuses", {"ok": 100}, "statuses does not add up to 100"),
        ("decisions", {"sam": 1, "teacher": 0, "dropped": 0}, "decisions does not add up to"),
        ("categories", [], "they do not match their digest"),
        ("digest", "0" * 32, "they do not match their digest"),
    ],
)
def test_attributes_that_contradict_each_other_are_refused_with_the_remedy(labels, tmp_path, key, value, message):
    path = Path(shutil.copytree(labels.path, tmp_path / "labels.zarr"))
    group = json.loads((path / "zarr.json").read_text())
    group["attributes"][key] = value
    (path / "zarr.json").write_text(json.dumps(group))
    with pytest.raises(StoreError, match=rf"zarr\.json: the attributes are damaged: {message}.*Restore the store"):
        LabelStore.open(path)


def test_what_is_no_store_of_this_format_is_refused(labels, tmp_path):
    with pytest.raises(StoreError, match="nowhere: there are no labels"):
        LabelStore.open(tmp_path / "nowhere")
    path = Path(shutil.copytree(labels.path, tmp_path / "labels.zarr"))
    group = json.loads((path / "zarr.json").read_text())
    for changed, message in (
        ("{", "these are no labels, or they are damaged"),
        ({"attributes": {}}, "these are no labels, or they are damaged"),
        ({"attributes": group["attributes"] | {"format": "pictures"}}, "of the format 'pictures'"),
        (
            {"attributes": group["attributes"] | {"version": 1}},
            "of format version 1, this program reads versions 2, 3 and 4",
        ),
        (
            {"attributes": group["attributes"] | {"version": 5}},
            "of format version 5, this program reads versions 2, 3 and 4",
        ),
        (
            {"attributes": group["attributes"] | {"version": 2}},
            "rows does not have the tables of the format",
        ),
        ({"attributes": group["attributes"] | {"rows": None}}, "the attributes are damaged"),
    ):
        (path / "zarr.json").write_text(changed if isinstance(changed, str) else json.dumps(changed))
        with pytest.raises(StoreError, match=message):
            LabelStore.open(path)


def test_a_row_of_a_store_is_a_plain_value(labels):
    row = labels.by_id(0)
    assert isinstance(row, ImageLabels)
    instance = row.instances[0]
    assert [type(value) for value in (instance.category_id, instance.score, instance.area)] == [int, float, int]
    assert [type(edge) for edge in instance.box_xyxy] == [float] * 4
    assert type(instance.rle_counts) is bytes
