"""Whole-pixel windows of an image."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor
from typing import Any

import numpy as np
from numpy.typing import NDArray

BoxXyxy = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the image, right and bottom excluded."""

BoolMask = NDArray[np.bool_]
"""A mask, bool (height, width)."""


@dataclass(frozen=True, order=True)
class Window:
    """A rectangle of whole pixels: columns x0 to x1 and rows y0 to y1, the ends excluded."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def width(self) -> int:
        """Count the columns."""
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        """Count the rows."""
        return self.y1 - self.y0

    @property
    def is_empty(self) -> bool:
        """Say whether it holds no pixel."""
        return self.x1 <= self.x0 or self.y1 <= self.y0

    def __and__(self, other: Window) -> Window:
        """Return what both hold; `NOTHING` if that is no pixel."""
        both = Window(max(self.x0, other.x0), max(self.y0, other.y0), min(self.x1, other.x1), min(self.y1, other.y1))
        return NOTHING if both.is_empty else both

    def contains(self, other: Window) -> bool:
        """Say whether the other lies wholly within this one."""
        return self & other == other

    def moved(self, dx: int, dy: int) -> Window:
        """Return the same rectangle `dx` columns and `dy` rows further."""
        return Window(self.x0 + dx, self.y0 + dy, self.x1 + dx, self.y1 + dy)

    def grown(self, margin_px: int) -> Window:
        """Return the rectangle with a margin on every side."""
        return Window(self.x0 - margin_px, self.y0 - margin_px, self.x1 + margin_px, self.y1 + margin_px)

    @property
    def in_image(self) -> tuple[slice, slice]:
        """Return its rows and columns in an array (height, width) that shows the whole image."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def slices(self, part: Window) -> tuple[slice, slice]:
        """Return the rows and columns of a part of this window in an array (height, width) that shows this window."""
        return (
            slice(part.y0 - self.y0, part.y1 - self.y0),
            slice(part.x0 - self.x0, part.x1 - self.x0),
        )


NOTHING = Window(0, 0, 0, 0)


def whole_image(height: int, width: int) -> Window:
    """Return all of an image."""
    return Window(0, 0, width, height)


def window_around(box_xyxy: BoxXyxy) -> Window:
    """Return the smallest window that covers a box."""
    x0, y0, x1, y1 = box_xyxy
    return Window(floor(x0), floor(y0), ceil(x1), ceil(y1))


def nonzero_window(array: NDArray[Any]) -> Window:
    """Return the smallest window of an array (height, width) that covers all that is not zero, or `NOTHING`."""
    rows = np.flatnonzero(array.any(axis=1))
    columns = np.flatnonzero(array.any(axis=0))
    if not rows.size:
        return NOTHING
    return Window(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
