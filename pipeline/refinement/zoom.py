"""Which part of an image SAM sees an instance in: all of it, or an enlarged crop for a small one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log2

from pipeline.masks.windows import BoxXyxy, Window, whole_image, window_around

CONTEXT = 3.0
"""A crop's sides are at least this many times the longer side of every instance that it is for."""

MAX_ENLARGEMENT = 4.0
"""A crop shows no pixel of the image on more than this many of SAM's pixels along a side."""


@dataclass(frozen=True)
class View:
    """A part of an image that SAM sees, and the instances (their places in the image) refined in it."""

    window: Window
    instances: tuple[int, ...]


def plan_views(
    boxes_xyxy: Sequence[BoxXyxy], height: int, width: int, input_side: int, zoom_below_px: int
) -> list[View]:
    """Deal an image's instances out to views, each to one: the whole image first, then crops by size.

    Instances with a side under `zoom_below_px`, measured on SAM's input, go into crops that are smaller than the
    image by powers of two, as small as brings that side up to `zoom_below_px` and as context allows. Neighbours
    share a crop.
    """
    halvings = [_halvings(box, height, width, input_side, zoom_below_px) for box in boxes_xyxy]
    views = []
    for level in sorted(set(halvings)):
        members = [index for index, halved in enumerate(halvings) if halved == level]
        if level == 0:
            views.append(View(whole_image(height, width), tuple(members)))
        else:
            side = ceil(max(height, width) / 2**level)
            views += _shared_crops(members, boxes_xyxy, whole_image(height, width), side)
    return views


def _halvings(box_xyxy: BoxXyxy, height: int, width: int, input_side: int, zoom_below_px: int) -> int:
    """How often the image's longer side is halved for this instance's crop; 0: it stays with the whole image."""
    longer_side = max(height, width)
    x0, y0, x1, y1 = box_xyxy
    shorter_input_px = max(1.0, min(x1 - x0, y1 - y0)) * input_side / longer_side
    if shorter_input_px >= zoom_below_px:
        return 0
    wanted = log2(zoom_below_px / shorter_input_px)
    smallest_side = max(CONTEXT * max(x1 - x0, y1 - y0), input_side / MAX_ENLARGEMENT)
    allowed = log2(longer_side / smallest_side)
    return max(0, min(ceil(wanted), floor(allowed)))


def _shared_crops(members: Sequence[int], boxes_xyxy: Sequence[BoxXyxy], image: Window, side: int) -> list[View]:
    """Square crops, in reading order: each around the first instance left, taking in all that fit with context."""
    waiting = sorted(members, key=lambda index: (boxes_xyxy[index][1], boxes_xyxy[index][0], index))
    views = []
    while waiting:
        crop = _crop_around(boxes_xyxy[waiting[0]], image, side)
        taken = [
            index
            for place, index in enumerate(waiting)
            if place == 0 or crop.contains(_with_context(boxes_xyxy[index], image))
        ]
        views.append(View(crop, tuple(sorted(taken))))
        waiting = [index for index in waiting if index not in taken]
    return views


def _crop_around(box_xyxy: BoxXyxy, image: Window, side: int) -> Window:
    """A square with the box in its middle, pushed into the image; of the image's own side where that is less."""
    x0, y0, x1, y1 = box_xyxy
    width, height = min(side, image.width), min(side, image.height)
    left = min(max(0, round((x0 + x1 - width) / 2)), image.width - width)
    top = min(max(0, round((y0 + y1 - height) / 2)), image.height - height)
    return Window(left, top, left + width, top + height)


def _with_context(box_xyxy: BoxXyxy, image: Window) -> Window:
    """The box and half of its longer side around it, inside the image."""
    x0, y0, x1, y1 = box_xyxy
    margin = max(x1 - x0, y1 - y0) / 2
    return window_around((x0 - margin, y0 - margin, x1 + margin, y1 + margin)) & image
