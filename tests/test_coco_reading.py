from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from pipeline.coco.reading import read_coco
from pipeline.errors import DatasetError
from tests.tiny_coco import FORMS, tiny_coco, tiny_dict, write_json


def problems_of(tmp_path, content, **options):
    """`where: message` of everything that is wrong with a content."""
    path = write_json(tmp_path / "annotations.json", content)
    with pytest.raises(DatasetError) as caught:
        read_coco(path, **options)
    assert str(path) in str(caught.value)
    return [str(problem) for problem in caught.value.problems]


def problems_of_bytes(tmp_path, data):
    path = tmp_path / "annotations.json"
    path.write_bytes(data)
    with pytest.raises(DatasetError) as caught:
        read_coco(path)
    return [str(problem) for problem in caught.value.problems]


def test_masks_of_all_forms_are_the_drawn_ones(tmp_path):
    tiny = tiny_coco(tmp_path)
    dataset = read_coco(tiny.annotations)
    assert len(dataset.annotations) == 12 >= 2 * len(FORMS)
    for annotation in dataset.annotations:
        mask = dataset.mask(annotation)
        assert mask.dtype == np.bool_
        np.testing.assert_array_equal(mask, tiny.masks[annotation.id])


def test_rle_is_that_of_pycocotools(tmp_path):
    content = tiny_dict()
    two_parts = [[1.5, 2.5, 20.25, 3.0, 11.0, 30.75], [30, 10, 60.5, 10, 60.5, 40, 30, 41.25]]
    content["annotations"][2]["segmentation"] = two_parts
    path = write_json(tmp_path / "a.json", content)
    dataset, reference = read_coco(path), COCO(str(path))
    for annotation in dataset.annotations:
        expected = reference.annToRLE(reference.anns[annotation.id])
        assert dataset.rle(annotation)["size"] == list(expected["size"])
        np.testing.assert_array_equal(coco_mask.decode(dataset.rle(annotation)), coco_mask.decode(expected))


def test_values_and_lookups(tmp_path):
    content = tiny_dict(category_ids=(0, 2**40, -5))
    content["images"].append({"id": 2**50, "file_name": "sub/empty.png", "width": 5, "height": 7})
    content["categories"][0]["supercategory"] = "things"
    content["annotations"][1]["iscrowd"] = 1
    dataset = read_coco(write_json(tmp_path / "a.json", content))
    assert [image.id for image in dataset.images] == [1, 2, 3, 4, 2**50]
    assert dataset.image_by_id[2**50].file_name == "sub/empty.png"
    assert [(each.id, each.supercategory) for each in dataset.categories] == [(0, "things"), (2**40, ""), (-5, "")]
    assert dataset.category_by_id[2**40].name == f"category {2**40}"
    assert dataset.annotations_by_image[2**50] == ()
    assert [each.id for each in dataset.annotations_by_image[2]] == [4, 5, 6]
    given, read = content["annotations"][1], dataset.annotations[1]
    assert (read.id, read.image_id, read.category_id) == (given["id"], given["image_id"], given["category_id"])
    assert (list(read.bbox), read.area, read.iscrowd) == (given["bbox"], given["area"], 1)


def test_subset_is_sorted_and_keeps_the_segmentation_verbatim(tmp_path):
    content = tiny_dict()
    content["annotations"].reverse()
    text = json.dumps(content).replace("[[", "[ [")
    (tmp_path / "a.json").write_text(text)
    subset = read_coco(tmp_path / "a.json").subset([3, 1, 3])
    assert [image.id for image in subset.images] == [1, 3]
    assert [each.id for each in subset.annotations] == [1, 2, 3, 7, 8, 9]
    assert len(subset.categories) == 2
    assert bytes(subset.annotations[2].segmentation).startswith(b"[ [")


def test_dataset_survives_pickling(tmp_path):
    tiny = tiny_coco(tmp_path)
    dataset = pickle.loads(pickle.dumps(read_coco(tiny.annotations)))
    np.testing.assert_array_equal(dataset.mask(dataset.annotations[3]), tiny.masks[4])


def test_area_and_crowd_flag_may_be_missing(tmp_path):
    tiny = tiny_coco(tmp_path)
    for annotation in tiny.content["annotations"]:
        del annotation["area"], annotation["iscrowd"]
    tiny.content["annotations"][0]["area"] = None
    dataset = read_coco(write_json(tmp_path / "b.json", tiny.content))
    assert [each.area for each in dataset.annotations] == [mask.sum() for mask in tiny.masks.values()]
    assert not any(each.iscrowd for each in dataset.annotations)


