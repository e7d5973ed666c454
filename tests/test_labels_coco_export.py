"""COCO out of the store: what pycocotools makes of it is what the store holds."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from pipeline.coco.reading import read_coco
from pipeline.errors import DatasetError
from pipeline.labels.coco_export import coco_annotations, export_dataset, export_results
from pipeline.labels.coco_import import read_detections
from pipeline.labels.rows import Decision, ImageLabels, Status
from tests.tiny_labels import CATEGORIES, coco_images, tiny_row, tiny_store

# The first names are such that no COCO file may have.
ROWS = [tiny_row(image_id, soft_masks=False) for image_id in range(10, 40)]
KEPT = [(row, instance) for row in ROWS for instance in row.instances if instance.decision is not Decision.DROPPED]


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return tiny_store(tmp_path_factory.mktemp("export") / "labels.zarr", ROWS)


def test_a_dataset_has_the_masks_boxes_and_measures_of_the_store(labels, tmp_path):
    export_dataset(labels, tmp_path / "labels.json")
    coco = COCO(tmp_path / "labels.json")
    assert sorted(coco.imgs) == [row.image_id for row in ROWS if row.status is not Status.FAILED]
    assert [(each["id"], each["name"]) for each in coco.loadCats(coco.getCatIds())] == [(3, "cat"), (7, "Hündin")]
    assert len(coco.anns) == len(KEPT)
    for (row, instance), annotation in zip(KEPT, coco.loadAnns(sorted(coco.anns)), strict=True):
        assert (annotation["image_id"], annotation["category_id"]) == (row.image_id, instance.category_id)
        assert np.array_equal(coco.annToMask(annotation), row.mask(instance))
        assert annotation["bbox"] == coco_mask.toBbox(row.rle(instance)).tolist()
        assert (annotation["area"], annotation["iscrowd"]) == (instance.area, 0)
        assert np.float32(annotation["score"]) == np.float32(instance.score)
        assert annotation.get("mask_score") == pytest.approx(instance.mask_score)
        assert annotation["decision"] == instance.decision
        assert annotation.get("candidate") == instance.candidate
        assert annotation.get("gate_confidence") == pytest.approx(instance.gate_confidence)
        assert ("agreement" in annotation) is (instance.agreement is not None)
    assert len(read_coco(tmp_path / "labels.json").annotations) == len(KEPT)


def test_dropped_instances_are_crowds_where_they_are_wanted(labels, tmp_path):
    export_dataset(labels, tmp_path / "labels.json", include_dropped=True)
    annotations = json.loads((tmp_path / "labels.json").read_text())["annotations"]
    assert len(annotations) == labels.attributes.instances
    assert {each["decision"] for each in annotations if each["iscrowd"]} == {"dropped"}
    assert sum(each["iscrowd"] for each in annotations) == labels.attributes.decisions["dropped"]
    assert [each["id"] for each in annotations] == list(range(1, len(annotations) + 1))


def test_a_results_list_is_one_that_pycocotools_loads(labels, tmp_path):
    export_dataset(labels, tmp_path / "labels.json")
    export_results(labels, tmp_path / "results.json")
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results) == len(KEPT)
    for (row, instance), entry in zip(KEPT, results, strict=True):
        assert (entry["image_id"], entry["category_id"]) == (row.image_id, instance.category_id)
        assert (entry["decision"], entry["area"]) == (instance.decision, instance.area)
        assert np.float32(entry["score"]) == np.float32(instance.score)
        assert entry.get("mask_score") == pytest.approx(instance.mask_score)
        assert entry.get("candidate") == instance.candidate
        assert entry.get("gate_confidence") == pytest.approx(instance.gate_confidence)
    loaded = COCO(tmp_path / "labels.json").loadRes(results)
    for (row, instance), annotation in zip(KEPT, loaded.loadAnns(sorted(loaded.anns)), strict=True):
        assert np.array_equal(loaded.annToMask(annotation), row.mask(instance))


def test_what_is_counted_is_what_is_in_the_file(labels, tmp_path):
    assert labels.attributes.decisions["dropped"] > 0
    for dropped in (False, True):
        written = export_dataset(labels, tmp_path / "labels.json", include_dropped=dropped)
        content = json.loads((tmp_path / "labels.json").read_text())
        assert written == (len(content["images"]), len(content["annotations"]))
    written = export_results(labels, tmp_path / "results.json")
    results = json.loads((tmp_path / "results.json").read_text())
    assert written == (len({each["image_id"] for each in results}), len(results))


def test_numbers_have_no_more_digits_than_the_store():
    row = tiny_row(1)
    label = replace(row.instances[0], score=float(np.float32(0.9)), decision=Decision.SAM)
    (annotation,) = coco_annotations(replace(row, instances=(label,)), 1)
    assert annotation.score == 0.9


def test_a_store_of_nothing_is_exported(tmp_path):
    labels = tiny_store(tmp_path / "labels.zarr", [tiny_row(14)])
    export_results(labels, tmp_path / "results.json")
    export_dataset(labels, tmp_path / "dataset.json")
    assert json.loads((tmp_path / "results.json").read_text()) == []
    assert json.loads((tmp_path / "dataset.json").read_text())["images"] == []


def test_file_names_that_no_coco_file_may_have_are_all_told(tmp_path):
    rows = [tiny_row(image_id) for image_id in (0, 2, 3)]
    rows.append(ImageLabels.of_instances(50, "not-utf-8-\udcff.jpg", 4, 4, ()))
    labels = tiny_store(tmp_path / "labels.zarr", rows)
    with pytest.raises(DatasetError) as caught:
        export_dataset(labels, tmp_path / "dataset.json")
    assert [problem.where for problem in caught.value.problems] == [f"image {i}, file_name" for i in (2, 3, 50)]
    assert [each.name for each in tmp_path.iterdir()] == ["labels.zarr"]


@pytest.mark.parametrize("form", ["dataset", "results"])
def test_what_was_exported_comes_back(labels, tmp_path, form):
    if form == "dataset":
        export_dataset(labels, tmp_path / "labels.json", include_dropped=True)
    else:
        export_results(labels, tmp_path / "labels.json")
    back = read_detections(tmp_path / "labels.json", coco_images(ROWS), CATEGORIES)
    for row, again in zip(ROWS, back, strict=True):
        expected = [each for each in row.instances if form == "dataset" or each.decision is not Decision.DROPPED]
        assert [each.rle_counts for each in again.instances] == [each.rle_counts for each in expected]
        assert [each.category_id for each in again.instances] == [each.category_id for each in expected]
        assert [each.mask_score for each in again.instances] == pytest.approx([each.mask_score for each in expected])
        assert [each.box_xyxy for each in again.instances] == [each.box_xyxy for each in expected]
        assert [np.float32(each.score) for each in again.instances] == [np.float32(each.score) for each in expected]
        assert [each.decision is Decision.DROPPED for each in again.instances] == [
            each.decision is Decision.DROPPED for each in expected
        ]
