"""Draws one image with its labels: a panel for each store, side by side, and a legend below."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.errors import StoreError
from pipeline.labels.rows import Decision, ImageLabels, InstanceLabel, Status

Rgb = tuple[int, int, int]
Box = tuple[int, int, int, int]
RgbImage = NDArray[np.uint8]
"""(height, width, 3) uint8, RGB."""

# Colours that differ from each other and from most photographs, the first ones most.
_PALETTE: Final[tuple[Rgb, ...]] = (
    (255, 99, 71), (56, 189, 248), (163, 230, 53), (250, 204, 21), (217, 70, 239), (45, 212, 191),
    (251, 146, 60), (129, 140, 248), (244, 114, 182), (34, 197, 94), (203, 213, 225), (180, 130, 90),
)  # fmt: skip
_BACKGROUND: Final[Rgb] = (24, 26, 31)
_TEXT: Final[Rgb] = (232, 234, 238)
_QUIET: Final[Rgb] = (150, 155, 165)

_PANEL_SIDES_PX: Final = (640, 1280)
"""The range of the longer side of a panel's image."""
_GAP_PX: Final = 16
_TITLE_PX: Final = 34
_LEGEND_LINE_PX: Final = 28
_TITLE_SIZE: Final = 18
_LABEL_SIZE: Final = 13
_FILL_SHARE: Final = 0.28
_OUTLINE_PX: Final = 2
_DASH_PX: Final = 8


@dataclass(frozen=True)
class Panel:
    """One version of an image's labels, with the title above it."""

    title: str
    labels: ImageLabels


def category_colours(category_ids: Iterable[int]) -> dict[int, Rgb]:
    """Choose a colour for each category, by the order of their ids."""
    return {category: _PALETTE[index % len(_PALETTE)] for index, category in enumerate(sorted(set(category_ids)))}


def draw_panels(
    image: RgbImage,
    panels: Sequence[Panel],
    category_names: Mapping[int, str],
    colours: Mapping[int, Rgb] | None = None,
) -> RgbImage:
    """Draw the image once for each panel, with outlines, category names and scores; each category has one colour.

    The first score is that of the class; that of the mask follows where it is known.
    Dropped instances have dashed outlines. Names and scores that would overlap others are left out.
    colours: of all categories, for several drawings in the same colours; by default chosen for this one.
    """
    height, width = image.shape[:2]
    for panel in panels:
        size = (panel.labels.width, panel.labels.height)
        if panel.labels.instances and size != (width, height):
            raise StoreError(
                f"{panel.title}: the labels are for an image of {size[0]}x{size[1]}, not of {width}x{height}."
            )
    present = sorted({each.category_id for panel in panels for each in panel.labels.instances})
    chosen = category_colours(present) if colours is None else colours
    colours = {category: chosen[category] for category in present}
    names = {category: category_names.get(category, f"category {category}") for category in present}
    drawn = [_draw_panel(image, panel, colours, names) for panel in panels]
    body = _beside(drawn)
    return np.vstack([body, _legend(body.shape[1], colours, names, panels)])


def _draw_panel(image: RgbImage, panel: Panel, colours: Mapping[int, Rgb], names: Mapping[int, str]) -> RgbImage:
    smallest, largest = _PANEL_SIDES_PX
    canvas = rescaled(image, min(max(*image.shape[:2], smallest), largest))
    scale = canvas.shape[1] / image.shape[1]
    # The largest first, so that smaller ones in front of them stay visible.
    instances = sorted(panel.labels.instances, key=lambda each: -each.area)
    for instance in instances:
        mask = panel.labels.mask(instance)
        paint(canvas, mask, colours[instance.category_id], dashed=instance.decision is Decision.DROPPED)
    drawing = Image.fromarray(canvas)
    _write_labels(drawing, instances, scale, colours, names)
    if panel.labels.status is Status.FAILED:
        _write_failure(drawing, panel.labels.message)
    return np.vstack([_title(drawing.width, panel), np.asarray(drawing)])


def rescaled(image: RgbImage, longer_side_px: int) -> RgbImage:
    """Return a copy of the image whose longer side has the given length."""
    scale = longer_side_px / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    return np.ascontiguousarray(resized, dtype=np.uint8)


def paint(
    canvas: RgbImage, mask: NDArray[np.bool_], colour: Rgb, *, dashed: bool, fill_share: float = _FILL_SHARE
) -> None:
    """Draw one mask (h, w) in place onto a canvas of its image, rescaled or not.

    An outline, and unless that is dashed a filling. fill_share: the opacity of the filling, 0 to 1.
    """
    size = (canvas.shape[1], canvas.shape[0])
    shrinks = size[0] < mask.shape[1]
    share = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    inside = share >= min(0.5, float(share.max()))
    if not inside.any():
        return
    if not dashed:
        canvas[inside] = np.rint(canvas[inside] * (1 - fill_share) + np.array(colour) * fill_share)
    contours, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    lines = [part for contour in contours for part in (_dashes(contour) if dashed else [contour])]
    for line_colour, thickness in (((0, 0, 0), _OUTLINE_PX + 2), (colour, _OUTLINE_PX)):
        cv2.polylines(canvas, lines, not dashed, line_colour, thickness, cv2.LINE_AA)


