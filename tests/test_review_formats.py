"""The files that annotation tools read."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from pipeline.coco.model import CocoCategory
from pipeline.coco.reading import read_coco
from pipeline.errors import DatasetError
from pipeline.labels.rows import Decision, ImageLabels, label_from_mask
from pipeline.review.choosing import Review, choose
from pipeline.review.writing import ReviewFormat, ReviewTarget, write_review
from tests.test_masks_outlines import filled
from tests.tiny_labels import CATEGORIES, HEIGHT, WIDTH, random_mask, tiny_row, tiny_store

HOSTILE = "a'\"><b>&amp; ]]> $x {0} %s,\u2028=cmd.png"


@pytest.fixture
def review(tmp_path):
    """A review of three images; masks have holes and parts, one is dropped, one has no pixel, one image failed."""
    rng = np.random.default_rng(0)
    rows = []
    for image_id, name in ((11, "a/1.png"), (12, HOSTILE), (13, "3.png")):
        instances = []
        for place in range(4):
            mask = random_mask(rng)
            decision = Decision.DROPPED if place == 1 else Decision.SAM
            label = label_from_mask(mask & (place != 3), 3 + 4 * (place % 2), 0.5 + place / 100, decision)
            measured = replace(label, agreement=0.1 * (1 + place), predicted_iou=0.9, gate_confidence=0.0)
            measured = replace(measured, mask_score=None if place == 2 else 0.75 + place / 100)
            instances.append(measured)
        rows.append(ImageLabels.of_instances(image_id, name, WIDTH, HEIGHT, tuple(instances)))
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(path, "PNG")
    return choose(tiny_store(tmp_path / "store", [*rows, tiny_row(4)]), 5, 2)


def write(review, tmp_path, format_: str, *, copy: bool = False):
    target = ReviewTarget(ReviewFormat(format_), tmp_path / "pictures", tmp_path / format_, copy)
    write_review(review, target)
    return target.folder


def shown(review) -> dict[str, list[tuple[int, np.ndarray]]]:
    """Category and mask of every instance with a pixel, by file name."""
    return {
        each.labels.file_name: [
            (one.category_id, each.labels.mask(one)) for one in each.labels.instances if one.area > 0
        ]
        for each in review.images
    }


def test_coco_holds_all_instances_of_the_images_and_marks_those_to_look_at(review, tmp_path):
    path = write(review, tmp_path, "coco") / "annotations.json"
    dataset = read_coco(path)
    assert [image.id for image in dataset.images] == [image.labels.image_id for image in review.images]
    for image in dataset.images:
        own = dataset.annotations_by_image[image.id]
        expected = shown(review)[image.file_name]
        assert [each.category_id for each in own] == [category for category, _ in expected]
        assert all(np.array_equal(dataset.mask(one), mask) for one, (_, mask) in zip(own, expected, strict=True))
        assert not any(each.iscrowd for each in own)
    marks = [each["review"] for each in json.loads(path.read_text())["annotations"] if "review" in each]
    assert sorted(mark["rank"] for mark in marks if "rank" in mark) == [1, 2, 3, 4, 5]
    assert all(mark["reason"] for mark in marks)
    written = [each.get("mask_score") for each in json.loads(path.read_text())["annotations"]]
    assert written == pytest.approx(mask_scores(review), abs=1e-6)


def test_cvat_masks_are_the_masks(review, tmp_path):
    folder = write(review, tmp_path, "cvat")
    root = ET.parse(folder / "annotations.xml").getroot()
    assert root.findtext("version") == "1.1"
    names = {category.name: category.id for category in CATEGORIES}
    found = {}
    for image in root.iter("image"):
        assert (image.get("width"), image.get("height")) == (str(WIDTH), str(HEIGHT))
        found[image.get("name")] = [(names[each.get("label")], cvat_mask(each)) for each in image.iter("mask")]
    same_masks(found, shown(review))
    ranks = [each.text for each in root.iter("attribute") if each.get("name") == "review"]
    assert sorted(text for text in ranks if text != "not ranked") == ["1", "2", "3", "4", "5"]
    attributes = [{each.get("name"): each.text for each in mask.iter("attribute")} for mask in root.iter("mask")]
    assert [each.get("mask_score") for each in attributes] == [
        None if score is None else f"{score:.4f}" for score in mask_scores(review)
    ]
    assert all(0 <= float(each["score"]) <= 1 for each in attributes)
    labels = json.loads((folder / "labels.json").read_text())
    assert [each["name"] for each in labels] == ["cat", "Hündin"]
    assert [each["name"] for each in labels[0]["attributes"]] == ["review", "reason", "score", "mask_score"]


def mask_scores(review) -> list[float | None]:
    """Of all instances that are shown, in their order."""
    return [each.mask_score for image in review.images for each in image.labels.instances if each.area]


def cvat_mask(element: ET.Element) -> np.ndarray:
    """As CVAT's own reader takes it: runs of 0, 1, 0, … along the rows of the box."""
    left, top, width, height = (int(element.get(name)) for name in ("left", "top", "width", "height"))
    runs = [int(run) for run in element.get("rle").split(",")]
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top : top + height, left : left + width] = pixels.reshape(height, width)
    return mask


