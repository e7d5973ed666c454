"""YOLO, Pascal VOC, CVAT and masks in PNG files: their parts, boxes and classes, and what is wrong in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.coco.foreign import SourceFormat
from pipeline.coco.reading import read_coco
from tests.foreign_formats import (
    WRITERS,
    cvat_mask,
    cvat_polygon,
    cvat_text,
    problems,
    read,
    voc_xml,
)
from tests.tiny_coco import TinyCoco, tiny_coco


@pytest.fixture
def made(tmp_path) -> TinyCoco:
    return tiny_coco(tmp_path / "set", images=3, seed=1)


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out" / "labels.json"


# YOLO


def yolo(made: TinyCoco, tmp_path: Path, lines: str) -> Path:
    target = WRITERS[SourceFormat.YOLO_SEG](made, tmp_path / "set")
    (target / "labels/train/0001.txt").write_text(lines)
    return target


def test_boxes_of_yolo_are_left_out_unless_they_are_wanted(made, out, tmp_path):
    source = yolo(made, tmp_path, "0 0.5 0.5 0.25 0.5\n1 0.5 0.5 0.25 0.5 0.9\n\n")
    (source / "labels/train/0002.txt").unlink()
    imported = read(SourceFormat.YOLO_SEG, source, out)
    assert imported.notes["boxes left out that have no outline (--boxes makes rectangles of them)"] == 2
    assert imported.notes["images of the part 'train'"] == 3
    assert (imported.report.images_without_instances, imported.report.instances) == (2, 3)
    read(SourceFormat.YOLO_SEG, source, out.with_name("boxes.json"), boxes=True)
    assert read_coco(out.with_name("boxes.json")).annotations[0].bbox == (24, 12, 16, 24)


def test_parts_of_yolo_are_imported_together_or_apart(made, out, tmp_path):
    source = WRITERS[SourceFormat.YOLO_SEG](made, tmp_path / "set")
    for kind, ending in (("images", "png"), ("labels", "txt")):
        (source / kind / "val").mkdir()
        (source / kind / "train" / f"0002.{ending}").rename(source / kind / "val" / f"0002.{ending}")
    text = (source / "data.yaml").read_text().replace("val:", "val: ../images/val").replace("path: .", "path: /nowhere")
    (source / "data.yaml").write_text(text)
    assert read(SourceFormat.YOLO_SEG, source, out).report.images == 3
    assert read(SourceFormat.YOLO_SEG, source / "data.yaml", out.with_name("v.json"), split="val").report.images == 1
    (source / "train.txt").write_text("./images/train/0001.png\n\nimages/train/0003.png\n")
    (source / "data.yaml").write_text(text.replace("train: images/train", "train: [train.txt]"))
    assert read(SourceFormat.YOLO_SEG, source, out.with_name("t.json"), split="train").report.instances == 6
    assert problems(SourceFormat.YOLO_SEG, source, out.with_name("x.json"), split="test") == [
        "data.yaml: has no 'test'; it has: train, val"
    ]


def test_problems_of_yolo_are_told_by_file_and_line(made, out, tmp_path):
    lines = [
        "0 a b",
        "7 0 0 1 0 1 1",
        "0 0 0 1 0 1",
        "1.5 0 0 1 0 1 1",
        "0 0 0 30 0 30 30",
        "0 nan 0 1 0 1 1",
        "0 0 0 1 0 1 1 1",
    ]
    told = problems(SourceFormat.YOLO_SEG, yolo(made, tmp_path, "\n".join(lines)), out)
    assert told == [
        "labels/train/0001.txt, line 1: holds something else than numbers",
        "labels/train/0001.txt, line 2: class 7 is not one of the 2 names in data.yaml",
        "labels/train/0001.txt, line 4: class 1.5 is not one of the 2 names in data.yaml",
        "labels/train/0001.txt, line 5: has coordinates outside 0 to 1: they are shares of the image's width and "
        "height",
        "labels/train/0001.txt, line 6: holds something else than numbers",
        "labels/train/0001.txt, line 7: has 7 coordinates: an outline has pairs, at least 3",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images/train\nnames: [a, no]\n", "data.yaml, names: class 1 is False, not text: put it in quotes"),
        (
            "train: images/train\nnames: {0: a, 2: b}\n",
            "data.yaml, names: must number the classes from 0, without gaps",
        ),
        ("train: images/train\n", "data.yaml, names: must list the classes"),
        ("train: elsewhere\nnames: [a]\n", "data.yaml, train: 'elsewhere' is neither a folder nor a file below "),
        ("train: ../../\nnames: [a]\n", "data.yaml, train: '../../' is outside "),
        ("- a", "has no keys: a YOLO data set has names, train and val"),
        ("!!python/object/apply:os.system ['true']", "not YAML: "),
        ("names: [a]\n", "holds no image with annotations"),
    ],
)
def test_problems_of_the_yaml_file_are_told(made, out, tmp_path, text, message):
    source = WRITERS[SourceFormat.YOLO_SEG](made, tmp_path / "set")
    (source / "data.yaml").write_text(text)
    assert problems(SourceFormat.YOLO_SEG, source, out)[0].startswith(message)


# Pascal VOC


def test_boxes_of_voc_without_a_mask_are_left_out_unless_they_are_wanted(made, out, tmp_path):
    source = WRITERS[SourceFormat.VOC](made, tmp_path / "set")
    image = made.content["images"][0]
    path = source / "Annotations/0001.xml"
    more = voc_xml(image, [("third", (50, 40, 60, 48))]).partition("</filename>")[2]
    path.write_text(path.read_text().replace("</annotation>\n", "") + more)
    imported = read(SourceFormat.VOC, source, out, split="train")
    assert (imported.report.images, imported.report.instances) == (2, 6)
    assert imported.notes == {
        "objects left out that have a box and no mask (--boxes makes rectangles of them)": 1,
        "images left out that have no masks in SegmentationObject, or are in another part": 1,
    }
    assert read(SourceFormat.VOC, source, out.with_name("b.json"), boxes=True).report.instances == 10


def test_small_instances_of_voc_belong_to_the_object_of_their_number(made, out, tmp_path):
    source = WRITERS[SourceFormat.VOC](made, tmp_path / "set")
    numbers = np.full((48, 64), 255, np.uint8)  # borders are nobody's
    numbers[30:, 30:] = 0
    numbers[2:5, 2:5], numbers[2:40, 8:30] = 1, 2
    Image.fromarray(numbers).save(source / "SegmentationObject/0001.png")
    objects = [("small", (0, 0, 9, 9)), ("large", (6, 0, 31, 42)), ("other", (7, 1, 9, 9))]
    (source / "Annotations/0001.xml").write_text(voc_xml(made.content["images"][0], objects))
    read(SourceFormat.VOC, source, out)
    dataset = read_coco(out)
    first = dataset.annotations_by_image[1]
    assert [(dataset.category_by_id[each.category_id].name, each.area) for each in first] == [
        ("small", 9),
        ("large", 38 * 22),
    ]


def test_problems_of_voc_are_told_by_file_and_instance(made, out, tmp_path):
    source = WRITERS[SourceFormat.VOC](made, tmp_path / "set")
    image = made.content["images"][0]
    (source / "Annotations/0001.xml").write_text(voc_xml(image, [("a", (0, 0, 2, 2)), ("", (0, 0, 9, 9))]))
    (source / "Annotations/0002.xml").write_text("<annotation><object><name>a</name></object></annotation>")
    Image.new("RGB", (64, 48)).save(source / "SegmentationObject/0003.png")
    Image.new("L", (64, 47)).save(source / "SegmentationObject/0004.png")
    told = problems(SourceFormat.VOC, source, out)
    assert "Annotations/0001.xml, object 2: has no name" in told
    assert "SegmentationObject/0001.png, instance 1: fits the box of no object in the XML file" in told
    assert "Annotations/0002.xml, object 1: has no bndbox with xmin, ymin, xmax and ymax as numbers" in told
    assert any(each.startswith("SegmentationObject/0003.png: is in colours (RGB)") for each in told)
    assert any(each.startswith("SegmentationObject/0004.png: has no image") for each in told)
    assert problems(SourceFormat.VOC, source, out, split="trainval")[0] == (
        "ImageSets/Segmentation/trainval.txt: is not there; parts: train"
    )


# CVAT


def cvat(made: TinyCoco, shapes: str) -> Path:
    path = made.image_root.parent / "annotations.xml"
    path.write_text(cvat_text(made, {"0001.png": shapes, "0002.png": "", "0003.png": ""}))
    return path


def test_every_area_of_cvat_becomes_a_mask(made, out):
    mask = np.zeros((48, 64), bool)
    mask[3:9, 5:20] = True
    mask[5, 7] = False
    other = np.zeros((48, 64), bool)
    other[30:40, 30:50] = True
    shapes = (
        cvat_mask("category 3", mask)
        + cvat_polygon("category 7", other, group=4)
        + cvat_polygon("category 7", mask, group=4)
        + '<ellipse label="category 3" cx="32" cy="24" rx="20" ry="6" rotation="90"></ellipse>'
        + '<box label="category 3" xtl="10" ytl="10" xbr="30" ybr="20" rotation="90"></box>'
        + '<polyline label="category 3" points="1,1;2,2"></polyline><tag label="category 3"></tag>'
    )
    path = cvat(made, shapes)
    imported = read(SourceFormat.CVAT, path, out)
    dataset = read_coco(out)
    assert np.array_equal(dataset.mask(dataset.annotations[0]), mask)
    assert dataset.annotations[1].area == 10 * 20 + 6 * 15
    assert dataset.annotations[2].bbox[2:] == pytest.approx((12, 40), abs=1)
    assert len(dataset.annotations) == 3
    assert imported.notes["boxes left out that have no outline (--boxes makes rectangles of them)"] == 1
    assert imported.notes["shapes left out that are no areas (polyline)"] == 1
    read(SourceFormat.CVAT, path.parent, out.with_name("boxes.json"), boxes=True)
    assert read_coco(out.with_name("boxes.json")).annotations[3].bbox == pytest.approx((15, 5, 10, 20), abs=1)


def test_the_points_of_a_skeleton_are_no_classes(made, out):
    path = cvat(made, cvat_polygon("category 3", made.masks[1]))
    point = "<label><name>nose</name><type>points</type><parent>face</parent></label></labels>"
    path.write_text(path.read_text().replace("</labels>", point))
    read(SourceFormat.CVAT, path, out)
    assert [each.name for each in read_coco(out).categories] == ["category 7", "category 3"]


def test_problems_of_cvat_are_told_by_image_and_shape(made, out):
    whole = 'left="60" top="0" width="4" height="2"'
    shapes = (
        '<polygon label="a" points="1,1;2,x;3,3"></polygon><polygon label="a" points="1,1;2,2"></polygon>'
        f'<polygon points="1,1;2,2;3,1"></polygon><mask label="a" rle="0, 7" {whole}></mask>'
        f'<mask label="a" rle="0, -1, 9" {whole}></mask>'
        '<mask label="a" rle="0, 8" left="61" top="0" width="4" height="2"/>'
        '<box3 label="a"></box3><ellipse label="a" cx="1"></ellipse>'
    )
    path = cvat(made, shapes)
    path.write_text(
        path.read_text().replace('width="64" height="48">\n</image>\n<image id="3"', '>\n</image>\n<image id="3"')
    )
    assert problems(SourceFormat.CVAT, path, out) == [
        "image '0001.png', shape 1 (polygon): has no coordinates as CVAT writes them",
        "image '0001.png', shape 2 (polygon): has 2 points: a polygon needs 3",
        "image '0001.png', shape 3 (polygon): has no label",
        "image '0001.png', shape 4 (mask): has run lengths of 7 pixels in a box of 4x2",
        "image '0001.png', shape 5 (mask): has no box, or no run lengths in pixels",
        "image '0001.png', shape 6 (mask): has the box 61, 0, 4x2, which is not inside the image of 64x48",
        "image '0001.png', shape 7 (box3): is a shape that is not known here",
        "image '0001.png', shape 8 (ellipse): has no coordinates as CVAT writes them",
        "image '0002.png': has no width and height",
    ]


BOMB = """<?xml version="1.0"?>
<!DOCTYPE annotations [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c SYSTEM "file:///etc/passwd">]>
<annotations><image name="&b;&c;"/></annotations>"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "declares a document type, which no annotation tool writes"),
        ("<annotations>", "not XML: no element found"),
        ("", "not XML: no element found"),
        ("<a>" * 60 + "</a>" * 60, "is nested too deeply"),
        ('<?xml version="1.0" encoding="x-unknown"?><a/>', "not XML: unknown encoding"),
        ("<annotations><track/></annotations>", "holds tracks of a video"),
        ("<annotation/>", "begins with <annotation>"),
        ("<annotations/>", "holds no image"),
    ],
)
def test_xml_that_is_not_cvats_is_refused(made, out, text, message):
    path = made.image_root.parent / "annotations.xml"
    path.write_text(text)
    (told,) = problems(SourceFormat.CVAT, path, out)
    assert told.startswith(message)


