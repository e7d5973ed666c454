"""The nuclei of the 2018 Data Science Bowl (BBBC038, `stage1_train`) as COCO instance files.

Every picture has a folder of its own, with a mask file for each nucleus:

    {id}/images/{id}.png
    {id}/masks/*.png

Which pictures are to measure on is drawn here, as the dataset says nothing of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from pipeline.coco.model import CocoAnnotation, CocoCategory, CocoImage
from pipeline.coco.paths import file_name_problem
from pipeline.coco.writing import write_coco
from pipeline.datasets.converting import Progress, annotation_of, read_pictures
from pipeline.errors import DatasetError, ImageError, Problem, ProblemsError
from pipeline.files.images import image_size, read_image
from pipeline.files.writing import refuse_existing
from pipeline.masks.run_lengths import CompressedRle, encode_mask

CATEGORY: Final = CocoCategory(1, "nucleus")
# Masks are black and white; where an edited one has smooth edges, its outline runs through their middle.
_NUCLEUS_FROM: Final = 128


@dataclass(frozen=True)
class NucleiSettings:
    """What of the dataset is converted, and how it is divided."""

    validation: int = 50
    """Pictures to measure on; the others are to train on."""
    side_px: int | None = None
    """Only pictures of this width and height; None: all."""
    seed: int = 0
    """Another seed, other pictures to measure on."""


@dataclass(frozen=True)
class ConvertedNuclei:
    """One COCO file that was written."""

    path: Path
    images: int
    nuclei: int


@dataclass(frozen=True)
class _NucleiImage:
    """A picture and its place, from 1, among all of the folder, chosen or not: its id in COCO."""

    image_id: int
    name: str

    @property
    def file_name(self) -> str:
        return _file_name(self.name)


@dataclass(frozen=True)
class _ReadNucleiImage:
    """Of a picture that is not chosen, the size alone."""

    picture: _NucleiImage
    size_wh_px: tuple[int, int] | None
    """None where it cannot be read."""
    nuclei: tuple[CompressedRle, ...]
    """In the order of their files' names."""
    problems: tuple[Problem, ...]


