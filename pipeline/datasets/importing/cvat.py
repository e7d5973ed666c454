"""Read "CVAT for images 1.1": one XML file with polygons, masks, ellipses and boxes.

Boxes have no outline. Lines, points, skeletons, cuboids and tags are left out. Shapes of one label and one group are
one instance.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from pipeline.datasets.importing.merging import merged
from pipeline.datasets.importing.source import (
    Drawn,
    Findings,
    ImportSettings,
    SourceContent,
    SourceImage,
    ellipse_xy,
    named_size,
    names_in_order,
    rectangle_xy,
    rotated_xy,
)
from pipeline.files.xml_text import read_xml
from pipeline.masks.run_lengths import CompressedRle, encode_mask

_NOT_AREAS: Final = ("polyline", "points", "skeleton", "cuboid", "tag")
_AREAS: Final = ("polygon", "mask", "ellipse", "box")


def read_cvat(path: Path, settings: ImportSettings, findings: Findings) -> SourceContent:
    """Return the content of an XML file, or of the one in a folder; what is wrong is added to the findings."""
    file = path / "annotations.xml" if path.is_dir() else path
    beside = file.parent / "images"
    root = settings.images or (beside if beside.is_dir() else file.parent)
    tree = read_xml(file)
    if tree.tag != "annotations":
        findings.refuse("", f"begins with <{tree.tag}>: export the task as “CVAT for images 1.1”")
    elif tree.find("track") is not None:
        findings.refuse("", "holds tracks of a video: export the task as “CVAT for images 1.1”")
    images = []
    for element in tree.iter("image"):
        name = element.get("name", "")
        where = f"image {name!r}"
        declared = _size(element)
        if declared is None:
            findings.refuse(where, "has no width and height")
        elif named_size(findings, where, root, name, declared) is not None:
            images.append(
                SourceImage(where, name, *declared, tuple(_instances(where, element, declared, settings, findings)))
            )
    if not images and not findings.problems:
        findings.refuse("", "holds no image")
    return SourceContent(root, images, names_in_order(images, _labels(tree)))


def _labels(tree: ET.Element) -> list[str]:
    """Return the labels of the task in its order, without the points of skeletons, which are labels with a parent."""
    whole = (each for each in tree.iter("label") if each.find("parent") is None)
    return [name for each in whole if (name := (each.findtext("name") or "").strip())]


def _size(element: ET.Element) -> tuple[int, int] | None:
    values = _floats(element, "width", "height")
    return None if values is None else (int(values[0]), int(values[1]))


def _floats(element: ET.Element, *names: str) -> list[float] | None:
    try:
        values = [float(element.get(name, "")) for name in names]
    except ValueError:
        return None
    return values if all(map(math.isfinite, values)) else None


def _instances(
    where: str, image: ET.Element, size: tuple[int, int], settings: ImportSettings, findings: Findings
) -> Iterator[Drawn]:
    grouped: dict[tuple[str, str], list[Drawn]] = {}
    for index, shape in enumerate(image):
        if shape.tag in _NOT_AREAS:
            findings.note(f"shapes left out that are no areas ({shape.tag})")
            continue
        place = f"{where}, shape {index + 1} ({shape.tag})"
        label = (shape.get("label") or "").strip()
        if shape.tag not in _AREAS:
            findings.refuse(place, "is a shape that is not known here")
        elif not label:
            findings.refuse(place, "has no label")
        elif shape.tag == "box" and not settings.boxes:
            findings.note("boxes left out that have no outline (--boxes makes rectangles of them)")
        elif (segmentation := _segmentation(place, shape, size, findings)) is not None:
            group = shape.get("group_id") or "0"
            key = (label, f"shape {index}" if group == "0" else f"group {group}")
            grouped.setdefault(key, []).append(Drawn(label, segmentation))
    yield from (merged(parts, *size) for parts in grouped.values())


def _segmentation(
    where: str, shape: ET.Element, size: tuple[int, int], findings: Findings
) -> list[list[float]] | CompressedRle | None:
    if shape.tag == "mask":
        return _mask(where, shape, size, findings)
    polygon_xy: list[float] | None = None
    turned = _floats(shape, "rotation") or [0.0]
    if shape.tag == "polygon":
        polygon_xy = _points(shape.get("points", ""))
    elif shape.tag == "box" and (box := _floats(shape, "xtl", "ytl", "xbr", "ybr")) is not None:
        findings.note("boxes taken as masks: they follow no outline")
        polygon_xy = rotated_xy(rectangle_xy(*box), turned[0])
    elif shape.tag == "ellipse" and (ellipse := _floats(shape, "cx", "cy", "rx", "ry")) is not None:
        polygon_xy = ellipse_xy((ellipse[0], ellipse[1]), (ellipse[2], ellipse[3]), math.radians(turned[0]))
    if polygon_xy is None:
        findings.refuse(where, "has no coordinates as CVAT writes them")
        return None
    return [polygon_xy] if findings.usable(where, [polygon_xy], *size) else None


def _points(text: str) -> list[float] | None:
    try:
        pairs = [[float(value) for value in point.split(",")] for point in text.split(";") if point.strip()]
    except ValueError:
        return None
    flat = [value for pair in pairs for value in pair]
    return flat if all(len(pair) == 2 for pair in pairs) and all(map(math.isfinite, flat)) else None


def _mask(where: str, shape: ET.Element, size: tuple[int, int], findings: Findings) -> CompressedRle | None:
    """Return a mask of run lengths of 0, 1, 0, … along the rows of its box."""
    box = _floats(shape, "left", "top", "width", "height")
    try:
        runs = [int(word) for word in shape.get("rle", "").split(",")]
    except ValueError:
        runs = []
    if box is None or not runs or min(runs) < 0:
        findings.refuse(where, "has no box, or no run lengths in pixels")
        return None
    left, top, width, height = map(int, box)
    if not (0 <= left < left + width <= size[0] and 0 <= top < top + height <= size[1]):
        message = f"has the box {left}, {top}, {width}x{height}, which is not inside the image of {size[0]}x{size[1]}"
        findings.refuse(where, message)
        return None
    if sum(runs) != width * height:
        findings.refuse(where, f"has run lengths of {sum(runs)} pixels in a box of {width}x{height}")
        return None
    values = np.arange(len(runs)) % 2 == 1
    mask = np.zeros((size[1], size[0]), dtype=np.bool_)
    mask[top : top + height, left : left + width] = np.repeat(values, runs).reshape(height, width)
    return encode_mask(mask)
