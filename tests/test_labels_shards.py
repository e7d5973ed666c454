"""Shards: published whole or not at all, whoever else writes, is killed, or fills the disk."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from pipeline.errors import ProblemsError, StageError, StoreError
from pipeline.labels.label_columns import LABEL_FORMAT, labels_from_columns
from pipeline.labels.label_store import LabelStore
from pipeline.labels.label_writing import write_label_shard
from pipeline.tables.shard_files import completed_shards, divide, read_shard, shard_path, shard_rows
from tests.processes import forked_lightly
from tests.tiny_labels import finish, tiny_row, verify_labels, write_all

IDS = (4, 0, 5, 9)
ROWS = [tiny_row(image_id) for image_id in IDS]


def test_a_shard_reads_as_it_was_written(tmp_path):
    path = write_label_shard(tmp_path / "new" / "folder", 3, ROWS)
    assert path == shard_path(tmp_path / "new" / "folder", 3, IDS)
    assert labels_from_columns(read_shard(LABEL_FORMAT, path.parent, 3, IDS)) == ROWS
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_the_first_line_of_a_shard_tells_what_is_inside(tmp_path):
    path = write_label_shard(tmp_path, 0, ROWS)
    header = json.loads(path.read_bytes().split(b"\n")[0])
    assert (header["format"], header["version"], header["rows"]["image"]) == ("s4m-labels", 4, len(ROWS))
    assert shard_rows(LABEL_FORMAT, tmp_path, 0, IDS) == header["rows"]


def test_the_same_labels_give_the_same_bytes(tmp_path):
    first, second = (write_label_shard(tmp_path / name, 0, ROWS).read_bytes() for name in ("a", "b"))
    assert first == second


def test_images_are_divided_in_order():
    assert divide(range(7), 3) == ((0, 1, 2), (3, 4, 5), (6,))
    assert divide([], 3) == ()


def test_completed_shards_are_those_of_the_same_images(tmp_path):
    plan = divide(range(8), 2)
    assert completed_shards(tmp_path / "nowhere", plan) == frozenset()
    for index in (1, 3):
        write_label_shard(tmp_path, index, [tiny_row(image_id) for image_id in plan[index]])
    assert completed_shards(tmp_path, plan) == {1, 3}
    assert completed_shards(tmp_path, divide(range(8), 4)) == frozenset()
    assert completed_shards(tmp_path, divide(range(1, 9), 2)) == frozenset()


def test_what_killed_writers_leave_is_no_shard_and_is_in_nobodys_way(tmp_path):
    plan = divide(range(4), 2)
    path = shard_path(tmp_path, 0, plan[0])
    for leftover in (f".{path.name}.host.1234.5678", f"{path.name}.part", "notes.txt"):
        (tmp_path / leftover).write_bytes(b"half of it")
    assert completed_shards(tmp_path, plan) == frozenset()
    write_label_shard(tmp_path, 0, [tiny_row(image_id) for image_id in plan[0]])
    assert completed_shards(tmp_path, plan) == {0}


@pytest.mark.parametrize("hard_links", [True, False])
def test_a_shard_that_is_there_is_never_replaced(tmp_path, monkeypatch, hard_links):
    if not hard_links:

        def refuse(*_):
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    path = write_label_shard(tmp_path, 0, [tiny_row(1, soft_masks=True)])
    before = path.read_bytes()
    write_label_shard(tmp_path, 0, [tiny_row(1, soft_masks=False)])
    assert (path.read_bytes() == before) is hard_links  # without hard links the last one wins, whole as well
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_rows_that_are_not_fit_are_all_told_and_nothing_is_written(tmp_path):
    with pytest.raises(ProblemsError, match="labels of shard 2: 1 problem\n  image 1: is in the rows twice"):
        write_label_shard(tmp_path, 2, [tiny_row(1), tiny_row(1)])
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_byte_anywhere_is_found(tmp_path):
    path = write_label_shard(tmp_path, 0, [tiny_row(0, soft_masks=False)])
    content = path.read_bytes()
    first_line = content.index(b"\n") + 1
    for place in (*range(first_line), *range(first_line, len(content), 5)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"\.shard: .*Delete the"):
            read_shard(LABEL_FORMAT, tmp_path, 0, [0])


def test_a_cut_off_a_missing_and_a_foreign_shard_are_refused(tmp_path):
    path = write_label_shard(tmp_path, 0, ROWS)
    content = path.read_bytes()
    for size in (0, 10, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(StoreError, match="is damaged"):
            read_shard(LABEL_FORMAT, tmp_path, 0, IDS)
    path.write_bytes(content.replace(b'"version":4', b'"version":2', 1))
    with pytest.raises(StoreError, match="a shard of s4m-labels 2; this program writes and reads s4m-labels 4"):
        read_shard(LABEL_FORMAT, tmp_path, 0, IDS)
    path.write_bytes(write_label_shard(tmp_path / "other", 0, [tiny_row(8)]).read_bytes())
    with pytest.raises(StoreError, match="it does not hold what it should"):
        read_shard(LABEL_FORMAT, tmp_path, 0, IDS)
    path.unlink()
    with pytest.raises(StoreError, match="the shard is missing"):
        read_shard(LABEL_FORMAT, tmp_path, 0, IDS)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_with_figures_and_leaves_nothing(tmp_path, monkeypatch, code):
    def full(_descriptor: int) -> None:
        raise OSError(code, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StageError, match=r"the disk is full .*\d MB to write, \d.* MB free.*Make room and run"):
        write_label_shard(tmp_path / "shards", 0, ROWS)
    assert list((tmp_path / "shards").iterdir()) == []


def test_another_error_of_the_disk_is_not_taken_for_a_full_one(tmp_path, monkeypatch):
    def broken(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        write_label_shard(tmp_path, 0, ROWS)


def test_a_disk_that_is_really_full_keeps_what_is_finished(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        with pytest.raises(StageError, match="the disk is full"):
            finish(disk, images=2000, images_per_shard=50)
        finished = completed_shards(disk / "shards", divide(range(2000), 50))
        assert 0 < len(finished) < 40
        assert len(list((disk / "shards").iterdir())) == len(finished)
        with pytest.raises(StageError, match="the disk is full"):  # now there is room for the shards alone
            finish(disk, images=50 * len(finished), images_per_shard=50)
        assert [each.name for each in disk.iterdir()] == ["shards"]
        subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
        finish(disk, images=50 * len(finished), images_per_shard=50)
        assert verify_labels(disk / "labels.zarr") == []
    finally:
        subprocess.run(["umount", disk], check=True)


# From here on with real processes.


@pytest.fixture
def processes() -> Iterator[ForkServerContext]:
    with forked_lightly() as context:
        yield context


def killed(processes: ForkServerContext, progress: Callable[[], int], seconds: float, *arguments: object) -> bool:
    """Start a run and kill it so many seconds after it made progress; whether it was still at work."""
    before = progress()
    process = processes.Process(target=finish, args=arguments)
    process.start()
    while process.is_alive() and progress() <= before:
        time.sleep(0.001)
    time.sleep(seconds)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def digest_of(folder: Path) -> str:
    assert verify_labels(folder / "labels.zarr") == []
    return LabelStore.open(folder / "labels.zarr").attributes.digest


@pytest.mark.slow
def test_runs_killed_at_any_moment_end_as_one_that_was_not(tmp_path, processes):
    images, folder = 300, tmp_path / "killed"
    plan, moments = divide(range(images), 2), random.Random(0)
    published: dict[str, int] = {}

    def now_published() -> dict[str, int]:
        return {path.name: path.stat().st_ino for path in (folder / "shards").glob("*.shard")}

    kills = 0
    while kills < 45:
        if len(published) == len(plan):  # faster than thought: begin again, to have enough kills
            shutil.rmtree(folder)
        published = now_published()
        kills += killed(processes, lambda: len(now_published()), moments.uniform(0, 0.01), folder, images, 2)
        assert now_published().items() > published.items()  # nothing was lost, nothing was made again
        published = now_published()
    finish(folder, images, 2)
    finish(tmp_path / "whole", images, 50)
    assert digest_of(folder) == digest_of(tmp_path / "whole")
    assert sorted(path.name for path in folder.iterdir()) == ["labels.zarr", "shards"]


@pytest.mark.slow
def test_a_sealing_killed_at_any_moment_leaves_no_store_or_a_whole_one(tmp_path, processes):
    finish(tmp_path, 20, 5)
    undisturbed, moments = digest_of(tmp_path), random.Random(0)

    def sealings() -> int:
        return len(list((tmp_path / "shards").glob(".*.s4m-writing-*")))

    kills = 0
    for _ in range(8):
        shutil.rmtree(tmp_path / "labels.zarr", ignore_errors=True)
        kills += killed(processes, sealings, moments.uniform(0, 0.3), tmp_path, 20, 5)
        if (tmp_path / "labels.zarr").exists():
            assert digest_of(tmp_path) == undisturbed
        assert {path.name for path in tmp_path.iterdir()} <= {"labels.zarr", "shards"}
    assert kills
    shutil.rmtree(tmp_path / "labels.zarr", ignore_errors=True)
    finish(tmp_path, 20, 5)
    assert digest_of(tmp_path) == undisturbed


@pytest.mark.slow
def test_writers_at_the_same_time_share_the_folder(tmp_path, processes):
    writers = [processes.Process(target=write_all, args=(tmp_path / "shards", 200, 4)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    plan = divide(range(200), 4)
    assert completed_shards(tmp_path / "shards", plan) == set(range(50))
    assert len(list((tmp_path / "shards").iterdir())) == 50
    finish(tmp_path, 200, 4)
    finish(tmp_path / "alone", 200, 4)
    assert digest_of(tmp_path) == digest_of(tmp_path / "alone")
