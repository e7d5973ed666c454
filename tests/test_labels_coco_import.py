"""Labels out of anybody's COCO file: every form of mask, and every problem told at once."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipeline.coco.model import CocoCategory, CocoImage
from pipeline.errors import DatasetError
from pipeline.labels.checking import row_problems
from pipeline.labels.coco_import import read_detections
from pipeline.labels.rows import Decision, Status
from tests.tiny_coco import run_lengths, tiny_coco, tiny_dict, write_json

CATEGORIES = (CocoCategory(3, "category 3"), CocoCategory(7, "category 7"))
IMAGES = tuple(CocoImage(number, f"{number:04}.png", 64, 48) for number in range(1, 5))


def results_list() -> list[dict[str, Any]]:
    """One result for every annotation of the tiny dataset."""
    keys = ("image_id", "category_id", "bbox", "segmentation")
    return [{key: each[key] for key in keys} | {"score": each["id"] / 100} for each in tiny_dict()["annotations"]]


def problems_of(path) -> list[str]:
    with pytest.raises(DatasetError) as caught:
        read_detections(path, IMAGES, CATEGORIES)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("form", ["dataset", "results"])
def test_every_form_of_mask_becomes_the_same_mask(tmp_path, form):
    tiny = tiny_coco(tmp_path / "tiny")
    path = tiny.annotations if form == "dataset" else write_json(tmp_path / "results.json", results_list())
    rows = list(read_detections(path, IMAGES, CATEGORIES))
    assert row_problems(rows) == []
    assert [row.image_id for row in rows] == [1, 2, 3, 4]
    masks = iter(tiny.masks.values())
    for row in rows:
        assert row.status is Status.OK
        for instance in row.instances:
            mask = next(masks)
            assert np.array_equal(row.mask(instance), mask)
            assert instance.area == mask.sum()
            assert instance.decision is Decision.TEACHER
            assert (instance.predicted_iou, instance.candidate, instance.soft_mask) == (None, None, None)
    scores = [instance.score for row in rows for instance in row.instances]
    assert scores == ([1.0] * 12 if form == "dataset" else [number / 100 for number in range(1, 13)])


def test_a_dataset_with_ids_of_its_own_is_told_by_names(tmp_path):
    content = tiny_dict()
    for image in content["images"]:
        image["id"] += 1000
    for category in content["categories"]:
        category["id"] = 10 - category["id"]  # 3 and 7, the other way round
    for annotation in content["annotations"]:
        annotation["image_id"] += 1000
        annotation["category_id"] = 10 - annotation["category_id"]
    changed = read_detections(write_json(tmp_path / "changed.json", content), IMAGES, CATEGORIES)
    plain = read_detections(write_json(tmp_path / "plain.json", tiny_dict()), IMAGES, CATEGORIES)
    assert list(changed) == list(plain)


def test_scores_and_crowds_of_a_dataset_count(tmp_path):
    content = tiny_dict(images=1, instances=3)
    content["annotations"][0]["score"] = 0.25
    content["annotations"][1]["iscrowd"] = 1
    (row,) = read_detections(write_json(tmp_path / "a.json", content), IMAGES[:1], CATEGORIES)
    assert [instance.score for instance in row.instances] == [0.25, 1.0, 1.0]
    assert [str(instance.decision) for instance in row.instances] == ["teacher", "dropped", "teacher"]


def test_images_without_detections_are_empty_and_masks_without_a_pixel_are_passed_over(tmp_path):
    nothing = {"size": [48, 64], "counts": run_lengths(np.zeros((48, 64), dtype=bool))}
    result = {"image_id": 2, "category_id": 3, "score": 0.5, "segmentation": nothing}
    for content in ([], [result]):
        rows = list(read_detections(write_json(tmp_path / "a.json", content), IMAGES, CATEGORIES))
        assert [row.status for row in rows] == [Status.EMPTY] * 4


def test_the_labels_of_one_image_are_there_without_the_others(tmp_path):
    detections = read_detections(write_json(tmp_path / "a.json", results_list()), IMAGES, CATEGORIES)
    assert detections.labels(IMAGES[2]) == list(detections)[2]


WHOLE = {"size": [48, 64], "counts": [0, 48 * 64]}
BAD_RESULTS = {
    "[1].image_id: 99 is not in the dataset to be labelled": {"image_id": 99},
    "[1].category_id: 4 is not in the dataset to be labelled": {"category_id": 4},
    "[1].category_id: expected an integer, got text": {"category_id": "cat"},
    "[1].score: is missing: a result has the detector's confidence, 0 to 1": {"score": None},
    "[1].score: is 1.5, not a confidence between 0 and 1": {"score": 1.5},
    "[1].score: is -0.1, not a confidence between 0 and 1": {"score": -0.1},
    "[1].score: expected a number or null, got text": {"score": "high"},
    "[1].mask_score: is 1.5, not a confidence between 0 and 1": {"mask_score": 1.5},
    "[1].mask_score: is -0.1, not a confidence between 0 and 1": {"mask_score": -0.1},
    "[1].mask_score: expected a number or null, got text": {"mask_score": "high"},
    "[1].mask_score: expected a number or null, got true/false": {"mask_score": True},
    "[1].segmentation: is missing: boxes alone cannot be refined: export masks, as RLE or polygons": {
        "segmentation": []
    },
    "[1].segmentation[0]: has 2 points: a polygon needs 3": {"segmentation": [[1, 1, 5, 5]]},
    "[1].segmentation.size: is [64, 48] (height, width), the image's is [48, 64]": {
        "segmentation": WHOLE | {"size": [64, 48]}
    },
    "[1].segmentation.counts: adds up to 100 pixels, the image has 3072": {
        "segmentation": WHOLE | {"counts": [0, 100]}
    },
    "[1].segmentation.counts: adds up to 100 pixels, the image has 3072 ": {
        "segmentation": WHOLE
        | {"counts": coco_mask.encode(np.ones((10, 10), dtype=np.uint8, order="F"))["counts"].decode()}
    },
    "[1].segmentation.counts: is not the text of a compressed RLE": {"segmentation": WHOLE | {"counts": "\x7f"}},
}


@pytest.mark.parametrize("message", BAD_RESULTS)
def test_a_bad_result_is_told_by_its_place(tmp_path, message):
    content = results_list()[:3]
    content[1] |= BAD_RESULTS[message]
    assert problems_of(write_json(tmp_path / "a.json", content)) == [message.strip()]


def test_all_problems_are_told_at_once(tmp_path):
    content = results_list()
    content[0]["image_id"] = 99
    content[3] = "nothing"
    content[4]["score"] = 2
    content[5]["segmentation"] = 5
    del content[6]["score"]
    content[7]["segmentation"] = None
    assert problems_of(write_json(tmp_path / "a.json", content)) == [
        "[3]: expected an object, got text",
        "[0].image_id: 99 is not in the dataset to be labelled",
        "[4].score: is 2, not a confidence between 0 and 1",
        "[5].segmentation: expected an object or a list, got an integer",
        "[6].score: is missing: a result has the detector's confidence, 0 to 1",
        "[7].segmentation: is missing: boxes alone cannot be refined: export masks, as RLE or polygons",
    ]


@pytest.mark.parametrize(("scores", "best"), [((0.3, 0.8, 0.5), 0.8), ((0.6, 0.2, 0.6), 0.6)])
def test_of_repeated_results_the_surest_is_taken_and_the_others_are_counted(tmp_path, scores, best):
    content = results_list()
    content[1:2] = [content[1] | {"score": score} for score in scores]
    content.append(content[1] | {"category_id": 10 - content[1]["category_id"]})  # another category is not the same
    detections = read_detections(write_json(tmp_path / "a.json", content), IMAGES, CATEGORIES)
    assert detections.repeated == 2
    first, *others = detections
    assert [instance.score for instance in first.instances] == [0.01, best, 0.03, scores[0]]
    assert [len(row.instances) for row in others] == [3, 3, 3]


def test_repeated_annotations_of_a_dataset_are_taken_once(tmp_path):
    content = tiny_dict()
    plain = read_detections(write_json(tmp_path / "plain.json", content), IMAGES, CATEGORIES)
    content["annotations"].append(content["annotations"][0] | {"id": 99})
    doubled = read_detections(write_json(tmp_path / "doubled.json", content), IMAGES, CATEGORIES)
    assert (plain.repeated, doubled.repeated) == (0, 1)
    assert list(doubled) == list(plain)


def test_a_file_of_boxes_alone_is_refused_in_one_line(tmp_path):
    content = [{key: value for key, value in each.items() if key != "segmentation"} for each in results_list()]
    assert problems_of(write_json(tmp_path / "a.json", content)) == [
        "the file has no masks: boxes alone cannot be refined: export masks, as RLE or polygons"
    ]


def test_a_dataset_of_other_images_and_categories_is_refused(tmp_path):
    content = tiny_dict()
    content["images"][0]["file_name"] = "other.png"
    content["images"][1]["width"] = 65
    content["images"][3]["id"] = 3
    content["categories"][1]["name"] = "dog"
    content["annotations"][0]["image_id"] = 77
    del content["annotations"][9:]  # those of the image that lost its id
    assert problems_of(write_json(tmp_path / "a.json", content)) == [
        "images[0].file_name: 'other.png' is not among the images to be labelled",
        "images[1].width: the labels are for 65x48, the image is 64x48",
        "images[3].id: 3 is used twice",
        "categories[1].name: 'dog' is not a category of the dataset (category 3, category 7)",
        "annotations[0].image_id: 77 is not in the file",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("[{", "not JSON: Input data was truncated"),
        ('[{"score": NaN}]', "not JSON: JSON is malformed"),
        ("{", "not JSON: the file ends in the middle"),
        ('{"images": []}', "annotations: is missing; a results list is a JSON list"),
        ('{"images": 5, "annotations": 5, "categories": []}', "annotations: expected a list, got an integer"),
        ('{"images": 5, "annotations": [], "categories": []}', "images: expected a list, got an integer"),
    ],
)
def test_a_file_that_is_no_coco_file_is_refused(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_text(text)
    assert any(message in problem for problem in problems_of(path))


def test_a_file_that_is_not_there_is_told(tmp_path):
    assert problems_of(tmp_path / "nothing.json") == ["cannot be read: No such file or directory"]


def test_text_of_another_encoding_is_told(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(json.dumps(results_list()).replace('"image_id"', '"\xe9"', 1).encode("latin-1"))
    assert len(problems_of(path)) == 1


def test_measures_without_a_decision_are_those_of_another_tool(tmp_path):
    content = tiny_dict()
    for each in content["annotations"]:
        each |= {"stability": "very", "candidate": 1e9}
    path = write_json(tmp_path / "a.json", content)
    rows = list(read_detections(path, IMAGES, CATEGORIES, keep_decisions=True))
    assert {each.decision for row in rows for each in row.instances} == {Decision.TEACHER}


def test_decisions_are_read_only_where_they_are_wanted(tmp_path):
    content = tiny_dict()
    content["annotations"][0] |= {"decision": "sam", "predicted_iou": 0.75, "candidate": 2}
    content["annotations"][1] |= {"decision": "sam", "iscrowd": 1}
    path = write_json(tmp_path / "a.json", content)
    as_teacher, kept = (next(iter(read_detections(path, IMAGES, CATEGORIES, keep_decisions=keep))) for keep in (0, 1))
    assert [each.decision for each in as_teacher.instances] == ["teacher", "dropped", "teacher"]
    assert [each.decision for each in kept.instances] == ["sam", "dropped", "teacher"]
    assert (kept.instances[0].predicted_iou, kept.instances[0].candidate) == (0.75, 2)
    assert as_teacher.instances[0].predicted_iou is None


def test_impossible_measures_are_told_by_entry_and_field(tmp_path):
    content = tiny_dict()
    content["annotations"][0] |= {"decision": "mine", "stability": "high"}
    content["annotations"][2] |= {"decision": "sam", "candidate": 128, "gate_confidence": 1.5, "agreement": math.inf}
    with pytest.raises(DatasetError) as caught:
        read_detections(write_json(tmp_path / "a.json", content), IMAGES, CATEGORIES, keep_decisions=True)
    assert [str(each) for each in caught.value.problems] == [
        'annotations[0].decision: is "mine", not one of sam, teacher, dropped: whose mask it is',
        "annotations[0].stability: expected a number or null, got text",
        "annotations[2].agreement: is NaN or Infinity",
        "annotations[2].candidate: is 128, not an integer from 0 to 127",
        "annotations[2].gate_confidence: is 1.5, not a number between 0 and 1",
    ]
