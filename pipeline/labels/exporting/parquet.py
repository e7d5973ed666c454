"""Write two Parquet tables, `images.parquet` and `instances.parquet`: everything but the soft masks.

pyarrow is an extra, and imported where it is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

from pipeline.errors import StageError
from pipeline.files.scratch import new_folder
from pipeline.labels.label_source import LabelSource, names_of
from pipeline.labels.rows import MEASURES, ImageLabels, InstanceLabel, Status

_IMAGES_AT_ONCE: Final = 2000

_IMAGES: Final = (
    ("image_id", "int64"),
    ("file_name", "string"),
    ("width", "int32"),
    ("height", "int32"),
    ("status", "string"),
    ("message", "string"),
    ("instances", "int32"),
)
_INSTANCES: Final = (
    ("image_id", "int64"),
    ("file_name", "string"),
    ("width", "int32"),
    ("height", "int32"),
    ("category_id", "int64"),
    ("category", "string"),
    ("decision", "string"),
    ("score", "float32"),
    *((name, "int8" if name == "candidate" else "float32") for name in MEASURES),
    ("left", "float32"),
    ("top", "float32"),
    ("right", "float32"),
    ("bottom", "float32"),
    ("area", "int32"),
    ("rle_counts", "string"),
)


def write_parquet(source: LabelSource, folder: Path) -> tuple[int, int]:
    """Write both tables into a new folder; return the numbers of images that did not fail and of instances.

    Failed images and dropped instances are rows as well: `status` and `decision` say so.
    """
    try:
        import pyarrow as arrow
        from pyarrow.parquet import ParquetWriter
    except ImportError as error:
        raise StageError("Parquet needs pyarrow, which is not installed: pip install 's4m[parquet]'") from error
    schemas = [
        arrow.schema([(name, getattr(arrow, kind)()) for name, kind in columns]) for columns in (_IMAGES, _INSTANCES)
    ]
    names = names_of(source)
    images = instances = 0
    with new_folder(folder) as inside:
        paths = [inside / "images.parquet", inside / "instances.parquet"]
        with ParquetWriter(paths[0], schemas[0]) as of_images, ParquetWriter(paths[1], schemas[1]) as of_instances:
            for rows in _batches(source):
                drawn = [_instance(row, each, names) for row in rows for each in row.instances]
                of_images.write_table(arrow.Table.from_pylist(list(map(_image, rows)), schemas[0]))
                of_instances.write_table(arrow.Table.from_pylist(drawn, schemas[1]))
                images += sum(row.status is not Status.FAILED for row in rows)
                instances += len(drawn)
    return images, instances


def _batches(source: LabelSource) -> Iterator[list[ImageLabels]]:
    remaining = iter(source)
    while rows := list(islice(remaining, _IMAGES_AT_ONCE)):
        yield rows


def _image(labels: ImageLabels) -> dict[str, Any]:
    return {
        "image_id": labels.image_id,
        "file_name": _text(labels.file_name),
        "width": labels.width,
        "height": labels.height,
        "status": str(labels.status),
        "message": _text(labels.message),
        "instances": len(labels.instances),
    }


def _instance(labels: ImageLabels, instance: InstanceLabel, names: Mapping[int, str]) -> dict[str, Any]:
    left, top, right, bottom = instance.box_xyxy
    return {
        "image_id": labels.image_id,
        "file_name": _text(labels.file_name),
        "width": labels.width,
        "height": labels.height,
        "category_id": instance.category_id,
        "category": names.get(instance.category_id, ""),
        "decision": str(instance.decision),
        "score": instance.score,
        **{name: getattr(instance, name) for name in MEASURES},
        "left": left,
        "top": top,
        "right": right,
        "bottom": bottom,
        "area": instance.area,
        "rle_counts": instance.rle_counts.decode("ascii"),
    }


def _text(name: str) -> str:
    # File names may have bytes that are not UTF-8.
    return name.encode("utf-8", "backslashreplace").decode()
