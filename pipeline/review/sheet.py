"""Draws one sheet of several images with their labels, those of every source side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from sys import maxsize

import numpy as np
from numpy.typing import NDArray

from pipeline.coco.paths import resolve_image_path
from pipeline.errors import ImageError, StageError, StoreError, some_of
from pipeline.files.images import read_image
from pipeline.labels.drawing import Panel, category_colours, draw_panels
from pipeline.labels.label_source import LabelSource, labels_of, names_of
from pipeline.labels.rows import ImageLabels, best_instances
from pipeline.review.names import ImageFinder


@dataclass(frozen=True)
class ShownImages:
    """Which images to draw: those with these ids and names; if both are empty, `count` images that have instances.

    min_score: instances with a lower class score are not drawn.
    """

    ids: Sequence[int] = ()
    names: Sequence[str] = ()
    count: int = 4
    min_score: float = 0.0


@dataclass(frozen=True)
class Sheet:
    """A drawing, uint8 (height, width, 3), RGB, and the file names of the images in it."""

    pixels: NDArray[np.uint8]
    names: Sequence[str]


def label_sheet(sources: Mapping[str, LabelSource], shown: ShownImages, image_root: Path) -> Sheet:
    """Draw images one below the other, each with the labels of every source.

    sources: by the name to show; the ids are those of the first. Raises StageError for an unreadable image, StoreError
    for an image that a source does not have.
    """
    first, *others = sources.values()
    chosen = _chosen(first, shown)
    rows = [[each, *(_same_image(each, first, other) for other in others)] for each in chosen]
    drawn_rows = [[best_instances(row, shown.min_score, 0.0, maxsize) for row in image] for image in rows]
    colours = category_colours(each.category_id for image in drawn_rows for row in image for each in row.instances)
    names = {key: name for source in sources.values() for key, name in names_of(source).items()}
    drawn = [
        draw_panels(_pixels(image_root, image[0]), [*map(Panel, sources, image)], names, colours)
        for image in drawn_rows
    ]
    width = max(image.shape[1] for image in drawn)
    pixels = np.vstack([np.pad(each, ((0, 0), (0, width - each.shape[1]), (0, 0))) for each in drawn])
    return Sheet(pixels, [labels.file_name for labels in chosen])


def _chosen(source: LabelSource, shown: ShownImages) -> list[ImageLabels]:
    if not shown.ids and not shown.names:
        return _examples(source, shown)
    return [labels_of(source, image_id) for image_id in shown.ids] + [_named(source, name) for name in shown.names]


def _examples(source: LabelSource, shown: ShownImages) -> list[ImageLabels]:
    """Return images that have instances to draw, spread over the source."""
    found: dict[int, ImageLabels] = {}
    count = min(shown.count, len(source))
    for index in range(count):
        end = (index + 1) * len(source) // count
        for position in range(index * len(source) // count, end):
            labels = source[position]
            if any(each.score >= shown.min_score for each in labels.instances):
                found[position] = labels
                break
    if not found:
        least = f" with a score of {shown.min_score:g} or more" if shown.min_score else ""
        raise StoreError(f"{source.path}: no image has an instance{least}: name the images to draw (--id or --name)")
    return list(found.values())


def _named(source: LabelSource, given: str) -> ImageLabels:
    """Return the image with a file name, or with the end of one."""
    names = source.file_names()
    found = ImageFinder(names).find(given)
    if not found:
        raise StoreError(f"{source.path}: there is no image named {given!r}, as {some_of(names)} are")
    if len(found) > 1:
        raise StoreError(f"{source.path}: {given!r} may be any of {some_of(found)}: write the whole file name")
    return source[list(names).index(found[0])]


def _same_image(labels: ImageLabels, first: LabelSource, other: LabelSource) -> ImageLabels:
    """Return the labels of an image in another source: by its id or, where that names another image, by its name."""
    position = other.find(labels.image_id)
    if position is not None and other[position].file_name == labels.file_name:
        return other[position]
    names = list(other.file_names())
    if labels.file_name in names:
        return other[names.index(labels.file_name)]
    raise StoreError(
        f"{other.path}: there is no image {labels.file_name!r}, which is image {labels.image_id} of {first.path}"
    )


def _pixels(image_root: Path, labels: ImageLabels) -> NDArray[np.uint8]:
    try:
        size = (labels.width, labels.height) if labels.width else None
        return read_image(resolve_image_path(image_root, labels.file_name), size)
    except ImageError as error:
        failed = f"; labelling it failed too: {labels.message}" if labels.message else ""
        raise StageError(f"{image_root / labels.file_name}, image {labels.image_id}: {error}{failed}") from error
