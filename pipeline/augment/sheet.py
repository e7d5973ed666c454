"""Draws a sheet of composites for review: base, donor and composite with outlines, a row for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.augment.pairs import ImageKey, Pair
from pipeline.augment.sources import CompositeSources
from pipeline.errors import ImageError
from pipeline.labels.drawing import Panel, RgbImage, category_colours, draw_panels


def draw_sheet(sources: CompositeSources, count: int, category_names: Mapping[int, str]) -> tuple[RgbImage, int]:
    """Return an image of up to `count` composites, evenly spread over all, and their number.

    Composites that cannot be made are left out. Raise ImageError with the last reason if none can be made.
    """
    chosen = np.unique(np.linspace(0, len(sources.pairs) - 1, min(count, len(sources.pairs))).round().astype(int))
    rows: list[RgbImage] = []
    reason = "the label store has no images"
    for index in chosen.tolist():
        try:
            rows.append(_draw_row(sources, sources.pairs[index], category_names))
        except ImageError as error:
            reason = str(error)
    if not rows:
        raise ImageError(f"no composite can be made: {reason}")
    return _stacked(rows, axis=0), len(rows)


def _draw_row(sources: CompositeSources, pair: Pair, category_names: Mapping[int, str]) -> RgbImage:
    read = sources.reader()
    shown = [("base", read(ImageKey(pair.base_id))), ("composite", sources.compose(pair, read))]
    if pair.donor is not None:
        shown.insert(1, ("donor", read(pair.donor)))
    colours = category_colours(each.category_id for _, image in shown for each in image.labels.instances)
    images_rgb = []
    for title, image in shown:
        panel = Panel(f"{title} {image.labels.file_name}", image.labels)
        images_rgb.append(draw_panels(image.image_rgb, [panel], category_names, colours))
    return _stacked(images_rgb, axis=1)


def _stacked(images_rgb: Sequence[RgbImage], axis: int) -> RgbImage:
    """Stack images vertically (axis 0) or horizontally (axis 1), padding the smaller ones with black."""
    other = 1 - axis
    side = max(image.shape[other] for image in images_rgb)
    padded = []
    for image in images_rgb:
        missing = [(0, 0), (0, 0), (0, 0)]
        missing[other] = (0, side - image.shape[other])
        padded.append(np.pad(image, missing))
    return np.concatenate(padded, axis=axis)