# Mask PNG


def test_masks_of_one_class_lie_beside_the_images(made, out, tmp_path):
    folder = made.image_root.parent
    numbers = np.zeros((48, 64), np.uint8)
    numbers[2:9, 2:9], numbers[20:30, 20:40] = 1, 200
    (folder / "masks").mkdir()
    Image.fromarray(numbers).save(folder / "masks/0001.png")
    Image.fromarray((numbers > 0).astype(np.uint8) * 255).save(folder / "masks/0002.png")
    imported = read(SourceFormat.MASK_PNG, folder, out, category="cell")
    assert [each.area for each in read_coco(out).annotations] == [49, 200, 249]
    assert [each.name for each in read_coco(out).categories] == ["cell"]
    assert imported.notes == {
        "images left out that have no mask: they may be unlabelled images": 1,
        "masks with one number in several parts: they are one instance, others need numbers of their own": 1,
    }


def palette_mask(path: Path, colours: dict[int, str]) -> None:
    numbers = np.zeros((48, 64), np.uint8)
    for index, number in enumerate(colours):
        numbers[4 * index : 4 * index + 3, 2:9] = number
    picture = Image.fromarray(numbers, mode="P")
    palette = bytearray(768)
    for number, colour in colours.items():
        palette[3 * number : 3 * number + 3] = bytes.fromhex(colour)
    picture.putpalette(bytes(palette))
    path.parent.mkdir(exist_ok=True)
    picture.save(path)


