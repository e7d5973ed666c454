"""Import a source: read it whole, report all problems at once, write a COCO file that passes the checks."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.coco.checking import CocoReport, check_coco
from pipeline.coco.foreign import SourceFormat, foreign_hint
from pipeline.coco.model import CocoAnnotation, CocoCategory, CocoImage
from pipeline.coco.paths import text_problem
from pipeline.coco.segmentation import encode_segmentation
from pipeline.coco.writing import write_coco
from pipeline.datasets.converting import Progress
from pipeline.datasets.importing.cvat import read_cvat
from pipeline.datasets.importing.labelme import read_labelme
from pipeline.datasets.importing.mask_png import read_mask_png
from pipeline.datasets.importing.source import Findings, ImportSettings, SourceContent, SourceImage
from pipeline.datasets.importing.via import read_via
from pipeline.datasets.importing.voc import read_voc
from pipeline.datasets.importing.yolo import read_yolo
from pipeline.errors import DatasetError, Problem, some_of
from pipeline.files.scratch import scratch_beside
from pipeline.files.writing import refuse_existing, sync_folder
from pipeline.masks.run_lengths import CompressedRle, area_px, box_xywh, encode_polygons


@dataclass(frozen=True)
class Imported:
    """A COCO file that was written. notes: what was left out or changed, counted. image_root: of its file names."""

    report: CocoReport
    image_root: Path
    notes: Mapping[str, int]


def import_annotations(
    source_format: SourceFormat,
    path: Path,
    output: Path,
    settings: ImportSettings,
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> Imported:
    """Write the COCO file of a source; raise DatasetError with everything that is wrong, and write nothing then.

    Images are numbered from 1 by file name; categories from 1, in the order of the source's own list or by name.
    """
    refuse_existing([output])
    findings = Findings()
    source = _read(source_format, path, settings, findings, workers, progress)
    categories = _categories(source.categories, settings.categories, findings)
    images = sorted(source.images, key=lambda each: each.file_name)
    _refuse_repeated(images, findings)
    if not images and not findings.problems:
        findings.refuse("", "holds no image with annotations")
    if findings.problems:
        raise DatasetError(str(path), findings.problems)
    report = _write_checked(output, images, categories, source.image_root)
    return Imported(report, source.image_root, Counter(findings.notes))


def _read(
    source_format: SourceFormat,
    path: Path,
    settings: ImportSettings,
    findings: Findings,
    workers: int,
    progress: Progress | None,
) -> SourceContent:
    _require_kind(source_format, path)
    if settings.images is not None and not settings.images.is_dir():
        raise DatasetError(str(settings.images), [Problem("", "no such folder of images")])
    match source_format:
        case SourceFormat.VIA:
            return read_via(path, settings, findings)
        case SourceFormat.LABELME:
            return read_labelme(path, settings, findings)
        case SourceFormat.YOLO_SEG:
            return read_yolo(path, settings, findings)
        case SourceFormat.CVAT:
            return read_cvat(path, settings, findings)
        case SourceFormat.VOC:
            return read_voc(path, settings, findings, workers=workers, progress=progress)
        case SourceFormat.MASK_PNG:
            return read_mask_png(path, settings, findings, workers=workers, progress=progress)


def _require_kind(source_format: SourceFormat, path: Path) -> None:
    """Raise DatasetError for a source that is not there, or is a file where the format is a folder, or vice versa."""
    if not path.exists():
        raise DatasetError(str(path), [Problem("", "no such file or folder")])
    if path.is_file() and zipfile.is_zipfile(path):
        raise DatasetError(str(path), [Problem("", "is a ZIP archive: unpack it, and name what is in it")])
    file_only = source_format is SourceFormat.VIA
    folder_only = source_format in (SourceFormat.LABELME, SourceFormat.VOC, SourceFormat.MASK_PNG)
    if (file_only and path.is_dir()) or (folder_only and not path.is_dir()):
        kind = "file" if file_only else "folder"
        hint = foreign_hint(path) or f"--from {source_format} needs the {kind}"
        raise DatasetError(str(path), [Problem("", f"is not a {kind}: {hint}")])


def _categories(names: Sequence[str], given: tuple[CocoCategory, ...] | None, findings: Findings) -> list[CocoCategory]:
    """Return the categories of the names; their ids are the given ones, else they count from 1."""
    for name in names:
        if (problem := text_problem(name)) is not None:
            findings.refuse("categories", f"a name {problem}")
    for name, count in Counter(names).items():
        if count > 1:
            findings.refuse("categories", f"{name!r} is the name of {count} classes")
    if given is None:
        return [CocoCategory(number, name) for number, name in enumerate(names, start=1)]
    known = {category.name for category in given}
    for name in names:
        if name not in known:
            findings.refuse("categories", f"{name!r} is not one of the given categories: {some_of(sorted(known))}")
    return list(given)


def _refuse_repeated(images: Sequence[SourceImage], findings: Findings) -> None:
    first: dict[str, str] = {}
    for image in images:
        if image.file_name in first:
            findings.refuse(image.where, f"is of the image {image.file_name!r}, and so is {first[image.file_name]}")
        first[image.file_name] = image.where


def _write_checked(
    output: Path, images: Sequence[SourceImage], categories: Sequence[CocoCategory], image_root: Path
) -> CocoReport:
    """Write the file, unless the checks of `data check` find an error in it."""
    with scratch_beside(output) as folder:
        aside = folder / output.name
        listed = [
            CocoImage(number, image.file_name, image.width, image.height)
            for number, image in enumerate(images, start=1)
        ]
        write_coco(aside, listed, categories, _annotations(images, categories))
        report = replace(check_coco(aside, image_root), path=output)
        if not report.ok:
            raise DatasetError(str(output), [*report.errors, *report.bad_images])
        aside.replace(output)
    sync_folder(output.parent)
    return report


def _annotations(images: Sequence[SourceImage], categories: Sequence[CocoCategory]) -> Iterator[CocoAnnotation]:
    ids = {category.name: category.id for category in categories}
    number = 0
    for image_id, image in enumerate(images, start=1):
        for drawn in image.instances:
            number += 1
            given = drawn.segmentation
            rle: CompressedRle = encode_polygons(given, image.height, image.width) if isinstance(given, list) else given
            yield CocoAnnotation(
                id=number,
                image_id=image_id,
                category_id=ids[drawn.category],
                bbox=box_xywh(rle),
                area=float(area_px(rle)),
                iscrowd=0,
                segmentation=encode_segmentation(given),
            )
