"""Generate the shapes dataset: images with COCO annotations, to try everything without a download.

    <folder>/train/images/000001.png …        <folder>/train.json
    <folder>/validation/images/000001.png …   <folder>/validation.json
    <folder>/shapes.json                      the settings that made it

An image depends on the seed, its set and its index only: the hundredth is the same in a set of a hundred
and in a set of a thousand, and with any number of processes.
"""

from __future__ import annotations

import errno
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
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
from pipeline.datasets.converting import Instance, Progress, annotation_of, map_images, out_of_range
from pipeline.datasets.settings import ShapesDifficulty
from pipeline.datasets.shapes_scene import CLASS_NAMES, DIFFICULTIES, draw_scene
from pipeline.errors import Problem, ProblemsError, StageError
from pipeline.files.images import read_image
from pipeline.masks.run_lengths import encode_mask

# Goes up whenever the same settings would make other images or other files.
FORMAT: Final = 2
RECORD_NAME: Final = "shapes.json"
SETS: Final = ("train", "validation")

_IDS_AN_IMAGE: Final = 100  # annotation ids reserved for each image, so that none depends on another image
_OUTLINE_COLORS_RGB: Final = ((255, 70, 70), (80, 235, 80), (255, 225, 50), (60, 225, 255), (255, 90, 255))


@dataclass(frozen=True)
class ShapesSettings:
    """What is generated."""

    images: int = 400
    """Number of images to train on, which are split into labelled and unlabelled ones."""
    validation: int = 100
    """Number of images to measure on."""
    difficulty: ShapesDifficulty = "medium"
    """Key of DIFFICULTIES."""
    image_size_px: int = 128
    """Width and height of the images."""
    seed: int = 0
    """Another seed gives other images."""
    classes: int = len(CLASS_NAMES)
    """How many of CLASS_NAMES are used; the first are the easiest to tell apart."""


def make_shapes(folder: Path, settings: ShapesSettings, *, workers: int = 1, progress: Progress | None = None) -> bool:
    """Generate the dataset in `folder`, whole or not at all; return False where the same settings made it before.

    A folder with anything else in it is refused.
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
            return not _is_made(folder, settings)  # another run was faster; it made the same, or this raises
    return True


def contact_sheet(folder: Path, count: int, *, columns: int = 3) -> NDArray[np.uint8]:
    """Draw the first images to train on, each beside a copy with outlines in the class's colour: RGB, (H, W, 3)."""
    dataset = read_coco(folder / "train.json")
    cells = [_contact_cell(dataset, image, folder / "train" / "images") for image in dataset.images[: max(1, count)]]
    gap_px, legend_px = 6, 30
    height, width = cells[0].shape[0] + gap_px, cells[0].shape[1] + gap_px
    rows = math.ceil(len(cells) / columns)
    sheet = np.full((rows * height + gap_px + legend_px, columns * width + gap_px, 3), 255, np.uint8)
    for index, cell in enumerate(cells):
        top, left = gap_px + index // columns * height, gap_px + index % columns * width
        sheet[top : top + height - gap_px, left : left + width - gap_px] = cell
    _draw_legend(sheet[-legend_px:], gap_px, [category.name for category in dataset.categories])
    return sheet


def _require_valid(settings: ShapesSettings) -> None:
    problems = [
        *out_of_range("images", settings.images, 1, 10**6 - 1),
        *out_of_range("validation", settings.validation, 1, 10**6 - 1),
        *out_of_range("image_size_px", settings.image_size_px, 32, 2048),
        *out_of_range("classes", settings.classes, 1, len(CLASS_NAMES)),
        *out_of_range("seed", settings.seed, 0, 2**32 - 1),
    ]
    if settings.difficulty not in DIFFICULTIES:
        known = ", ".join(DIFFICULTIES)
        problems.append(Problem("difficulty", f"must be one of {known}, is {settings.difficulty!r}"))
    if problems:
        raise ProblemsError("shapes settings", problems)


def _record(settings: ShapesSettings) -> dict[str, Any]:
    """Return all that the content of the folder depends on, as JSON has it."""
    record = {"format": FORMAT, **asdict(settings), "parameters": asdict(DIFFICULTIES[settings.difficulty])}
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(record))
    return plain


