"""Experiments and label stores by what people call them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import StoreError
from pipeline.workflow.finding import experiment_path, label_store_path, make_command
from pipeline.workflow.loading import load_experiment
from pipeline.workflow.result_files import LABELS
from pipeline.workflow.workspace import Workspace
from tests.tiny_experiment import make_experiment_files


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("S4M_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("S4M_STORE", str(tmp_path / "stores"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_experiment_is_a_file_or_a_name(folder):
    assert experiment_path("mine") == Path("configs/experiments/mine.yaml")
    assert experiment_path("other.yaml") == Path("other.yaml")
    (folder / "here").touch()
    assert experiment_path("here") == Path("here")


def test_a_store_is_its_own_folder_or_that_of_its_result(folder):
    (folder / "result" / LABELS).mkdir(parents=True)
    assert label_store_path("result") == Path("result") / LABELS
    assert label_store_path(f"result/{LABELS}") == Path("result") / LABELS
    assert label_store_path("nowhere") == Path("nowhere")


def test_annotations_are_no_store_and_the_message_says_how_to_make_one(folder):
    (folder / "labels.json").write_text("{}")
    with pytest.raises(StoreError, match="labels.json: a label store is needed; s4m labels import makes one"):
        label_store_path("labels.json")
    (folder / "yolo").mkdir()
    (folder / "yolo" / "data.yaml").touch()
    with pytest.raises(StoreError, match="yolo: this is a YOLO data set: s4m data import --from yolo-seg yolo OUT"):
        label_store_path("yolo")


def test_a_store_of_an_experiment_is_that_of_its_settings(folder):
    path = make_experiment_files(folder)
    overrides = ("refine.points=5",)
    with pytest.raises(StoreError) as missing:
        label_store_path(f"{path}:refine", overrides)
    assert str(missing.value) == (
        f"{path} has no labels of refine that are up to date with these settings: "
        f'make refine EXP={path} SET="refine.points=5"'
    )
    space = Workspace(load_experiment(path, overrides), folder / "work")
    made = space.fingerprints["refine"]
    space.store.partial("refine", made.id).joinpath(LABELS).mkdir(parents=True)
    space.store.seal(made, "tiny", 1.0, {}, {})
    assert label_store_path(f"{path}:refine", overrides) == space.result("refine") / LABELS
    with pytest.raises(StoreError, match="has no labels of refine"):
        label_store_path(f"{path}:refine")
    with pytest.raises(StoreError, match=rf"{path}:split: only these nodes have labels: predict, refine, augment"):
        label_store_path(f"{path}:split")
    with pytest.raises(StoreError, match="an experiment has several label stores"):
        label_store_path(str(path))


def test_a_command_for_make_has_its_settings():
    assert make_command("refine", "mine") == "make refine EXP=mine"
    assert make_command("refine", "mine", ("a.b=1", "c.d=2")) == 'make refine EXP=mine SET="a.b=1 c.d=2"'
