"""The position of an image in SAM's low-resolution frame."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from pipeline.masks.windows import NOTHING, Window, whole_image, window_around
from pipeline.sam.frame import InputFrame


@dataclass(frozen=True)
class LowresFrame:
    """The position of one image in SAM's low-resolution frame: from the upper left corner, with any padding beyond it.

    height, width: of the image. sam: the frame of the SAM that sees it.
    """

    height: int
    width: int
    sam: InputFrame

    @property
    def scale_x(self) -> float:
        """Return the low-resolution pixels for one pixel of the image, along x."""
        return self._resized_hw[1] / self.width * self.sam.lowres_side / self.sam.input_side

    @property
    def scale_y(self) -> float:
        """Return the low-resolution pixels for one pixel of the image, along y."""
        return self._resized_hw[0] / self.height * self.sam.lowres_side / self.sam.input_side

    @property
    def content(self) -> Window:
        """Return the low-resolution pixels that show a part of the image; the last ones may show padding too."""
        height, width = self._resized_hw
        lowres_side, input_side = self.sam.lowres_side, self.sam.input_side
        return Window(0, 0, ceil(width * lowres_side / input_side), ceil(height * lowres_side / input_side))

    def to_lowres(self, window: Window) -> Window:
        """Return the low-resolution pixels that show a part of a window of the image."""
        around = window_around(
            (window.x0 * self.scale_x, window.y0 * self.scale_y, window.x1 * self.scale_x, window.y1 * self.scale_y)
        )
        return around & self.content

    def to_image(self, window_lowres: Window) -> Window:
        """Return the pixels of the image whose interpolated values depend on these low-resolution pixels."""
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
        return self.sam.resized_hw((self.height, self.width))
