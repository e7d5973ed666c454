"""Shards, sealing and reading of structural targets."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
import zarr

from pipeline.errors import StoreError
from pipeline.labels.rows import Status
from pipeline.structure.target_columns import MAP_SIDE, ImageTargets, format_with_anchors, target_images_per_shard
from pipeline.structure.target_store import StructureStore
from pipeline.structure.target_writing import seal_targets, write_target_shard
from pipeline.tables.shard_files import divide, read_shard

ANCHORS = 16


def targets(image_id: int, anchors: int = ANCHORS) -> ImageTargets:
    rng = np.random.default_rng(abs(image_id))
    failed = image_id % 5 == 0
    return ImageTargets(
        image_id,
        f"folder/{image_id} \udcff.png",
        640,
        480,
        Status.FAILED if failed else Status.OK,
        f"reason {image_id}" if failed else "",
        np.full((anchors, 2), np.nan, np.float32) if failed else rng.random((anchors, 2), dtype=np.float32),
        rng.integers(0, 256, (anchors, MAP_SIDE, MAP_SIDE), dtype=np.uint8) * (not failed),
    )


def make(folder: Path, ids: list[int], per_shard: int | None = None, anchors: int = ANCHORS) -> StructureStore:
    plan = divide(ids, per_shard or target_images_per_shard(anchors, len(ids)))
    for index, image_ids in reversed(list(enumerate(plan))):
        write_target_shard(folder / "shards", index, [targets(image_id, anchors) for image_id in image_ids])
    seal_targets(folder / "shards", plan, folder / "structure.zarr", anchors, {"made": "by a test"})
    return StructureStore.open(folder / "structure.zarr")


def assert_same(found: ImageTargets, expected: ImageTargets) -> None:
    for name in ("image_id", "file_name", "width", "height", "status", "message"):
        assert getattr(found, name) == getattr(expected, name)
    np.testing.assert_array_equal(found.anchors_xy, expected.anchors_xy)
    np.testing.assert_array_equal(found.maps, expected.maps)


IDS = [9, 3, -4, 10, 12, 5, *range(100, 134)]


def test_what_was_written_is_read(tmp_path):
    store = make(tmp_path, IDS)
    assert store.ids.tolist() == IDS
    assert len(store) == len(IDS)
    for position, image_id in enumerate(IDS):
        assert_same(store.by_id(image_id), targets(image_id))
        assert_same(store[position - len(IDS)], targets(image_id))
    assert store.attributes.statuses == {"ok": 31, "failed": 9}
    assert store.attributes.provenance == {"made": "by a test"}
    with pytest.raises(IndexError):
        store[len(IDS)]
    with pytest.raises(StoreError, match="no image with the id 77"):
        store.by_id(77)


@pytest.mark.parametrize(("anchors", "images"), [(2, 40), (17, 40), (128, 1)])
def test_plain_zarr_reads_the_same(tmp_path, anchors, images):
    store = make(tmp_path, list(range(1, images + 1)), anchors=anchors)
    group = zarr.open(store.path, mode="r")
    assert set(group) == {column.name for column in format_with_anchors(anchors).columns}
    for position in range(images):
        expected = store[position]
        np.testing.assert_array_equal(group["maps"][position], expected.maps)
        np.testing.assert_array_equal(group["anchors_xy"][position], expected.anchors_xy)
        start, end = group["file_name_offsets"][position : position + 2]
        assert group["file_name_bytes"][start:end].tobytes() == expected.file_name.encode("utf-8", "surrogateescape")
    assert {name: (array.dtype, array.shape[1:]) for name, array in group.arrays()} == {
        column.name: (np.dtype(column.dtype), column.row_shape) for column in format_with_anchors(anchors).columns
    }


def test_the_bytes_do_not_depend_on_how_the_work_was_divided(tmp_path):
    stores = [make(tmp_path / str(per_shard), IDS, per_shard) for per_shard in (7, 16, 40)]
    contents = [
        {path.relative_to(store.path): path.read_bytes() for path in store.path.rglob("*") if path.is_file()}
        for store in stores
    ]
    assert contents[0] == contents[1] == contents[2]
    other = make(tmp_path / "other", IDS[:-1])
    assert other.attributes.digest != stores[0].attributes.digest


def test_a_unit_of_work_is_a_file_of_the_maps(tmp_path):
    store = make(tmp_path, IDS)
    files = [path for path in (store.path / "maps").rglob("*") if path.is_file() and path.name != "zarr.json"]
    assert len(files) == -(-len(IDS) // target_images_per_shard(ANCHORS, len(IDS)))
    assert target_images_per_shard(128, 1000) == 16


def read_by_id(store: StructureStore, image_id: int) -> bytes:
    return store.by_id(image_id).maps.tobytes()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_it(tmp_path, method):
    store = make(tmp_path, IDS)
    store.by_id(3)  # what was read before is no trouble after
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.starmap(read_by_id, [(store, image_id) for image_id in IDS[:6]])
    assert found == [targets(image_id).maps.tobytes() for image_id in IDS[:6]]
    assert len(pickle.dumps(store)) < 2000


def test_damage_is_told(tmp_path):
    store = make(tmp_path, IDS)
    path = store.path / "maps" / "c" / "0" / "0" / "0" / "0"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match="column maps is damaged"):
        list(StructureStore.open(store.path))


def test_a_damaged_or_missing_shard_is_refused(tmp_path):
    path = write_target_shard(tmp_path, 0, [targets(1)])
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(StoreError, match="does not match its digest"):
        read_shard(format_with_anchors(ANCHORS), tmp_path, 0, [1])
    path.write_bytes(b"\xff\n")
    with pytest.raises(StoreError, match="first line is not that of a shard"):
        read_shard(format_with_anchors(ANCHORS), tmp_path, 0, [1])
    path.write_bytes(content)
    with pytest.raises(
        StoreError,
        match=r"a shard of s4m-structure 2 with anchors 16; .* reads s4m-structure 2 with anchors 8",
    ):
        read_shard(format_with_anchors(8), tmp_path, 0, [1])
    path.unlink()
    with pytest.raises(StoreError, match="1 of 1 shards are missing"):
        seal_targets(tmp_path, [[1]], tmp_path / "structure.zarr", ANCHORS, {})
    assert [entry.name for entry in tmp_path.iterdir()] == []


def test_a_store_is_never_replaced(tmp_path):
    store = make(tmp_path, IDS)
    with pytest.raises(StoreError, match="already exists"):
        seal_targets(tmp_path / "shards", [IDS], store.path, ANCHORS, {})


def test_other_formats_are_refused(tmp_path):
    with pytest.raises(StoreError, match="there are no structural targets"):
        StructureStore.open(tmp_path)
    zarr.create_group(tmp_path / "a.zarr", attributes={"format": "s4m-structure", "version": 9})
    with pytest.raises(
        StoreError, match="are of format version 9, this program reads version 2. Make them again: make distill"
    ):
        StructureStore.open(tmp_path / "a.zarr")
    zarr.create_group(tmp_path / "b.zarr")
    with pytest.raises(StoreError, match="these are no structural targets, or they are damaged"):
        StructureStore.open(tmp_path / "b.zarr")
