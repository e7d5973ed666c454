"""Write a GeoJSON file for each image: outlines along the edges of the pixels, exact, with holes.

Coordinates are pixels, x to the right and y down, as QuPath reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from pipeline.coco.paths import resolve_image_path
from pipeline.files.scratch import new_folder
from pipeline.labels.exporting.polygons import exact_outlines
from pipeline.labels.label_source import LabelSource, names_of, written_images
from pipeline.labels.rows import MEASURES, Decision, ImageLabels, InstanceLabel, Status
from pipeline.masks.outlines import Ring


def write_geojson(source: LabelSource, folder: Path, *, include_dropped: bool) -> tuple[int, int]:
    """Write the files `NAME.geojson` of all images; return the numbers of images and instances.

    Failed images are left out. include_dropped: write dropped instances too, whose decision says so.
    """
    images = written_images(source, folder)
    names = names_of(source)
    instances = 0
    with new_folder(folder) as inside:
        for labels in source:
            if labels.status is Status.FAILED:
                continue
            features = list(_features(labels, names, include_dropped))
            instances += len(features)
            path = resolve_image_path(inside, f"{labels.file_name}.geojson")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(msgspec.json.encode({"type": "FeatureCollection", "features": features}))
    return len(images), instances


def _features(labels: ImageLabels, names: Mapping[int, str], include_dropped: bool) -> Iterator[dict[str, Any]]:
    for instance in labels.instances:
        if instance.decision is Decision.DROPPED and not include_dropped:
            continue
        polygons = [
            [_closed(outline.exterior), *map(_closed, outline.holes)]
            for outline in exact_outlines(labels.rle(instance))
        ]
        if not polygons:
            continue
        single = len(polygons) == 1
        geometry = {"type": "Polygon" if single else "MultiPolygon", "coordinates": polygons[0] if single else polygons}
        yield {"type": "Feature", "geometry": geometry, "properties": _properties(instance, names)}


def _properties(instance: InstanceLabel, names: Mapping[int, str]) -> dict[str, Any]:
    measured = {name: getattr(instance, name) for name in ("score", *MEASURES)}
    return {
        "objectType": "annotation",
        "classification": {"name": names.get(instance.category_id, f"category {instance.category_id}")},
        "decision": str(instance.decision),
        "measurements": {name: value for name, value in measured.items() if value is not None},
    }


def _closed(ring: Ring) -> list[tuple[int, int]]:
    return [*ring, ring[0]]
