from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.coco.checking import CategoryCount, check_coco
from pipeline.coco.oddities import outline_extents
from tests.tiny_coco import tiny_coco, tiny_dict, write_json


def warnings_of(tmp_path, content):
    report = check_coco(write_json(tmp_path / "a.json", content))
    assert report.ok
    return [str(warning) for warning in report.warnings]


def test_counts(tmp_path):
    tiny = tiny_coco(tmp_path, images=5, instances=2, size=(300, 200))
    content = tiny.content
    content["images"].append({"id": 77, "file_name": "empty.png", "width": 20, "height": 10})
    content["categories"].append({"id": 100, "name": "never"})
    content["annotations"][0]["iscrowd"] = 1
    for annotation, area in zip(content["annotations"], [1023, 1024, 9215, 9216], strict=False):
        annotation["area"] = area
    report = check_coco(write_json(tmp_path / "a.json", content))
    areas = [annotation["area"] for annotation in content["annotations"]]
    assert (report.images, report.instances, report.crowds) == (6, 10, 1)
    assert report.images_without_instances == 1
    assert list(report.image_sizes.items()) == [((300, 200), 5), ((20, 10), 1)]
    assert report.categories == (
        CategoryCount(3, "category 3", 5, 5),
        CategoryCount(7, "category 7", 5, 5),
        CategoryCount(100, "never", 0, 0),
    )
    small, large = sum(area < 1024 for area in areas), sum(area >= 9216 for area in areas)
    assert small and large
    assert report.areas == (small, 10 - small - large, large)
    assert report.ok
    assert "images: 1 without instances (77)" in map(str, report.warnings)
    assert "categories: 1 without instances (never)" in map(str, report.warnings)


def test_a_clean_file_has_nothing_to_tell(tmp_path):
    tiny = tiny_coco(tmp_path)
    report = check_coco(tiny.annotations, tiny.image_root, decode_pixels=True)
    assert report.ok
    assert report.errors == report.warnings == report.bad_images == ()


def test_errors_are_told_and_the_rest_is_counted(tmp_path):
    content = tiny_dict()
    content["annotations"][0]["bbox"] = "x"
    content["annotations"][1]["segmentation"] = {"size": [48, 64], "counts": "00"}
    report = check_coco(write_json(tmp_path / "a.json", content))
    assert not report.ok
    assert [problem.where for problem in report.errors] == ["annotation 1, bbox", "annotation 2, segmentation.counts"]
    assert (report.images, report.instances) == (4, 10)


def test_a_file_that_cannot_be_read_is_a_report(tmp_path):
    report = check_coco(tmp_path / "missing.json")
    assert not report.ok
    assert "cannot be read" in str(report.errors[0])
    assert (report.images, report.instances) == (0, 0)


def test_unlabelled_sets(tmp_path):
    path = write_json(tmp_path / "a.json", {"images": tiny_dict()["images"]})
    assert not check_coco(path).ok
    report = check_coco(path, annotations_required=False)
    assert report.ok
    assert report.warnings == ()


def test_file_names_and_category_names_used_twice(tmp_path):
    content = tiny_dict()
    content["images"][1]["file_name"] = content["images"][0]["file_name"]
    content["categories"][1]["name"] = content["categories"][0]["name"]
    assert warnings_of(tmp_path, content) == [
        "images: 1 file names used more than once (0001.png)",
        "categories: 1 names used more than once (category 3)",
    ]


BOX_OVER_BORDER = "annotations: 1 whose box reaches over the image's border (3)"
BOX_MISFIT = "annotations: 1 whose box does not fit the mask (3)"
AREA_MISFIT = "annotations: 1 whose area does not fit the mask (3)"
NO_PIXEL = "annotations: 1 whose mask has no pixel (3)"
SQUARE = {"bbox": [10, 10, 20, 20], "area": 400, "segmentation": [[10, 10, 30, 10, 30, 30, 10, 30]]}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"bbox": [9, 11, 21, 18.5]}, []),
        ({"bbox": [10, 10, 23, 20]}, [BOX_MISFIT]),
        ({"bbox": [10, 10, 60, 20]}, [BOX_OVER_BORDER, BOX_MISFIT]),
        ({"bbox": [10, -4, 20, 34]}, [BOX_OVER_BORDER, BOX_MISFIT]),
        ({"bbox": [10, 10, 20, 0]}, ["annotations: 1 whose box has no width or no height (3)"]),
        ({"area": 450}, []),
        ({"area": 4000}, [AREA_MISFIT]),
        ({"area": 100}, [AREA_MISFIT]),
        ({"area": 0}, [AREA_MISFIT]),
        ({"segmentation": [[10, 10, 30, 10, 30, 10, 10, 10]]}, [NO_PIXEL]),
        ({"segmentation": {"size": [48, 64], "counts": [48 * 64]}}, [NO_PIXEL]),
        ({"segmentation": {"size": [48, 64], "counts": [0, 48 * 64]}}, [BOX_MISFIT, AREA_MISFIT]),
        # Parts that overlap, and an outline that crosses itself: looked at exactly before anything is said.
        ({"segmentation": SQUARE["segmentation"] * 3}, []),
        ({"area": 200, "segmentation": [[10, 10, 30, 30, 30, 10, 10, 30]]}, []),
    ],
)
def test_odd_masks(tmp_path, change, expected):
    content = tiny_dict()
    content["annotations"][2] |= SQUARE | change
    assert warnings_of(tmp_path, content) == expected


