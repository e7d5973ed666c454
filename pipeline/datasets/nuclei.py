"""Convert the nuclei of the 2018 Data Science Bowl (BBBC038, `stage1_train`) to COCO instance files.

Every image has a folder of its own, with a mask file for each nucleus:

    {id}/images/{id}.png
    {id}/masks/*.png

The images to measure on are drawn here, as the dataset does not name any.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from pipeline.coco.model import CocoCategory, CocoImage
from pipeline.coco.paths import file_name_problem
from pipeline.datasets.converting import ConvertedFile, Instance, Progress, map_images, out_of_range, write_converted
from pipeline.errors import DatasetError, ImageError, Problem, ProblemsError
from pipeline.files.images import image_size, read_image
from pipeline.files.writing import refuse_existing
from pipeline.masks.run_lengths import CompressedRle, encode_mask

CATEGORY: Final = CocoCategory(1, "nucleus")
# Masks are black and white; where an edited one has smooth edges, its outline runs through their middle.
_NUCLEUS_FROM: Final = 128


@dataclass(frozen=True)
class NucleiSettings:
    """Which images are converted, and how they are divided."""

    validation: int = 50
    """Number of images to measure on; the others are to train on."""
    side_px: int | None = None
    """Only images of this width and height; None: all."""
    seed: int = 0
    """Another seed gives other images to measure on."""


@dataclass(frozen=True)
class _ReadNucleiImage:
    """An image as it was read. The size is None where the image cannot be read."""

    name: str
    size_wh_px: tuple[int, int] | None
    nuclei: tuple[CompressedRle, ...] = ()
    """In the order of the names of their files; empty for an image that is not chosen."""
    problems: tuple[Problem, ...] = ()


def convert_nuclei(
    root: Path,
    output: Path,
    settings: NucleiSettings,
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> tuple[ConvertedFile, ...]:
    """Write `output`/train.json and `output`/val.json for the folder `root` of `stage1_train`.

    File names in them are relative to `root`; ids count all images of the folder, chosen or not, by name.
    DatasetError lists everything that is wrong; then nothing is written.
    """
    _require_valid(settings)
    refuse_existing([output / "train.json", output / "val.json"])
    names, problems = _find_images(root)
    read = map_images(partial(_read_image, root, settings.side_px), names, workers, progress)
    problems += [problem for each in read for problem in each.problems]
    chosen = [
        (image_id, each)
        for image_id, each in enumerate(read, start=1)
        if each.size_wh_px is None or _is_chosen(each.size_wh_px, settings.side_px)
    ]
    if read:
        problems += _choice_problems(read, len(chosen), settings)
    if problems:
        raise DatasetError(str(root), problems)
    content = []
    for image_id, each in chosen:
        assert each.size_wh_px is not None  # else there was a problem
        image = CocoImage(image_id, _file_name(each.name), *each.size_wh_px)
        content.append((image, [Instance(CATEGORY.id, rle) for rle in each.nuclei]))
    to_measure = _drawn_indices(len(content), settings)
    divided = (
        (name, [each for index, each in enumerate(content) if (index in to_measure) is measured])
        for name, measured in (("train.json", False), ("val.json", True))
    )
    return tuple(write_converted(output / name, each, [CATEGORY]) for name, each in divided)


def _require_valid(settings: NucleiSettings) -> None:
    problems = out_of_range("validation", settings.validation, 1)
    if settings.side_px is not None:
        problems += out_of_range("side", settings.side_px, 1)
    problems += out_of_range("seed", settings.seed, 0, 2**32 - 1)
    if problems:
        raise ProblemsError("nuclei", problems)


def _find_images(root: Path) -> tuple[list[str], list[Problem]]:
    """Return the sorted names of all images, and what is wrong. Hidden folders and single files are ignored."""
    if not root.is_dir():
        return [], [Problem("", "no such folder: unpack stage1_train.zip into it")]
    named = {path.stem for path in root.glob("*/images/*.png") if path.parts[-3] == path.stem}
    if not named:
        layout = "ID/images/ID.png and ID/masks/*.png"
        return [], [Problem("", f"holds no images: unpack stage1_train.zip into it, which makes {layout}")]
    found: list[str] = []
    problems: list[Problem] = []
    for name in sorted(path.name for path in root.glob("[!.]*") if path.is_dir()):
        if (problem := file_name_problem(_file_name(name))) is not None:
            problems.append(Problem("", f"file name {problem}: rename the folder"))
        elif name in named:
            found.append(name)
        else:
            problems.append(Problem(name, f"has no image {_file_name(name)}"))
    return found, problems


def _file_name(name: str) -> str:
    return f"{name}/images/{name}.png"


def _read_image(root: Path, side_px: int | None, name: str) -> _ReadNucleiImage:
    try:
        size_wh_px = image_size(root / _file_name(name))
    except ImageError as error:
        return _ReadNucleiImage(name, None, problems=(Problem(_file_name(name), str(error)),))
    if not _is_chosen(size_wh_px, side_px):
        return _ReadNucleiImage(name, size_wh_px)
    folder = f"{name}/masks"
    mask_names = sorted(path.name for path in (root / folder).glob("[!.]*.png"))
    nuclei: list[CompressedRle] = []
    problems: list[Problem] = []
    if not mask_names:
        problems.append(Problem(_file_name(name), f"has no masks {folder}/*.png: unpack stage1_train.zip again"))
    for mask_name in mask_names:
        file_name = f"{folder}/{mask_name}"
        if (problem := file_name_problem(file_name)) is not None:
            problems.append(Problem("", f"file name {problem}: rename the mask"))
            continue
        try:
            nuclei.append(_read_nucleus(root / file_name, size_wh_px))
        except ImageError as error:
            problems.append(Problem(file_name, str(error)))
    return _ReadNucleiImage(name, size_wh_px, tuple(nuclei), tuple(problems))


def _is_chosen(size_wh_px: tuple[int, int], side_px: int | None) -> bool:
    return side_px is None or size_wh_px == (side_px, side_px)


def _read_nucleus(path: Path, size_wh_px: tuple[int, int]) -> CompressedRle:
    """Read a mask file, grey or in colour; ImageError where it is empty or not of its image's size."""
    pixels_rgb = read_image(path)
    height, width = pixels_rgb.shape[:2]
    if (width, height) != size_wh_px:
        raise ImageError(f"is {width}x{height} pixels, its image {size_wh_px[0]}x{size_wh_px[1]}")
    # Channel by channel: along an axis of three, NumPy is ten times slower.
    red, green, blue = (pixels_rgb[..., channel] >= _NUCLEUS_FROM for channel in range(3))
    mask = red | green | blue
    if not mask.any():
        raise ImageError(f"marks no pixel (none is {_NUCLEUS_FROM} or brighter): delete it if it shows no nucleus")
    return encode_mask(mask)


def _choice_problems(read: Iterable[_ReadNucleiImage], chosen: int, settings: NucleiSettings) -> list[Problem]:
    if not chosen:
        sizes = Counter(each.size_wh_px for each in read if each.size_wh_px is not None)
        found = ", ".join(f"{width}x{height} ({count})" for (width, height), count in sizes.most_common())
        return [Problem("side", f"no image is {settings.side_px}x{settings.side_px}, they are: {found}")]
    if settings.validation >= chosen:
        message = f"{settings.validation} of {chosen} images leave none to train on: choose fewer"
        return [Problem("validation", message)]
    return []


def _drawn_indices(images: int, settings: NucleiSettings) -> set[int]:
    """Draw the images to measure on; with one seed, a smaller choice is part of a larger one."""
    # The legacy generator, on purpose: its draws are the same in every version of NumPy.
    order = np.random.RandomState(settings.seed).permutation(images)
    return set(order[: settings.validation].tolist())
