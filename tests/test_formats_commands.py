"""`s4m data import`, `data check --repair`, `data split-off` and `labels export` in the formats of other tools."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pipeline.coco.foreign import SourceFormat
from pipeline.coco.reading import read_coco
from pipeline.labels.exporting.export_format import ExportFormat
from tests.foreign_formats import WRITERS
from tests.tiny_coco import tiny_coco, write_json

ROOT = Path(__file__).parent.parent


@pytest.fixture
def made(tmp_path):
    return tiny_coco(tmp_path / "set", images=3)


@pytest.mark.parametrize("source_format", SourceFormat)
def test_import_writes_and_checks_a_file(s4m, made, tmp_path, source_format):
    source = WRITERS[source_format](made, tmp_path / "set")
    told = s4m("data", "import", "--from", source_format, source, "out.json")
    assert told.status == 0, told.err
    assert told.out.startswith(
        "out.json\n  images      3, 0 of them without instances\n  instances   9, 0 of them crowds\n"
    )
    assert "0 errors\n0 bad images\n0 warnings\n" in told.out
    root = told.out.strip().rpartition("file names start from ")[2]
    assert s4m("data", "check", "out.json", root).status == 0


def test_import_says_what_it_left_out_and_uses_other_ids(s4m, made, tmp_path):
    source = WRITERS[SourceFormat.YOLO_SEG](made, tmp_path / "set")
    (source / "labels/train/0001.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    write_json(tmp_path / "ids.json", made.content)
    words = ["data", "import", "--from", "yolo-seg", source, "out.json", "--categories", "ids.json", "--split", "train"]
    told = s4m(*words)
    assert "notes:\n  3 images of the part 'train'\n" in told.out.replace(
        "  1 boxes left out that have no outline (--boxes makes rectangles of them)\n", ""
    )
    assert "  1 boxes left out that have no outline (--boxes makes rectangles of them)\n" in told.out
    assert [each.id for each in read_coco(tmp_path / "out.json").categories] == [3, 7]
    again = s4m(*words)
    assert (again.status, "already there" in again.err) == (1, True)
    (source / "labels/train/0001.txt").write_text("0 x\n9 0 0 1 0 1 1\n")
    broken = s4m("data", "import", "--from", "yolo-seg", source, "b.json")
    assert (broken.status, broken.err.splitlines()[0]) == (1, f"{source}: 2 problems")
    unknown = s4m("data", "import", "--from", "pixels", source, "b.json")
    assert (unknown.status, "mask-png" in unknown.err) == (2, True)


def test_missing_boxes_are_computed_on_request(s4m, made, tmp_path):
    for annotation in made.content["annotations"]:
        del annotation["bbox"], annotation["area"]
    path = write_json(tmp_path / "in.json", made.content)
    told = s4m("data", "check", path)
    assert told.status == 1
    assert f"to compute missing boxes and areas: s4m data check {path} --repair OUT.json" in told.out
    told = s4m("data", "check", path, made.image_root, "--repair", "out.json")
    assert told.status == 0, told.out
    assert told.out.endswith("out.json: computed missing boxes: 9, missing areas: 9\n")
    assert (
        json.loads((tmp_path / "out.json").read_text())["annotations"]
        == json.loads(made.annotations.read_text())["annotations"]
    )
    made.content["annotations"][0]["category_id"] = 99
    told = s4m("data", "check", write_json(path, made.content), "--repair", "other.json")
    assert told.status == 1
    assert "other.json is not written, as errors are left: computed missing boxes: 9" in told.out
    assert not (tmp_path / "other.json").exists()


def test_export_writes_a_trainers_folder_and_says_what_polygons_lose(s4m, made, tmp_path):
    s4m("labels", "import", made.annotations, made.annotations, "first.zarr")
    words = ["labels", "export", "first.zarr", "yolo", "--format", "yolo-seg", "--images", made.image_root]
    told = s4m(*words)
    assert told.status == 0, told.err
    assert told.out == "yolo: 3 images, 9 instances\n  IoU of the polygons with the masks: 1.0000 on average\n"
    assert s4m(*words[:2], made.annotations, *words[3:], "--part", "valid", "--copy").status == 0
    assert sorted(path.name for path in (tmp_path / "yolo").iterdir()) == ["data.yaml", "train", "valid"]
    assert "already there" in s4m(*words).err
    made.content["annotations"][0]["segmentation"] = [[2, 20, 20, 2, 60, 8, 40, 40, 20, 44]]
    drawn = write_json(tmp_path / "drawn.json", made.content)
    plain = s4m("labels", "export", drawn, "p.json", "--format", "coco-polygons", "--tolerance", 3)
    assert plain.status == 0
    assert ", the worst 0." in plain.out
    assert "(0001.png, instance 1)" in plain.out
    wrong = s4m("labels", "export", "first.zarr", "r.json", "--results", "--format", "geojson")
    assert (wrong.status, "leave out --results" in wrong.err) == (2, True)
    wrong = s4m("labels", "export", "first.zarr", "r", "--dropped", "--format", "yolo-seg")
    assert (wrong.status, "no instances that trainers ignore" in wrong.err) == (1, True)


def test_one_annotated_set_is_divided(s4m, tmp_path):
    made = tiny_coco(tmp_path / "set", images=10)
    words = ["data", "split-off", made.annotations, "parts", "--labelled", "20%", "--validation", 3, "--seed", 1]
    told = s4m(*words)
    assert told.status == 0, told.err
    heading, images, *classes = [line.split() for line in told.out.splitlines()]
    assert heading == ["labelled", "validation", "unlabelled"]
    assert images == ["images", "2", "3", "5"]
    assert classes[0][:2] == ["category", "3"]
    assert len(read_coco(tmp_path / "parts/labelled.json").images) == 2
    assert len(read_coco(tmp_path / "parts/measuring_only/unlabelled_truth.json").images) == 5
    assert "already there" in s4m(*words).err
    wrong = s4m("data", "split-off", made.annotations, "other", "--labelled", "some")
    assert (wrong.status, "labelled: 'some' is neither a count" in wrong.err) == (1, True)


def test_the_page_describes_every_format_and_option(s4m):
    page = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    for named in (*SourceFormat, *ExportFormat):
        assert f"| `{named}` |" in page
    for command in (("data", "import"), ("labels", "export")):
        for option in re.findall(r"--[a-z-]+", s4m(*command, "--help").out):
            if option not in ("--help", "--workers", "--set", "--results"):
                assert f"`{option}" in page, option
