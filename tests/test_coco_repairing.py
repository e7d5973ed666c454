"""Missing boxes and areas are computed from the masks; nothing else of the file changes."""

from __future__ import annotations

import json

import pytest

from pipeline.coco.reading import read_coco
from pipeline.coco.repairing import repair_coco
from pipeline.errors import StageError
from tests.tiny_coco import tiny_coco, tiny_dict, write_json


def test_boxes_and_areas_are_those_of_the_masks_and_the_rest_stays(tmp_path):
    whole = tiny_dict() | {"info": {"year": 2024}, "licenses": [{"id": 1}]}
    whole["images"][0]["license"] = 1
    whole["annotations"][2] |= {"bbox": [0, 0, 64, 48], "area": 5, "mine": [1, {"a": None}]}
    missing = json.loads(json.dumps(whole))
    del missing["annotations"][0]["bbox"], missing["annotations"][1]["area"]
    missing["annotations"][1]["bbox"] = []
    missing["annotations"][3]["bbox"] = missing["annotations"][3]["area"] = None
    repaired = repair_coco(write_json(tmp_path / "in.json", missing), tmp_path / "out" / "out.json")
    assert json.loads((tmp_path / "out" / "out.json").read_text()) == whole
    assert (repaired.boxes, repaired.areas, repaired.report.errors) == (3, 2, ())
    assert repaired.report.path == tmp_path / "out" / "out.json"
    assert len(read_coco(tmp_path / "out" / "out.json").annotations) == 12


def test_other_errors_stay_errors_and_nothing_is_written(tmp_path):
    content = tiny_dict()
    for annotation in content["annotations"]:
        del annotation["bbox"]
    content["annotations"][0]["segmentation"] = [[1, 2, 3]]
    content["annotations"][1]["segmentation"]["counts"] = "12"
    content["annotations"][2]["image_id"] = 99
    content["annotations"][3]["segmentation"] = None
    repaired = repair_coco(write_json(tmp_path / "in.json", content), tmp_path / "out.json")
    assert repaired.boxes == 8
    assert {problem.where.partition(",")[0] for problem in repaired.report.errors} == {
        f"annotation {number}" for number in (1, 2, 3, 4)
    }
    assert repaired.report.path == tmp_path / "in.json"
    assert [path.name for path in tmp_path.iterdir()] == ["in.json"]


def test_missing_images_are_no_reason_not_to_write(tmp_path):
    made = tiny_coco(tmp_path / "set")
    del made.content["annotations"][0]["bbox"]
    write_json(made.annotations, made.content)
    (made.image_root / "0001.png").unlink()
    repaired = repair_coco(made.annotations, tmp_path / "out.json", made.image_root)
    assert len(repaired.report.bad_images) == 1
    assert (tmp_path / "out.json").is_file()
    with pytest.raises(StageError, match="already there"):
        repair_coco(made.annotations, tmp_path / "out.json")


@pytest.mark.parametrize("key", ["images", "annotations"])
def test_a_file_without_lists_is_reported(tmp_path, key):
    content = tiny_dict()
    content[key] = {"a": 1}
    repaired = repair_coco(write_json(tmp_path / "in.json", content), tmp_path / "out.json")
    assert repaired.report.errors[0].where == key
    assert not (tmp_path / "out.json").exists()
