"""Shards, sealing and reading of structural targets."""

from __future__ import annotations

import json
import multiprocessing
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from pipeline.errors import StoreError
from pipeline.labels.rows import Status
from pipeline.structure.target_columns import ANCHORS_PER_SHARD, MAP_SIDE, TARGET_FORMAT, ImageTargets
from pipeline.structure.target_store import StructureStore
from pipeline.structure.target_writing import seal_targets, write_target_shard
from pipeline.tables.shard_files import divide, read_shard

ANCHORS = 16


def targets(image_id: int, anchors: int = ANCHORS) -> ImageTargets:
    """Random targets; every fifth image failed. The same for the same id."""
    rng = np.random.default_rng(abs(image_id))
    name = f"folder/{image_id} \udcff.png"
    if image_id % 5 == 0:
        return ImageTargets.of_failure(image_id, name, 640, 480, f"reason {image_id}")
    corners = np.sort(rng.integers(0, 480, (anchors, 2, 2)), axis=1).reshape(anchors, 4)
    return ImageTargets(
        image_id,
        name,
        640,
        480,
        Status.OK,
        "",
        rng.random((anchors, 2), dtype=np.float32),
        corners.astype(np.int32),
        rng.integers(0, 256, (anchors, MAP_SIDE, MAP_SIDE), dtype=np.uint8),
    )


def make(folder: Path, ids: list[int], per_shard: int = 16, anchors: int = ANCHORS) -> StructureStore:
    plan = divide(ids, per_shard)
    for index, image_ids in reversed(list(enumerate(plan))):
        write_target_shard(folder / "shards", index, [targets(image_id, anchors) for image_id in image_ids])
    seal_targets(folder / "shards", plan, folder / "structure.zarr", {"made": "by a test"})
    return StructureStore.open(folder / "structure.zarr")


def assert_same(found: ImageTargets, expected: ImageTargets) -> None:
    for name in ("image_id", "file_name", "width", "height", "status", "message"):
        assert getattr(found, name) == getattr(expected, name)
    for name in ("anchors_xy", "windows_xyxy", "maps"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert getattr(found, name).dtype == getattr(expected, name).dtype


IDS = [9, 3, -4, 10, 12, 5, *range(100, 134)]


def test_what_was_written_is_read(tmp_path):
    store = make(tmp_path, IDS)
    assert store.ids.tolist() == IDS
    assert len(store) == len(IDS)
    for position, image_id in enumerate(IDS):
        assert_same(store.by_id(image_id), targets(image_id))
        assert_same(store[position - len(IDS)], targets(image_id))
    assert store.attributes.statuses == {"ok": 31, "failed": 9}
    assert (store.attributes.images, store.attributes.anchors) == (40, 31 * ANCHORS)
    assert [row.image_id for row in store.failed()] == [each for each in IDS if each % 5 == 0]
    assert store.by_id(10).maps.shape == (0, MAP_SIDE, MAP_SIDE)
    assert store.attributes.provenance == {"made": "by a test"}
    with pytest.raises(IndexError):
        store[len(IDS)]
    with pytest.raises(StoreError, match="no image with the id 77"):
        store.by_id(77)


@pytest.mark.parametrize(("anchors", "images"), [(2, 40), (17, 40), (128, 1)])
def test_plain_zarr_reads_the_same(tmp_path, anchors, images):
    store = make(tmp_path, list(range(1, images + 1)), anchors=anchors)
    group = zarr.open(store.path, mode="r")
    for position in range(images):
        expected = targets(position + 1, anchors)
        start, end = group["images/anchor_offsets"][position : position + 2]
        np.testing.assert_array_equal(group["anchors/map"][start:end], expected.maps)
        np.testing.assert_array_equal(group["anchors/xy"][start:end], expected.anchors_xy)
        np.testing.assert_array_equal(group["anchors/window_xyxy"][start:end], expected.windows_xyxy)
        start, end = group["images/file_name_offsets"][position : position + 2]
        name = group["images/file_name_bytes"][start:end].tobytes()
        assert name == expected.file_name.encode("utf-8", "surrogateescape")
    arrays = {f"{table}/{name}": array for table, part in group.groups() for name, array in part.arrays()}
    assert {name: (array.dtype, array.shape[1:]) for name, array in arrays.items()} == {
        column.name: (np.dtype(column.dtype), column.row_shape) for column in TARGET_FORMAT.columns
    }
    assert list(group.arrays()) == []


def test_images_may_have_different_numbers_of_anchors(tmp_path):
    counts = {1: 3, 2: 0, 3: 40, 4: 1}
    rows = [targets(image_id, anchors) for image_id, anchors in counts.items()]
    write_target_shard(tmp_path / "shards", 0, rows[:3])
    write_target_shard(tmp_path / "shards", 1, rows[3:])
    seal_targets(tmp_path / "shards", [[1, 2, 3], [4]], tmp_path / "structure.zarr", {})
    store = StructureStore.open(tmp_path / "structure.zarr")
    for row in rows:
        assert_same(store.by_id(row.image_id), row)
    assert store.attributes.anchors == 44


def test_images_that_failed_alone_are_a_store(tmp_path):
    store = make(tmp_path, [5, 10, 15], per_shard=2)
    for image_id in (5, 10, 15):
        assert_same(store.by_id(image_id), targets(image_id))
    assert store.attributes.anchors == 0


def test_the_bytes_do_not_depend_on_how_the_work_was_divided(tmp_path):
    stores = [make(tmp_path / str(per_shard), IDS, per_shard) for per_shard in (7, 16, 40)]
    contents = [
        {path.relative_to(store.path): path.read_bytes() for path in store.path.rglob("*") if path.is_file()}
        for store in stores
    ]
    assert contents[0] == contents[1] == contents[2]
    other = make(tmp_path / "other", IDS[:-1])
    assert other.attributes.digest != stores[0].attributes.digest


@pytest.mark.slow
def test_four_units_of_work_are_a_file_of_the_maps(tmp_path):
    """Of 1,024 anchors an image, four images, which are four units of work."""
    ids = [1, 2, 3, 4, 6, 7, 8, 9, 11]
    store = make(tmp_path, ids, per_shard=1, anchors=1024)
    files = [path for path in (store.path / "anchors/map").rglob("*") if path.is_file() and path.name != "zarr.json"]
    assert len(files) == 3
    chunk_rows = zarr.open(store.path, mode="r")["anchors/map"].shards[0]
    assert chunk_rows == 4 * ANCHORS_PER_SHARD


def read_by_id(store: StructureStore, image_id: int) -> bytes:
    return store.by_id(image_id).maps.tobytes()


@pytest.mark.slow
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
    path = store.path / "anchors" / "map" / "c" / "0" / "0" / "0"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match="column anchors/map is damaged"):
        list(StructureStore.open(store.path))


