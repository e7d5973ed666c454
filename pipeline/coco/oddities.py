"""Find annotations that are usable but odd, such as those whose box or area does not fit the mask."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import chain
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.coco.model import CocoAnnotation, CocoDataset, CocoImage
from pipeline.coco.segmentation import Polygons, RleJson, to_rle
from pipeline.masks.run_lengths import areas_px, boxes_xywh

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

# Tools round boxes outwards or inwards and count the last pixel or not.
_BORDER_SLACK_PX = 1.0
_BOX_SLACK_PX = 2.0
_BOX_SLACK_SHARE = 0.05
# Tools measure area by outlines or by pixels; only an area of another scale is wrong.
_AREA_SLACK_PX = 50.0
_AREA_SLACK_SHARE = 0.5

_AT_ONCE = 256
"""Annotations checked together: NumPy's cost of a call no longer counts, and their numbers stay in the cache."""

KINDS: Final = (
    "of id 0, which pycocotools' evaluation reads as 'not found': number from 1",
    "whose box reaches over the image's border",
    "whose box has no width or no height",
    "whose mask has no pixel",
    "whose box does not fit the mask",
    "whose area does not fit the mask",
)
_ID_0, _OVER_BORDER, _NO_EXTENT, _NO_PIXEL, _BOX_MISFIT, _AREA_MISFIT = range(len(KINDS))


class OddityFinder:
    """Finder of what is odd about annotations, which looks at many of them together."""

    def __init__(self) -> None:
        self._annotations: list[CocoAnnotation] = []
        self._images: list[CocoImage] = []
        self._segmentations: list[Polygons | RleJson] = []
        self._seen = 0
        # Of each kind, the ids of annotations and how many annotations were seen before, in the order of the file.
        self._found = tuple((array("q"), array("q")) for _ in KINDS)

    def see(self, annotation: CocoAnnotation, image: CocoImage, segmentation: Polygons | RleJson) -> None:
        """Take in an annotation of this image and with this mask."""
        self._annotations.append(annotation)
        self._images.append(image)
        self._segmentations.append(segmentation)
        if len(self._annotations) == _AT_ONCE:
            self._look()

    def found(self, dataset: CocoDataset) -> dict[str, list[int]]:
        """Return the ids of odd annotations among those of a dataset, by kind; first comes the kind seen first."""
        self._look()
        usable = None if len(dataset.annotations) == self._seen else {each.id for each in dataset.annotations}
        of_kind: list[tuple[int, int, list[int]]] = []
        for kind, (ids, positions) in enumerate(self._found):
            kept = [index for index, each in enumerate(ids) if usable is None or each in usable]
            if kept:
                of_kind.append((positions[kept[0]], kind, [ids[index] for index in kept]))
        return {KINDS[kind]: ids for _, kind, ids in sorted(of_kind)}

    def _look(self) -> None:
        if self._annotations:
            for index, kind in np.argwhere(_odd(self._annotations, self._images, self._segmentations)).tolist():
                ids, positions = self._found[kind]
                ids.append(self._annotations[index].id)
                positions.append(self._seen + index)
        self._seen += len(self._annotations)
        for seen in (self._annotations, self._images, self._segmentations):
            seen.clear()