def test_unlabelled_sets_need_images_only(tmp_path):
    content = {"images": tiny_dict()["images"]}
    path = write_json(tmp_path / "a.json", content)
    dataset = read_coco(path, annotations_required=False)
    assert len(dataset.images) == 4
    assert dataset.categories == dataset.annotations == ()
    assert problems_of(tmp_path, content) == ["categories: is missing", "annotations: is missing"]


def test_unlabelled_sets_with_annotations_need_categories(tmp_path):
    content = tiny_dict()
    del content["categories"]
    assert problems_of(tmp_path, content, annotations_required=False) == ["categories: is missing"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b'{"images": [', "byte 12: not JSON: the file ends in the middle"),
        (b'{"images": [}', "byte 12: not JSON: invalid character"),
        (b'{"info": NaN, "images": [1,,2]}', "byte 27: not JSON: invalid character"),
        (b'{"info": -Infinity, "images": [1,,2]}', "byte 33: not JSON: invalid character"),
        (b'{} {}', "byte 4: not JSON: trailing characters"),
        (b"\x89PNG\r\n", "byte 0: not JSON: invalid character"),
        (b"\xef\xbb\xbf{}", "byte 0: begins with a byte order mark: save it as plain UTF-8"),
        (b"[1]", "must be a JSON object with images, annotations and categories: expected an object, got a list"),
        (b'{"a":' + b"[" * 100_000, "is nested too deeply to be a COCO file"),
        (b'{"\xff": 1}', "has a key that is not UTF-8: invalid start byte"),
    ],
)  # fmt: skip
def test_files_that_are_no_json_object(tmp_path, data, expected):
    assert problems_of_bytes(tmp_path, data) == [expected]


def test_unreadable_files(tmp_path):
    for path in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(DatasetError, match="cannot be read"):
            read_coco(path)


def test_lists_must_be_lists(tmp_path):
    content = {"images": {}, "categories": None, "annotations": "x"}
    assert problems_of(tmp_path, content) == [
        "images: expected a list, got an object",
        "categories: expected a list, got null",
        "annotations: expected a list, got text",
    ]
    assert problems_of(tmp_path, {**tiny_dict(), "images": [], "annotations": []}) == [
        "images: is empty: there is no image to work on"
    ]


IMAGE_PROBLEMS = [
    ({"id": None}, "images[1], id: expected an integer, got null"),
    ({"id": "2"}, "images[1], id: expected an integer, got text"),
    ({"id": 2**63}, f"images[1], id: expected an integer <= {2**63 - 1}"),
    ({"id": 1}, "images[1], id: 1 is used twice"),
    ({"width": 0}, "image 2, width: expected an integer >= 1"),
    ({"width": 64.5}, "image 2, width: expected an integer, got a number"),
    ({"height": True}, "image 2, height: expected an integer, got true/false"),
    ({"height": math.nan}, "image 2, height: is NaN or Infinity"),
    ({"height": -math.inf}, "image 2, height: is NaN or Infinity"),
    ({"width": 100_000, "height": 100_000}, "image 2, width: 100000x100000 are more than 178,956,970 pixels"),
    ({"file_name": 3}, "image 2, file_name: expected text, got an integer"),
    ({"file_name": ""}, "image 2, file_name: is empty"),
    ({"file_name": "../2.png"}, "image 2, file_name: '../2.png' leaves the image folder by '..'"),
    ({"file_name": "2\0.png"}, "image 2, file_name: '2\\x00.png' holds a control character"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), IMAGE_PROBLEMS)
def test_image_problems(tmp_path, change, expected):
    content = tiny_dict()
    content["annotations"] = [each for each in content["annotations"] if each["image_id"] != 2]
    content["images"][1] |= change
    assert problems_of(tmp_path, content) == [expected]


def test_annotations_of_a_refused_image_are_not_told_again(tmp_path):
    content = tiny_dict()
    content["images"][1]["width"] = 0
    content["images"][2]["file_name"] = "/etc/passwd"
    content["categories"][0]["name"] = " "
    found = problems_of(tmp_path, content)
    assert [each.split(":")[0] for each in found] == ["image 2, width", "image 3, file_name", "category 3, name"]


CATEGORY_PROBLEMS = [
    ({"id": "three"}, "categories[0], id: expected an integer, got text"),
    ({"id": 7}, "categories[1], id: 7 is used twice"),
    ({"name": None}, "category 3, name: expected text, got null"),
    ({"name": math.nan}, "category 3, name: is NaN or Infinity"),
    ({"name": "a\nb"}, "category 3, name: 'a\\nb' holds a control character"),
]


