"""Read a YOLO segmentation data set, as Ultralytics lays it out: `data.yaml`, images, and a text file for each image.

A line is `class x1 y1 x2 y2 …`, in shares of the image's width and height. Lines of a class and four numbers are boxes,
which have no outline. An image without a text file, or with an empty one, has no instances.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

import yaml

from pipeline.datasets.importing.source import (
    Drawn,
    Findings,
    ImportSettings,
    SourceContent,
    SourceImage,
    named_size,
    rectangle_xy,
)
from pipeline.errors import DatasetError, Problem, some_of
from pipeline.files.identity import list_images

_SPLITS: Final = ("train", "val", "test")
_SLACK: Final = 0.01
_BOX_NUMBERS: Final = (5, 6)  # predictions have a score at the end


def read_yolo(path: Path, settings: ImportSettings, findings: Findings) -> SourceContent:
    """Return the content of a data set, given by its folder or its YAML file; see `ImportSettings` for `split`."""
    config = path / "data.yaml" if path.is_dir() else path
    root = settings.images or config.parent
    data = _read_yaml(config)
    names = _class_names(data, findings)
    wanted = [settings.split] if settings.split else [name for name in _SPLITS if data.get(name)]
    images: dict[str, SourceImage] = {}
    for split in wanted:
        if not data.get(split):
            known = some_of([name for name in data if name in _SPLITS]) or "none"
            findings.refuse(config.name, f"has no {split!r}; it has: {known}")
            continue
        for file_name in _listed(config, data, split, root, findings):
            if file_name in images:
                findings.refuse(file_name, f"is in {split!r} and in another part: import them apart, with --split")
            elif (image := _image(root, file_name, names, settings, findings)) is not None:
                images[file_name] = image
                findings.note(f"images of the part {split!r}")
    return SourceContent(root, list(images.values()), names)


def _read_yaml(path: Path) -> Mapping[str, Any]:
    try:
        data = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise DatasetError(str(path), [Problem("", f"cannot be read: {error.strerror}")]) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DatasetError(str(path), [Problem("", f"not YAML: {error}")]) from error
    if not isinstance(data, dict):
        raise DatasetError(str(path), [Problem("", "has no keys: a YOLO data set has names, train and val")])
    return data


def _class_names(data: Mapping[str, Any], findings: Findings) -> list[str]:
    """Return the classes by their numbers, from 0."""
    given = data.get("names")
    if isinstance(given, dict):
        if sorted(given, key=str) != sorted(range(len(given)), key=str):
            findings.refuse("data.yaml, names", "must number the classes from 0, without gaps")
            return []
        given = [given[number] for number in range(len(given))]
    if not isinstance(given, list) or not given:
        findings.refuse("data.yaml, names", "must list the classes")
        return []
    for number, name in enumerate(given):
        if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
            findings.refuse("data.yaml, names", f"class {number} is {name!r}, not text: put it in quotes")
    return [str(name).strip() for name in given]


def _listed(config: Path, data: Mapping[str, Any], split: str, root: Path, findings: Findings) -> Iterator[str]:
    """Yield the file names of the images of a part, below the root."""
    given = data[split]
    for text in given if isinstance(given, list) else [given]:
        where = f"data.yaml, {split}"
        tried = [path for path in _candidates(config.parent, data.get("path"), str(text)) if path.exists()]
        found = next((path.resolve() for path in tried if path.resolve().is_relative_to(root.resolve())), None)
        if found is None and tried:
            findings.refuse(where, f"{text!r} is outside {root}: name the folder that holds all images with --images")
        elif found is None:
            findings.refuse(where, f"{text!r} is neither a folder nor a file below {config.parent}")
        elif found.is_dir():
            inside = found.relative_to(root.resolve())
            yield from ((inside / name).as_posix() for name in list_images(found))
        else:
            folder = found.relative_to(root.resolve()).parent
            lines = found.read_text(encoding="utf-8", errors="replace").splitlines()
            yield from ((folder / line.strip().removeprefix("./")).as_posix() for line in lines if line.strip())


def _candidates(folder: Path, base: object, text: str) -> list[Path]:
    """Return where a part may be: from the folder of the YAML file, and from `path` in it.

    Some tools write `../train/images` for a folder beside the file: it is tried without the `../` too.
    """
    starts = [folder / base, folder] if isinstance(base, str) else [folder]
    return [start / part for start in starts for part in (text, text.removeprefix("../"))]


def _image(
    root: Path, file_name: str, names: Sequence[str], settings: ImportSettings, findings: Findings
) -> SourceImage | None:
    size = named_size(findings, file_name, root, file_name)
    if size is None:
        return None
    labels = _labels_name(file_name)
    path = root / labels
    drawn: list[Drawn] = []
    if path.is_file():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        for number, line in enumerate(lines, start=1):
            if line.strip():
                drawn += _instance(f"{labels}, line {number}", line.split(), names, size, settings, findings)
    return SourceImage(labels, file_name, *size, tuple(drawn))


def _labels_name(file_name: str) -> str:
    """Return the text file of an image: the last folder `images` becomes `labels`."""
    stem = str(PurePosixPath(file_name).with_suffix(""))
    before, found, after = f"/{stem}".rpartition("/images/")
    return f"{before}/labels/{after}.txt".lstrip("/") if found else f"{stem}.txt"


def _instance(
    where: str,
    words: Sequence[str],
    names: Sequence[str],
    size: tuple[int, int],
    settings: ImportSettings,
    findings: Findings,
) -> Iterator[Drawn]:
    width, height = size
    try:
        values = [float(word) for word in words]
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        findings.refuse(where, "holds something else than numbers")
        return
    number, shares = values[0], values[1:]
    if number not in range(len(names)):
        findings.refuse(where, f"class {number:g} is not one of the {len(names)} names in data.yaml")
        return
    is_box = len(values) in _BOX_NUMBERS
    if not is_box and (len(shares) % 2 or len(shares) < 6):
        findings.refuse(where, f"has {len(shares)} coordinates: an outline has pairs, at least 3")
        return
    if not all(-_SLACK <= share <= 1 + _SLACK for share in shares):
        findings.refuse(where, "has coordinates outside 0 to 1: they are shares of the image's width and height")
        return
    if is_box:
        if not settings.boxes:
            findings.note("boxes left out that have no outline (--boxes makes rectangles of them)")
            return
        findings.note("boxes taken as masks: they follow no outline")
        x, y, box_width, box_height = shares[:4]
        shares = rectangle_xy(x - box_width / 2, y - box_height / 2, x + box_width / 2, y + box_height / 2)
    polygon_xy = [share * (height if index % 2 else width) for index, share in enumerate(shares)]
    if findings.usable(where, [polygon_xy], width, height):
        yield Drawn(names[int(number)], [polygon_xy])
