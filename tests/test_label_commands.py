"""`s4m labels`, `s4m weights` and `s4m refine-coco`."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from pipeline.coco.reading import read_coco
from pipeline.labels.store import LabelStore
from tests.tiny_coco import tiny_coco, write_json


@pytest.fixture
def made(tmp_path):
    return tiny_coco(tmp_path / "set", images=3)


def test_labels_go_in_and_out_and_are_the_same(s4m, made, tmp_path):
    told = s4m("labels", "import", made.annotations, made.annotations, "first.zarr")
    assert told.status == 0, told.err
    assert "first.zarr: 3 images, 9 instances, digest " in told.out
    assert s4m("labels", "export", "first.zarr", "out.json").status == 0
    assert len(read_coco(tmp_path / "out.json").annotations) == 9
    s4m("labels", "import", "out.json", made.annotations, "second.zarr")
    first, second = (LabelStore.open(tmp_path / name) for name in ("first.zarr", "second.zarr"))
    assert first.attributes.digest == second.attributes.digest
    same = s4m("labels", "diff", "first.zarr", "second.zarr").out
    assert "IoU identical                    9   100.0%" in same


def test_results_lists_are_exported_too(s4m, made, tmp_path):
    s4m("labels", "import", made.annotations, made.annotations, "first.zarr")
    assert s4m("labels", "export", "first.zarr", "results.json", "--results").status == 0
    entries = json.loads((tmp_path / "results.json").read_text())
    assert len(entries) == 9
    assert set(entries[0]) >= {"image_id", "category_id", "score", "segmentation"}


def test_labels_are_drawn_side_by_side(s4m, made, tmp_path):
    s4m("labels", "import", made.annotations, made.annotations, "first.zarr")
    words = ["labels", "show", "first.zarr", "--images", made.image_root, "--output", "one.png", "--id", 1, "--id", 2]
    assert s4m(*words).status == 0
    with Image.open(tmp_path / "one.png") as picture:
        assert min(picture.size) > 48


def test_a_damaged_store_is_told_by_column(s4m, made, tmp_path):
    s4m("labels", "import", made.annotations, made.annotations, "first.zarr")
    assert "first.zarr is whole: 3 images" in s4m("labels", "verify", "first.zarr").out
    (chunk,) = [
        path
        for path in (tmp_path / "first.zarr/instances/score").rglob("*")
        if "zarr.json" not in path.name and path.is_file()
    ]
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(bytes(content))
    told = s4m("labels", "verify", "first.zarr")
    assert told.status == 1
    assert "instances/score" in told.err


@pytest.mark.parametrize("store", ["nowhere.zarr", "nowhere:refine", "set"])
def test_a_store_that_is_none_is_refused(s4m, made, store):
    told = s4m("labels", "export", store, "out.json")
    assert told.status == 1
    assert store.partition(":")[0] in told.err


def test_detections_that_cannot_be_used_are_all_told(s4m, made, tmp_path):
    write_json(tmp_path / "bad.json", [{"image_id": 99, "category_id": 3, "score": 2, "bbox": [0, 0, 1, 1]}, 7])
    told = s4m("labels", "import", "bad.json", made.annotations, "x.zarr")
    assert told.status == 1
    assert not (tmp_path / "x.zarr").exists()
    assert len(told.err.splitlines()) >= 3


def test_a_coco_file_is_refined_without_an_experiment(s4m, made, tmp_path):
    words = ["refine-coco", made.annotations, made.image_root, "refined.json", "--preset", "s4m"]
    told = s4m(*words)
    assert told.status == 0, told.err
    content = json.loads((tmp_path / "refined.json").read_text())
    assert [each["id"] for each in content["annotations"]] == list(range(1, 10))
    assert sum(content["refinement"]["decisions"].values()) == 9
    assert all("refinement" in each for each in content["annotations"])
    assert [path.name for path in tmp_path.iterdir() if "refined" in path.name] == ["refined.json"]
    again = s4m(*words)
    assert again.status == 2
    assert "already there and was left alone" in again.err.replace("\n", " ")


def test_settings_of_refine_coco_are_checked_like_an_experiment(s4m, made):
    told = s4m(
        "refine-coco", made.annotations, made.image_root, "x.json", "--preset", "bset", "--set", "refine.poins=3"
    )
    assert told.status == 1
    assert 'refine.preset (set over the file): given "bset"; expected one of best, s4m, samrefiner' in told.err
    assert "did you mean refine.points?" in told.err


def test_missing_weights_say_where_to_put_them(s4m, made, tmp_path):
    told = s4m("refine-coco", made.annotations, made.image_root, "x.json", "--sam", "vit_b")
    assert told.status == 1
    assert "s4m weights get vit_b" in told.err
    assert "sam_vit_b_01ec64.pth" in told.err
    assert s4m("weights", "check", "sam_tiny").status == 0
    assert s4m("weights", "get", "sam_tiny").status == 1
