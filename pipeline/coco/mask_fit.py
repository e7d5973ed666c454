"""Checks whether an annotation's box and area fit its mask: cheaply for all, exactly where that is needed."""

from __future__ import annotations

from operator import mul

from pipeline.coco.model import CocoAnnotation, CocoImage
from pipeline.coco.segmentation import Polygons, RleJson, decode_segmentation, to_rle
from pipeline.masks.run_lengths import area_px, box_xywh

# Tools round boxes outwards or inwards and count the last pixel or not.
_BORDER_SLACK_PX = 1.0
_BOX_SLACK_PX = 2.0
_BOX_SLACK_SHARE = 0.05
# Tools measure area by outlines or by pixels; what is looked for is an area of another scale.
_AREA_SLACK_PX = 50.0
_AREA_SLACK_SHARE = 0.5

NO_EXTENT = "whose box has no width or no height"
NO_PIXEL = "whose mask has no pixel"
BOX_MISFIT = "whose box does not fit the mask"
AREA_MISFIT = "whose area does not fit the mask"


def box_over_border(annotation: CocoAnnotation, image: CocoImage) -> bool:
    """Say whether the box reaches over the image's border by more than rounding."""
    x, y, width, height = annotation.bbox
    slack = _BORDER_SLACK_PX
    return x < -slack or y < -slack or x + width > image.width + slack or y + height > image.height + slack


def mask_oddities(annotation: CocoAnnotation, image: CocoImage) -> list[str]:
    """Say what is odd about the annotation's mask, its box and its area: some of the kinds above."""
    if annotation.bbox[2] == 0 or annotation.bbox[3] == 0:
        return [NO_EXTENT]
    segmentation = decode_segmentation(annotation.segmentation)
    if not isinstance(segmentation, RleJson):
        xywh, area = _outline_extent(segmentation)
        if area >= 1 and _box_fits(annotation.bbox, xywh) and _area_fits(annotation.area, area):
            return []
    rle = to_rle(segmentation, image.width, image.height)
    area = float(area_px(rle))
    if area == 0:
        return [NO_PIXEL]
    oddities = [] if _box_fits(annotation.bbox, box_xywh(rle)) else [BOX_MISFIT]
    return oddities if _area_fits(annotation.area, area) else [*oddities, AREA_MISFIT]


def _box_fits(given: tuple[float, ...], measured: tuple[float, ...]) -> bool:
    slack_x = max(_BOX_SLACK_PX, _BOX_SLACK_SHARE * measured[2])
    slack_y = max(_BOX_SLACK_PX, _BOX_SLACK_SHARE * measured[3])
    return (
        abs(given[0] - measured[0]) <= slack_x
        and abs(given[1] - measured[1]) <= slack_y
        and abs(given[0] + given[2] - measured[0] - measured[2]) <= slack_x
        and abs(given[1] + given[3] - measured[1] - measured[3]) <= slack_y
    )


def _area_fits(given: float, measured: float) -> bool:
    return abs(given - measured) <= max(_AREA_SLACK_PX, _AREA_SLACK_SHARE * max(given, measured))


def _outline_extent(polygons_xy: Polygons) -> tuple[tuple[float, float, float, float], float]:
    """Return the box (x, y, width, height) and the area of outlines that neither overlap nor cross themselves."""
    area = 0.0
    lefts, tops, rights, bottoms = [], [], [], []
    for polygon_xy in polygons_xy:
        xs, ys = polygon_xy[0::2], polygon_xy[1::2]
        area += abs(sum(map(mul, xs, ys[1:] + ys[:1])) - sum(map(mul, ys, xs[1:] + xs[:1]))) / 2
        lefts.append(min(xs))
        tops.append(min(ys))
        rights.append(max(xs))
        bottoms.append(max(ys))
    x, y = min(lefts), min(tops)
    return (x, y, max(rights) - x, max(bottoms) - y), area
