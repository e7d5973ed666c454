"""Draw masks as polygons, and measure what they lose by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from pipeline.coco.segmentation import encode_segmentation
from pipeline.labels.coco_export import LabelAnnotation
from pipeline.labels.rows import ImageLabels, InstanceLabel
from pipeline.masks.outlines import Outline, joined_xy, part_outlines
from pipeline.masks.overlap import rle_iou
from pipeline.masks.run_lengths import CompressedRle, area_px, box_xywh, decode_window, encode_polygons, tight_window

Polygons = list[list[float]]
"""Outlines x, y, x, y, … in pixels of the image."""


@dataclass
class PolygonLoss:
    """The IoU of polygons, drawn by pycocotools, with the masks that they stand for. worst_at: image and instance."""

    polygons: int = 0
    iou_sum: float = 0.0
    worst: float = 1.0
    worst_at: str = ""

    def add(self, iou: float, labels: ImageLabels, instance: InstanceLabel) -> None:
        """Count an instance of an image."""
        self.polygons += 1
        self.iou_sum += iou
        if iou < self.worst:
            number = next(number for number, each in enumerate(labels.instances, start=1) if each is instance)
            self.worst, self.worst_at = iou, f"{labels.file_name}, instance {number}"

    @property
    def mean(self) -> float:
        """Return the mean IoU; NaN without polygons."""
        return self.iou_sum / self.polygons if self.polygons else float("nan")


@dataclass
class PolygonDrawer:
    """Draws masks as polygons along the edges of their pixels, simplified within a tolerance; 0 is exact."""

    tolerance_px: float
    loss: PolygonLoss = field(default_factory=PolygonLoss)

    def parts(self, labels: ImageLabels, instance: InstanceLabel) -> Polygons:
        """Return a polygon for each part of a mask, with its holes joined to it; nothing for a mask without a pixel."""
        outlines = exact_outlines(labels.rle(instance))
        polygons = [_flat(outline.simplified(self.tolerance_px).joined()) for outline in outlines]
        return self._measured(labels, instance, polygons)

    def whole(self, labels: ImageLabels, instance: InstanceLabel) -> list[float]:
        """Return one polygon for a mask, parts and holes joined; empty for a mask without a pixel."""
        simple = [each.simplified(self.tolerance_px) for each in exact_outlines(labels.rle(instance))]
        rings = [ring for outline in simple for ring in (outline.exterior, *outline.holes)]
        polygons = self._measured(labels, instance, [_flat(joined_xy(rings))] if rings else [])
        return polygons[0] if polygons else []

    def annotation(
        self, labels: ImageLabels, instance: InstanceLabel, drawn: LabelAnnotation
    ) -> LabelAnnotation | None:
        """Return an annotation with polygons, and with their box and area; None for a mask without a pixel."""
        polygons = self.parts(labels, instance)
        if not polygons:
            return None
        rle = encode_polygons(polygons, labels.height, labels.width)
        return msgspec.structs.replace(
            drawn, segmentation=encode_segmentation(polygons), bbox=box_xywh(rle), area=area_px(rle)
        )

    def _measured(self, labels: ImageLabels, instance: InstanceLabel, polygons: Polygons) -> Polygons:
        if polygons:
            rle = encode_polygons(polygons, labels.height, labels.width)
            self.loss.add(rle_iou(rle, labels.rle(instance)), labels, instance)
        return polygons


def exact_outlines(rle: CompressedRle) -> list[Outline]:
    """Return the outlines of the parts of a mask, in pixels of the image."""
    window = tight_window(rle)
    return [outline.moved(window.x0, window.y0) for outline in part_outlines(decode_window(rle, window))]


def _flat(points: Sequence[tuple[int, int]]) -> list[float]:
    return [float(value) for point in points for value in point]
