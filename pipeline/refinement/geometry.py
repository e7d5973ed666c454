"""Where things lie: whole-pixel windows of an image, and SAM's low-resolution frame."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.sam.frame import resized_hw


@dataclass(frozen=True, order=True)
class Window:
    """A rectangle of whole pixels: columns x0 to x1 and rows y0 to y1, the ends excluded."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def width(self) -> int:
        """Columns."""
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        """Rows."""
        return self.y1 - self.y0

    @property
    def is_empty(self) -> bool:
        """Whether it holds no pixel."""
        return self.x1 <= self.x0 or self.y1 <= self.y0

    def __and__(self, other: Window) -> Window:
        """What both hold; `NOTHING` if that is no pixel."""
        both = Window(max(self.x0, other.x0), max(self.y0, other.y0), min(self.x1, other.x1), min(self.y1, other.y1))
        return NOTHING if both.is_empty else both

    def contains(self, other: Window) -> bool:
        """Whether the other lies wholly within this one."""
        return self & other == other

    def moved(self, dx: int, dy: int) -> Window:
        """The same rectangle `dx` columns and `dy` rows further."""
        return Window(self.x0 + dx, self.y0 + dy, self.x1 + dx, self.y1 + dy)

    def slices(self, part: Window) -> tuple[slice, slice]:
        """Where a part of this window lies in an array (height, width) that shows this window."""
        return (
            slice(part.y0 - self.y0, part.y1 - self.y0),
            slice(part.x0 - self.x0, part.x1 - self.x0),
        )


NOTHING = Window(0, 0, 0, 0)


def whole_image(height: int, width: int) -> Window:
    """All of an image."""
    return Window(0, 0, width, height)


def window_around(box_xyxy: tuple[float, float, float, float]) -> Window:
    """The smallest window that covers a box."""
    x0, y0, x1, y1 = box_xyxy
    return Window(floor(x0), floor(y0), ceil(x1), ceil(y1))


def nonzero_window(array: NDArray[Any]) -> Window:
    """The smallest window of an array (height, width) that covers all that is not zero, or `NOTHING`."""
    rows = np.flatnonzero(array.any(axis=1))
    columns = np.flatnonzero(array.any(axis=0))
    if not rows.size:
        return NOTHING
    return Window(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


@dataclass(frozen=True)
class LowresFrame:
    """How one image lies in SAM's low-resolution frame: in the upper left corner, padding right and below.

    height, width: of the image. input_side: pixels of the square that SAM resizes images into. lowres_side:
    pixels of the square that its mask logits and mask prompts have.
    """

    height: int
    width: int
    input_side: int
    lowres_side: int

    @property
    def input_scale(self) -> float:
        """SAM's input pixels for one pixel of the image."""
        return self.input_side / max(self.height, self.width)

    @property
    def scale_x(self) -> float:
        """Low-resolution pixels for one pixel of the image, along x."""
        return self._resized_hw[1] / self.width * self.lowres_side / self.input_side

    @property
    def scale_y(self) -> float:
        """Low-resolution pixels for one pixel of the image, along y."""
        return self._resized_hw[0] / self.height * self.lowres_side / self.input_side

    @property
    def content(self) -> Window:
        """The low-resolution pixels that show any of the image; padding may cut the last ones."""
        height, width = self._resized_hw
        return Window(
            0,
            0,
            ceil(width * self.lowres_side / self.input_side),
            ceil(height * self.lowres_side / self.input_side),
        )

    def to_lowres(self, window: Window) -> Window:
        """The low-resolution pixels that show any of a window of the image."""
        around = window_around(
            (
                window.x0 * self.scale_x,
                window.y0 * self.scale_y,
                window.x1 * self.scale_x,
                window.y1 * self.scale_y,
            )
        )
        return around & self.content

    def to_image(self, window_lowres: Window) -> Window:
        """The pixels of the image that low-resolution pixels, interpolated, have a say in."""
        if window_lowres.is_empty:
            return NOTHING
        # Interpolation carries a value one pixel further on every side.
        around = window_around(
            (
                (window_lowres.x0 - 1) / self.scale_x,
                (window_lowres.y0 - 1) / self.scale_y,
                (window_lowres.x1 + 1) / self.scale_x,
                (window_lowres.y1 + 1) / self.scale_y,
            )
        )
        return around & whole_image(self.height, self.width)

    @property
    def _resized_hw(self) -> tuple[int, int]:
        return resized_hw((self.height, self.width), self.input_side)


def distances(inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Distance of every cell that is inside to the nearest one that is not, from centre to centre; 0 outside.

    Their squares are whole numbers. Rounding to them takes away the last digits, in which OpenCV differs from
    run to run, and with them a place that is widest by chance.
    """
    rough = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE).astype(np.float64)
    exact: NDArray[np.float32] = np.sqrt(np.rint(rough * rough)).astype(np.float32)
    return exact
