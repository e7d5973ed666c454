"""Chooses the view in which SAM sees an instance: the whole image, or an enlarged crop for a small one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log2

from pipeline.masks.windows import BoxXyxy, Window, whole_image, window_around
from pipeline.sam.frame import InputFrame

CONTEXT = 3.0
"""Least ratio of a crop's sides to the longer side of every instance in it."""

MAX_ENLARGEMENT = 4.0
"""Most pixels of SAM's input, along a side, for one pixel of a crop."""


@dataclass(frozen=True)
class View:
    """A part of an image that SAM sees, and the indices of the instances that are refined in it."""

    window: Window
    instances: tuple[int, ...]


def plan_views(
    boxes_xyxy: Sequence[BoxXyxy], height: int, width: int, frame: InputFrame, zoom_below_px: int
) -> list[View]:
    """Assign every instance of an image to one view: the whole image first, then crops by size.

    An instance with a side under `zoom_below_px`, measured on SAM's input, goes into a crop that is smaller than the
    image by a power of two: the first that brings that side up to `zoom_below_px`, if context allows. Neighbours
    share a crop.
    """
    halvings = [_halvings(box, (height, width), frame, zoom_below_px) for box in boxes_xyxy]
    views = []
    for level in sorted(set(halvings)):
        members = [index for index, halved in enumerate(halvings) if halved == level]
        if level == 0:
            views.append(View(whole_image(height, width), tuple(members)))
        else:
            side = ceil(max(height, width) / 2**level)
            views += _shared_crops(members, boxes_xyxy, whole_image(height, width), side)
    return views


def _halvings(box_xyxy: BoxXyxy, image_hw: tuple[int, int], frame: InputFrame, zoom_below_px: int) -> int:
    """Return how often the image's longer side is halved for an instance's crop; 0 means the whole image."""
    longer_side = max(image_hw)
    x0, y0, x1, y1 = box_xyxy
    width, height = max(1.0, x1 - x0), max(1.0, y1 - y0)
    filled_height, filled_width = frame.filled_by(image_hw)
    if min(width * frame.input_side / filled_width, height * frame.input_side / filled_height) >= zoom_below_px:
        return 0
    # Crops are square, so that every SAM enlarges them alike in both directions.
    wanted = log2(zoom_below_px / (min(width, height) * frame.input_side / longer_side))
    smallest_side = max(CONTEXT * max(x1 - x0, y1 - y0), frame.input_side / MAX_ENLARGEMENT)
    allowed = log2(longer_side / smallest_side)
    return max(0, min(ceil(wanted), floor(allowed)))


def _shared_crops(members: Sequence[int], boxes_xyxy: Sequence[BoxXyxy], image: Window, side: int) -> list[View]:
    """Return square crops in reading order, each around the first instance left, with all that fit with context."""
    waiting = sorted(members, key=lambda index: (boxes_xyxy[index][1], boxes_xyxy[index][0], index))
    views = []
    while waiting:
        crop = _crop_around(boxes_xyxy[waiting[0]], image, side)
        taken = [
            index
            for rank, index in enumerate(waiting)
            if rank == 0 or crop.contains(_with_context(boxes_xyxy[index], image))
        ]
        views.append(View(crop, tuple(sorted(taken))))
        waiting = [index for index in waiting if index not in taken]
    return views


def _crop_around(box_xyxy: BoxXyxy, image: Window, side: int) -> Window:
    """Return a square with the box in its middle, moved into the image and no larger than it."""
    x0, y0, x1, y1 = box_xyxy
    width, height = min(side, image.width), min(side, image.height)
    left = min(max(0, round((x0 + x1 - width) / 2)), image.width - width)
    top = min(max(0, round((y0 + y1 - height) / 2)), image.height - height)
    return Window(left, top, left + width, top + height)


def _with_context(box_xyxy: BoxXyxy, image: Window) -> Window:
    """Return the box with a margin of half its longer side, inside the image."""
    x0, y0, x1, y1 = box_xyxy
    margin = max(x1 - x0, y1 - y0) / 2
    return window_around((x0 - margin, y0 - margin, x1 + margin, y1 + margin)) & image
