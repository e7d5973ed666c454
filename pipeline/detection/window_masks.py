"""Masks on their way through MMDetection's transforms: pixels are looked up once, at the end.

Resizing (nearest), cropping and flipping move whole columns and rows, for all instances alike. So a mask keeps
the window of the original image that it lies in, and what moves is one list of columns and one of rows. The
result equals that of `BitmapMasks` pixel by pixel, at a cost that grows with the instances' sizes instead of
the image's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import mmcv
import numpy as np
import torch
from mmdet.structures.bbox import get_box_type
from mmdet.structures.mask import BitmapMasks
from mmdet.structures.mask.structures import BaseInstanceMasks
from numpy.typing import NDArray

from pipeline.masks.run_lengths import CompressedRle, decode_window, tight_window
from pipeline.masks.windows import Window, nonzero_window


@dataclass(frozen=True, eq=False)
class MaskWindow:
    """A mask, uint8 (height, width) of 0 and 1, and the window of the image that it shows; zero outside."""

    window: Window
    pixels: NDArray[np.uint8]

    @classmethod
    def of_rle(cls, rle: CompressedRle) -> MaskWindow:
        """Cut out the mask of a whole image, which is dense for a moment."""
        window = tight_window(rle)
        return cls(window, decode_window(rle, window).view(np.uint8))


class WindowMasks(BaseInstanceMasks):  # type: ignore[misc]
    """The masks of one image; what it cannot do by columns and rows it does as `BitmapMasks`.

    columns, rows: (width,) and (height,), which column and row of the original image each one shows; both
    ascend or descend.
    """

    def __init__(self, masks: Sequence[MaskWindow], columns: NDArray[np.intp], rows: NDArray[np.intp]) -> None:
        self._masks = tuple(masks)
        self._columns, self._rows = columns, rows

    @classmethod
    def of_image(cls, masks: Sequence[MaskWindow], height: int, width: int) -> WindowMasks:
        """Make the masks of an image as it is."""
        return cls(masks, np.arange(width), np.arange(height))

    @property
    def height(self) -> int:
        """Count the rows."""
        return len(self._rows)

    @property
    def width(self) -> int:
        """Count the columns."""
        return len(self._columns)

    def __len__(self) -> int:
        return len(self._masks)

    def __getitem__(self, index: Any) -> WindowMasks:
        chosen = np.atleast_1d(np.arange(len(self))[index])
        return WindowMasks([self._masks[each] for each in chosen], self._columns, self._rows)

    def rescale(self, scale: Any, interpolation: str = "nearest") -> BaseInstanceMasks:
        """Do what `BitmapMasks.rescale` does."""
        if interpolation != "nearest":
            return self.bitmaps().rescale(scale, interpolation)
        width, height = mmcv.rescale_size((self.width, self.height), scale)
        return self.resize((height, width))

    def resize(self, out_shape: tuple[int, int], interpolation: str = "nearest") -> BaseInstanceMasks:
        """Resize to (height, width)."""
        if interpolation != "nearest":
            return self.bitmaps().resize(out_shape, interpolation)
        rows, columns = _nearest(self.height, out_shape[0]), _nearest(self.width, out_shape[1])
        return WindowMasks(self._masks, self._columns[columns], self._rows[rows])

    def flip(self, flip_direction: str = "horizontal") -> WindowMasks:
        """Flip horizontally, vertically, or both ways: "diagonal"."""
        columns = self._columns if flip_direction == "vertical" else self._columns[::-1]
        rows = self._rows if flip_direction == "horizontal" else self._rows[::-1]
        return WindowMasks(self._masks, columns, rows)

    def crop(self, bbox: NDArray[Any]) -> WindowMasks:
        """Crop to left, top, right, bottom, right and bottom exclusive; at least a pixel."""
        left, right = np.clip(bbox[0::2], 0, self.width)
        top, bottom = np.clip(bbox[1::2], 0, self.height)
        columns, rows = self._columns[left : max(right, left + 1)], self._rows[top : max(bottom, top + 1)]
        return WindowMasks(self._masks, columns, rows)

    @property
    def areas(self) -> NDArray[np.int64]:
        """Count the pixels of each mask, (N,)."""
        return np.array([np.count_nonzero(mask.pixels) for mask in self._shown], dtype=np.int64)

    def get_bboxes(self, dst_type: Any = "hbb") -> Any:
        """Return tight boxes, right and bottom exclusive; of a mask without pixels 0, 0, 0, 0."""
        boxes_xyxy = torch.zeros(len(self), 4)
        for index, mask in enumerate(self._shown):
            tight = nonzero_window(mask.pixels)
            if not tight.is_empty:
                tight = tight.moved(mask.window.x0, mask.window.y0)
                boxes_xyxy[index] = torch.tensor([tight.x0, tight.y0, tight.x1, tight.y1])
        _, box_type = get_box_type("hbox")
        boxes = box_type(boxes_xyxy)
        return boxes if dst_type in ("hbb", "hbox", box_type) else boxes.convert_to(dst_type)

    def bitmaps(self) -> BitmapMasks:
        """Return the same masks, dense."""
        dense = np.zeros((len(self), self.height, self.width), dtype=np.uint8)
        for target, mask in zip(dense, self._shown, strict=True):
            target[mask.window.in_image] = mask.pixels
        return BitmapMasks(dense, self.height, self.width)

    def to_ndarray(self) -> NDArray[np.uint8]:
        """Return uint8 (N, height, width)."""
        masks: NDArray[np.uint8] = self.bitmaps().masks
        return masks

    def to_tensor(self, dtype: torch.dtype, device: Any) -> torch.Tensor:
        """Return (N, height, width)."""
        tensor: torch.Tensor = self.bitmaps().to_tensor(dtype, device)
        return tensor

    def pad(self, out_shape: tuple[int, int], pad_val: int = 0) -> BitmapMasks:
        """Do what `BitmapMasks` does."""
        return self.bitmaps().pad(out_shape, pad_val)

    def expand(self, expanded_h: int, expanded_w: int, top: int, left: int) -> BitmapMasks:
        """Do what `BitmapMasks` does."""
        return self.bitmaps().expand(expanded_h, expanded_w, top, left)

    def crop_and_resize(
        self,
        bboxes: Any,
        out_shape: tuple[int, int],
        inds: Any,
        device: Any = "cpu",
        interpolation: str = "bilinear",
        binarize: bool = True,
    ) -> BitmapMasks:
        """Do what `BitmapMasks` does."""
        return self.bitmaps().crop_and_resize(bboxes, out_shape, inds, device, interpolation, binarize)

    def translate(
        self,
        out_shape: tuple[int, int],
        offset: Any,
        direction: str = "horizontal",
        border_value: int = 0,
        interpolation: str = "bilinear",
    ) -> BitmapMasks:
        """Do what `BitmapMasks` does."""
        return self.bitmaps().translate(out_shape, offset, direction, border_value, interpolation)

    def shear(
        self,
        out_shape: tuple[int, int],
        magnitude: Any,
        direction: str = "horizontal",
        border_value: int = 0,
        interpolation: str = "bilinear",
    ) -> BitmapMasks:
        """Do what `BitmapMasks` does."""
        return self.bitmaps().shear(out_shape, magnitude, direction, border_value, interpolation)

    def rotate(
        self,
        out_shape: tuple[int, int],
        angle: Any,
        center: Any = None,
        scale: float = 1.0,
        border_value: int = 0,
        interpolation: str = "bilinear",
    ) -> BitmapMasks:
        """Do what `BitmapMasks` does."""
        return self.bitmaps().rotate(out_shape, angle, center, scale, border_value, interpolation)

    @classmethod
    def cat(cls, masks: Sequence[WindowMasks]) -> BitmapMasks:
        """Do what `BitmapMasks` does."""
        return BitmapMasks.cat([each.bitmaps() for each in masks])

    @cached_property
    def _shown(self) -> list[MaskWindow]:
        """Show each mask as it is seen now, in the part of the image that shows its window."""
        return [self._seen(mask) for mask in self._masks]

    def _seen(self, mask: MaskWindow) -> MaskWindow:
        x0, x1 = _showing(self._columns, mask.window.x0, mask.window.x1)
        y0, y1 = _showing(self._rows, mask.window.y0, mask.window.y1)
        columns, rows = self._columns[x0:x1] - mask.window.x0, self._rows[y0:y1] - mask.window.y0
        return MaskWindow(Window(x0, y0, x1, y1), mask.pixels[np.ix_(rows, columns)])


def _showing(lines: NDArray[np.intp], start: int, stop: int) -> tuple[int, int]:
    """Return which columns (or rows) show those from start to before stop of the original: from, to before."""
    inside = np.flatnonzero((lines >= start) & (lines < stop))
    return (int(inside[0]), int(inside[-1]) + 1) if inside.size else (0, 0)


def _nearest(length: int, new_length: int) -> NDArray[np.intp]:
    """Return which column (or row) OpenCV's nearest neighbour takes for each new one."""
    step = 1.0 / (new_length / length)
    nearest: NDArray[np.intp] = np.minimum(np.floor(np.arange(new_length) * step).astype(np.intp), length - 1)
    return nearest
