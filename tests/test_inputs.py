"""The contents that an experiment depends on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import DatasetError, S4MError
from pipeline.files.identity import IdentityCache
from pipeline.workflow.inputs import config_files, read_contents
from pipeline.workflow.loading import load_experiment
from tests.tiny_experiment import make_experiment_files


@pytest.fixture
def contents(tmp_path):
    """Reads the contents of the tiny experiment with values set over it."""

    def read(*overrides: str) -> dict[str, str]:
        experiment = load_experiment(make_experiment_files(tmp_path), overrides, {})
        return read_contents(experiment, IdentityCache(tmp_path / "memory.sqlite"))

    return read


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {key for key in before | after if before.get(key) != after.get(key)}


def test_every_content_is_known_by_its_key(contents):
    assert set(contents()) == {
        "data.annotated.annotations",
        "data.annotated.images",
        "sam.checkpoint",
        "teacher.detector",
    }


def test_an_image_changes_the_images_alone(contents, tmp_path):
    before = contents()
    (tmp_path / "images/0001.png").write_bytes(b"other")
    assert changed(before, contents()) == {"data.annotated.images"}


def test_an_annotation_changes_the_annotations_alone(contents, tmp_path):
    before = contents()
    path = tmp_path / "annotations.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["category_id"] = 7
    path.write_text(json.dumps(content))
    assert changed(before, contents()) == {"data.annotated.annotations"}


def test_another_id_for_an_image_is_another_set_of_images(contents, tmp_path):
    before = contents()
    path = tmp_path / "annotations.json"
    path.write_text(path.read_text().replace('"id": 6', '"id": 66').replace('"image_id": 6', '"image_id": 66'))
    assert "data.annotated.images" in changed(before, contents())


def test_a_folder_of_unlabelled_images_is_known_by_what_is_in_it(tmp_path):
    path = make_experiment_files(
        tmp_path,
        {
            "data": {
                "labelled": {"annotations": "annotations.json", "images": "images"},
                "unlabelled": {"images": "images"},
            }
        },
    )
    experiment = load_experiment(path, (), {})

    def read() -> dict[str, str]:
        return read_contents(experiment, IdentityCache(tmp_path / "memory.sqlite"))

    before = read()
    (tmp_path / "images/notes.txt").write_text("no image")
    assert read() == before
    (tmp_path / "images/new.png").write_bytes(b"new")
    assert changed(before, read()) == {"data.unlabelled.images"}


def test_annotations_that_cannot_be_read_are_left_to_the_split(contents, tmp_path):
    (tmp_path / "annotations.json").write_text("{")
    assert "data.annotated.images" in contents()


def test_a_base_of_the_detector_config_counts(contents, tmp_path):
    base = tmp_path / "base.py"
    base.write_text("depth = 18\n")
    (tmp_path / "detector2.py").write_text("_base_ = ['base.py', 'mmdet::_base_/models/mask-rcnn_r50_fpn.py']\n")
    before = contents(f"teacher.detector={tmp_path}/detector2.py")
    base.write_text("depth = 34\n")
    assert changed(before, contents(f"teacher.detector={tmp_path}/detector2.py")) == {"teacher.detector"}


def test_configs_inherit_without_end_and_once(tmp_path):
    for name, base in (("a", "'b.py'"), ("b", "('a.py', 'c.py')"), ("c", "'missing.py'")):
        (tmp_path / f"{name}.py").write_text(f"_base_ = {base}\n")
    assert [path.name for path in config_files(tmp_path / "a.py")] == ["a.py", "b.py", "c.py", "missing.py"]


@pytest.mark.parametrize("text", ["def (:", "_base_ = [name for name in ()]"])
def test_a_config_that_cannot_be_read_is_named(tmp_path: Path, text: str):
    path = tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(S4MError, match=str(path)):
        config_files(path)


def test_the_shipped_weights_count_where_a_detector_starts_from_them(contents, tmp_path, monkeypatch):
    (tmp_path / "plain.py").write_text("model = dict()\n")
    (tmp_path / "start.py").write_text("model = dict(backbone=dict(type='s4m.SamTinyBackbone'))\n")
    keys = {name: f"teacher.detector={tmp_path}/{name}.py" for name in ("plain", "start")}
    before = {name: contents(key) for name, key in keys.items()}
    (tmp_path / "other.pt").write_bytes(b"other weights")
    for module in ("pipeline.workflow.inputs", "pipeline.sam.files"):
        monkeypatch.setattr(f"{module}.checkpoint_path", lambda model, path=None: path or tmp_path / "other.pt")
    changes = {name: changed(before[name], contents(key)) for name, key in keys.items()}
    assert changes == {"plain": {"sam.checkpoint"}, "start": {"sam.checkpoint", "teacher.detector"}}


ODD_NAMES = ["a\u3000b.png", "a\u202fb.png", "a\u00a0b.png", "\u202ename.png", "a\u2028b.png", "\u200b.png"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_an_image_with_an_odd_name_counts_as_any_other(contents, tmp_path, name):
    path = tmp_path / "annotations.json"
    contents()
    (tmp_path / "images/0001.png").rename(tmp_path / "images" / name)
    content = json.loads(path.read_text())
    content["images"][0]["file_name"] = name
    path.write_text(json.dumps(content))
    before = contents()
    (tmp_path / "images" / name).write_bytes(b"other")
    assert changed(before, contents()) == {"data.annotated.images"}


def test_a_value_that_is_no_number_does_not_hide_the_images(contents, tmp_path):
    path = tmp_path / "annotations.json"
    contents()
    path.write_text(path.read_text().replace('"area":', '"area": NaN, "other":', 1))
    before = contents()
    (tmp_path / "images/0001.png").write_bytes(b"other")
    assert changed(before, contents()) == {"data.annotated.images"}


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "images: is empty"),
        ([{"id": 1, "file_name": "../1.png", "width": 4, "height": 4}], "leaves the image folder"),
        ([{"id": 1, "file_name": "a\nb.png", "width": 4, "height": 4}], "holds a control character"),
        ([{"file_name": "1.png", "width": 4, "height": 4}], "id: is missing"),
    ],
)
def test_a_list_of_images_that_cannot_be_used_is_refused_with_the_reason(contents, tmp_path, images, message):
    contents()
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"images": images}))
    with pytest.raises(DatasetError, match=message):
        contents()
