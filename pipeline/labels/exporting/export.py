"""Write labels in the format of another tool."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.errors import Problem, ProblemsError
from pipeline.files.scratch import new_folder
from pipeline.files.writing import refuse_existing
from pipeline.labels.coco_export import Redraw, export_dataset
from pipeline.labels.exporting.export_format import TOLERANCE_PX, DataPart, ExportFormat
from pipeline.labels.exporting.geojson import write_geojson
from pipeline.labels.exporting.parquet import write_parquet
from pipeline.labels.exporting.polygons import PolygonDrawer, PolygonLoss
from pipeline.labels.exporting.trainer_folders import COCO_NAME, ImagePlacing, Renumbered, write_yolo
from pipeline.labels.label_source import LabelSource, written_images

_FOR_TRAINERS: Final = (ExportFormat.COCO, ExportFormat.COCO_POLYGONS, ExportFormat.YOLO_SEG)
_POLYGONS: Final = (ExportFormat.COCO_POLYGONS, ExportFormat.YOLO_SEG)


@dataclass(frozen=True)
class ExportRequest:
    """What to write.

    output: a file for COCO without `images`, else a folder. images: the folder of the images, to make a trainer's
    folder of them and the labels, for one part; copy: copy them instead of linking. include_dropped: write dropped
    instances too, as crowds in COCO. tolerance_px: by how much simplified polygons may miss points of the outline.
    Raises ProblemsError where these do not fit together.
    """

    format: ExportFormat
    output: Path
    images: Path | None = None
    part: DataPart = DataPart.TRAIN
    copy: bool = False
    include_dropped: bool = False
    tolerance_px: float = TOLERANCE_PX

    def __post_init__(self) -> None:
        problems = []
        if self.images is not None and self.format not in _FOR_TRAINERS:
            problems.append(Problem("images", f"{self.format} has no images: leave them out"))
        if self.images is not None and not self.images.is_dir():
            problems.append(Problem("images", f"no such folder: {self.images}"))
        if self.include_dropped and self.format is ExportFormat.YOLO_SEG:
            problems.append(Problem("dropped", "yolo-seg has no instances that trainers ignore: leave them out"))
        if self.tolerance_px < 0:
            problems.append(Problem("tolerance", f"must be 0 or more pixels, is {self.tolerance_px:g}"))
        if problems:
            raise ProblemsError("labels export", problems)


@dataclass(frozen=True)
class Exported:
    """How many images and instances were written, and what polygons lost; None where masks are exact."""

    images: int
    instances: int
    loss: PolygonLoss | None


def export_labels(source: LabelSource, request: ExportRequest) -> Exported:
    """Write the labels; raise DatasetError for file names that cannot be written, StageError for an output that exists.

    Failed images are left out, since they would read as images without instances; Parquet has them as such.
    """
    drawer = PolygonDrawer(request.tolerance_px)
    placing = None if request.images is None else ImagePlacing(request.images, request.copy)
    match request.format:
        case ExportFormat.PARQUET:
            counts = write_parquet(source, request.output)
        case ExportFormat.GEOJSON:
            counts = write_geojson(source, request.output, include_dropped=request.include_dropped)
        case ExportFormat.YOLO_SEG:
            counts = write_yolo(source, request.output, request.part, placing, drawer)
        case ExportFormat.COCO | ExportFormat.COCO_POLYGONS:
            redraw = drawer.annotation if request.format is ExportFormat.COCO_POLYGONS else None
            counts = _write_coco(source, request, placing, redraw)
    return Exported(*counts, drawer.loss if request.format in _POLYGONS else None)


def _write_coco(
    source: LabelSource, request: ExportRequest, placing: ImagePlacing | None, redraw: Redraw | None
) -> tuple[int, int]:
    if placing is None:
        refuse_existing([request.output])
        return export_dataset(source, request.output, include_dropped=request.include_dropped, redraw=redraw)
    images = written_images(source, request.output)
    placing.require(images)
    with new_folder(request.output / request.part) as inside:
        placing.place(images, inside)
        return export_dataset(
            Renumbered(source), inside / COCO_NAME, include_dropped=request.include_dropped, redraw=redraw
        )
