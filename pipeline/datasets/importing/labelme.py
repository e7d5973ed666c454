"""Read labelme: a folder with a JSON file for each image.

Shapes that are areas become instances: polygon, rectangle, oriented rectangle, circle, mask. Points and lines are left
out. Shapes of one label and one group id are one instance.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from pipeline.datasets.importing.merging import merged
from pipeline.datasets.importing.source import (
    Drawn,
    Findings,
    ImportSettings,
    SourceContent,
    SourceImage,
    ellipse_xy,
    is_number,
    name_below,
    named_size,
    names_in_order,
    read_json,
    rectangle_xy,
)
from pipeline.errors import DatasetError
from pipeline.files.identity import list_images
from pipeline.masks.run_lengths import CompressedRle, encode_mask

_NOT_AREAS: Final = ("point", "points", "line", "linestrip")
_NOT_LABELS: Final = ("__ignore__", "_background_")
_RECTANGLE_CORNERS: Final = 2


def read_labelme(folder: Path, settings: ImportSettings, findings: Findings) -> SourceContent:
    """Return the content of a folder and its subfolders; what is wrong with it is added to the findings."""
    root = settings.images or folder
    images: list[SourceImage] = []
    for path in sorted(folder.rglob("*.json")):
        where = path.relative_to(folder).as_posix()
        try:
            content = read_json(path)
        except DatasetError as error:
            findings.refuse(where, error.problems[0].message)
            continue
        if not (isinstance(content, dict) and isinstance(content.get("shapes"), list)):
            findings.note("JSON files left out that have no shapes")
        elif (image := _image(where, content, root, path.parent, findings)) is not None:
            images.append(image)
    if not images and not findings.problems:
        findings.refuse("", "holds no JSON file of labelme")
    annotated = {image.file_name for image in images}
    for _ in [name for name in list_images(root) if name not in annotated]:
        findings.note("images left out that have no JSON file: they may be unlabelled images")
    return SourceContent(root, images, names_in_order(images))


def _image(where: str, content: Mapping[str, Any], root: Path, folder: Path, findings: Findings) -> SourceImage | None:
    given, width, height = (content.get(key) for key in ("imagePath", "imageWidth", "imageHeight"))
    if not isinstance(given, str) or not given.strip():
        findings.refuse(where, "has no imagePath")
        return None
    declared = (width, height) if isinstance(width, int) and isinstance(height, int) else None
    file_name = name_below(root, folder, given)
    size = named_size(findings, where, root, file_name, declared)
    if size is None:
        return None
    grouped: dict[tuple[str, object], list[Drawn]] = {}
    for index, shape in enumerate(content["shapes"]):
        place = f"{where}, shapes[{index}]"
        for drawn in _drawn(place, shape, size, findings):
            group = shape.get("group_id")
            grouped.setdefault((drawn.category, index if group is None else f"group {group}"), []).append(drawn)
    return SourceImage(where, file_name, *size, tuple(merged(parts, *size) for parts in grouped.values()))


def _drawn(where: str, shape: Any, size: tuple[int, int], findings: Findings) -> Iterator[Drawn]:
    if not isinstance(shape, dict) or not isinstance(label := shape.get("label"), str) or not label.strip():
        findings.refuse(where, "has no label")
        return
    kind = shape.get("shape_type") or "polygon"  # files of old versions have no type
    if label in _NOT_LABELS:
        findings.note(f"shapes left out that are labelled {label}")
        return
    if kind in _NOT_AREAS:
        findings.note(f"shapes left out that are no areas ({kind})")
        return
    points = _points(shape.get("points"))
    if points is None:
        findings.refuse(where, "has no points, which are pairs of numbers")
        return
    if kind == "mask":
        rle = _mask(where, shape.get("mask"), points, size, findings)
        if rle is not None:
            yield Drawn(label.strip(), rle)
        return
    polygon_xy = _polygon(where, kind, points, findings)
    if polygon_xy is not None and findings.usable(where, [polygon_xy], *size):
        yield Drawn(label.strip(), [polygon_xy])


def _points(given: Any) -> list[tuple[float, float]] | None:
    if not isinstance(given, list) or not given:
        return None
    if not all(isinstance(point, list) and len(point) == 2 and all(map(is_number, point)) for point in given):
        return None
    return [(float(x), float(y)) for x, y in given]


def _polygon(where: str, kind: str, points: Sequence[tuple[float, float]], findings: Findings) -> list[float] | None:
    match kind, len(points):
        case (("polygon" | "oriented_rectangle"), _):
            return [value for point in points for value in point]
        case "rectangle", 2 | 4:  # newer versions write all corners
            xs, ys = zip(*points, strict=True)
            findings.note("rectangles taken as masks: they follow no outline")
            return rectangle_xy(min(xs), min(ys), max(xs), max(ys))
        case "circle", 2:
            center, edge = points
            radius = math.dist(center, edge)
            return ellipse_xy(center, (radius, radius))
        case (("rectangle" | "circle"), count):
            findings.refuse(where, f"is a {kind} with {count} points")
        case _:
            findings.refuse(where, f"has the unknown shape {kind!r}")
    return None


def _mask(
    where: str, given: Any, points: Sequence[tuple[float, float]], size: tuple[int, int], findings: Findings
) -> CompressedRle | None:
    """Return a mask that is a PNG, as text, of the box between two corners, both included."""
    if not isinstance(given, str) or len(points) != _RECTANGLE_CORNERS:
        findings.refuse(where, "is not a mask with a PNG and two corners")
        return None
    (left, top), (right, bottom) = ((round(x), round(y)) for x, y in points)
    width, height = size
    expected = (right - left + 1, bottom - top + 1)
    if not (0 <= left <= right < width and 0 <= top <= bottom < height):
        findings.refuse(
            where, f"is a mask from {left}, {top} to {right}, {bottom}, outside the image of {width}x{height}"
        )
        return None
    try:
        with Image.open(io.BytesIO(base64.b64decode(given, validate=True)), formats=("PNG",)) as image:
            if image.size != expected:  # before its pixels are decoded
                findings.refuse(
                    where, f"is a mask of {image.width}x{image.height} in a box of {expected[0]}x{expected[1]}"
                )
                return None
            inside = np.asarray(image.convert("L")) > 0
    except (binascii.Error, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        findings.refuse(where, f"is a mask that cannot be decoded: {error}")
        return None
    mask = np.zeros((height, width), dtype=np.bool_)
    mask[top : bottom + 1, left : right + 1] = inside
    return encode_mask(mask)
