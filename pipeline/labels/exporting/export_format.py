"""The formats of exported labels, and the parts of a trainer's folder. Imports nothing heavy: commands list them."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

TOLERANCE_PX: Final = 0.5
"""By how much polygons may miss points of the outline, by default: single steps of one pixel become straight lines."""


class ExportFormat(StrEnum):
    """A format that `s4m labels export` writes."""

    COCO = "coco"
    COCO_POLYGONS = "coco-polygons"
    YOLO_SEG = "yolo-seg"
    PARQUET = "parquet"
    GEOJSON = "geojson"


class DataPart(StrEnum):
    """A part of a data set in a trainer's folder."""

    TRAIN = "train"
    VALID = "valid"
    TEST = "test"
