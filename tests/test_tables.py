"""The columnar store by itself, with a small kind of table of its own: written, sealed, read, verified, and refused."""

from __future__ import annotations

import json
import pickle
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from pipeline.errors import StageError, StoreError
from pipeline.tables import columns as table_columns
from pipeline.tables import in_place, sealing, table_store
from pipeline.tables.attributes import read_attributes, read_stated_format
from pipeline.tables.column_reader import ColumnReader
from pipeline.tables.columns import Column, as_columns, offsets_of, text_columns, text_values, texts_of
from pipeline.tables.in_place import TableInPlace
from pipeline.tables.sealing import seal, write_table
from pipeline.tables.shard_files import completed_shards, divide, read_shard, shard_path, write_shard
from pipeline.tables.table_format import CountedColumn, TableAttributes, TableFormat
from pipeline.tables.table_store import TableStore
from pipeline.tables.verifying import verify

SIDES = {"bands": 3}


class TripAttributes(TableAttributes, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The attributes of trips."""

    kinds: dict[str, int]
    country: str


def trip_format(*, grid_in_place: bool = False, version: int = 3) -> TableFormat[TripAttributes]:
    """Trips: a name and a kind each, ragged stops with a position each, a fixed grid with a size of the table's own."""
    return TableFormat(
        name="trips",
        version=version,
        content="trips",
        make_again="Travel again.",
        ids="trips/id",
        attributes=TripAttributes,
        counts=(CountedColumn("kinds", "trips/kind", ("by land", "by sea")),),
        facts=("country",),
        columns=(
            Column("trips/id", "trip", "int64", "the trip's id"),
            Column("trips/kind", "trip", "uint8", "0 by land, 1 by sea"),
            *text_columns("trips/name", "trip", "name", "names, UTF-8, end to end"),
            Column("trips/stop_offsets", "trip", "int64", "the first stop of each trip", points_into="stop"),
            Column("stops/xy", "stop", "float32", "where", row_shape=(2,), bulk=True),
            Column("grid", "trip", "uint16", "what", row_shape=(4,), sized_by=("bands",), in_place=grid_in_place),
        ),
    )


DECLARED = trip_format()
TRIPS = DECLARED.with_sizes(SIDES)


class TripStore(TableStore[TripAttributes]):
    """A sealed store of trips."""

    table_format = DECLARED


def trips(ids: Sequence[int], table_format: TableFormat[Any] = TRIPS) -> dict[str, np.ndarray]:
    """The columns of trips, the same for the same id; every third has no stop."""
    stops = [np.random.default_rng(abs(each)).random((each % 3, 2), dtype=np.float32) for each in ids]
    values = {
        "trips/id": list(ids),
        "trips/kind": [each % 2 for each in ids],
        **text_values("trips/name", [f"trip {each} \udcff é" for each in ids]),
        "trips/stop_offsets": offsets_of([len(each) for each in stops]),
        "stops/xy": np.concatenate([np.empty((0, 2), np.float32), *stops]),
        "grid": [np.full((3, 4), abs(each), np.uint16) for each in ids],
    }
    return as_columns(table_format.columns, values)


def make(path: Path, ids: Sequence[int], per_shard: int = 7) -> TripStore:
    parts = (trips(part) for part in divide(ids, per_shard))
    return TripStore(path, write_table(TRIPS, path, parts, {"country": "Norway"}, {"made by": "test"}))


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == expected[name].dtype and np.array_equal(found[name], expected[name]) for name in found
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def small_files(monkeypatch) -> None:
    """Chunks of 32 bytes, two or three of them a file: a small table has as many files as a large one."""
    monkeypatch.setattr(table_columns, "CHUNK_BYTES", 32)
    monkeypatch.setattr(table_columns, "_CHUNKS_PER_FILE", 2)
    monkeypatch.setattr(table_columns, "_CHUNKS_PER_BULK_FILE", 3)


IDS = (4, 0, -5, 9, *range(100, 130))


# Written, sealed, read


@pytest.mark.parametrize("cut", [(0, 34), (1, 2), (3, 20), (33, 34), (5, 5)], ids=str)
@pytest.mark.parametrize("files", ["files as they are", "small files"])
def test_any_rows_read_as_they_were_written(tmp_path, request, files, cut):
    if files == "small files":
        request.getfixturevalue("small_files")
    store = make(tmp_path / "trips.zarr", IDS)
    start, end = cut
    found = store.columns_of(start, end)
    assert same(found, trips(IDS[start:end]))
    assert texts_of("trips/name", found) == [f"trip {each} \udcff é" for each in IDS[start:end]]


def test_rows_are_found_by_id(tmp_path):
    store = make(tmp_path / "trips.zarr", IDS)
    assert [store.position(each) for each in IDS] == list(range(len(IDS)))
    assert store.find(77) is None
    with pytest.raises(StoreError, match=r"trips\.zarr: there is no trip with the id 77"):
        store.position(77)


@pytest.mark.slow
def test_plain_zarr_reads_every_column(tmp_path, small_files):
    store = make(tmp_path / "trips.zarr", IDS)
    group = zarr.open(store.path, mode="r")
    for name, expected in trips(IDS).items():
        assert np.array_equal(group[name][...], expected)
        assert np.array_equal(store.column(name), expected)
    assert group["grid"].shape == (len(IDS), 3, 4)


def test_the_attributes_tell_what_is_inside(tmp_path):
    attributes = make(tmp_path / "trips.zarr", IDS).attributes
    assert attributes == read_attributes(tmp_path / "trips.zarr", DECLARED)
    assert dict(zarr.open(tmp_path / "trips.zarr", mode="r").attrs)["digest"] == attributes.digest
    assert attributes.rows["trip"] == len(IDS)
    assert attributes.rows["stop"] == sum(each % 3 for each in IDS)
    assert attributes.sizes == SIDES
    assert attributes.kinds == {"by land": sum(each % 2 == 0 for each in IDS), "by sea": sum(each % 2 for each in IDS)}
    assert (attributes.country, attributes.provenance) == ("Norway", {"made by": "test"})


@pytest.mark.parametrize("per_shard", [1, 5, 34])
def test_a_table_is_the_same_byte_for_byte_whatever_the_shards_were(tmp_path, per_shard):
    make(tmp_path / "a.zarr", IDS)
    make(tmp_path / "b.zarr", IDS, per_shard)
    assert contents(tmp_path / "a.zarr") == contents(tmp_path / "b.zarr")


def test_the_digest_is_of_content_and_facts_alone(tmp_path, small_files):
    def digest(name: str, ids: Sequence[int], country: str, provenance: dict[str, Any]) -> str:
        return write_table(TRIPS, tmp_path / name, [trips(ids)], {"country": country}, provenance).digest

    first = digest("a", IDS, "Norway", {})
    assert digest("b", IDS, "Norway", {"made by": "somebody else"}) == first
    assert len({first, digest("c", IDS[::-1], "Norway", {}), digest("d", IDS, "Chile", {})}) == 3


@pytest.mark.parametrize("ids", [(), (0,)], ids=["no row", "a row that owns nothing"])
def test_a_table_of_nothing_is_a_table(tmp_path, ids):
    store = make(tmp_path / "trips.zarr", ids)
    assert len(store) == len(ids)
    assert verify(store.path, DECLARED) == []
    assert same(store.columns_of(0, len(ids)), trips(ids))
    assert store.column("stops/xy").shape == (0, 2)


def test_a_store_goes_to_other_processes(tmp_path):
    store = make(tmp_path / "trips.zarr", IDS)
    store.columns_of(0, 3)
    copy = pickle.loads(pickle.dumps(store))
    assert isinstance(copy, TripStore)
    assert same(copy.columns_of(0, len(IDS)), trips(IDS))


def test_a_row_larger_than_a_chunk_is_not_kept_in_memory(tmp_path, monkeypatch):
    path = make(tmp_path / "trips.zarr", IDS).path
    monkeypatch.setattr(table_store, "CHUNK_BYTES", 16)
    store, read = TripStore.open(path), []
    chunk = ColumnReader.chunk

    def noted(reader: ColumnReader, number: int) -> np.ndarray:
        read.append(reader.column.name)
        return chunk(reader, number)

    monkeypatch.setattr(ColumnReader, "chunk", noted)
    for _ in range(3):
        store.columns_of(3, 4)
    assert read == [*(column.name for column in TRIPS.columns if column.name != "stops/xy"), "grid", "grid"]


# Refused


def test_a_shard_of_another_size_or_version_is_not_taken(tmp_path):
    path = write_shard(TRIPS, tmp_path, 0, trips([1, 2]))
    assert same(read_shard(TRIPS, tmp_path, 0, [1, 2]), trips([1, 2]))
    wider = DECLARED.with_sizes({"bands": 4})
    with pytest.raises(StoreError, match=r"a shard of trips 3 with bands 3; .* trips 3 with bands 4 here\. Delete"):
        read_shard(wider, tmp_path, 0, [1, 2])
    with pytest.raises(StoreError, match=rf"Delete the folder {tmp_path} to make its trips again"):
        read_shard(trip_format(version=4).with_sizes(SIDES), tmp_path, 0, [1, 2])
    assert completed_shards(tmp_path, [[1, 2]]) == {0}
    assert completed_shards(tmp_path, [[2, 1]]) == frozenset()
    assert path == shard_path(tmp_path, 0, [1, 2])


def test_what_is_missing_or_twice_is_told_and_nothing_is_written(tmp_path):
    shards, path = tmp_path / "shards", tmp_path / "trips.zarr"
    write_shard(TRIPS, shards, 0, trips([1, 2]))
    write_shard(TRIPS, shards, 1, trips([3, 1]))
    with pytest.raises(StoreError, match=r"1 of 3 shards are missing, the first is number 2"):
        seal(TRIPS, shards, [[1, 2], [3, 1], [4]], path, {"country": ""}, {})
    with pytest.raises(StoreError, match="trip 1 is in the plan more than once"):
        seal(TRIPS, shards, [[1, 2], [3, 1]], path, {"country": ""}, {})
    assert [each.name for each in tmp_path.iterdir()] == ["shards"]


def test_an_interrupted_sealing_leaves_the_shards_and_nothing_else(tmp_path, monkeypatch):
    write_shard(TRIPS, tmp_path / "shards", 0, trips([1, 2]))

    def interrupted(_folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(sealing, "sync_tree", interrupted)
        seal(TRIPS, tmp_path / "shards", [[1, 2]], tmp_path / "trips.zarr", {"country": ""}, {})
    assert [each.name for each in tmp_path.iterdir()] == ["shards"]
    assert len(list((tmp_path / "shards").iterdir())) == 1


def test_a_table_that_is_there_is_never_written_over(tmp_path):
    store = make(tmp_path / "trips.zarr", IDS)
    before = contents(store.path)
    with pytest.raises(StoreError, match="already exists, and sealed trips never change: remove it first"):
        make(store.path, IDS[:3])
    assert contents(store.path) == before


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (trip_format(version=2), r"the trips are of format version 3, this program reads version 2\. Travel again\."),
        (trip_format(version=4), r"the trips are of format version 3, this program reads version 4\. Travel again\."),
    ],
    ids=["newer", "older"],
)
def test_another_version_is_refused_with_both_numbers_and_the_remedy(tmp_path, wanted, message):
    store = make(tmp_path / "trips.zarr", IDS)
    for read in (read_attributes, verify):
        with pytest.raises(StoreError, match=message):
            read(store.path, wanted)
    stated = read_stated_format(store.path)
    assert (stated.format, stated.version) == ("trips", 3)