def _odd(
    annotations: Sequence[CocoAnnotation], images: Sequence[CocoImage], segmentations: Sequence[Polygons | RleJson]
) -> Flags:
    """Return which annotations are odd, and of what kind: (annotations, kinds)."""
    boxes = np.array([each.bbox for each in annotations])
    areas = np.array([each.area for each in annotations])
    sides = np.array([(each.width, each.height) for each in images], np.float64)
    odd = np.zeros((len(annotations), len(KINDS)), np.bool_)
    odd[:, _ID_0] = [each.id == 0 for each in annotations]
    before, after = boxes[:, :2] < -_BORDER_SLACK_PX, boxes[:, :2] + boxes[:, 2:] > sides + _BORDER_SLACK_PX
    odd[:, _OVER_BORDER] = (before | after).any(axis=1)
    odd[:, _NO_EXTENT] = (boxes[:, 2:] == 0).any(axis=1)
    drawn = np.flatnonzero(~odd[:, _NO_EXTENT] & ~_outlines_fit(segmentations, boxes, areas))
    if len(drawn):
        rles = [to_rle(segmentations[index], images[index].width, images[index].height) for index in drawn.tolist()]
        pixels = areas_px(rles).astype(np.float64)
        odd[drawn, _NO_PIXEL] = pixels == 0
        odd[drawn, _BOX_MISFIT] = (pixels > 0) & ~_box_fits(boxes[drawn], boxes_xywh(rles))
        odd[drawn, _AREA_MISFIT] = (pixels > 0) & ~_area_fits(areas[drawn], pixels)
    return odd


def _outlines_fit(segmentations: Sequence[Polygons | RleJson], boxes: Floats, areas: Floats) -> Flags:
    """Return which masks are polygons that fit box and area as they are, which is cheaper to say than to draw them."""
    known: list[int] = []
    outlines: list[Polygons] = []
    for index, segmentation in enumerate(segmentations):
        if not isinstance(segmentation, RleJson):
            known.append(index)
            outlines.append(segmentation)
    fit = np.zeros(len(segmentations), np.bool_)
    if outlines:
        measured, enclosed = outline_extents(outlines)
        fit[known] = (enclosed >= 1) & _box_fits(boxes[known], measured) & _area_fits(areas[known], enclosed)
    return fit


def _box_fits(given: Floats, measured: Floats) -> Flags:
    """Return whether boxes (x, y, width, height) are the same but for rounding."""
    slack = np.maximum(_BOX_SLACK_PX, _BOX_SLACK_SHARE * measured[:, 2:])
    before = np.abs(given[:, :2] - measured[:, :2])
    after = np.abs(given[:, :2] + given[:, 2:] - measured[:, :2] - measured[:, 2:])
    fits: Flags = np.all((before <= slack) & (after <= slack), axis=1)
    return fits


def _area_fits(given: Floats, measured: Floats) -> Flags:
    slack = np.maximum(_AREA_SLACK_PX, _AREA_SLACK_SHARE * np.maximum(given, measured))
    fits: Flags = np.less_equal(np.abs(given - measured), slack)
    return fits


def outline_extents(outlines: Sequence[Polygons]) -> tuple[Floats, Floats]:
    """Return the boxes (x, y, width, height) and areas of outlines that neither overlap nor cross themselves."""
    polygons_xy = list(chain.from_iterable(outlines))
    points_xy = np.fromiter(chain.from_iterable(polygons_xy), np.float64).reshape(-1, 2)
    # The first polygon of each outline, and the first and the last point of each polygon.
    firsts = _starts([len(outline) for outline in outlines])
    lengths = [len(polygon_xy) // 2 for polygon_xy in polygons_xy]
    starts = _starts(lengths)
    ends = np.append(starts[1:], len(points_xy)) - 1
    following = np.empty_like(points_xy)
    following[:-1] = points_xy[1:]
    following[ends] = points_xy[starts]
    polygon = np.repeat(np.arange(len(lengths)), lengths)
    one, other = (np.bincount(polygon, points_xy[:, axis] * following[:, 1 - axis]) for axis in (0, 1))
    outline = np.repeat(np.arange(len(outlines)), [len(each) for each in outlines])
    areas = np.bincount(outline, np.abs(one - other) / 2).astype(np.float64)
    low = np.minimum.reduceat(points_xy, starts[firsts])
    high = np.maximum.reduceat(points_xy, starts[firsts])
    return np.concatenate((low, high - low), axis=1), areas


def _starts(lengths: Sequence[int]) -> NDArray[np.int64]:
    """Return where each of consecutive items of these lengths begins."""
    starts: NDArray[np.int64] = np.cumsum(lengths, dtype=np.int64) - np.asarray(lengths)
    return starts
