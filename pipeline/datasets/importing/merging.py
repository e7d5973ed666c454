"""Join the parts of an instance that a tool keeps as several shapes."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.datasets.importing.source import Drawn
from pipeline.masks.run_lengths import CompressedRle, encode_polygons, union


def merged(parts: Sequence[Drawn], width: int, height: int) -> Drawn:
    """Return the union of parts of one class: outlines stay outlines, unless a part is a mask."""
    if len(parts) == 1:
        return parts[0]
    polygons = [polygon for part in parts if isinstance(part.segmentation, list) for polygon in part.segmentation]
    masks: list[CompressedRle] = [part.segmentation for part in parts if not isinstance(part.segmentation, list)]
    if not masks:
        return Drawn(parts[0].category, polygons)
    if polygons:
        masks.append(encode_polygons(polygons, height, width))
    return Drawn(parts[0].category, union(masks))
