"""What the readers of all formats share: images with their instances, findings, the lookup of image files."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from pipeline.coco.model import CocoCategory
from pipeline.coco.paths import file_name_problem
from pipeline.coco.segmentation import Polygons, SegmentationError, require_usable
from pipeline.errors import DatasetError, ImageError, Problem
from pipeline.files.images import check_image_header, image_size
from pipeline.files.reading import read_file
from pipeline.masks.run_lengths import CompressedRle

_CIRCLE_ERROR_PX: Final = 0.02
_CIRCLE_POINTS: Final = (12, 360)


@dataclass(frozen=True)
class ImportSettings:
    """What the source does not say by itself.

    images: the folder that file names start from; None: the usual one of the format. category: the class where the
    source has none. attribute: the attribute that holds the class (VIA). split: only this part of the source (YOLO,
    VOC). boxes: make rectangles of bounding boxes that have no outline. categories: the ids to use, by name; None:
    numbered from 1.
    """

    images: Path | None = None
    category: str = "object"
    attribute: str | None = None
    split: str | None = None
    boxes: bool = False
    categories: tuple[CocoCategory, ...] | None = None


@dataclass(frozen=True)
class Drawn:
    """One instance of an image: its class and its outlines or mask."""

    category: str
    segmentation: Polygons | CompressedRle


@dataclass(frozen=True)
class SourceImage:
    """One image of a source. where: the file, or the element of one, that describes it."""

    where: str
    file_name: str
    width: int
    height: int
    instances: tuple[Drawn, ...]


@dataclass
class Findings:
    """What is wrong with a source, and what was left out or changed on purpose, counted."""

    problems: list[Problem] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    def refuse(self, where: str, message: str) -> None:
        """Report a problem."""
        self.problems.append(Problem(where, message))

    def note(self, what: str) -> None:
        """Count something that was left out or changed."""
        self.notes[what] += 1

    def add(self, other: Findings) -> None:
        """Add the findings of a part of the source."""
        self.problems += other.problems
        self.notes += other.notes

    def usable(self, where: str, polygons_xy: Polygons, width: int, height: int) -> bool:
        """Return whether outlines are fit for an image of this size; report why not."""
        try:
            require_usable(polygons_xy, width, height)
        except SegmentationError as error:
            self.refuse(where, str(error))
            return False
        return True


@dataclass(frozen=True)
class SourceContent:
    """The content of a source. image_root: the folder of file names. categories: the names of all classes, in order."""

    image_root: Path
    images: Sequence[SourceImage]
    categories: Sequence[str]


def read_json(path: Path) -> Any:
    """Return the content of a JSON file as plain values; DatasetError where it has none."""
    try:
        return msgspec.json.decode(read_file(path).removeprefix(b"\xef\xbb\xbf"))
    except OSError as error:
        raise DatasetError(str(path), [Problem("", f"cannot be read: {error.strerror}")]) from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(str(path), [Problem("", f"not JSON: {error}")]) from error


def named_size(
    findings: Findings, where: str, root: Path, file_name: str, declared: tuple[int, int] | None = None
) -> tuple[int, int] | None:
    """Return (width, height) of an image below the root, which must be as declared; None, reported, if it is unusable.

    declared: (width, height) that the annotations are for.
    """
    if (problem := file_name_problem(file_name)) is not None:
        findings.refuse(where, f"file name {problem}")
        return None
    try:
        if declared is None:
            return image_size(root / file_name)
        check_image_header(root / file_name, declared)
    except ImageError as error:
        findings.refuse(where, f"image {root / file_name}: {error}")
        return None
    return declared


def name_below(root: Path, folder: Path, given: str) -> str:
    """Return the file name below the root of an image that a file in a folder names; backslashes separate folders too.

    A name that leads out of the root, such as one of another machine, counts as the base name: beside the file or, if
    there is no such image, in the root.
    """
    slashed = given.replace("\\", "/")
    start = os.path.abspath(root)  # noqa: PTH100 - resolve() would follow links
    whole = os.path.normpath(os.path.join(os.path.abspath(folder), slashed))  # noqa: PTH100, PTH118
    base = slashed.rpartition("/")[2]
    beside = os.path.join(os.path.abspath(folder), base)  # noqa: PTH100, PTH118
    for path in (whole, beside):
        if path.startswith(start + os.sep) and Path(path).is_file():
            return Path(path).relative_to(start).as_posix()
    return base


def is_number(value: object) -> bool:
    """Return whether a value of a JSON file is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def numbers(values: Mapping[str, Any], *names: str) -> list[float] | None:
    """Return the values of these names; None if one is missing or is not a number."""
    found = [values.get(name) for name in names]
    return [float(value) for value in found if value is not None] if all(map(is_number, found)) else None


def rectangle_xy(left: float, top: float, right: float, bottom: float) -> list[float]:
    """Return a rectangle as a polygon."""
    return [left, top, right, top, right, bottom, left, bottom]


def ellipse_xy(center_xy: tuple[float, float], radii: tuple[float, float], angle: float = 0.0) -> list[float]:
    """Return an ellipse as a polygon whose edges lie at most a fiftieth of a pixel inside it.

    radii: along its own axes, in pixels. angle: of the first axis, in radians, from x towards y.
    """
    largest = max(*radii, _CIRCLE_ERROR_PX)
    fewest, most = _CIRCLE_POINTS
    count = math.ceil(math.pi / math.acos(max(1 - _CIRCLE_ERROR_PX / largest, -1)))
    count = min(max(count, fewest), most)
    points: list[float] = []
    for index in range(count):
        turn = 2 * math.pi * index / count
        along, across = radii[0] * math.cos(turn), radii[1] * math.sin(turn)
        points.append(center_xy[0] + along * math.cos(angle) - across * math.sin(angle))
        points.append(center_xy[1] + along * math.sin(angle) + across * math.cos(angle))
    return points


def rotated_xy(polygon_xy: Sequence[float], degrees: float) -> list[float]:
    """Return a polygon turned around the middle of its box, from x towards y."""
    if not degrees:
        return list(polygon_xy)
    xs, ys = polygon_xy[0::2], polygon_xy[1::2]
    x0, y0 = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turned: list[float] = []
    for x, y in zip(xs, ys, strict=True):
        turned += [x0 + (x - x0) * cosine - (y - y0) * sine, y0 + (x - x0) * sine + (y - y0) * cosine]
    return turned


def names_in_order(images: Iterable[SourceImage], first: Iterable[str] = ()) -> list[str]:
    """Return the names of all classes: those of the source's own list in its order, then the others by name."""
    used = {drawn.category for image in images for drawn in image.instances}
    listed = list(dict.fromkeys(first))
    return [*listed, *sorted(used.difference(listed))]
