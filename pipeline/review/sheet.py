"""One sheet of several images with their labels, stores side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.coco.paths import resolve_image_path
from pipeline.errors import ImageError, StageError
from pipeline.files.images import read_image
from pipeline.labels.drawing import category_colours, show
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import ImageLabels


def label_sheet(stores: Mapping[str, LabelStore], image_ids: Sequence[int], image_root: Path) -> NDArray[np.uint8]:
    """Draw images one below the other, each with the labels of every store; uint8 (height, width, 3), RGB.

    stores: by the name to show. Raises StageError for an image that cannot be read.
    """
    first = next(iter(stores.values()))
    shown = (each for store in stores.values() for image_id in image_ids for each in store.by_id(image_id).instances)
    colours = category_colours(instance.category_id for instance in shown)
    drawn = [show(stores, image_id, _pixels(image_root, first.by_id(image_id)), colours) for image_id in image_ids]
    width = max(image.shape[1] for image in drawn)
    return np.vstack([np.pad(each, ((0, 0), (0, width - each.shape[1]), (0, 0))) for each in drawn])


def _pixels(image_root: Path, labels: ImageLabels) -> NDArray[np.uint8]:
    """The image of some labels, uint8 (height, width, 3), RGB."""
    try:
        size = (labels.width, labels.height) if labels.width else None
        return read_image(resolve_image_path(image_root, labels.file_name), size)
    except ImageError as error:
        failed = f"; it failed when it was to be labelled, too: {labels.message}" if labels.message else ""
        raise StageError(f"{image_root / labels.file_name}, image {labels.image_id}: {error}{failed}") from error