def convert_nuclei(
    root: Path,
    output: Path,
    settings: NucleiSettings,
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> tuple[ConvertedNuclei, ...]:
    """Write `output`/train.json and `output`/val.json for the folder `root` of `stage1_train`.

    File names in them are relative to `root`. DatasetError lists everything that is wrong; then nothing is
    written.
    """
    _require_valid(settings)
    refuse_existing([output / "train.json", output / "val.json"])
    pictures, problems = _find_pictures(root)
    read = read_pictures(partial(_read_picture, root, settings.side_px), pictures, workers, progress)
    problems += [problem for each in read for problem in each.problems]
    chosen = [each for each in read if each.size_wh_px is None or _is_chosen(each.size_wh_px, settings.side_px)]
    if read:
        problems += _choice_problems(read, len(chosen), settings)
    if problems:
        raise DatasetError(str(root), problems)
    to_measure = _drawn_places(len(chosen), settings)
    train = [each for place, each in enumerate(chosen) if place not in to_measure]
    validation = [each for place, each in enumerate(chosen) if place in to_measure]
    return _write_file(output / "train.json", train), _write_file(output / "val.json", validation)


def _require_valid(settings: NucleiSettings) -> None:
    problems = []
    if settings.validation < 1:
        problems.append(Problem("validation", f"must be 1 or more, is {settings.validation}"))
    if settings.side_px is not None and settings.side_px < 1:
        problems.append(Problem("side", f"must be 1 or more, is {settings.side_px}"))
    if not 0 <= settings.seed < 2**32:
        problems.append(Problem("seed", f"must be 0 or more and less than 2**32, is {settings.seed}"))
    if problems:
        raise ProblemsError("nuclei", problems)


def _find_pictures(root: Path) -> tuple[list[_NucleiImage], list[Problem]]:
    """All pictures, sorted by name; what is amiss. Files beside the folders, and hidden ones, are left alone."""
    if not root.is_dir():
        return [], [Problem("", "no such folder: unpack stage1_train.zip into it")]
    named = {path.stem for path in root.glob("*/images/*.png") if path.parts[-3] == path.stem}
    if not named:
        layout = "ID/images/ID.png and ID/masks/*.png"
        return [], [Problem("", f"holds no pictures: unpack stage1_train.zip into it, which makes {layout}")]
    folders = sorted(path.name for path in root.glob("[!.]*") if path.is_dir())
    found: list[_NucleiImage] = []
    problems: list[Problem] = []
    for name in folders:
        if (problem := file_name_problem(_file_name(name))) is not None:
            problems.append(Problem("", f"file name {problem}: rename the folder"))
        elif name in named:
            found.append(_NucleiImage(len(found) + 1, name))
        else:
            problems.append(Problem(name, f"has no picture {_file_name(name)}"))
    return found, problems


def _file_name(name: str) -> str:
    return f"{name}/images/{name}.png"


def _read_picture(root: Path, side_px: int | None, picture: _NucleiImage) -> _ReadNucleiImage:
    try:
        size_wh_px = image_size(root / picture.file_name)
    except ImageError as error:
        return _ReadNucleiImage(picture, None, (), (Problem(picture.file_name, str(error)),))
    if not _is_chosen(size_wh_px, side_px):
        return _ReadNucleiImage(picture, size_wh_px, (), ())
    folder = f"{picture.name}/masks"
    mask_names = sorted(path.name for path in (root / folder).glob("[!.]*.png"))
    nuclei: list[CompressedRle] = []
    problems: list[Problem] = []
    if not mask_names:
        problems.append(Problem(picture.file_name, f"has no masks {folder}/*.png: unpack stage1_train.zip again"))
    for mask_name in mask_names:
        file_name = f"{folder}/{mask_name}"
        if (problem := file_name_problem(file_name)) is not None:
            problems.append(Problem("", f"file name {problem}: rename the mask"))
            continue
        try:
            nuclei.append(_read_nucleus(root / file_name, size_wh_px))
        except ImageError as error:
            problems.append(Problem(file_name, str(error)))
    return _ReadNucleiImage(picture, size_wh_px, tuple(nuclei), tuple(problems))


def _is_chosen(size_wh_px: tuple[int, int], side_px: int | None) -> bool:
    return side_px is None or size_wh_px == (side_px, side_px)


def _read_nucleus(path: Path, size_wh_px: tuple[int, int]) -> CompressedRle:
    """The mask of one file, grey or in colour; ImageError where it is not of the picture's size, or empty."""
    pixels_rgb = read_image(path)
    height, width = pixels_rgb.shape[:2]
    if (width, height) != size_wh_px:
        raise ImageError(f"is {width}x{height} pixels, its picture {size_wh_px[0]}x{size_wh_px[1]}")
    # Channel by channel: along an axis of three, NumPy takes ten times as long.
    red, green, blue = (pixels_rgb[..., channel] >= _NUCLEUS_FROM for channel in range(3))
    mask = red | green | blue
    if not mask.any():
        raise ImageError(f"marks no pixel (none is {_NUCLEUS_FROM} or brighter): delete it if it shows no nucleus")
    return encode_mask(mask)


def _choice_problems(read: Iterable[_ReadNucleiImage], chosen: int, settings: NucleiSettings) -> list[Problem]:
    if not chosen:
        sizes = Counter(each.size_wh_px for each in read if each.size_wh_px is not None)
        there = ", ".join(f"{width}x{height} ({count})" for (width, height), count in sizes.most_common())
        return [Problem("side", f"no picture is {settings.side_px}x{settings.side_px}, they are: {there}")]
    if settings.validation >= chosen:
        message = f"{settings.validation} of {chosen} pictures leave none to train on: ask for less"
        return [Problem("validation", message)]
    return []


def _drawn_places(pictures: int, settings: NucleiSettings) -> set[int]:
    """Places of the pictures to measure on; with one seed, a smaller choice is part of a larger one."""
    # The legacy generator, on purpose: its draws are the same in every version of NumPy.
    order = np.random.RandomState(settings.seed).permutation(pictures)
    return set(order[: settings.validation].tolist())


def _write_file(path: Path, pictures: Sequence[_ReadNucleiImage]) -> ConvertedNuclei:
    """Annotation ids count from 1, in the order of pictures and mask files."""
    images: list[CocoImage] = []
    annotations: list[CocoAnnotation] = []
    for read in pictures:
        assert read.size_wh_px is not None  # else there was a problem
        images.append(CocoImage(read.picture.image_id, read.picture.file_name, *read.size_wh_px))
        for rle in read.nuclei:
            annotations.append(annotation_of(len(annotations) + 1, read.picture.image_id, CATEGORY.id, rle))
    write_coco(path, images, [CATEGORY], annotations)
    return ConvertedNuclei(path, len(images), len(annotations))