def test_oddities_are_the_same_however_many_are_looked_at_together(tmp_path, monkeypatch):
    """A kind's first examples come in the order of the file, and the kind that is first in the file comes first."""
    content = tiny_dict(images=40, instances=10)
    for number, annotation in enumerate(content["annotations"]):
        annotation |= [{"area": 4000}, {"bbox": [-3, 0, 60, 40]}, SQUARE, {"bbox": [9, 9, 0, 4]}][number % 4]
        if number % 3 == 0:
            size = {"size": [48, 64]}
            annotation["segmentation"] = size | {"counts": [48 * 64] if number % 2 else [0, 48 * 64]}
    together = []
    for at_once in (1, 7, 256, 1000):
        monkeypatch.setattr("pipeline.coco.oddities._AT_ONCE", at_once)
        together.append(warnings_of(tmp_path, content))
    assert together == [together[0]] * 4
    assert [each.split(" ", 2)[2].partition(" (")[0] for each in together[0]] == [
        "whose box does not fit the mask",
        "whose box reaches over the image's border",
        "whose box has no width or no height",
        "whose area does not fit the mask",
        "whose mask has no pixel",
    ]


def test_refused_annotations_have_no_warnings(tmp_path):
    content = tiny_dict()
    content["annotations"][0] |= {"bbox": [-3, 0, 60, 40]}
    content["annotations"][1] |= {"bbox": [9, 9, 0, 4], "segmentation": {"size": [48, 64], "counts": "00"}}
    content["annotations"][2] |= {"bbox": [9, 9, 0, 4]}
    content["annotations"].append({**content["annotations"][0], "area": "none"})  # the same id, seen after it is used
    report = check_coco(write_json(tmp_path / "a.json", content))
    assert len(report.errors) == 2
    assert list(map(str, report.warnings)) == ["annotations: 1 whose box has no width or no height (3)"]


def plain_extent(polygons_xy):
    """The definition: box and enclosed area, point by point."""
    area, xs, ys = 0.0, [], []
    for polygon_xy in polygons_xy:
        points = list(zip(polygon_xy[0::2], polygon_xy[1::2], strict=True))
        turned = list(zip(points, [*points[1:], points[0]], strict=True))
        area += abs(sum(x * to_y for (x, _), (_, to_y) in turned) - sum(y * to_x for (_, y), (to_x, _) in turned)) / 2
        xs += polygon_xy[0::2]
        ys += polygon_xy[1::2]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)], area


def test_outlines_are_measured_together_as_each_alone():
    rng = np.random.default_rng(4)
    outlines = [
        [rng.uniform(0, 600, 2 * rng.integers(3, 9)).round(2).tolist() for _ in range(rng.integers(1, 4))]
        for _ in range(100)
    ]
    boxes, areas = outline_extents(outlines)
    assert list(zip(boxes.tolist(), areas.tolist(), strict=True)) == [plain_extent(each) for each in outlines]


def test_annotation_id_zero(tmp_path):
    content = tiny_dict()
    content["annotations"][0]["id"] = 0
    (warning,) = warnings_of(tmp_path, content)
    assert warning.startswith("annotations: 1 of id 0, which pycocotools' evaluation reads as 'not found'")


def test_many_of_a_kind_are_summed_up(tmp_path):
    content = {**tiny_dict(images=1200), "annotations": tiny_dict()["annotations"]}
    assert warnings_of(tmp_path, content) == ["images: 1,196 without instances (5, 6, 7, 8, 9, …)"]


def test_image_files(tmp_path):
    tiny = tiny_coco(tmp_path, images=6)
    root = tiny.image_root
    (root / "0001.png").unlink()
    (root / "0002.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((64, 48, 3), dtype=np.uint8)).save(root / "0003.png")
    whole = (root / "0004.png").read_bytes()
    (root / "0004.png").write_bytes(whole[: len(whole) // 2])
    by_header = check_coco(tiny.annotations, root)
    assert [str(problem).split(",")[0] for problem in by_header.bad_images] == [
        "image 1 (0001.png): no such file",
        "image 2 (0002.png): not an image",
        "image 3 (0003.png): is 48x64 pixels",
    ]
    assert not by_header.ok
    by_pixels = check_coco(tiny.annotations, root, decode_pixels=True)
    assert by_pixels.bad_images[:3] == by_header.bad_images
    assert [problem.where for problem in by_pixels.bad_images[3:]] == ["image 4 (0004.png)"]
