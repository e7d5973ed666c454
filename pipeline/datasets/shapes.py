"""The shapes dataset: generated pictures with COCO annotations, to try everything without a download.

    <folder>/train/images/000001.png …        <folder>/train.json
    <folder>/validation/images/000001.png …   <folder>/validation.json
    <folder>/shapes.json                      the settings that made it

A picture depends on the seed, its set and its number only: the hundredth is the same in a set of a hundred
and in a set of a thousand, and with any number of processes.
"""

from __future__ import annotations

import errno
import math
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.coco.model import CocoAnnotation, CocoCategory, CocoDataset, CocoImage
from pipeline.coco.paths import resolve_image_path
from pipeline.coco.reading import read_coco
from pipeline.coco.writing import write_coco
from pipeline.datasets.converting import annotation_of
from pipeline.datasets.settings import ShapesDifficulty
from pipeline.datasets.shapes_scene import CLASS_NAMES, DIFFICULTIES, draw_scene
from pipeline.errors import Problem, ProblemsError, StageError
from pipeline.files.images import read_image
from pipeline.masks.run_lengths import encode_mask

Progress = Callable[[int, int], None]
"""Called with pictures made so far and pictures to make."""

# Goes up whenever the same settings would make other pictures or other files.
FORMAT: Final = 2
RECORD_NAME: Final = "shapes.json"
SETS: Final = ("train", "validation")

_PICTURES_A_TASK: Final = 32
_IDS_A_PICTURE: Final = 100  # annotation ids set aside for each picture, so that none depends on another
_OUTLINE_COLORS_RGB: Final = ((255, 70, 70), (80, 235, 80), (255, 225, 50), (60, 225, 255), (255, 90, 255))


@dataclass(frozen=True)
class ShapesSettings:
    """What is generated."""

    images: int = 400
    """Pictures to train on: the labelled ones and the pool of unlabelled ones are split from these."""
    validation: int = 100
    """Pictures to measure on."""
    difficulty: ShapesDifficulty = "medium"
    """See DIFFICULTIES for what it stands for."""
    image_size_px: int = 128
    """Width and height of the pictures."""
    seed: int = 0
    """Another seed, other pictures."""
    classes: int = len(CLASS_NAMES)
    """How many of CLASS_NAMES there are; the first are the easiest to tell apart."""


@dataclass(frozen=True)
class _Task:
    """A run of pictures of one set, first to last - 1, counted from 0."""

    folder: Path
    set_name: str
    first: int
    last: int
    settings: ShapesSettings


@dataclass(frozen=True)
class _Drawn:
    """The annotations of one picture, whose file is written."""

    image: CocoImage
    annotations: tuple[CocoAnnotation, ...]


def make_shapes(folder: Path, settings: ShapesSettings, *, workers: int = 1, progress: Progress | None = None) -> bool:
    """Generate the dataset in `folder`; False where the same settings have made it already.

    It is written aside and appears whole or not at all. A folder with anything else in it is refused.
    """
    _require_valid(settings)
    if _is_made(folder, settings):
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as aside:
        made = Path(aside) / folder.name
        _write_dataset(made, settings, workers, progress)
        try:
            made.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # Another run was faster; it made the same, or this raises.
            return not _is_made(folder, settings)
    return True


def contact_sheet(folder: Path, count: int, *, columns: int = 3, set_name: str = "train") -> NDArray[np.uint8]:
    """The first pictures of a set, each beside a copy with outlines in its class's colour: RGB, (H, W, 3)."""
    dataset = read_coco(folder / f"{set_name}.json")
    cells = [_contact_cell(dataset, image, folder / set_name / "images") for image in dataset.images[: max(1, count)]]
    rows = math.ceil(len(cells) / columns)
    height, width, _ = cells[0].shape
    gap_px = 6
    legend_px = 30
    sheet = np.full(
        (rows * (height + gap_px) + gap_px + legend_px, columns * (width + gap_px) + gap_px, 3), 255, np.uint8
    )
    for index, cell in enumerate(cells):
        top = gap_px + index // columns * (height + gap_px)
        left = gap_px + index % columns * (width + gap_px)
        sheet[top : top + height, left : left + width] = cell
    _draw_legend(sheet[-legend_px:], gap_px, [category.name for category in dataset.categories])
    return sheet


def _require_valid(settings: ShapesSettings) -> None:
    problems = [
        Problem(name, f"must be {low} to {high}, is {value}")
        for name, value, low, high in (
            ("images", settings.images, 1, 10**6 - 1),
            ("validation", settings.validation, 1, 10**6 - 1),
            ("image_size_px", settings.image_size_px, 32, 2048),
            ("classes", settings.classes, 1, len(CLASS_NAMES)),
            ("seed", settings.seed, 0, 2**32 - 1),
        )
        if not low <= value <= high
    ]
    if settings.difficulty not in DIFFICULTIES:
        known = ", ".join(DIFFICULTIES)
        problems.append(Problem("difficulty", f"must be one of {known}, is {settings.difficulty!r}"))
    if problems:
        raise ProblemsError("shapes settings", problems)


def _record(settings: ShapesSettings) -> dict[str, Any]:
    """All that the content of the folder depends on, as JSON has it."""
    record = {
        "format": FORMAT,
        **asdict(settings),
        "parameters": asdict(DIFFICULTIES[settings.difficulty]),
    }
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(record))
    return plain


