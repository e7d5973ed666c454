"""`s4m stores prune` removes what is certain to be unused, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from pipeline.errors import StageError, StoreError
from pipeline.workflow.references import IDENTITIES
from pipeline.workflow.result_store import SEAL, StoreRoot
from pipeline.workflow.workspace import Workspace
from stages import runner
from stages.options import workspace
from stages.runner import run_stage
from tests.tiny_experiment import tiny_experiment


@pytest.fixture
def experiment(s4m, tmp_path):
    """An experiment whose split is made and in use."""
    del s4m  # its folders
    made = tiny_experiment(tmp_path)
    run_stage(made, "split", 1)
    return made


@pytest.fixture
def prune(s4m, experiment):
    """Prunes the store from a work folder of somebody else."""

    def run(*words: str):
        os.environ["S4M_WORK"] = str(Path(os.environ["S4M_WORK"]).with_name("other"))
        return s4m("stores", "prune", "--yes", "--older-than", "0", *words)

    return run


def results(store: Path) -> list[Path]:
    return [result.path for result in StoreRoot(store).results()]


def test_the_results_of_a_work_folder_on_a_disk_that_is_gone_are_kept(prune, experiment, tmp_path):
    (tmp_path / "work").rename(tmp_path / "unmounted")
    (tmp_path / "work").mkdir()  # what is left of a disk that is not mounted
    told = prune()
    assert "every result is in use" in told.out
    assert len(results(experiment.store)) == 1


def test_the_results_of_a_record_that_may_not_be_read_are_kept(prune, experiment, monkeypatch):
    usual = Path.read_text

    def refused(path: Path, *arguments, **named):
        if path.suffix == ".done":
            raise PermissionError(13, "Permission denied", str(path))
        return usual(path, *arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_text", refused)
        assert "every result is in use" in prune().out
        (result,) = StoreRoot(experiment.store).results()
        assert result.references[0].endswith("/tiny/split.done cannot be read)")
    assert len(results(experiment.store)) == 1


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"id"'])
def test_the_results_of_a_damaged_record_are_kept(prune, experiment, tmp_path, content):
    (tmp_path / "work/tiny/split.done").write_text(content)
    assert "every result is in use" in prune().out
    assert len(results(experiment.store)) == 1


def test_the_results_of_an_experiment_that_was_deleted_are_removed(prune, experiment, tmp_path):
    shutil.rmtree(tmp_path / "work/tiny")
    assert (tmp_path / "work" / IDENTITIES).exists()
    assert "removed 1 results" in prune().out
    assert results(experiment.store) == []


def test_the_results_of_a_work_folder_said_to_be_gone_are_removed(prune, experiment, tmp_path):
    refused = prune("--gone", str(tmp_path / "work"))
    assert refused.status == 1
    assert "this folder exists" in refused.err
    shutil.rmtree(tmp_path / "work")
    assert "every result is in use" in prune().out
    assert "every result is in use" in prune("--gone", str(tmp_path / "elsewhere")).out
    assert "removed 1 results" in prune("--gone", str(tmp_path / "work")).out


def test_what_is_young_is_kept_unless_asked_for(s4m, experiment, tmp_path):
    shutil.rmtree(tmp_path / "work/tiny")
    told = s4m("stores", "prune", "--yes")
    assert "kept, as they changed in the last 1 h (--older-than 0 removes them): 1" in told.out
    (folder,) = results(experiment.store)
    hour_ago = time.time() - 3700
    os.utime(folder / SEAL, (hour_ago, hour_ago))
    assert "removed 1 results" in s4m("stores", "prune", "--yes").out


def test_what_an_interrupted_run_left_an_hour_ago_is_removed_and_not_what_it_left_now(s4m, tmp_path):
    store = StoreRoot(tmp_path / "stores")
    old, young = store.partial("refine", "old"), store.partial("refine", "young")
    hour_ago = time.time() - 3700
    for folder in (old, young):
        (folder / "shards").mkdir(parents=True)
        (folder / "shards/a").write_text("hello")
        for path in (folder / "shards/a", folder / "shards", folder):
            os.utime(path, (hour_ago, hour_ago))
    os.utime(young / "shards/a")
    assert "removed 1 results, 5 B" in s4m("stores", "prune", "--yes").out
    assert (old.exists(), young.exists()) == (False, True)


def test_a_result_is_pointed_at_before_its_lock_is_free(experiment, monkeypatch):
    """Else it is unused for a moment, in which prune removes it."""
    store = StoreRoot(experiment.store)
    usual = Workspace.point
    tried: list[str] = []

    def prune_first(space: Workspace, key: str) -> None:
        (result,) = store.results()
        with pytest.raises(StoreError, match="now in use"):
            store.remove(result)
        tried.append(key)
        usual(space, key)

    shutil.rmtree(experiment.store)
    monkeypatch.setattr(Workspace, "point", prune_first)
    run_stage(experiment, "split", 1)
    assert tried == ["split"]
    assert workspace(experiment).is_done("split")


def test_a_result_that_is_being_read_is_not_removed(experiment, monkeypatch, tmp_path):
    store = StoreRoot(experiment.store)

    def read(*_: object) -> None:
        shutil.rmtree(tmp_path / "work/tiny")
        (split,) = [each for each in store.results() if each.stage == "split"]
        assert store.in_use(split)
        with pytest.raises(StoreError, match="now in use"):
            store.remove(split)
        raise StageError("enough")

    monkeypatch.setattr(runner, "_run", read)
    with pytest.raises(StageError, match="enough"):
        run_stage(experiment, "distill", 1)
    (split,) = [each for each in store.results() if each.stage == "split"]
    store.remove(split)  # nobody reads it any more


def test_a_result_that_is_removed_while_it_is_taken_into_use_is_not_pointed_at(experiment, tmp_path):
    space = workspace(experiment)
    fingerprint = space.fingerprints["split"]
    shutil.rmtree(tmp_path / "work/tiny")
    with space.store.locks.removing("split", fingerprint.id):
        pointing = threading.Thread(target=space.point, args=("split",))
        pointing.start()
        time.sleep(0.1)
        assert pointing.is_alive()
        shutil.rmtree(space.result("split"))
    pointing.join()
    assert not space.record_path("split").exists()


def test_references_that_others_wrote_are_not_forgotten(experiment, tmp_path, monkeypatch):
    store = StoreRoot(experiment.store)
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    assert store.references.forget(tmp_path / "work") == 0
    monkeypatch.undo()
    (file,) = (experiment.store / ".references").glob("*/*/*.json")
    assert json.loads(file.read_text())["experiment"] == "tiny"
    file.with_name("odd.json").write_text("[")
    assert store.references.forget(tmp_path / "work") == 1
    assert file.with_name("odd.json").exists()
