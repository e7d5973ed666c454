"""Reads labels that came back from an annotation tool: ids are new, names are longer, categories go by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from pipeline.coco.json_text import read_json_object
from pipeline.coco.model import CocoAnnotation, CocoCategory, CocoDataset, CocoImage
from pipeline.coco.reading import scan_coco
from pipeline.errors import DatasetError, Problem
from pipeline.masks.run_lengths import area_px, box_xywh

FindImage = Callable[[str], Sequence[CocoImage]]
"""All images of the experiment that a file name may mean."""

_UNKNOWN = "unknown"
_SHOWN = 3


@dataclass(frozen=True)
class Corrected:
    """The images of the file, as the experiment has them, and their annotations by image id.

    Categories are the experiment's, annotations numbered from 1. `crowds` counts those that were crowds in the file.
    """

    annotations_by_image: dict[int, list[CocoAnnotation]]
    crowds: int


def read_corrected(
    path: Path, find: FindImage, categories: Sequence[CocoCategory], *, keep_crowds: bool = False
) -> Corrected:
    """Read a COCO file of corrected images; DatasetError with everything that is wrong with it.

    Crowds become instances unless `keep_crowds`: CVAT writes every mask as a crowd. Boxes and areas are measured.
    """
    problems: list[Problem] = []
    images, dataset = _read(path, find, problems)
    category_ids = _match_categories(dataset, categories, problems)
    found: dict[int, list[CocoAnnotation]] = {image.id: [] for image in images.values()}
    seen: dict[tuple[int, int, bytes], int] = {}
    crowds = 0
    for annotation in dataset.annotations:
        category_id = category_ids.get(annotation.category_id)
        image = images.get(annotation.image_id)
        if category_id is None or image is None:
            continue
        where = f"annotation {annotation.id}"
        rle = dataset.rle(annotation)
        area = area_px(rle)
        first = seen.setdefault((image.id, category_id, rle["counts"]), annotation.id)
        if not area:
            problems.append(Problem(where, f"has no pixel in {image.file_name}: remove it, or draw it again"))
        elif first != annotation.id:
            problems.append(Problem(where, f"is annotation {first} once more: remove one of the two"))
        crowds += annotation.iscrowd
        kept = CocoAnnotation(
            id=len(seen),
            image_id=image.id,
            category_id=category_id,
            bbox=box_xywh(rle),
            area=area,
            iscrowd=annotation.iscrowd if keep_crowds else 0,
            segmentation=annotation.segmentation,
        )
        found[image.id].append(kept)
    if problems:
        raise DatasetError(str(path), problems)
    return Corrected(found, crowds)


def _read(path: Path, find: FindImage, problems: list[Problem]) -> tuple[dict[int, CocoImage], CocoDataset]:
    """Return our images by their ids in the file, and the file as `scan_coco` reads it, with our file names."""
    top = read_json_object(path)
    listed: list[Any] = []
    if "images" in top:
        try:
            listed = msgspec.json.decode(top["images"], type=list[dict[str, Any]])
            top["images"] = msgspec.Raw(msgspec.json.encode([_named(image, find) for image in listed]))
        except ValueError:
            pass  # the reader will say what is wrong with it
    with TemporaryDirectory() as folder:
        renamed = Path(folder) / path.name
        renamed.write_bytes(msgspec.json.encode(top))
        scan = scan_coco(renamed, annotations_required=True)
    problems += scan.problems
    ours: dict[int, CocoImage] = {}
    given_names: dict[int, str] = {}
    for image, given in zip(listed, (image.get("file_name") for image in listed), strict=True):
        read = scan.dataset.image_by_id.get(image["id"]) if isinstance(image.get("id"), int) else None
        if read is None or not isinstance(given, str):
            continue
        meant = find(given)
        problem = _image_problem(given, meant, read, given_names)
        if problem is not None:
            problems.append(Problem(f"image {read.id}, {problem[0]}", problem[1]))
            continue
        ours[read.id] = meant[0]
        given_names[meant[0].id] = given
    return ours, scan.dataset


def _named(image: dict[str, Any], find: FindImage) -> dict[str, Any]:
    """Return an image of the file with our name, and with our size where it has none."""
    given = image.get("file_name")
    if not isinstance(given, str):
        return image
    meant = find(given)
    if len(meant) != 1:
        return image | {"file_name": _UNKNOWN}
    ours = {"width": meant[0].width, "height": meant[0].height}
    return image | {key: value for key, value in ours.items() if image.get(key) is None} | {"file_name": _UNKNOWN}


def _image_problem(
    given: str, meant: Sequence[CocoImage], read: CocoImage, given_names: dict[int, str]
) -> tuple[str, str] | None:
    """Return the field that is wrong and what is wrong with it, or None."""
    if not meant:
        return "file_name", f"{given!r} is no image of the experiment: take it out, or name the right one by --from"
    if len(meant) > 1:
        names = ", ".join(repr(image.file_name) for image in meant[:_SHOWN])
        return "file_name", f"{given!r} may be any of {names}: keep the folders in the tool's file names"
    (image,) = meant
    if image.id in given_names:
        return "file_name", f"{given!r} and {given_names[image.id]!r} are both {image.file_name!r}: keep one"
    if (read.width, read.height) != (image.width, image.height):
        sizes = f"is {read.width}x{read.height}, {image.file_name!r} is {image.width}x{image.height}"
        return "width", f"{sizes}: labels must be of images in their own size"
    return None


def _match_categories(
    dataset: CocoDataset, categories: Sequence[CocoCategory], problems: list[Problem]
) -> dict[int, int]:
    """Return our category ids by those of the file, for every category that annotations use."""
    ids_by_name: dict[str, list[int]] = {}
    for category in categories:
        ids_by_name.setdefault(category.name.strip(), []).append(category.id)
    used = {annotation.category_id for annotation in dataset.annotations}
    matched: dict[int, int] = {}
    for category in dataset.categories:
        if category.id not in used:
            continue
        ids = ids_by_name.get(category.name.strip(), [])
        where = f"category {category.id}, name"
        if len(ids) == 1:
            matched[category.id] = ids[0]
        elif ids:
            message = f"{category.name!r} names {len(ids)} categories of the experiment: give them names of their own"
            problems.append(Problem(where, message))
        else:
            known = ", ".join(sorted(ids_by_name))
            problems.append(
                Problem(where, f"{category.name!r} is no category of the experiment; expected one of {known}")
            )
    return matched