def _is_made(folder: Path, settings: ShapesSettings) -> bool:
    """Whether the folder holds this very dataset; StageError if it holds anything else."""
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise StageError(f"{folder} is a file: choose another output folder")
    if not any(folder.iterdir()):
        return False
    try:
        found = msgspec.json.decode((folder / RECORD_NAME).read_bytes(), type=dict[str, Any])
    except (OSError, ValueError) as error:
        raise StageError(
            f"{folder} is not empty and was not made by this command: choose another output folder"
        ) from error
    differences = _differences(found, _record(settings))
    if differences:
        raise StageError(
            f"{folder} was made by other settings: delete it or choose another output folder\n  "
            + "\n  ".join(differences)
        )
    counts = zip(SETS, (settings.images, settings.validation), strict=True)
    expected = [folder / f"{name}.json" for name in SETS]
    expected += [_image_path(folder, name, index) for name, count in counts for index in range(count)]
    missing = [path for path in expected if not path.exists()]
    if missing:
        raise StageError(f"{folder} is damaged, {len(missing)} files are gone ({missing[0].name}): delete it")
    return True


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One line for every key with two values, found -> wanted."""
    lines = []
    for key in sorted(found.keys() | wanted.keys()):
        there, here = found.get(key), wanted.get(key)
        if isinstance(there, dict) and isinstance(here, dict):
            lines += _differences(there, here, f"{prefix}{key}.")
        elif there != here:
            lines.append(f"{prefix}{key}: it has {there}, asked for is {here}")
    return lines


def _write_dataset(folder: Path, settings: ShapesSettings, workers: int, progress: Progress | None) -> None:
    """Pictures, then annotations, the record last."""
    counts = dict(zip(SETS, (settings.images, settings.validation), strict=True))
    categories = [CocoCategory(index, name) for index, name in enumerate(CLASS_NAMES[: settings.classes], start=1)]
    tasks = [
        _Task(folder, name, first, min(first + _PICTURES_A_TASK, count), settings)
        for name, count in counts.items()
        for first in range(0, count, _PICTURES_A_TASK)
    ]
    for name in SETS:
        (folder / name / "images").mkdir(parents=True)
    drawn: dict[str, list[_Drawn]] = {name: [] for name in SETS}
    done = 0
    with closing(_run(tasks, workers)) as results:  # closed before anybody deletes what workers still write
        for task, pictures in zip(tasks, results, strict=True):
            drawn[task.set_name] += pictures
            done += len(pictures)
            if progress is not None:
                progress(done, sum(counts.values()))
    for name, pictures in drawn.items():
        annotations = [annotation for picture in pictures for annotation in picture.annotations]
        write_coco(folder / f"{name}.json", [picture.image for picture in pictures], categories, annotations)
    record = msgspec.json.format(msgspec.json.encode(_record(settings)), indent=1)
    (folder / RECORD_NAME).write_bytes(record + b"\n")


def _run(tasks: Sequence[_Task], workers: int) -> Generator[list[_Drawn]]:
    """Do the tasks in their order, in this process or in several."""
    if workers == 1:
        yield from map(_draw_pictures, tasks)
        return
    # Fresh processes: a fork of a program that runs threads may hang. One thread each: they share the cores.
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        yield from pool.map(_draw_pictures, tasks)


def _draw_pictures(task: _Task) -> list[_Drawn]:
    return [_draw_picture(task, index) for index in range(task.first, task.last)]


def _draw_picture(task: _Task, index: int) -> _Drawn:
    """Draw one picture, write it, describe it. Ids follow from its number: a larger set keeps them."""
    settings = task.settings
    rng = np.random.default_rng([settings.seed, SETS.index(task.set_name), index])
    scene = draw_scene(rng, settings.image_size_px, DIFFICULTIES[settings.difficulty], settings.classes)
    path = _image_path(task.folder, task.set_name, index)
    _, encoded = cv2.imencode(".png", scene.image_rgb[..., ::-1])
    path.write_bytes(encoded.tobytes())
    image = CocoImage(index + 1, path.name, settings.image_size_px, settings.image_size_px)
    annotations = []
    for number, (mask, class_index) in enumerate(zip(scene.masks, scene.class_indices, strict=True)):
        rle = encode_mask(mask)
        annotations.append(annotation_of(image.id * _IDS_A_PICTURE + number, image.id, class_index + 1, rle))
    return _Drawn(image, tuple(annotations))


def _image_path(folder: Path, set_name: str, index: int) -> Path:
    return folder / set_name / "images" / f"{index + 1:06d}.png"


def _contact_cell(dataset: CocoDataset, image: CocoImage, image_folder: Path) -> NDArray[np.uint8]:
    """A picture beside a copy of it with outlines, both about 256 px wide."""
    picture_rgb = read_image(resolve_image_path(image_folder, image.file_name), (image.width, image.height))
    factor = max(1, round(256 / image.width))
    size_wh_px = (factor * image.width, factor * image.height)
    plain = cv2.resize(picture_rgb, size_wh_px, interpolation=cv2.INTER_NEAREST)
    outlined = plain.copy()
    for annotation in dataset.annotations_by_image[image.id]:
        mask = dataset.mask(annotation).view(np.uint8)
        enlarged = cv2.resize(mask, size_wh_px, interpolation=cv2.INTER_NEAREST)
        contours, _ = cv2.findContours(enlarged, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(outlined, contours, -1, _OUTLINE_COLORS_RGB[annotation.category_id - 1], 1)
    return np.hstack([plain, outlined])


def _draw_legend(strip: NDArray[np.uint8], left_px: int, names: Sequence[str]) -> None:
    """The classes' names, each after a patch of its colour; drawn in place."""
    middle = strip.shape[0] // 2
    for name, color in zip(names, _OUTLINE_COLORS_RGB, strict=False):
        strip[middle - 7 : middle + 7, left_px : left_px + 14] = color
        cv2.putText(
            strip,
            name,
            (left_px + 20, middle + 5),
            cv2.FONT_HERSHEY_SIMPLEX,
            0.5,
            (40, 40, 40),
            1,
            cv2.LINE_AA,
        )
        left_px += 120