def test_what_is_no_table_is_refused(tmp_path):
    with pytest.raises(StoreError, match="there are no trips"):
        read_attributes(tmp_path, DECLARED)
    with pytest.raises(StoreError, match="there are no tables"):
        read_stated_format(tmp_path)
    zarr.create_group(tmp_path / "a.zarr")
    with pytest.raises(StoreError, match="these are no trips, or they are damaged"):
        read_attributes(tmp_path / "a.zarr", DECLARED)
    with pytest.raises(StoreError, match="these are no tables, or they are damaged"):
        read_stated_format(tmp_path / "a.zarr")


# Damage


def changed_attributes(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((path / "zarr.json").read_text())
    change(content["attributes"])
    (path / "zarr.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("sizes", {}, "sizes does not have the sizes of the format"),
        ("sizes", {"bands": 4}, "they do not match their digest"),
        ("rows", {"trip": 34}, "rows does not have the tables of the format"),
        ("column_digests", {}, "column_digests does not have the columns of the format"),
        ("country", "Chile", "they do not match their digest"),
        ("digest", "0" * 32, "they do not match their digest"),
        ("kinds", {"by land": 34, "by sea": 1}, "kinds does not add up to 34"),
        ("kinds", {"by land": 34}, "kinds does not add up to 34"),
        ("more", 1, "unknown field `more`"),
    ],
)
def test_attributes_that_contradict_each_other_are_refused(tmp_path, key, value, message):
    store = make(tmp_path / "trips.zarr", IDS)
    changed_attributes(store.path, lambda attributes: attributes.__setitem__(key, value))
    for read in (read_attributes, verify):
        with pytest.raises(
            StoreError, match=rf"zarr\.json: the attributes are damaged: .*{message}.*Restore the store"
        ):
            read(store.path, DECLARED)