def same_masks(found, expected):
    assert list(found) == list(expected)
    for name, instances in expected.items():
        assert [category for category, _ in found[name]] == [category for category, _ in instances]
        for (_, mask), (_, wanted) in zip(found[name], instances, strict=True):
            assert np.array_equal(mask, wanted)


def test_label_studio_polygons_are_the_masks(review, tmp_path):
    folder = write(review, tmp_path, "label-studio", copy=True)
    config = ET.parse(folder / "labels.xml").getroot()
    control, image = config.find("PolygonLabels"), config.find("Image")
    assert control.get("toName") == image.get("name")
    names = {category.name: category.id for category in CATEGORIES}
    assert [each.get("value") for each in control] == list(names)
    found = {}
    for task in json.loads((folder / "tasks.json").read_text()):
        address, _, path = task["data"][image.get("value").removeprefix("$")].partition("?d=")
        assert address == "/data/local-files/"
        assert (folder / unquote(path)).is_file()  # the root is the folder, the storage `images` below it
        (prediction,) = task["predictions"]
        assert len({each["id"] for each in prediction["result"]}) == len(prediction["result"])
        found[task["data"]["file_name"]] = [
            (names[each["value"]["polygonlabels"][0]], polygon_mask(each)) for each in prediction["result"]
        ]
        assert {each["from_name"] for each in prediction["result"]} == {control.get("name")}
    same_masks(found, shown(review))
    regions = [
        region
        for task in json.loads((folder / "tasks.json").read_text())
        for region in task["predictions"][0]["result"]
    ]
    told = [region.get("meta", {"text": [""]})["text"][-1].partition("mask score ")[2] for region in regions]
    assert told == ["" if score is None else f"{score:.4f}" for score in mask_scores(review)]


def polygon_mask(region) -> np.ndarray:
    size = (region["original_height"], region["original_width"])
    points = [(x / 100 * size[1], y / 100 * size[0]) for x, y in region["value"]["points"]]
    return filled(points, size)


def test_the_list_is_for_people_and_failed_images_lie_apart(review, tmp_path):
    folder = write(review, tmp_path, "coco")
    rows = list(csv.DictReader((folder / "review.csv").read_text().splitlines(keepends=True)))
    assert [row["rank"] for row in rows][:6] == ["1", "2", "3", "4", "5", ""]
    assert {row["file_name"] for row in rows} == set(shown(review))
    scores = {
        (str(image.labels.image_id), f"{each.score:.4f}"): each.mask_score
        for image in review.images
        for each in image.labels.instances
    }
    for row in rows:
        known = scores[row["image_id"], row["score"]]
        assert row["mask_score"] == ("" if known is None else f"{known:.4f}")
    assert {row["mask_score"] == "" for row in rows} == {True, False}
    (failed,) = csv.DictReader((folder / "failed.csv").open(newline=""))
    assert failed["image_id"] == "4"
    assert "cut off in the middle" in failed["reason"]


def test_the_same_review_gives_the_same_bytes(review, tmp_path):
    for format_ in ReviewFormat:
        first = {path.name: path.read_bytes() for path in write(review, tmp_path, format_).iterdir()}
        (tmp_path / format_).rename(tmp_path / f"{format_}-before")
        assert first == {path.name: path.read_bytes() for path in write(review, tmp_path, format_).iterdir()}


def test_names_that_cannot_be_used_are_all_told_and_nothing_is_written(review, tmp_path):
    (tmp_path / "pictures" / "a/1.png").unlink()
    (tmp_path / "secret.png").write_bytes(b"")
    images = [
        replace(each, labels=replace(each.labels, file_name="../secret.png")) if each.labels.image_id == 13 else each
        for each in review.images
    ]
    twice = (*CATEGORIES, CocoCategory(9, "cat"), CocoCategory(10, "\ufffe"))
    with pytest.raises(DatasetError) as told:
        write(Review(tuple(images), (), twice), tmp_path, "cvat", copy=True)
    assert {problem.where for problem in told.value.problems} == {
        "image 11",
        "image 13",
        "category 9",
        "category 10",
    }
    assert not (tmp_path / "cvat").exists()
