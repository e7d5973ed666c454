"""Recognise annotations in other formats than COCO, by their names and their first keys, and say how to import them."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from shlex import quote
from typing import Final

from pipeline.files.reading import require_regular


class SourceFormat(StrEnum):
    """A format that `s4m data import` reads."""

    VIA = "via"
    LABELME = "labelme"
    YOLO_SEG = "yolo-seg"
    VOC = "voc"
    CVAT = "cvat"
    MASK_PNG = "mask-png"


_NAMES: Final = {
    SourceFormat.VIA: "a VIA file",
    SourceFormat.LABELME: "labelme's annotations",
    SourceFormat.YOLO_SEG: "a YOLO data set",
    SourceFormat.VOC: "a data set of Pascal VOC",
    SourceFormat.CVAT: "an XML file of CVAT",
    SourceFormat.MASK_PNG: "a folder of images and masks",
}

_HEAD_BYTES: Final = 1000
_JSON_FILES_READ: Final = 3


def foreign_hint(path: Path, keys: Iterable[str] = ()) -> str | None:
    """Return what to do with a file or a folder that is of another format; None if it is not recognised.

    keys: those of the file's JSON object, if it has one.
    """
    if path.is_file() and zipfile.is_zipfile(path):
        return "this is a ZIP archive: unpack it"
    found = _folder(path) if path.is_dir() else _file(path, tuple(keys))
    if found is None:
        return None
    source_format, source = found
    return f"this is {_NAMES[source_format]}: s4m data import --from {source_format} {quote(str(source))} OUT.json"


def _folder(folder: Path) -> tuple[SourceFormat, Path] | None:
    for source_format, inside in (
        (SourceFormat.YOLO_SEG, "data.yaml"),
        (SourceFormat.VOC, "SegmentationObject"),
        (SourceFormat.CVAT, "annotations.xml"),
        (SourceFormat.MASK_PNG, "masks"),
    ):
        if (folder / inside).exists():
            return source_format, folder
    some = [path for path, _ in zip(folder.glob("*.json"), range(_JSON_FILES_READ), strict=False)]
    return (SourceFormat.LABELME, folder) if any(b'"shapes"' in _head(path) for path in some) else None


def _file(path: Path, keys: tuple[str, ...]) -> tuple[SourceFormat, Path] | None:
    head = _head(path)
    if path.suffix in (".yaml", ".yml") and b"names" in head:
        return SourceFormat.YOLO_SEG, path
    if b"<annotations>" in head:
        return SourceFormat.CVAT, path
    if b"<annotation>" in head or b"<annotation " in head:
        return SourceFormat.VOC, path.parent.parent
    if "shapes" in keys or (not keys and b'"shapes"' in head and b"{" in head):
        return SourceFormat.LABELME, path.parent
    # A project has keys of its own; annotations alone have a key for each image.
    if "_via_img_metadata" in keys or (keys and b'"filename"' in head and b'"regions"' in head):
        return SourceFormat.VIA, path
    return None


def _head(path: Path) -> bytes:
    try:
        require_regular(path)
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError:
        return b""
