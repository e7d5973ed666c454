"""Corrected labels come back, from whatever tool, and become labelled data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.coco.reading import read_coco
from pipeline.errors import DatasetError
from pipeline.review.accepting import KnownImages, accept
from tests.tiny_coco import tiny_coco, tiny_dict, write_json
from tests.tiny_refinement import box_mask, rle


@pytest.fixture
def known(tmp_path):
    """Two labelled and two unlabelled images in one folder; ids 1 and 2, 3 and 4."""
    made = tiny_coco(tmp_path / "set", images=4)
    dataset = read_coco(made.annotations)
    labelled, unlabelled = dataset.subset([1, 2]), dataset.subset([3, 4])
    return KnownImages(labelled, made.image_root, unlabelled, made.image_root)


def corrected(*images: dict[str, Any], annotations: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """A file as tools export it: ids from 0, categories in another order."""
    size = {"width": 64, "height": 48}
    return {
        "images": [{"id": number, **size, **image} for number, image in enumerate(images)],
        "categories": [{"id": 0, "name": "category 7"}, {"id": 1, "name": "category 3"}, {"id": 2, "name": "unused"}],
        "annotations": annotations if annotations is not None else [annotation(0)],
    }


def annotation(number: int, image_id: int = 0, **fields: Any) -> dict[str, Any]:
    mask = box_mask(2, 3, 12 + number, 13)
    given = {"id": number, "image_id": image_id, "category_id": 1, "bbox": [2, 3, 10, 10], "segmentation": rle(mask)}
    return given | fields


def read(tmp_path: Path, known: KnownImages, content: Any, *, keep_crowds: bool = False):
    return accept(write_json(tmp_path / "corrected.json", content), known, keep_crowds=keep_crowds)


def test_images_are_matched_by_name_and_categories_by_name(tmp_path, known):
    content = corrected(
        {"file_name": "images/1a2b3c4d-0003.png"},
        {"file_name": "0004.png"},
        annotations=[annotation(0), annotation(1, 0, category_id=0), annotation(2, 1)],
    )
    labelled = read(tmp_path, known, content)
    labelled.write(tmp_path / "new.json")
    dataset = read_coco(tmp_path / "new.json")
    assert [(image.id, image.file_name) for image in dataset.images] == [(n, f"000{n}.png") for n in (1, 2, 3, 4)]
    assert dataset.categories == known.labelled.categories
    assert dataset.annotations_by_image[1] == known.labelled.annotations_by_image[1]
    assert [(each.id, each.category_id) for each in dataset.annotations_by_image[3]] == [(7, 3), (8, 7)]
    assert np.array_equal(dataset.mask(dataset.annotations[-1]), box_mask(2, 3, 14, 13))
    assert (labelled.added, labelled.replaced, labelled.instances, labelled.left) == (2, 0, 3, 0)
    assert labelled.image_root == known.labelled_root


def test_boxes_and_areas_are_those_of_the_masks(tmp_path, known):
    content = corrected({"file_name": "0003.png"}, annotations=[annotation(0, bbox=[0, 0, 1, 1], area=3)])
    new = read(tmp_path, known, content).annotations[-1]
    assert (new.bbox, new.area) == ((2, 3, 10, 10), 100)


def test_an_image_of_nothing_is_labelled_and_one_that_is_not_listed_is_not(tmp_path, known):
    labelled = read(tmp_path, known, corrected({"file_name": "0004.png"}, annotations=[]))
    assert [image.id for image in labelled.images] == [1, 2, 4]
    assert (labelled.added, labelled.empty, labelled.left) == (1, 1, 1)


def test_a_labelled_image_that_was_corrected_gets_the_new_annotations(tmp_path, known):
    labelled = read(tmp_path, known, corrected({"file_name": "0001.png"}))
    assert (len(labelled.images), labelled.added, labelled.replaced) == (2, 0, 1)
    assert [each.image_id for each in labelled.annotations] == [2, 2, 2, 1]


def test_cvat_writes_masks_as_crowds(tmp_path, known):
    content = corrected({"file_name": "0003.png"}, annotations=[annotation(0, iscrowd=1), annotation(1)])
    labelled = read(tmp_path, known, content)
    assert labelled.crowds == 1
    assert [each.iscrowd for each in labelled.annotations[-2:]] == [0, 0]
    kept = read(tmp_path, known, content, keep_crowds=True)
    assert [each.iscrowd for each in kept.annotations[-2:]] == [1, 0]


def test_a_tool_that_does_not_know_the_size_is_told_it(tmp_path, known):
    content = corrected({"file_name": "0003.png", "width": None, "height": None})
    assert read(tmp_path, known, content).added == 1


def test_sets_in_two_folders_get_the_folder_that_holds_both(tmp_path):
    first, second = tiny_coco(tmp_path / "first", images=2), tiny_coco(tmp_path / "second", images=3, seed=1)
    known = KnownImages(
        read_coco(first.annotations), first.image_root, read_coco(second.annotations), second.image_root
    )
    labelled = read(tmp_path, known, corrected({"file_name": "0002.png"}))  # there is one in both: unlabelled first
    assert labelled.image_root == tmp_path.resolve()
    assert [(image.id, image.file_name) for image in labelled.images] == [
        (1, "first/images/0001.png"),
        (2, "first/images/0002.png"),
        (5, "second/images/0002.png"),
    ]
    assert all((labelled.image_root / image.file_name).is_file() for image in labelled.images)


def test_everything_that_is_wrong_is_told_at_once(tmp_path, known):
    content = corrected(
        {"file_name": "0003.png"},
        {"file_name": "somewhere/0003.png"},
        {"file_name": "../../etc/passwd"},
        {"file_name": "0004.png", "width": 32, "height": 24},
        annotations=[
            annotation(0),
            annotation(1, category_id=2),
            annotation(2, segmentation=rle(box_mask(0, 0, 0, 0))),
            annotation(3, segmentation=annotation(0)["segmentation"]),
            annotation(4, segmentation=[]),
            annotation(5, 9),
            annotation(6, 2),
        ],
    )
    with pytest.raises(DatasetError) as told:
        read(tmp_path, known, content)
    assert told.value.source == str(tmp_path / "corrected.json")
    assert [str(problem) for problem in told.value.problems] == [
        "annotation 4, segmentation: is empty: an instance needs a polygon or an RLE",
        "annotation 5, image_id: 9 is not in the file",
        "image 1, file_name: 'somewhere/0003.png' and '0003.png' are both '0003.png': keep one",
        "image 2, file_name: '../../etc/passwd' is not an image of the experiment: remove it, or name the right "
        "experiment with --from",
        "image 3, width: is 32x24, '0004.png' is 64x48: label images in their own size",
        "category 2, name: 'unused' is not a category of the experiment; expected one of category 3, category 7",
        "annotation 2: has no pixel in 0003.png: remove it, or draw it again",
        "annotation 3: is the same as annotation 0: remove one of the two",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("[]", "must be a JSON object"),
        ("{}", "images: is missing"),
        ('{"images": [], "categories": [], "annotations": []}', "images: is empty"),
        ('{"images": [3], "categories": [], "annotations": []}', "images"),
        ('{"images": [{"file_name": 3}], "categories": [], "annotations": []}', "images[0], file_name"),
        (json.dumps(tiny_dict(images=1) | {"images": [{"id": True, "file_name": "0001.png"}]}), "images[0], id"),
        (json.dumps(tiny_dict(images=1))[:-9], "ends in the middle"),
        (json.dumps(tiny_dict(images=1)).replace('"area": ', '"area": NaN, "was": ', 1), "is NaN"),
    ],
)
def test_files_that_are_none_are_refused_in_words(tmp_path, known, text, message):
    path = tmp_path / "corrected.json"
    path.write_text(text)
    with pytest.raises(DatasetError) as told:
        accept(path, known)
    assert message in str(told.value)
    assert str(tmp_path / "corrected.json") in str(told.value)


def test_a_name_that_may_be_several_images_is_told(tmp_path):
    made = tiny_coco(tmp_path / "set", images=3)
    content = made.content
    for image, name in zip(content["images"], ("l.png", "a/1.png", "b/1.png"), strict=True):
        image["file_name"] = name
    dataset = read_coco(write_json(tmp_path / "all.json", content))
    known = KnownImages(dataset.subset([1]), made.image_root, dataset.subset([2, 3]), made.image_root)
    with pytest.raises(DatasetError, match=r"'images/1.png' may be any of 'a/1.png', 'b/1.png': keep the folders"):
        read(tmp_path, known, corrected({"file_name": "images/1.png"}))
    assert read(tmp_path, known, corrected({"file_name": "task/b/1.png"})).images[-1].id == 3
