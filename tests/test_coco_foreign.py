"""Annotations in other formats are recognised wherever a COCO file is expected, and the message says what to do."""

from __future__ import annotations

import zipfile

import pytest

from pipeline.coco.foreign import SourceFormat, foreign_hint
from pipeline.coco.model import CocoCategory
from pipeline.coco.reading import read_coco
from pipeline.errors import DatasetError
from pipeline.labels.coco_import import read_detections
from tests.foreign_formats import WRITERS, via_project
from tests.tiny_coco import tiny_coco, write_json

NAMES = {
    SourceFormat.VIA: "a VIA file",
    SourceFormat.LABELME: "labelme's annotations",
    SourceFormat.YOLO_SEG: "a YOLO data set",
    SourceFormat.VOC: "a data set of Pascal VOC",
    SourceFormat.CVAT: "an XML file of CVAT",
    SourceFormat.MASK_PNG: "a folder of images and masks",
}


@pytest.fixture
def made(tmp_path):
    return tiny_coco(tmp_path / "set")


def told(path) -> set[str]:
    """What every reader of COCO files says."""
    messages = set()
    for read in (read_coco, lambda each: read_detections(each, (), (CocoCategory(1, "a"),))):
        with pytest.raises(DatasetError) as caught:
            read(path)
        messages.add(str(caught.value.problems[0]))
    return messages


@pytest.mark.parametrize("source_format", SourceFormat)
def test_a_source_is_recognised_and_the_message_says_how_to_import_it(source_format, made, tmp_path):
    source = WRITERS[source_format](made, tmp_path / "set")
    hint = f"this is {NAMES[source_format]}: s4m data import --from {source_format} {source} OUT.json"
    assert told(source) == {hint}


def test_single_files_of_a_source_are_recognised_too(made, tmp_path):
    folder = WRITERS[SourceFormat.LABELME](made, tmp_path / "set")
    assert told(folder / "0001.json") == {
        f"this is labelme's annotations: s4m data import --from labelme {folder} OUT.json"
    }
    yolo = WRITERS[SourceFormat.YOLO_SEG](tiny_coco(tmp_path / "y"), tmp_path / "y")
    assert "--from yolo-seg" in told(yolo / "data.yaml").pop()
    voc = WRITERS[SourceFormat.VOC](tiny_coco(tmp_path / "v"), tmp_path / "v")
    assert f"--from voc {voc} OUT.json" in told(voc / "Annotations/0001.xml").pop()
    annotations = write_json(tmp_path / "annotations.json", via_project(made)["_via_img_metadata"])
    assert "this is a VIA file" in told(annotations).pop()
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.writestr("annotations.xml", "<annotations/>")
    assert told(tmp_path / "export.zip") == {"this is a ZIP archive: unpack it"}


@pytest.mark.parametrize("content", [{}, {"a": 1}, {"images": [], "shapes": []}, {"a": {"filename": 1}}])
def test_other_files_are_told_as_before(tmp_path, content):
    path = write_json(tmp_path / "a.json", content)
    with pytest.raises(DatasetError) as caught:
        read_coco(path)
    assert "s4m data import" not in str(caught.value)
    assert foreign_hint(tmp_path / "absent.json") is None
    (tmp_path / "empty").mkdir()
    assert foreign_hint(tmp_path / "empty") is None
