"""SAM's low-resolution frame, and how an image lies in it."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from pipeline.masks.windows import NOTHING, Window, whole_image, window_around
from pipeline.sam.frame import resized_hw


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
        """Return SAM's input pixels for one pixel of the image."""
        return self.input_side / max(self.height, self.width)

    @property
    def scale_x(self) -> float:
        """Return the low-resolution pixels for one pixel of the image, along x."""
        return self._resized_hw[1] / self.width * self.lowres_side / self.input_side

    @property
    def scale_y(self) -> float:
        """Return the low-resolution pixels for one pixel of the image, along y."""
        return self._resized_hw[0] / self.height * self.lowres_side / self.input_side

    @property
    def content(self) -> Window:
        """Return the low-resolution pixels that show any of the image; padding may cut the last ones."""
        height, width = self._resized_hw
        return Window(
            0,
            0,
            ceil(width * self.lowres_side / self.input_side),
            ceil(height * self.lowres_side / self.input_side),
        )

    def to_lowres(self, window: Window) -> Window:
        """Return the low-resolution pixels that show any of a window of the image."""
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
        """Return the pixels of the image that low-resolution pixels, interpolated, have a say in."""
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