def _is_made(folder: Path, settings: ShapesSettings) -> bool:
    """Return whether the folder holds this very dataset; StageError if it holds anything else."""
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
    expected = [folder / f"{name}.json" for name in SETS] + [_image_path(folder, *each) for each in _indices(settings)]
    missing = [path for path in expected if not path.exists()]
    if missing:
        raise StageError(f"{folder} is damaged, {len(missing)} files are missing ({missing[0].name}): delete it")
    return True


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return a line for every key whose two values differ."""
    lines = []
    for key in sorted(found.keys() | wanted.keys()):
        old, new = found.get(key), wanted.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key}: it has {old}, asked for is {new}")
    return lines


def _write_dataset(folder: Path, settings: ShapesSettings, workers: int, progress: Progress | None) -> None:
    """Write the images, then the annotations, the record last."""
    categories = [CocoCategory(index, name) for index, name in enumerate(CLASS_NAMES[: settings.classes], start=1)]
    for name in SETS:
        (folder / name / "images").mkdir(parents=True)
    drawn = map_images(partial(_draw_image, folder, settings), _indices(settings), workers, progress)
    for name, of_set in zip(SETS, (drawn[: settings.images], drawn[settings.images :]), strict=True):
        annotations = [annotation for _, of_image in of_set for annotation in of_image]
        write_coco(folder / f"{name}.json", [image for image, _ in of_set], categories, annotations)
    record = msgspec.json.format(msgspec.json.encode(_record(settings)), indent=1)
    (folder / RECORD_NAME).write_bytes(record + b"\n")


def _indices(settings: ShapesSettings) -> list[tuple[str, int]]:
    """Return the set and the index in it, from 0, of every image."""
    counts = zip(SETS, (settings.images, settings.validation), strict=True)
    return [(name, index) for name, count in counts for index in range(count)]


def _draw_image(
    folder: Path, settings: ShapesSettings, set_and_index: tuple[str, int]
) -> tuple[CocoImage, list[CocoAnnotation]]:
    """Draw an image, write it, return what annotates it. Ids follow from its index: a larger set keeps them."""
    set_name, index = set_and_index
    rng = np.random.default_rng([settings.seed, SETS.index(set_name), index])
    scene = draw_scene(rng, settings.image_size_px, DIFFICULTIES[settings.difficulty], settings.classes)
    path = _image_path(folder, set_name, index)
    _, encoded = cv2.imencode(".png", scene.image_rgb[..., ::-1])
    path.write_bytes(encoded.tobytes())
    image = CocoImage(index + 1, path.name, settings.image_size_px, settings.image_size_px)
    objects = zip(scene.class_indices, scene.masks, strict=True)
    return image, [
        annotation_of(image.id * _IDS_AN_IMAGE + number, image.id, Instance(class_index + 1, encode_mask(mask)))
        for number, (class_index, mask) in enumerate(objects)
    ]


def _image_path(folder: Path, set_name: str, index: int) -> Path:
    return folder / set_name / "images" / f"{index + 1:06d}.png"


def _contact_cell(dataset: CocoDataset, image: CocoImage, image_folder: Path) -> NDArray[np.uint8]:
    """Draw an image beside a copy of it with outlines, both about 256 px wide."""
    image_rgb = read_image(resolve_image_path(image_folder, image.file_name), (image.width, image.height))
    factor = max(1, round(256 / image.width))
    size_wh_px = (factor * image.width, factor * image.height)
    plain = cv2.resize(image_rgb, size_wh_px, interpolation=cv2.INTER_NEAREST)
    outlined = plain.copy()
    for annotation in dataset.annotations_by_image[image.id]:
        mask = dataset.mask(annotation).view(np.uint8)
        enlarged = cv2.resize(mask, size_wh_px, interpolation=cv2.INTER_NEAREST)
        contours, _ = cv2.findContours(enlarged, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(outlined, contours, -1, _OUTLINE_COLORS_RGB[annotation.category_id - 1], 1)
    return np.hstack([plain, outlined])


def _draw_legend(strip: NDArray[np.uint8], left_px: int, names: Sequence[str]) -> None:
    """Draw the classes' names in place, each after a patch of its colour."""
    middle = strip.shape[0] // 2
    for name, color in zip(names, _OUTLINE_COLORS_RGB, strict=False):
        strip[middle - 7 : middle + 7, left_px : left_px + 14] = color
        corner = (left_px + 20, middle + 5)
        cv2.putText(strip, name, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 40, 40), 1, cv2.LINE_AA)
        left_px += 120