def _dashes(contour: MatLike) -> list[MatLike]:
    closed = np.concatenate([contour, contour[:1]])
    return [closed[start : start + _DASH_PX] for start in range(0, len(closed), 2 * _DASH_PX)]


def _write_labels(
    drawing: Image.Image,
    instances: Sequence[InstanceLabel],
    scale: float,
    colours: Mapping[int, Rgb],
    names: Mapping[int, str],
) -> None:
    draw, font = ImageDraw.Draw(drawing), ImageFont.load_default(_LABEL_SIZE)
    tells_decisions = any(each.decision is Decision.SAM for each in instances)
    taken: list[Box] = []
    for instance in sorted(instances, key=lambda each: -each.score):
        text = f"{instance.score:.2f}"
        if instance.mask_score is not None:
            text += f" mask {instance.mask_score:.2f}"
        if len(names) > 1:  # a single category stands in the legend
            text = f"{names[instance.category_id]} {text}"
        if tells_decisions and instance.decision is not Decision.SAM:
            text += f" · {instance.decision}"
        width, height = round(draw.textlength(text, font)) + 8, _LABEL_SIZE + 6
        x0, y0, x1, y1 = (round(edge * scale) for edge in instance.box_xyxy)
        for left, top in ((x0, y0 - height), (x1 - width, y1), (x0, y0), (x0, y1)):
            left = min(max(left, 0), max(drawing.width - width, 0))
            top = min(max(top, 0), max(drawing.height - height, 0))
            box = (left, top, left + width, top + height)
            if not any(_overlap(box, other) for other in taken):
                taken.append(box)
                draw.rectangle(box, fill=colours[instance.category_id])
                draw.text((left + 4, top + height // 2), text, (0, 0, 0), font, anchor="lm")
                break


def _overlap(first: Box, second: Box) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def _write_failure(drawing: Image.Image, message: str) -> None:
    draw, font = ImageDraw.Draw(drawing), ImageFont.load_default(_TITLE_SIZE)
    draw.rectangle((0, 0, drawing.width, 2 * _TITLE_PX), fill=_BACKGROUND)
    draw.text((_GAP_PX, _TITLE_PX), f"failed: {message}", _PALETTE[0], font, anchor="lm")


def _title(width: int, panel: Panel) -> RgbImage:
    drawing = Image.new("RGB", (width, _TITLE_PX), _BACKGROUND)
    draw, font = ImageDraw.Draw(drawing), ImageFont.load_default(_TITLE_SIZE)
    counts = Counter(str(each.decision) for each in panel.labels.instances)
    shown = ", ".join(f"{count} {decision}" for decision, count in sorted(counts.items()))
    draw.text((4, _TITLE_PX // 2), panel.title, _TEXT, font, anchor="lm")
    start = 4 + draw.textlength(panel.title + "  ", font)
    small = ImageFont.load_default(_LABEL_SIZE)
    draw.text((start, _TITLE_PX // 2 + 1), shown or str(panel.labels.status), _QUIET, small, anchor="lm")
    return np.asarray(drawing)


def _beside(drawings: Sequence[RgbImage]) -> RgbImage:
    gap = np.full((drawings[0].shape[0], _GAP_PX, 3), _BACKGROUND, dtype=np.uint8)
    return np.hstack([gap, *(part for drawing in drawings for part in (drawing, gap))])


def _legend(width: int, colours: Mapping[int, Rgb], names: Mapping[int, str], panels: Sequence[Panel]) -> RgbImage:
    font = ImageFont.load_default(_LABEL_SIZE)
    entries = [(names[category], colour) for category, colour in colours.items()]
    if any(each.decision is Decision.DROPPED for panel in panels for each in panel.labels.instances):
        entries.append(("dashed: dropped", _QUIET))
    corners: list[tuple[int, int]] = []
    left, line = _GAP_PX, 0
    for text, _ in entries:
        entry_width = round(font.getlength(text)) + 40
        if left + entry_width > width and left > _GAP_PX:
            left, line = _GAP_PX, line + 1
        corners.append((left, line))
        left += entry_width
    drawing = Image.new("RGB", (width, (line + 1) * _LEGEND_LINE_PX + _GAP_PX // 2), _BACKGROUND)
    draw = ImageDraw.Draw(drawing)
    for (text, colour), (left, line) in zip(entries, corners, strict=True):
        middle = line * _LEGEND_LINE_PX + _LEGEND_LINE_PX // 2
        draw.rounded_rectangle((left, middle - 7, left + 14, middle + 7), 3, fill=colour)
        draw.text((left + 22, middle), text, _TEXT, font, anchor="lm")
    return np.asarray(drawing)