@pytest.mark.parametrize(("change", "expected"), CATEGORY_PROBLEMS)
def test_category_problems(tmp_path, change, expected):
    content = {**tiny_dict(), "annotations": []}
    content["categories"][0] |= change
    assert problems_of(tmp_path, content) == [expected]


RLE = {"size": [48, 64], "counts": [0, 48 * 64]}
ANNOTATION_PROBLEMS = [
    ({"id": 1}, "annotations[1], id: 1 is used twice"),
    ({"id": "b"}, "annotations[1], id: expected an integer, got text"),
    ({"image_id": 99}, "annotation 2, image_id: 99 is not in the file"),
    ({"category_id": 1}, "annotation 2, category_id: 1 is not in the file"),
    ({"iscrowd": 2}, "annotation 2, iscrowd: expected an integer <= 1"),
    ({"iscrowd": False}, "annotation 2, iscrowd: expected an integer, got true/false"),
    ({"area": -1}, "annotation 2, area: expected a number >= 0.0"),
    ({"area": "12"}, "annotation 2, area: expected a number or null, got text"),
    ({"bbox": [1, 2, 3]}, "annotation 2, bbox: expected a list of length 4"),
    ({"bbox": [1, 2, math.nan, 4]}, "annotation 2, bbox[2]: is NaN or Infinity"),
    ({"bbox": [1, -math.inf, 3, 4]}, "annotation 2, bbox[1]: is NaN or Infinity"),
    ({"bbox": [1, 2, True, 4]}, "annotation 2, bbox[2]: expected a number, got true/false"),
    ({"bbox": [1, 2, "3", 4]}, "annotation 2, bbox[2]: expected a number, got text"),
    ({"bbox": [5, 5, -1, 4]}, "annotation 2, bbox: has a negative width or height: [5.0, 5.0, -1.0, 4.0]"),
    ({"bbox": [65, 5, 4, 4]}, "annotation 2, bbox: [65.0, 5.0, 4.0, 4.0] lies outside the image of 64x48"),
    ({"bbox": [5, 5, 400, 4]}, "annotation 2, bbox: [5.0, 5.0, 400.0, 4.0] reaches far outside the image of 64x48"),
    ({"segmentation": []}, "annotation 2, segmentation: is empty: an instance needs a polygon or an RLE"),
    ({"segmentation": None}, "annotation 2, segmentation: expected an object or a list, got null"),
    ({"segmentation": math.nan}, "annotation 2, segmentation: is NaN or Infinity"),
    ({"segmentation": [1, 2, 3, 4, 5, 6]}, "annotation 2, segmentation[0]: expected a list, got an integer"),
    ({"segmentation": [[1, 1, 9, 9]]}, "annotation 2, segmentation[0]: has 2 points: a polygon needs 3"),
    ({"segmentation": [[1, 1, 9, 9, 1, 9], []]}, "annotation 2, segmentation[1]: has 0 points: a polygon needs 3"),
    ({"segmentation": [[1, 1, 9, 9, 1, 9, 4]]}, "annotation 2, segmentation[0]: has an odd count of coordinates (7)"),
    ({"segmentation": [[1, 1, 9, math.inf, 1, 9]]},
     "annotation 2, segmentation[0][3]: is NaN or Infinity"),
    ({"segmentation": [[1, 1, 9, False, 1, 9]]}, "annotation 2, segmentation[0][3]: expected a number, got true/false"),
    ({"segmentation": [[1, 1, 9, 9, 1, 1e9]]},
     "annotation 2, segmentation[0]: lies far outside the image of 64x48: y 1 to 1e+09"),
    ({"segmentation": [[-65, 1, 9, 9, 1, 9]]},
     "annotation 2, segmentation[0]: lies far outside the image of 64x48: x -65 to 9"),
    ({"segmentation": {**RLE, "size": [64, 48]}},
     "annotation 2, segmentation.size: is [64, 48] (height, width), the image's is [48, 64]"),
    ({"segmentation": {"size": [48, 64]}},
     "annotation 2, segmentation.counts: is missing"),
    ({"segmentation": {**RLE, "counts": 5}},
     "annotation 2, segmentation.counts: expected text or a list, got an integer"),
    ({"segmentation": {**RLE, "counts": [0, 1.5]}},
     "annotation 2, segmentation.counts[1]: expected an integer, got a number"),
    ({"segmentation": {**RLE, "counts": []}},
     "annotation 2, segmentation.counts: adds up to 0 pixels, the image has 3072"),
    ({"segmentation": {**RLE, "counts": [3071, 2]}},
     "annotation 2, segmentation.counts: adds up to 3073 pixels, the image has 3072"),
    ({"segmentation": {**RLE, "counts": [-1, 3073]}}, "annotation 2, segmentation.counts: holds a negative run length"),
    ({"segmentation": {**RLE, "counts": "00"}},
     "annotation 2, segmentation.counts: adds up to 0 pixels, the image has 3072"),
    ({"segmentation": {**RLE, "counts": ""}}, "annotation 2, segmentation.counts: is not the text of a compressed RLE"),
    ({"segmentation": {**RLE, "counts": "0é"}},
     "annotation 2, segmentation.counts: is not the text of a compressed RLE"),
    ({"segmentation": {**RLE, "counts": "0o"}},
     "annotation 2, segmentation.counts: is not the text of a compressed RLE"),
    ({"segmentation": {**RLE, "counts": "O0"}}, "annotation 2, segmentation.counts: holds a negative run length"),
    ({"segmentation": {**RLE, "counts": "oooooo0"}},
     "annotation 2, segmentation.counts: holds a run of more than 6 characters"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), ANNOTATION_PROBLEMS)
