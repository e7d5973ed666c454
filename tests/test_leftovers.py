"""What killed writers leave: swept before a result is sealed, by the next run, and by `stores verify --repair`."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from pipeline.files import writing
from pipeline.files.leftovers import remove_leftovers, remove_leftovers_of_ended, temporary_file
from pipeline.files.scratch import scratch_beside
from pipeline.files.writing import open_atomically, write_atomically
from pipeline.workflow.fingerprint import Fingerprint
from pipeline.workflow.result_store import StoreRoot
from stages.options import workspace
from stages.runner import run_stage
from tests.tiny_experiment import tiny_experiment


def leave(path: Path) -> Path:
    """Leave what a writer of the path leaves when it is killed; give the temporary file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if child == 0:
        with open_atomically(path) as file:
            file.write(b"half")
            file.flush()
            os._exit(9)
    os.waitpid(child, 0)
    (left,) = path.parent.glob(f".{path.name}.*.{child}.*")
    return left


def leave_folder(path: Path) -> Path:
    child = os.fork()
    if child == 0:
        with scratch_beside(path) as folder:
            (folder / "half").write_text("half")
            os._exit(9)
    os.waitpid(child, 0)
    (left,) = path.parent.glob(f".{path.name}.*")
    return left


def test_a_result_is_sealed_without_what_a_killed_writer_left(tmp_path):
    store, made = StoreRoot(tmp_path), Fingerprint("refine", 1, {}, {}, {})
    folder = store.partial("refine", made.id)
    leave(folder / "labels.json")
    leave(folder / "deep/shard")
    leave_folder(folder / "labels.zarr")
    zarrs_own = folder / "deep/c.0123456789abcdef0123456789abcdef.partial"
    zarrs_own.touch()
    (folder / "a").write_text("whole")
    store.seal(made, "mine", 1.0, {}, {})
    sealed = store.path("refine", made.id)
    files = {path.relative_to(sealed).as_posix() for path in sealed.rglob("*") if path.is_file()}
    assert files == {"a", "files.json", "seal.json"}
    assert store.verify("refine", made.id) == []


def test_only_temporary_files_are_swept(tmp_path):
    kept = [tmp_path / name for name in ("a.partial", ".hidden", "a.1.2", ".a.host.1.2", "x.s4m-writing-h.1.2")]
    for path in kept:
        path.touch()
    left = leave(tmp_path / "a")
    assert remove_leftovers(tmp_path) == [left]
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_files_of_living_writers_and_of_other_machines_stay(tmp_path):
    mine = temporary_file(tmp_path / "a")
    theirs = mine.with_name(mine.name.replace(socket.gethostname(), "elsewhere"))
    for path in (mine, theirs):
        path.touch()
    left = leave(tmp_path / "deep/b")
    assert remove_leftovers_of_ended(tmp_path) == []
    assert remove_leftovers_of_ended(tmp_path, deep=True) == [left]
    assert sorted(tmp_path.rglob(".*")) == sorted([mine, theirs])


def test_the_next_run_sweeps_the_work_folder(s4m, tmp_path):
    del s4m
    experiment = tiny_experiment(tmp_path)
    run_stage(experiment, "split", 1)
    left = leave(tmp_path / "work/tiny/split.done")
    workspace(experiment).refresh()
    assert not left.exists()


def test_verify_repair_sweeps_the_store_and_the_work_folders(s4m, tmp_path):
    experiment = tiny_experiment(tmp_path)
    run_stage(experiment, "split", 1)
    left = [leave(tmp_path / "work/tiny/split.done"), leave(tmp_path / "stores/.references/split/x/y.json")]
    result = workspace(experiment).result("split")
    left.append(leave(result / "labelled.json"))  # as sealed by an earlier version
    assert s4m("stores", "verify").status == 1
    told = s4m("stores", "verify", "--repair")
    assert (told.status, told.out) == (0, "1 results are whole\n")
    assert all(f"{path}: removed" in told.err for path in left)
    assert "3 temporary files removed" in told.err
    assert not any(path.exists() for path in left)


@pytest.fixture
def flushed(monkeypatch) -> list[Path]:
    """The folders that were flushed to disk."""
    folders: list[Path] = []
    for module in ("pipeline.files.writing", "pipeline.workflow.result_store"):
        monkeypatch.setattr(f"{module}.sync_folder", folders.append)
    return folders


def test_folders_are_flushed_after_every_new_name(tmp_path, flushed):
    write_atomically(tmp_path / "new/deep/file", "text")
    assert flushed == [tmp_path, tmp_path / "new", tmp_path / "new/deep"]


def test_a_sealed_result_is_flushed_before_and_after_it_gets_its_name(tmp_path, monkeypatch, flushed):
    store, made = StoreRoot(tmp_path), Fingerprint("refine", 1, {}, {}, {})
    folder = store.partial("refine", made.id)
    folder.mkdir(parents=True)
    (folder / "a").write_text("whole")
    trees: list[Path] = []
    usual = writing.sync_tree
    monkeypatch.setattr("pipeline.workflow.result_store.sync_tree", lambda path: trees.append(path) or usual(path))
    store.seal(made, "mine", 1.0, {}, {})
    assert trees == [folder]
    assert flushed[-1] == folder.parent
