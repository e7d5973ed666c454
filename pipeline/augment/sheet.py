"""A sheet of composites to look at: base, donor and what became of them, with outlines, a row each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.augment.pairs import ImageKey, Pair
from pipeline.augment.sources import CompositeSources
from pipeline.errors import ImageError
from pipeline.labels.drawing import Panel, RgbImage, category_colours, draw_panels


def draw_sheet(sources: CompositeSources, count: int, category_names: Mapping[int, str]) -> tuple[RgbImage, int]:
    """A picture of up to `count` composites, evenly spread over all, and how many they are.

    Those that cannot be made are left out; ImageError with the last one's reason where none can.
    """
    chosen = np.unique(np.linspace(0, len(sources.pairs) - 1, min(count, len(sources.pairs))).round().astype(int))
    rows: list[RgbImage] = []
    reason = "there is no image"
    for number in chosen.tolist():
        try:
            rows.append(_draw_row(sources, sources.pairs[number], category_names))
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
    pictures = [
        draw_panels(
            image.image_rgb, [Panel(f"{title} {image.labels.file_name}", image.labels)], category_names, colours
        )
        for title, image in shown
    ]
    return _stacked(pictures, axis=1)


def _stacked(pictures: Sequence[RgbImage], axis: int) -> RgbImage:
    """Pictures below (axis 0) or beside (axis 1) one another, the smaller ones filled up with black."""
    other = 1 - axis
    side = max(picture.shape[other] for picture in pictures)
    padded = []
    for picture in pictures:
        missing = [(0, 0), (0, 0), (0, 0)]
        missing[other] = (0, side - picture.shape[other])
        padded.append(np.pad(picture, missing))
    return np.concatenate(padded, axis=axis)