def test_a_damaged_or_missing_shard_is_refused(tmp_path):
    path = write_target_shard(tmp_path, 0, [targets(1)])
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(StoreError, match="does not match its digest"):
        read_shard(TARGET_FORMAT, tmp_path, 0, [1])
    path.write_bytes(b"\xff\n")
    with pytest.raises(StoreError, match="first line is not that of a shard"):
        read_shard(TARGET_FORMAT, tmp_path, 0, [1])
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"a shard of s4m-structure 3; .* reads s4m-structure 9"):
        read_shard(replace(TARGET_FORMAT, version=9), tmp_path, 0, [1])
    path.unlink()
    with pytest.raises(StoreError, match="1 of 1 shards are missing"):
        seal_targets(tmp_path, [[1]], tmp_path / "structure.zarr", {})
    assert [entry.name for entry in tmp_path.iterdir()] == []


def test_a_store_is_never_replaced(tmp_path):
    store = make(tmp_path, IDS)
    with pytest.raises(StoreError, match="already exists"):
        seal_targets(tmp_path / "shards", [IDS], store.path, {})


def test_other_formats_are_refused(tmp_path):
    with pytest.raises(StoreError, match="there are no structural targets"):
        StructureStore.open(tmp_path)
    zarr.create_group(tmp_path / "a.zarr", attributes={"format": "s4m-structure", "version": 9})
    with pytest.raises(
        StoreError, match="are of format version 9, this program reads version 3. Make them again: make distill"
    ):
        StructureStore.open(tmp_path / "a.zarr")
    zarr.create_group(tmp_path / "b.zarr")
    with pytest.raises(StoreError, match="these are no structural targets, or they are damaged"):
        StructureStore.open(tmp_path / "b.zarr")


OLD_COLUMNS = ("id", "width", "height", "status", "file_name_offsets", "file_name_bytes", "message_offsets",
               "message_bytes", "anchors_xy", "maps")  # fmt: skip
OLD_ATTRIBUTES = {
    1: {"digest": "0" * 32, "anchors": 128, "side": 64, "images": 3, "statuses": {"ok": 3, "failed": 0},
        "lengths": {"file name byte": 12, "message byte": 0}, "provenance": {}},
    2: {"digest": "0" * 32, "sizes": {"anchors": 128}, "statuses": {"ok": 3, "failed": 0},
        "rows": {"image": 3, "file name byte": 12, "message byte": 0},
        "column_digests": dict.fromkeys(OLD_COLUMNS, "0" * 32), "provenance": {}},
}  # fmt: skip
"""What stores of the versions before said of themselves: every image had as many anchors, and no windows."""


@pytest.mark.parametrize("version", OLD_ATTRIBUTES)
def test_older_versions_are_refused_and_told_how_to_make_them_again(tmp_path, version):
    path = tmp_path / "structure.zarr"
    path.mkdir()
    attributes = {"format": "s4m-structure", "version": version, **OLD_ATTRIBUTES[version]}
    metadata = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    (path / "zarr.json").write_text(json.dumps(metadata))
    assert zarr.open(path, mode="r").attrs["version"] == version
    with pytest.raises(StoreError) as caught:
        StructureStore.open(path)
    assert str(caught.value) == (
        f"{path}: the structural targets are of format version {version}, this program reads version 3. "
        "Make them again: make distill."
    )
