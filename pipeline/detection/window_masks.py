"""Masks for MMDetection's transforms that keep the instances' windows instead of whole images.

Resizing (nearest), cropping and flipping move whole columns and rows, of all instances alike. A mask keeps its window
of the original image, a transform changes one list of columns and one of rows, and pixels are read once, at the end.
The result equals that of `BitmapMasks` pixel by pixel, at a cost that grows with the instances, not with the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, wraps
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
    """A mask, uint8 (height, width) of 0 and 1, in a window of the image; outside the window it is 0."""

    window: Window
    pixels: NDArray[np.uint8]

    @classmethod
    def of_rle(cls, rle: CompressedRle) -> MaskWindow:
        """Cut out the mask of a whole image."""
        window = tight_window(rle)
        return cls(window, decode_window(rle, window).view(np.uint8))


def _dense(name: str) -> Callable[..., Any]:
    """Return a method of `WindowMasks` that calls the method of this name on its dense masks."""

    @wraps(getattr(BitmapMasks, name))
    def method(masks: WindowMasks, *values: Any, **named: Any) -> Any:  # the signature is MMDetection's
        return getattr(masks.bitmaps(), name)(*values, **named)

    return method


class WindowMasks(BaseInstanceMasks):  # type: ignore[misc]
    """The masks of one image; transforms that do not move whole columns and rows are left to `BitmapMasks`.

    columns, rows: (width,) and (height,), the column and row of the original image that each one shows; they ascend or
    descend. uncertain: the uncertain pixels of each mask, as masks; None if they are not known. They move with the
    masks, and are lost where `BitmapMasks` does the work.
    """

    def __init__(
        self,
        masks: Sequence[MaskWindow],
        columns: NDArray[np.intp],
        rows: NDArray[np.intp],
        uncertain: Sequence[MaskWindow] | None = None,
    ) -> None:
        self._masks = tuple(masks)
        self._columns, self._rows = columns, rows
        self._uncertain = None if uncertain is None else tuple(uncertain)

    @classmethod
    def of_image(
        cls, masks: Sequence[MaskWindow], height: int, width: int, uncertain: Sequence[MaskWindow] | None = None
    ) -> WindowMasks:
        """Make the masks of an image before any transform."""
        return cls(masks, np.arange(width), np.arange(height), uncertain)

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
        uncertain = None if self._uncertain is None else [self._uncertain[each] for each in chosen]
        return WindowMasks([self._masks[each] for each in chosen], self._columns, self._rows, uncertain)

    def rescale(self, scale: Any, interpolation: str = "nearest") -> BaseInstanceMasks:
        """Resize by a factor or to fit a size, as `BitmapMasks.rescale` does."""
        if interpolation != "nearest":
            return self.bitmaps().rescale(scale, interpolation)
        width, height = mmcv.rescale_size((self.width, self.height), scale)
        return self.resize((height, width))

    def resize(self, out_shape: tuple[int, int], interpolation: str = "nearest") -> BaseInstanceMasks:
        """Resize to (height, width)."""
        if interpolation != "nearest":
            return self.bitmaps().resize(out_shape, interpolation)
        rows, columns = _nearest(self.height, out_shape[0]), _nearest(self.width, out_shape[1])
        return WindowMasks(self._masks, self._columns[columns], self._rows[rows], self._uncertain)

    def flip(self, flip_direction: str = "horizontal") -> WindowMasks:
        """Flip horizontally, vertically, or both ways: "diagonal"."""
        columns = self._columns if flip_direction == "vertical" else self._columns[::-1]
        rows = self._rows if flip_direction == "horizontal" else self._rows[::-1]
        return WindowMasks(self._masks, columns, rows, self._uncertain)

    def crop(self, bbox: NDArray[Any]) -> WindowMasks:
        """Crop to left, top, right, bottom, right and bottom exclusive; at least one pixel stays."""
        left, right = np.clip(bbox[0::2], 0, self.width)
        top, bottom = np.clip(bbox[1::2], 0, self.height)
        columns, rows = self._columns[left : max(right, left + 1)], self._rows[top : max(bottom, top + 1)]
        return WindowMasks(self._masks, columns, rows, self._uncertain)

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
        return BitmapMasks(dense_masks(self._shown, self.height, self.width), self.height, self.width)

    def uncertain(self) -> list[MaskWindow] | None:
        """Return the uncertain pixels of each mask after the transforms; None if they are not known."""
        return None if self._uncertain is None else [self._seen(each) for each in self._uncertain]

    pad = _dense("pad")
    expand = _dense("expand")
    crop_and_resize = _dense("crop_and_resize")
    translate = _dense("translate")
    shear = _dense("shear")
    rotate = _dense("rotate")
    to_ndarray = _dense("to_ndarray")
    to_tensor = _dense("to_tensor")

    @classmethod
    def cat(cls, masks: Sequence[WindowMasks]) -> BitmapMasks:
        """Return the masks of several images, dense."""
        return BitmapMasks.cat([each.bitmaps() for each in masks])

    @cached_property
    def _shown(self) -> list[MaskWindow]:
        """Return each mask after the transforms, in the part of the image that shows its window."""
        return [self._seen(mask) for mask in self._masks]

    def _seen(self, mask: MaskWindow) -> MaskWindow:
        x0, x1 = _showing(self._columns, mask.window.x0, mask.window.x1)
        y0, y1 = _showing(self._rows, mask.window.y0, mask.window.y1)
        columns, rows = self._columns[x0:x1] - mask.window.x0, self._rows[y0:y1] - mask.window.y0
        return MaskWindow(Window(x0, y0, x1, y1), mask.pixels[np.ix_(rows, columns)])


def dense_masks(masks: Sequence[MaskWindow], height: int, width: int) -> NDArray[np.uint8]:
    """Return masks in windows of an image as uint8 (N, height, width) of 0 and 1."""
    dense = np.zeros((len(masks), height, width), dtype=np.uint8)
    for target, mask in zip(dense, masks, strict=True):
        target[mask.window.in_image] = mask.pixels
    return dense


def mask_windows(masks: BaseInstanceMasks) -> list[MaskWindow]:
    """Return the masks of an image after the transforms, each in a window of it."""
    if isinstance(masks, WindowMasks):
        return masks._shown
    windows = [nonzero_window(mask) for mask in masks.masks]
    return [MaskWindow(window, mask[window.in_image]) for window, mask in zip(windows, masks.masks, strict=True)]


def _showing(lines: NDArray[np.intp], start: int, stop: int) -> tuple[int, int]:
    """Return the range of columns (or rows) that show those from start to stop (exclusive) of the original."""
    inside = np.flatnonzero((lines >= start) & (lines < stop))
    return (int(inside[0]), int(inside[-1]) + 1) if inside.size else (0, 0)


def _nearest(length: int, new_length: int) -> NDArray[np.intp]:
    """Return the old column (or row) that OpenCV's nearest neighbour uses for each new one."""
    step = 1.0 / (new_length / length)
    nearest: NDArray[np.intp] = np.minimum(np.floor(np.arange(new_length) * step).astype(np.intp), length - 1)
    return nearest