def test_the_palette_says_the_class(made, out):
    folder = made.image_root.parent
    (folder / "classes.txt").write_text("#ff0000 dog\n\n#00FF00 big cat\n#0000ff bird\n")
    palette_mask(folder / "masks/0001.png", {1: "ff0000", 2: "00ff00", 3: "ff0000"})
    read(SourceFormat.MASK_PNG, folder, out)
    dataset = read_coco(out)
    assert [each.name for each in dataset.categories] == ["dog", "big cat", "bird"]
    assert [each.category_id for each in dataset.annotations] == [1, 2, 1]
    (folder / "classes.txt").write_text("#ff0000 dog\nred cat\n")
    Image.fromarray(np.ones((48, 64), np.uint8)).save(folder / "masks/0002.png")
    Image.new("L", (9, 9)).save(folder / "masks/0003.png")
    assert problems(SourceFormat.MASK_PNG, folder, out.with_name("b.json")) == [
        "classes.txt, line 2: is not a colour and a name, as `#ff0000 cat`",
        "masks/0001.png, 2: has the colour #00ff00, which is not in classes.txt",
        "masks/0002.png, 1: has no colour: with classes.txt, masks are PNG files with a palette",
        "masks/0003.png: is 9x9 pixels, its image 64x48",
    ]


def test_masks_without_an_image_are_told(made, out):
    folder = made.image_root.parent
    palette_mask(folder / "masks/0009.png", {1: "ff0000"})
    (made.image_root / "0001.jpg").write_bytes((made.image_root / "0001.png").read_bytes())
    told = problems(SourceFormat.MASK_PNG, folder, out)
    assert told == [
        "0001.png: and 0001.jpg have the same mask: name them apart",
        f"masks/0009.png: has no image of that name in {made.image_root}",
    ]