def test_annotation_problems(tmp_path, change, expected):
    content = tiny_dict()
    content["annotations"][1] |= change
    assert problems_of(tmp_path, content) == [expected]


@pytest.mark.parametrize("key", ["id", "image_id", "category_id", "bbox", "segmentation"])
def test_missing_keys_of_annotations(tmp_path, key):
    content = tiny_dict()
    del content["annotations"][1][key]
    where = "annotations[1]" if key == "id" else "annotation 2"
    assert problems_of(tmp_path, content) == [f"{where}, {key}: is missing"]


def test_every_problem_is_told_at_once(tmp_path):
    content = tiny_dict()
    content["images"].append({})
    content["annotations"][0] |= {"bbox": [1, 2, math.nan, "4"], "iscrowd": "no", "area": math.inf}
    content["annotations"][3] |= {"image_id": 12, "category_id": 13}
    content["annotations"][5] |= {"bbox": [0, 0, -1, 0], "segmentation": []}
    content["annotations"][6] = None
    content["annotations"].append({"id": 99, "bbox": []})
    assert problems_of(tmp_path, content) == [
        "images[4], id: is missing",
        "images[4], file_name: is missing",
        "images[4], width: is missing",
        "images[4], height: is missing",
        "annotation 1, bbox[2]: is NaN or Infinity",
        "annotation 1, area: is NaN or Infinity",
        "annotation 1, iscrowd: expected an integer, got text",
        "annotation 4, image_id: 12 is not in the file",
        "annotation 4, category_id: 13 is not in the file",
        "annotation 6, bbox: has a negative width or height: [0.0, 0.0, -1.0, 0.0]",
        "annotation 6, segmentation: is empty: an instance needs a polygon or an RLE",
        "annotations[6]: expected an object, got null",
        "annotation 99, image_id: is missing",
        "annotation 99, category_id: is missing",
        "annotation 99, bbox: expected a list of length 4",
        "annotation 99, segmentation: is missing",
    ]


def test_all_problems_are_counted_though_few_are_shown(tmp_path):
    content = tiny_dict(images=50, instances=10)
    for annotation in content["annotations"]:
        annotation["segmentation"] = {"size": [48, 64], "counts": "00"}
    path = write_json(tmp_path / "a.json", content)
    with pytest.raises(DatasetError) as caught:
        read_coco(path)
    assert len(caught.value.problems) == 500
    assert "500 problems" in str(caught.value)
    assert len(str(caught.value).splitlines()) < 60


def test_nan_where_nothing_is_read_does_no_harm(tmp_path):
    content = tiny_dict()
    content["info"] = {"score": math.nan, "text": 'NaN \\"Infinity'}
    content["annotations"][0]["confidence"] = math.inf
    content["categories"][0]["name"] = "NaN, Infinity"
    dataset = read_coco(write_json(tmp_path / "a.json", content))
    assert dataset.categories[0].name == "NaN, Infinity"
    assert len(dataset.annotations) == 12


def test_numbers_too_large_for_a_float(tmp_path):
    text = json.dumps(tiny_dict()).replace('"area": ', '"area": 1e400, "was": ', 1)
    assert problems_of_bytes(tmp_path, text.encode()) == ["annotation 1, area: is a number too large"]


def test_boxes_over_the_border_and_without_extent_are_readable(tmp_path):
    content = tiny_dict()
    content["annotations"][0]["bbox"] = [-10, -3, 90, 60]
    content["annotations"][1]["bbox"] = [20.5, 10.25, 1.03, 0.0]  # as two annotations of COCO train2017 are
    assert len(read_coco(write_json(tmp_path / "a.json", content)).annotations) == 12