def test_verify_finds_a_flipped_byte_in_any_file_of_values(tmp_path, small_files):
    store = make(tmp_path / "trips.zarr", IDS[:12])
    assert verify(store.path, DECLARED) == []
    generator, columns = random.Random(0), set()
    for path in sorted(path for path in store.path.rglob("*") if path.is_file() and path.name != "zarr.json"):
        column = path.relative_to(store.path).as_posix().partition("/c/")[0]
        content = path.read_bytes()
        damaged = bytearray(content)
        damaged[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        (problem,) = verify(store.path, DECLARED)
        assert f"column {column} is damaged" in problem
        path.write_bytes(content)
        columns.add(column)
    assert columns == {column.name for column in TRIPS.columns}


def test_verify_finds_files_that_are_cut_off_gone_or_of_another_column_or_table(tmp_path):
    store = make(tmp_path / "trips.zarr", IDS)
    path = store.path / "trips/id/c/0"
    content = path.read_bytes()
    for cut in (0, 3, len(content) - 1):
        path.write_bytes(content[:cut])
        assert ["column trips/id is damaged" in problem for problem in verify(store.path, DECLARED)] == [True]
    path.unlink()
    assert ["No such file" in problem for problem in verify(store.path, DECLARED)] == [True]
    shutil.copy(store.path / "trips/kind/c/0", path)  # every checksum in it is right, and it is of another length
    assert ["it does not hold what it should" in problem for problem in verify(store.path, DECLARED)] == [True]
    other = make(tmp_path / "other.zarr", IDS[::-1])
    shutil.copy(other.path / "trips/id/c/0", path)
    assert verify(store.path, DECLARED) == [f"{store.path}: column trips/id does not hold the values that were sealed."]


def test_verify_finds_counts_that_are_not_those_of_the_column(tmp_path):
    store = make(tmp_path / "trips.zarr", IDS)
    kinds = store.attributes.kinds

    def one_less_by_land(attributes: dict[str, Any]) -> None:
        attributes["kinds"] = {"by land": kinds["by land"] - 1, "by sea": kinds["by sea"] + 1}

    changed_attributes(store.path, one_less_by_land)
    assert verify(store.path, DECLARED) == [
        f"{store.path}: the attribute kinds does not hold the counts of the column trips/kind."
    ]


# In place

GROWING = trip_format(grid_in_place=True)
PLACED = GROWING.with_sizes(SIDES)


@pytest.fixture
def growing(tmp_path, small_files) -> TableInPlace[TripAttributes]:
    """A table in place; files of its grid hold two trips each."""
    return TableInPlace(PLACED, tmp_path / "trips.zarr", tmp_path / "shards")


PLAN = divide(IDS[:7], 2)


def write_in_place(table: TableInPlace[Any], *indexes: int) -> None:
    for index in indexes:
        table.write(index, 2 * index, trips(PLAN[index], PLACED))


def test_a_table_made_in_place_is_the_one_made_aside(growing, tmp_path):
    growing.prepare(PLAN)
    write_in_place(growing, 2, 0, 3, 1)
    attributes = growing.seal(PLAN, {"country": "Norway"}, {"made by": "test"})
    aside = make(tmp_path / "aside.zarr", IDS[:7])
    assert attributes == aside.attributes
    assert contents(growing.path).keys() == contents(aside.path).keys()
    assert verify(growing.path, GROWING) == []
    assert same(TripStore(growing.path, attributes).columns_of(0, 7), trips(IDS[:7]))
    assert not growing.shards_folder.exists()
    assert growing.sealed() == attributes


def test_a_run_in_place_goes_on_with_what_is_there(growing):
    growing.prepare(PLAN)
    write_in_place(growing, 0, 2)
    growing.prepare(PLAN)
    assert growing.complete(PLAN) == {0, 2}
    assert growing.sealed() is None
    with pytest.raises(StoreError, match="2 of 4 shards are missing, the first is number 1"):
        growing.seal(PLAN, {"country": ""}, {})
    write_in_place(growing, 1, 3)
    growing.seal(PLAN, {"country": ""}, {})
    assert verify(growing.path, GROWING) == []


@pytest.mark.parametrize("step", ["write_attributes", "remove_folder"])
def test_a_sealing_in_place_that_was_stopped_is_done_again(growing, monkeypatch, step):
    growing.prepare(PLAN)
    write_in_place(growing, 0, 1, 2, 3)

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(in_place, step, stopped)
        growing.seal(PLAN, {"country": ""}, {})
    (growing.path / "grid" / "zarr.json.abc.partial").touch()
    if growing.sealed() is None:
        assert step == "write_attributes"
        growing.seal(PLAN, {"country": ""}, {})
        assert not list(growing.path.rglob("*.partial"))
    assert verify(growing.path, GROWING) == []
    assert not growing.shards_folder.exists()


def test_a_column_in_place_that_was_damaged_meanwhile_is_not_sealed(growing):
    growing.prepare(PLAN)
    write_in_place(growing, 0, 1, 2, 3)
    path = growing.path / "grid/c/1/0/0"
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match="column grid is damaged"):
        growing.seal(PLAN, {"country": ""}, {})
    assert growing.sealed() is None


def test_a_full_disk_is_told_in_place_and_the_shard_is_not_there(growing, monkeypatch):
    growing.prepare(PLAN)

    def full(_descriptor: int) -> None:
        raise OSError(28, "full")

    with monkeypatch.context() as patched, pytest.raises(StageError, match="the disk is full"):
        patched.setattr("os.fsync", full)
        write_in_place(growing, 0)
    assert growing.complete(PLAN) == frozenset()
