"""Sealing: the same store whatever the shards were, readable with zarr, and every flipped byte found."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from pipeline.coco.model import CocoCategory
from pipeline.errors import StoreError
from pipeline.labels import label_writing
from pipeline.labels.label_columns import LABEL_FORMAT, columns_from_labels
from pipeline.labels.label_store import LabelStore
from pipeline.labels.label_writing import seal_labels, write_label_shard, write_label_store
from pipeline.tables import columns, sealing
from pipeline.tables.shard_files import divide, shard_path
from tests.tiny_labels import CATEGORIES, tiny_row, tiny_store, verify_labels

ROWS = [tiny_row(image_id) for image_id in range(40)]


@pytest.fixture(scope="module")
def sealed(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sealed") / "labels.zarr"
    write_label_store(path, ROWS, CATEGORIES, {"made by": "test"})
    return path


@pytest.fixture
def store_path(sealed, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(sealed, tmp_path / "labels.zarr"))


@pytest.fixture
def small_chunks(monkeypatch) -> None:
    """Chunks of 64 bytes and shards of 2 or 4 of them: the tiny store has as many files as a large one."""
    monkeypatch.setattr(columns, "CHUNK_BYTES", 64)
    monkeypatch.setattr(columns, "_CHUNKS_PER_FILE", 2)
    monkeypatch.setattr(columns, "_CHUNKS_PER_BULK_FILE", 4)


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def seal_shuffled(folder: Path, images_per_shard: int) -> Path:
    """Shards of another size, written in another order."""
    plan = divide([row.image_id for row in ROWS], images_per_shard)
    by_id = {row.image_id: row for row in ROWS}
    for index in random.Random(images_per_shard).sample(range(len(plan)), len(plan)):
        write_label_shard(folder / "shards", index, [by_id[image_id] for image_id in plan[index]])
    seal_labels(folder / "shards", plan, folder / "labels.zarr", CATEGORIES, {"made by": "test"})
    return folder / "labels.zarr"


@pytest.mark.parametrize("images_per_shard", [1, 7, 40])
def test_a_store_is_the_same_byte_for_byte_whatever_the_shards_were(sealed, tmp_path, images_per_shard):
    assert files(seal_shuffled(tmp_path, images_per_shard)) == files(sealed)


def test_the_digest_is_of_the_content_not_of_files_or_provenance(sealed, tmp_path, small_chunks):
    write_label_store(tmp_path / "a.zarr", ROWS, CATEGORIES, {"made by": "somebody else"})
    assert len(files(tmp_path / "a.zarr")) > 2 * len(files(sealed))
    assert verify_labels(tmp_path / "a.zarr") == []
    digest = LabelStore.open(tmp_path / "a.zarr").attributes.digest
    assert digest == LabelStore.open(sealed).attributes.digest


def test_the_digest_changes_with_any_content(sealed, tmp_path):
    changed = {
        "order": (ROWS[::-1], CATEGORIES),
        "images": (ROWS[:-1], CATEGORIES),
        "categories": (ROWS, (*CATEGORIES, CocoCategory(9, "cow"))),
    }
    digests = {LabelStore.open(sealed).attributes.digest}
    for name, (rows, categories) in changed.items():
        digests.add(write_label_store(tmp_path / name, rows, categories, {"made by": "test"}).digest)
    assert len(digests) == 4


@pytest.mark.slow
@pytest.mark.parametrize("chunks", ["chunks as they are", "small chunks"])
def test_plain_zarr_reads_every_column(tmp_path, request, chunks):
    if chunks == "small chunks":
        request.getfixturevalue("small_chunks")
    store = tiny_store(tmp_path / "labels.zarr", ROWS)
    group = zarr.open(tmp_path / "labels.zarr", mode="r")
    for name, expected in columns_from_labels(ROWS).items():
        array = group[name]
        assert array.dtype == LABEL_FORMAT.column(name).dtype
        assert array.attrs["meaning"] == LABEL_FORMAT.column(name).meaning
        assert np.array_equal(array[...], expected, equal_nan=expected.dtype.kind == "f")
        assert np.array_equal(store.column(name), expected, equal_nan=expected.dtype.kind == "f")
    assert {f"{part}/{name}" for part in group.group_keys() for name in group[part].array_keys()} == {
        column.name for column in LABEL_FORMAT.columns
    }


def test_the_attributes_tell_what_is_in_the_store(sealed):
    attributes = LabelStore.open(sealed).attributes
    assert dict(zarr.open(sealed, mode="r").attrs)["digest"] == attributes.digest
    assert (attributes.images, attributes.instances) == (40, sum(len(row.instances) for row in ROWS))
    assert attributes.statuses == {"ok": 32, "empty": 4, "failed": 4}
    decisions = [str(instance.decision) for row in ROWS for instance in row.instances]
    assert attributes.decisions == {name: decisions.count(name) for name in ("sam", "teacher", "dropped")}
    assert attributes.categories == CATEGORIES
    assert attributes.provenance == {"made by": "test"}


@pytest.mark.parametrize("rows", [[], [tiny_row(4)], [tiny_row(5)]], ids=["no image", "failed", "no instance"])
def test_a_store_of_nothing_is_a_store(tmp_path, rows):
    store = tiny_store(tmp_path / "labels.zarr", rows)
    assert list(store) == rows
    assert verify_labels(store.path) == []
    assert zarr.open(store.path, mode="r")["instances/rle_bytes"].shape == (0,)


def test_missing_shards_are_told_and_nothing_is_written(tmp_path):
    plan = divide(range(20), 5)
    for index in (0, 2):
        write_label_shard(tmp_path / "shards", index, [tiny_row(image_id) for image_id in plan[index]])
    with pytest.raises(StoreError, match=r"2 of 4 shards are missing, the first is number 1\. Run the stage"):
        seal_labels(tmp_path / "shards", plan, tmp_path / "labels.zarr", CATEGORIES, {})
    assert [each.name for each in tmp_path.iterdir()] == ["shards"]


def test_an_image_in_two_shards_is_refused(tmp_path):
    plan = [[1, 2], [3, 1]]
    for index, image_ids in enumerate(plan):
        write_label_shard(tmp_path / "shards", index, [tiny_row(image_id) for image_id in image_ids])
    with pytest.raises(StoreError, match="image 1 is in the plan more than once"):
        seal_labels(tmp_path / "shards", plan, tmp_path / "labels.zarr", CATEGORIES, {})


def test_a_store_that_is_there_is_never_written_over(store_path):
    before = files(store_path)
    with pytest.raises(StoreError, match="already exists, and sealed labels never change"):
        write_label_store(store_path, [], (), {})
    assert files(store_path) == before
    assert [each.name for each in store_path.parent.iterdir()] == [store_path.name]


def test_of_two_that_seal_at_the_same_time_the_first_wins(store_path, tmp_path, monkeypatch):
    write_label_shard(tmp_path / "shards", 0, [tiny_row(1)])

    def other_is_faster(_folder: Path) -> None:
        store_path.rename(tmp_path / "new.zarr")

    monkeypatch.setattr(sealing, "sync_tree", other_is_faster)
    with pytest.raises(StoreError, match=r"new\.zarr already exists"):
        seal_labels(tmp_path / "shards", [[1]], tmp_path / "new.zarr", CATEGORIES, {})
    assert verify_labels(tmp_path / "new.zarr") == []
    assert len(LabelStore.open(tmp_path / "new.zarr")) == len(ROWS)


def write_and_die(path: Path) -> None:
    def rows():
        yield from ROWS[:3]
        os._exit(9)

    label_writing._IMAGES_PER_SHARD = 2
    write_label_store(path, rows(), CATEGORIES, {})


def test_what_a_killed_run_left_is_gone_when_the_store_is_there(tmp_path):
    path = tmp_path / "labels.zarr"
    process = multiprocessing.get_context("fork").Process(target=write_and_die, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == 9
    (left,) = tmp_path.iterdir()
    assert list(left.glob("*.shard"))
    tiny_store(path, ROWS[:3])
    assert [each.name for each in tmp_path.iterdir()] == ["labels.zarr"]


@pytest.mark.slow
def test_hidden_neighbours_of_a_new_store_are_left_alone(tmp_path):
    for folder in (".labels-backup", ".labels.s4m-writing-of-mine"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine").write_text("precious")
    (tmp_path / ".labels-notes").write_text("precious")
    (tmp_path / ".labels.s4m-writing-notes").write_text("precious")
    before = files(tmp_path)
    tiny_store(tmp_path / "labels", ROWS[:3])
    assert {name: content for name, content in files(tmp_path).items() if not name.startswith("labels/")} == before


@pytest.mark.parametrize("meanwhile", ["teacher", "teacher-2"])
def test_writers_leave_each_others_scratch_alone(tmp_path, monkeypatch, meanwhile):
    monkeypatch.setattr(label_writing, "_IMAGES_PER_SHARD", 4)

    def rows():
        yield from ROWS[:10]
        write_label_store(tmp_path / meanwhile, ROWS[:5], CATEGORIES, {})
        yield from ROWS[10:]

    if meanwhile == "teacher":
        assert list(written(tmp_path / "teacher-2", rows())) == ROWS
    else:
        with pytest.raises(StoreError, match="teacher-2 already exists"):
            written(tmp_path / "teacher-2", rows())
    assert list(LabelStore.open(tmp_path / meanwhile)) == ROWS[:5]
    assert not list(tmp_path.glob(".*"))


def written(path: Path, rows) -> LabelStore:
    write_label_store(path, rows, CATEGORIES, {})
    return LabelStore.open(path)


def test_an_interrupted_sealing_leaves_the_shards_and_nothing_else(tmp_path, monkeypatch):
    def interrupted(_folder: Path) -> None:
        raise KeyboardInterrupt

    plan = divide(range(10), 5)
    for index, image_ids in enumerate(plan):
        write_label_shard(tmp_path / "shards", index, [tiny_row(image_id) for image_id in image_ids])
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(sealing, "sync_tree", interrupted)
        seal_labels(tmp_path / "shards", plan, tmp_path / "labels.zarr", CATEGORIES, {})
    assert [each.name for each in tmp_path.iterdir()] == ["shards"]
    assert len(list((tmp_path / "shards").iterdir())) == 2


def test_a_damaged_shard_is_not_sealed(tmp_path):
    path = write_label_shard(tmp_path / "shards", 0, [tiny_row(1)])
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match="the shard is damaged"):
        seal_labels(tmp_path / "shards", [[1]], tmp_path / "labels.zarr", CATEGORIES, {})
    assert path == shard_path(tmp_path / "shards", 0, [1])
    assert [each.name for each in tmp_path.iterdir()] == ["shards"]


def test_the_sealed_store_is_as_open_to_others_as_other_new_folders(sealed, tmp_path):
    (tmp_path / "new").mkdir()
    assert sealed.stat().st_mode == (tmp_path / "new").stat().st_mode


def test_verify_finds_a_flipped_byte_in_any_file_of_values(store_path):
    generator = random.Random(0)
    for path in sorted(store_path.glob("*/*/c/**/*")):
        if path.is_dir():
            continue
        column = path.relative_to(store_path).as_posix().partition("/c/")[0]
        content = path.read_bytes()
        damaged = bytearray(content)
        damaged[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        problems = verify_labels(store_path)
        path.write_bytes(content)
        assert len(problems) == 1, path
        assert f"column {column} is damaged" in problems[0]
        assert "does not match its checksum" in problems[0]
    assert verify_labels(store_path) == []


def test_verify_finds_files_that_are_cut_off_or_gone_or_of_another_store(store_path, tmp_path):
    path = store_path / "instances/score/c/0"
    content = path.read_bytes()
    for cut in (0, 3, len(content) - 1):
        path.write_bytes(content[:cut])
        assert ["score" in problem for problem in verify_labels(store_path)] == [True]
    path.unlink()
    assert ["No such file" in problem for problem in verify_labels(store_path)] == [True]
    # Another store's file of the same length: every checksum in it is right.
    rows = [tiny_row(image_id) for image_id in range(40)]
    other = columns_from_labels(rows)["instances/score"][::-1]
    zarr.open(store_path, mode="r+")["instances/score"][...] = other
    assert verify_labels(store_path) == [
        f"{store_path}: column instances/score does not hold the values that were sealed."
    ]


def test_verify_finds_other_attributes(store_path):
    path = store_path / "zarr.json"
    content = json.loads(path.read_text())
    attributes = content["attributes"]
    attributes["statuses"] |= {"ok": 31, "empty": 5}  # of 32 and 4: the sum is right
    path.write_text(json.dumps(content))
    column = "the counts of the column images/status"
    assert verify_labels(store_path) == [f"{store_path}: the attribute statuses does not hold {column}."]
    attributes["categories"][0]["name"] = "dog"
    path.write_text(json.dumps(content))
    with pytest.raises(StoreError, match=r"zarr\.json: the attributes are damaged: they do not match their digest"):
        verify_labels(store_path)
