"""Read Pascal VOC's segmentation of instances.

    JPEGImages/NAME.jpg
    SegmentationObject/NAME.png    the instances: pixels hold their numbers, 0 is background, 255 is nobody's
    Annotations/NAME.xml           the classes, of objects with boxes
    ImageSets/Segmentation/*.txt   the parts of the data set, such as train and val

An instance has the class of the object whose box fits it best. Objects without a mask have a box alone.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.converting import Progress, map_images
from pipeline.datasets.importing.source import (
    Drawn,
    Findings,
    ImportSettings,
    SourceContent,
    SourceImage,
    named_size,
    names_in_order,
    rectangle_xy,
)
from pipeline.errors import DatasetError, ImageError, some_of
from pipeline.files.identity import list_images
from pipeline.files.images import read_index_image
from pipeline.files.xml_text import read_xml
from pipeline.masks.matching import best_pairs
from pipeline.masks.overlap import box_ious
from pipeline.masks.run_lengths import CompressedRle, box_xywh, encode_mask

_VOID: Final = 255
# Masks end some pixels before the border of an object, so that the box of a small one is much smaller than the
# object's. Objects are in the order of the instances' numbers, which counts as much as this overlap.
_MIN_BOX_IOU: Final = 0.1


@dataclass(frozen=True)
class _VocImage:
    stem: str
    file_name: str


@dataclass(frozen=True)
class _VocObject:
    where: str
    category: str
    box_xywh: tuple[float, float, float, float]


def read_voc(
    folder: Path, settings: ImportSettings, findings: Findings, *, workers: int = 1, progress: Progress | None = None
) -> SourceContent:
    """Return the content of a data set; what is wrong with it is added to the findings."""
    root = settings.images or folder / "JPEGImages"
    stems = sorted(path.stem for path in (folder / "SegmentationObject").glob("[!.]*.png"))
    if not stems:
        findings.refuse("SegmentationObject", "holds no PNG files: is this the folder of Pascal VOC?")
    stems = _of_split(folder, settings.split, stems, findings)
    file_names = {Path(name).stem: name for name in list_images(root)}
    listed = []
    for stem in stems:
        if stem in file_names:
            listed.append(_VocImage(stem, file_names[stem]))
        else:
            findings.refuse(f"SegmentationObject/{stem}.png", f"has no image {root / stem}.jpg")
    for _ in file_names.keys() - set(stems):
        findings.note("images left out that have no masks in SegmentationObject, or are in another part")
    images = []
    for image, found in map_images(partial(_read_image, folder, root, settings), listed, workers, progress):
        findings.add(found)
        if image is not None:
            images.append(image)
    return SourceContent(root, images, names_in_order(images))


def _of_split(folder: Path, split: str | None, stems: list[str], findings: Findings) -> list[str]:
    if split is None:
        return stems
    lists = folder / "ImageSets" / "Segmentation"
    path = lists / f"{split}.txt"
    known = sorted(each.stem for each in lists.glob("*.txt"))
    if split not in known:
        findings.refuse(f"ImageSets/Segmentation/{split}.txt", f"is not there; parts: {some_of(known) or 'none'}")
        return []
    wanted = path.read_text(encoding="utf-8", errors="replace").split()
    for name in set(wanted) - set(stems):
        findings.refuse(f"ImageSets/Segmentation/{split}.txt", f"{name!r} has no SegmentationObject/{name}.png")
    return [stem for stem in stems if stem in set(wanted)]


def _read_image(
    folder: Path, root: Path, settings: ImportSettings, image: _VocImage
) -> tuple[SourceImage | None, Findings]:
    findings = Findings()
    where = f"SegmentationObject/{image.stem}.png"
    size = named_size(findings, where, root, image.file_name)
    if size is None:
        return None, findings
    try:
        numbers, _ = read_index_image(folder / where, size)
    except ImageError as error:
        findings.refuse(where, str(error))
        return None, findings
    objects = _objects(folder / "Annotations" / f"{image.stem}.xml", f"Annotations/{image.stem}.xml", findings)
    drawn = _instances(where, numbers, objects, settings, findings)
    return SourceImage(where, image.file_name, *size, tuple(drawn)), findings


def _objects(path: Path, where: str, findings: Findings) -> list[_VocObject]:
    try:
        root = read_xml(path)
    except DatasetError as error:
        findings.refuse(where, error.problems[0].message)
        return []
    found = []
    for index, element in enumerate(root.iter("object")):
        place = f"{where}, object {index + 1}"
        name, box = (element.findtext("name") or "").strip(), _box(element)
        if not name:
            findings.refuse(place, "has no name")
        elif box is None:
            findings.refuse(place, "has no bndbox with xmin, ymin, xmax and ymax as numbers")
        else:
            found.append(_VocObject(place, name, box))
    return found


def _box(element: ET.Element) -> tuple[float, float, float, float] | None:
    """Return left, top, width and height; pixels count from 1 in the file, and the last one belongs to the box."""
    try:
        left, top, right, bottom = (float(element.findtext(f"bndbox/{key}") or "") for key in _CORNERS)
    except ValueError:
        return None
    return left - 1, top - 1, right - left + 1, bottom - top + 1


_CORNERS: Final = ("xmin", "ymin", "xmax", "ymax")


def _instances(
    where: str, numbers: NDArray[np.uint16], objects: Sequence[_VocObject], settings: ImportSettings, findings: Findings
) -> list[Drawn]:
    masks: dict[int, CompressedRle] = {}
    for number in np.unique(numbers).tolist():
        if number not in (0, _VOID):
            masks[number] = encode_mask(numbers == number)
    if masks and not objects:
        if not any(problem.where.startswith("Annotations") for problem in findings.problems):
            findings.refuse(where, "has instances, and its XML file has no object, which would say their classes")
        return []
    boxes = np.array([box_xywh(rle) for rle in masks.values()]).reshape(-1, 4)
    ious = box_ious(boxes, np.array([each.box_xywh for each in objects]).reshape(-1, 4))
    for row, number in enumerate(masks):
        if number <= len(objects) and ious[row, number - 1] > 0:
            ious[row, number - 1] += _MIN_BOX_IOU
    pairs = dict(best_pairs(ious, _MIN_BOX_IOU))
    drawn = []
    for row, (number, rle) in enumerate(masks.items()):
        if row in pairs:
            drawn.append(Drawn(objects[pairs[row]].category, rle))
        else:
            findings.refuse(f"{where}, instance {number}", "fits the box of no object in the XML file")
    for index in sorted(set(range(len(objects))) - set(pairs.values())):
        if not settings.boxes:
            findings.note("objects left out that have a box and no mask (--boxes makes rectangles of them)")
            continue
        x, y, width, height = objects[index].box_xywh
        polygon_xy = rectangle_xy(x, y, x + width, y + height)
        if findings.usable(objects[index].where, [polygon_xy], numbers.shape[1], numbers.shape[0]):
            findings.note("boxes taken as masks: they follow no outline")
            drawn.append(Drawn(objects[index].category, [polygon_xy]))
    return drawn
