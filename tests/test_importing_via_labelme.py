"""VIA and labelme: what each shape becomes, and what is wrong by image and shape."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from pipeline.coco.foreign import SourceFormat
from pipeline.coco.reading import read_coco
from tests.foreign_formats import (
    labelme_file,
    labelme_folder,
    labelme_mask,
    labelme_shape,
    problems,
    read,
    via_project,
)
from tests.tiny_coco import TinyCoco, tiny_coco, write_json


@pytest.fixture
def made(tmp_path) -> TinyCoco:
    return tiny_coco(tmp_path / "set", images=3, seed=1)


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out" / "labels.json"


# VIA


def via_file(made: TinyCoco, shapes: list[dict], attributes: dict | None = None) -> Path:
    regions = [
        {"shape_attributes": shape, "region_attributes": {"kind": "a"} if attributes is None else attributes}
        for shape in shapes
    ]
    content = {"0001.png1": {"filename": "0001.png", "size": 1, "regions": regions, "file_attributes": {}}}
    return write_json(made.image_root / "via.json", content)


def test_every_area_of_via_becomes_a_mask(made, out):
    shapes = [
        {"name": "rect", "x": 4, "y": 6, "width": 10, "height": 8},
        {"name": "circle", "cx": 30, "cy": 20, "r": 12.5},
        {"name": "ellipse", "cx": 32, "cy": 24, "rx": 20, "ry": 6, "theta": math.pi / 2},
        {"name": "polyline", "all_points_x": [1, 2], "all_points_y": [1, 2]},
        {"name": "point", "cx": 1, "cy": 2},
    ]
    imported = read(SourceFormat.VIA, via_file(made, shapes), out)
    boxes = [(annotation.bbox, annotation.area) for annotation in read_coco(out).annotations]
    assert boxes[0] == ((4, 6, 10, 8), 80)
    assert boxes[1][1] == pytest.approx(math.pi * 12.5**2, rel=0.02)
    assert boxes[2][1] == pytest.approx(math.pi * 20 * 6, rel=0.02)
    assert boxes[2][0][2:] == pytest.approx((12, 40), abs=1)
    assert imported.notes == {
        "rectangles taken as masks: they follow no outline": 1,
        "regions left out that are no areas (polyline)": 1,
        "regions left out that are no areas (point)": 1,
    }


def test_via_1_has_its_regions_by_key_and_no_attribute_means_one_class(made, out):
    content = via_project(made)["_via_img_metadata"]
    for entry in content.values():
        entry["regions"] = {str(index): region for index, region in enumerate(entry["regions"])}
        for region in entry["regions"].values():
            region["region_attributes"] = {}
    read(SourceFormat.VIA, write_json(made.image_root / "via.json", content), out, category="leaf")
    dataset = read_coco(out)
    assert (len(dataset.annotations), [each.name for each in dataset.categories]) == (9, ["leaf"])


def test_the_class_of_via_is_the_attribute_that_is_named(made, out):
    rect = {"name": "rect", "x": 4, "y": 6, "width": 10, "height": 8}
    path = via_file(made, [rect], {"kind": {"b": True, "c": False}, "quality": "good"})
    assert problems(SourceFormat.VIA, path, out) == [
        "regions have the attributes kind, quality: say with --attribute which is the class"
    ]
    assert problems(SourceFormat.VIA, path, out, attribute="x") == [
        "no region has a value of the attribute 'x'; attributes: kind, quality"
    ]
    read(SourceFormat.VIA, path, out, attribute="kind")
    assert [each.name for each in read_coco(out).categories] == ["b"]


def test_problems_of_via_are_told_by_image_and_region(made, out):
    shapes = [
        {"name": "polygon", "all_points_x": [1, 2], "all_points_y": [1, 2]},
        {"name": "polygon", "all_points_x": [1, "2", 3], "all_points_y": [1, 2, 3]},
        {"name": "rect", "x": 4, "y": 6, "width": 10},
        {"name": "circle", "cx": 1e9, "cy": 1, "r": 4},
        {"name": "star"},
    ]
    path = via_file(made, shapes)
    content = json.loads(path.read_text())
    content["0001.png1"]["regions"] += [{}, {"shape_attributes": shapes[2] | {"height": 3}, "region_attributes": {}}]
    content["b"] = {"filename": "../outside.png", "regions": []}
    content["c"] = {"regions": []}
    told = problems(SourceFormat.VIA, write_json(path, content), out)
    assert told == [
        "'0001.png', regions[0]: has 2 points: a polygon needs 3",
        "'0001.png', regions[1]: is not a polygon with numbers as VIA writes it",
        "'0001.png', regions[2]: is not a rect with numbers as VIA writes it",
        "'0001.png', regions[3]: lies far outside the image of 64x48: x 1e+09 to 1e+09",
        "'0001.png', regions[4]: has the unknown shape 'star'",
        "'0001.png', regions[5]: has no shape_attributes",
        "'0001.png', regions[6]: has no class: the attribute 'kind' is empty",
        "'../outside.png': file name '../outside.png' leaves the image folder by '..'",
        "key 'c': has no filename",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "is neither a project of VIA 2 nor its annotations"),
        ({}, "is neither a project of VIA 2 nor its annotations"),
        ({"project": {}, "metadata": {}, "view": {}}, "is a project of VIA 3"),
        ({"_via_img_metadata": {"a": 1}}, "is neither a project of VIA 2"),
    ],
)
def test_what_is_no_via_file_is_refused(made, out, content, message):
    (told,) = problems(SourceFormat.VIA, write_json(made.image_root / "via.json", content), out)
    assert told.startswith(message)


# labelme


def test_every_area_of_labelme_becomes_a_mask(made, out):
    shapes = [
        labelme_shape([[14, 14], [4, 6]], "rectangle"),
        labelme_shape([[4, 6], [14, 6], [14, 14], [4, 14]], "rectangle"),
        labelme_shape([[30, 20], [30, 28]], "circle"),
        labelme_shape([[1, 1], [9, 1], [9, 9]], None),
        labelme_shape([[1, 1], [9, 1]], "linestrip"),
        labelme_shape([[1, 1], [9, 1], [9, 9]], label="__ignore__"),
    ]
    imported = read(SourceFormat.LABELME, labelme_folder(made, shapes), out)
    annotations = read_coco(out).annotations
    assert [each.bbox for each in annotations[:2]] == [(4, 6, 10, 8)] * 2
    assert annotations[2].area == pytest.approx(math.pi * 64, rel=0.03)
    assert len(annotations) == 4
    assert imported.notes["images left out that have no JSON file: they may be unlabelled images"] == 2
    assert imported.notes["rectangles taken as masks: they follow no outline"] == 2
    assert imported.notes["shapes left out that are no areas (linestrip)"] == 1
    assert imported.notes["shapes left out that are labelled __ignore__"] == 1


def test_shapes_of_a_group_are_one_instance(made, out):
    far = np.zeros((48, 64), bool)
    far[40:44, 50:60] = True
    shapes = [
        labelme_shape([[1, 1], [9, 1], [9, 9], [1, 9]], group_id=1),
        labelme_shape([[20, 20], [24, 20], [24, 24], [20, 24]], group_id=1),
        labelme_mask("a", far) | {"group_id": 2},
        labelme_shape([[30, 30], [34, 30], [34, 34], [30, 34]], group_id=2),
        labelme_shape([[1, 20], [9, 20], [9, 29]], group_id=1, label="b"),
    ]
    read(SourceFormat.LABELME, labelme_folder(made, shapes), out)
    dataset = read_coco(out)
    assert [each.area for each in dataset.annotations[:2]] == [64 + 16, 40 + 16]
    assert len(dataset.annotations) == 3
    assert len(json.loads(bytes(dataset.annotations[0].segmentation))) == 2


def test_images_of_labelme_are_found_below_their_folder_alone(made, out, tmp_path):
    (tmp_path / "secret.png").write_bytes((made.image_root / "0001.png").read_bytes())
    triangle = [labelme_shape([[1, 1], [9, 1], [9, 9]])]
    for number, given in enumerate(("..\\0001.png", "C:\\photos\\0001.png", "/data/0001.png", "../0001.png")):
        folder = made.image_root / "json"
        write_json(folder / "a.json", labelme_file(made.content["images"][0], triangle) | {"imagePath": given})
        if number in (1, 2):  # of another machine: the image is beside the file
            (folder / "0001.png").write_bytes((made.image_root / "0001.png").read_bytes())
        target = out.with_name(f"{number}.json")
        read(SourceFormat.LABELME, made.image_root, target)
        assert read_coco(target).images[0].file_name == ("json/0001.png" if number in (1, 2) else "0001.png")
    write_json(
        folder / "a.json", labelme_file(made.content["images"][0], triangle) | {"imagePath": "../../../secret.png"}
    )
    (told,) = problems(SourceFormat.LABELME, made.image_root, out)
    assert told == f"json/a.json: image {made.image_root}/secret.png: no such file"


def test_problems_of_labelme_are_told_by_file_and_shape(made, out):
    mask = labelme_mask("a", next(iter(made.masks.values())))
    small = labelme_mask("a", np.ones((3, 3), bool))
    shapes = [
        labelme_shape([[1, 1], [2, 2]]),
        labelme_shape([[1, 1], ["2", 2], [3, 3]]),
        labelme_shape([], label=""),
        labelme_shape([[1, 1]], "circle"),
        labelme_shape([[1, 1], [2, 2], [3, 3]], "spline"),
        mask | {"mask": "###"},
        mask | {"points": [[0, 0], [99, 3]]},
        small | {"points": [[0, 0], [3, 3]]},
        mask | {"mask": None},
    ]
    folder = labelme_folder(made, shapes)
    (folder / "broken.json").write_text("{")
    write_json(folder / "sizes.json", labelme_file(made.content["images"][1], []) | {"imageWidth": 65})
    write_json(folder / "none.json", labelme_file(made.content["images"][1], []) | {"imagePath": ""})
    write_json(folder / "other.json", {"a": 1})
    told = problems(SourceFormat.LABELME, folder, out)
    assert told[:9] == [
        "0001.json, shapes[0]: has 2 points: a polygon needs 3",
        "0001.json, shapes[1]: has no points, which are pairs of numbers",
        "0001.json, shapes[2]: has no label",
        "0001.json, shapes[3]: is a circle with 1 points",
        "0001.json, shapes[4]: has the unknown shape 'spline'",
        "0001.json, shapes[5]: is a mask that cannot be decoded: Only base64 data is allowed",
        "0001.json, shapes[6]: is a mask from 0, 0 to 99, 3, outside the image of 64x48",
        "0001.json, shapes[7]: is a mask of 3x3 in a box of 4x4",
        "0001.json, shapes[8]: is not a mask with a PNG and two corners",
    ]
    assert told[9].startswith("broken.json: not JSON: ")
    assert told[10] == "none.json: has no imagePath"
    assert told[11].endswith("0002.png: is 64x48 pixels, but its annotations are for 65x48")
    assert len(told) == 12


def test_two_files_of_one_image_are_refused(made, out):
    folder = labelme_folder(made, [])
    (folder / "again.json").write_text((folder / "0001.json").read_text())
    assert problems(SourceFormat.LABELME, folder, out) == [
        "again.json: is of the image '0001.png', and so is 0001.json"
    ]
