"""Annotations of other tools: the same masks and classes come out, and everything that is wrong is told at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.coco.foreign import SourceFormat
from pipeline.coco.model import CocoCategory
from pipeline.coco.reading import read_coco
from pipeline.datasets.importing.reading import import_annotations
from pipeline.datasets.importing.source import ImportSettings
from pipeline.errors import StageError
from tests.foreign_formats import (
    WRITERS,
    corners,
    labelme_folder,
    labelme_shape,
    of_images,
    problems,
    read,
)
from tests.tiny_coco import TinyCoco, tiny_coco

NOT_DRAWN_OVER = {SourceFormat.VOC, SourceFormat.MASK_PNG}
"""A pixel of these formats belongs to one instance (of a class)."""


@pytest.fixture
def made(tmp_path) -> TinyCoco:
    return tiny_coco(tmp_path / "set", images=3, seed=1)


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out" / "labels.json"


def masks_of(path: Path) -> dict[str, list[tuple[str, bytes]]]:
    dataset = read_coco(path)
    found: dict[str, list[tuple[str, bytes]]] = {Path(image.file_name).name: [] for image in dataset.images}
    for annotation in dataset.annotations:
        name = dataset.category_by_id[annotation.category_id].name
        mask = dataset.mask(annotation)
        assert annotation.area == mask.sum()
        found[Path(dataset.image_by_id[annotation.image_id].file_name).name].append((name, mask.tobytes()))
    return {name: sorted(masks) for name, masks in found.items()}


def expected_masks(made: TinyCoco, source_format: SourceFormat) -> dict[str, list[tuple[str, bytes]]]:
    found = {}
    for image, instances in of_images(made):
        left = [(name, mask.copy()) for name, mask in instances]
        for index, (name, mask) in enumerate(left):
            for other, later in left[index + 1 :]:
                if source_format in NOT_DRAWN_OVER and (source_format is SourceFormat.VOC or other == name):
                    mask &= ~later
        found[image["file_name"]] = sorted((name, mask.tobytes()) for name, mask in left)
    return found


@pytest.mark.parametrize("source_format", SourceFormat)
def test_masks_and_classes_are_those_of_the_source(source_format, made, out, tmp_path):
    expected = expected_masks(made, source_format)
    source = WRITERS[source_format](made, tmp_path / "set")
    imported = read(source_format, source, out)
    found = masks_of(out)
    assert found == expected
    assert imported.report.ok
    assert imported.report.images == 3
    again = out.with_name("again.json")
    import_annotations(source_format, source, again, ImportSettings(), workers=1)
    assert again.read_bytes() == out.read_bytes()
    with pytest.raises(StageError, match="already there"):
        read(source_format, source, out)


@pytest.mark.parametrize("source_format", SourceFormat)
def test_ids_of_categories_can_be_those_of_another_file(source_format, made, out, tmp_path):
    source = WRITERS[source_format](made, tmp_path / "set")
    known = (CocoCategory(9, "other"), CocoCategory(4, "category 7"), CocoCategory(2, "category 3"))
    read(source_format, source, out, categories=known)
    dataset = read_coco(out)
    assert dataset.categories == known
    assert {each.category_id for each in dataset.annotations} == {2, 4}
    told = problems(source_format, source, out.with_name("b.json"), categories=known[:2])
    assert told == ["categories: 'category 3' is not one of the given categories: category 7, other"]


@pytest.mark.parametrize(
    ("source_format", "ids"),
    [
        (SourceFormat.VIA, {"category 3": 1, "category 7": 2}),  # as the project lists them
        (SourceFormat.CVAT, {"category 7": 1, "category 3": 2}),  # as the task lists them
        (SourceFormat.YOLO_SEG, {"category 3": 1, "category 7": 2}),  # as data.yaml numbers them
        (SourceFormat.LABELME, {"category 3": 1, "category 7": 2}),  # by name
    ],
)
def test_categories_are_in_the_order_of_the_source(source_format, ids, made, out, tmp_path):
    read(source_format, WRITERS[source_format](made, tmp_path / "set"), out)
    assert {each.name: each.id for each in read_coco(out).categories} == ids


@pytest.mark.parametrize("source_format", SourceFormat)
def test_a_damaged_and_a_missing_image_are_told_at_once(source_format, made, out, tmp_path):
    source = WRITERS[source_format](made, tmp_path / "set")
    (folder,) = {
        path.parent for name in ("images", "train", "JPEGImages") for path in tmp_path.rglob(f"{name}/0001.png")
    }
    (folder / "0001.png").write_bytes(b"no image")
    (folder / "0003.png").unlink()
    told = problems(source_format, source, out)
    assert any("0001.png" in each and "not an image" in each for each in told)
    # In a YOLO data set the folder alone says which images there are.
    assert any("0003" in each for each in told) is (source_format is not SourceFormat.YOLO_SEG)


# The source as a whole


@pytest.mark.parametrize(
    ("source_format", "name", "message"),
    [
        (SourceFormat.VIA, "images", "is not a file: --from via needs the file"),
        (SourceFormat.LABELME, "annotations.json", "is not a folder: --from labelme needs the folder"),
        (SourceFormat.CVAT, "absent.xml", "no such file or folder"),
        (SourceFormat.YOLO_SEG, "images", "cannot be read: No such file or directory"),
        (SourceFormat.VOC, "images", "SegmentationObject: holds no PNG files: is this the folder of Pascal VOC?"),
        (SourceFormat.MASK_PNG, "images", "masks: holds no PNG files"),
        (SourceFormat.LABELME, "images", "holds no JSON file of labelme"),
    ],
)
def test_a_source_of_another_kind_is_refused(made, out, source_format, name, message):
    assert problems(source_format, made.image_root.parent / name, out)[0] == message


def test_a_folder_of_images_that_is_not_there_is_told(made, out, tmp_path):
    path = WRITERS[SourceFormat.VIA](made, tmp_path / "set")
    assert problems(SourceFormat.VIA, path, out, images=tmp_path / "none") == ["no such folder of images"]


def test_names_of_classes_that_no_file_may_have_are_refused(made, out):
    folder = labelme_folder(made, [labelme_shape([[1, 1], [9, 1], [9, 9]], label="a\tb")])
    assert problems(SourceFormat.LABELME, folder, out) == ["categories: a name 'a\\tb' holds a control character"]


def test_corners_are_those_of_the_mask(made):
    mask = made.masks[1]
    (left, top), _, (right, bottom), _ = corners(mask)
    assert mask[top:bottom, left:right].all()
    assert mask.sum() == (right - left) * (bottom - top)
