from __future__ import annotations

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from pipeline.coco.model import CocoAnnotation, CocoCategory, CocoImage
from pipeline.coco.reading import read_coco
from pipeline.coco.segmentation import encode_segmentation
from pipeline.coco.writing import write_coco
from tests.tiny_coco import tiny_coco


def write_dataset(path, dataset):
    write_coco(path, dataset.images, dataset.categories, dataset.annotations)


def test_what_was_written_reads_as_what_was_read(tmp_path):
    tiny = tiny_coco(tmp_path)
    dataset = read_coco(tiny.annotations)
    write_dataset(tmp_path / "sub/copy.json", dataset)
    copy = read_coco(tmp_path / "sub/copy.json")
    assert (copy.images, copy.categories) == (dataset.images, dataset.categories)
    assert json.loads((tmp_path / "sub/copy.json").read_text()) == tiny.content
    for annotation in copy.annotations:
        np.testing.assert_array_equal(copy.mask(annotation), tiny.masks[annotation.id])


def test_segmentations_are_written_byte_for_byte(tmp_path):
    tiny = tiny_coco(tmp_path)
    odd = "[[1.50, 2e0,\t9 ,2.0,9,30.000]]"
    text = json.dumps(tiny.content).replace(json.dumps(tiny.content["annotations"][2]["segmentation"]), odd)
    assert odd in text
    tiny.annotations.write_text(text)
    write_dataset(tmp_path / "copy.json", read_coco(tiny.annotations))
    assert f'"segmentation":{odd}' in (tmp_path / "copy.json").read_text()


def test_same_content_gives_same_bytes(tmp_path):
    tiny = tiny_coco(tmp_path)
    dataset = read_coco(tiny.annotations)
    write_dataset(tmp_path / "a.json", dataset)
    write_dataset(tmp_path / "b.json", dataset)
    write_dataset(tmp_path / "c.json", read_coco(tmp_path / "a.json"))
    texts = [(tmp_path / name).read_bytes() for name in ("a.json", "b.json", "c.json")]
    assert texts[0] == texts[1] == texts[2]
    assert texts[0].count(b"\n") == 4 + 2 + 12 + 5  # one element a line


def test_without_annotations_the_key_is_absent(tmp_path):
    write_coco(tmp_path / "a.json", [CocoImage(1, "a.png", 4, 3)], [CocoCategory(0, "é", "top")], None)
    assert json.loads((tmp_path / "a.json").read_text()) == {
        "images": [{"id": 1, "file_name": "a.png", "width": 4, "height": 3}],
        "categories": [{"id": 0, "name": "é", "supercategory": "top"}],
    }
    write_coco(tmp_path / "b.json", [], [], [])
    assert json.loads((tmp_path / "b.json").read_text()) == {"images": [], "categories": [], "annotations": []}


def test_annotations_of_our_own_are_readable_by_pycocotools(tmp_path):
    mask = np.zeros((12, 10), dtype=np.uint8, order="F")
    mask[3:7, 2:9] = 1
    rle = coco_mask.encode(mask)
    annotation = CocoAnnotation(
        id=5,
        image_id=1,
        category_id=2,
        bbox=tuple(coco_mask.toBbox(rle)),
        area=float(coco_mask.area(rle)),
        iscrowd=0,
        segmentation=encode_segmentation(rle),
    )
    write_coco(tmp_path / "a.json", [CocoImage(1, "a.png", 10, 12)], [CocoCategory(2, "x")], [annotation])
    reference = COCO(str(tmp_path / "a.json"))
    np.testing.assert_array_equal(reference.annToMask(reference.anns[5]), mask)


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    tiny = tiny_coco(tmp_path / "data")
    dataset = read_coco(tiny.annotations)
    path = tmp_path / "out/a.json"
    write_dataset(path, dataset)
    before = path.read_bytes()

    def interrupted():
        yield dataset.annotations[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_coco(path, dataset.images, dataset.categories, interrupted())
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
