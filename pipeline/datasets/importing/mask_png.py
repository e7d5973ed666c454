"""Read instance masks that are PNG files beside the images: each pixel holds the number of its instance, 0 is none.

images/NAME.jpg            in subfolders too
masks/NAME.png             all instances of one class
masks/CLASS/NAME.png       or a folder for each class
classes.txt                or a colour for each class, a line `#rrggbb NAME` each: the colour that the palette of
                           the mask gives to a number is the class of that instance
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.converting import Progress, map_images
from pipeline.datasets.importing.source import (
    Drawn,
    Findings,
    ImportSettings,
    SourceContent,
    SourceImage,
    named_size,
    names_in_order,
)
from pipeline.errors import ImageError
from pipeline.files.identity import list_images
from pipeline.files.images import read_index_image
from pipeline.masks.run_lengths import encode_mask

Colour = tuple[int, int, int]

_LINE: Final = re.compile(r"#([0-9a-fA-F]{6})\s+(\S.*)")
_SEVERAL_PARTS: Final = 3  # background, and two parts


@dataclass(frozen=True)
class _MaskedImage:
    """An image with its mask files, each with its class; None where the palette says the class."""

    file_name: str
    masks: tuple[tuple[str, str | None], ...]


def read_mask_png(
    folder: Path, settings: ImportSettings, findings: Findings, *, workers: int = 1, progress: Progress | None = None
) -> SourceContent:
    """Return the content of a folder; what is wrong with it is added to the findings."""
    root = settings.images or folder / "images"
    colours = _class_colours(folder, findings)
    listed = _with_masks(folder, root, settings.category, colours, findings)
    images = []
    for image, found in map_images(partial(_read_image, folder, root, colours), listed, workers, progress):
        findings.add(found)
        if image is not None:
            images.append(image)
    return SourceContent(root, images, names_in_order(images, (colours or {}).values()))


def _class_colours(folder: Path, findings: Findings) -> dict[Colour, str] | None:
    """Return the classes by colour; None if there is no list of them."""
    path = folder / "classes.txt"
    if not path.is_file():
        return None
    colours: dict[Colour, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        parsed = _LINE.fullmatch(line.strip())
        if parsed is None:
            findings.refuse(f"classes.txt, line {number}", "is not a colour and a name, as `#ff0000 cat`")
            continue
        red, green, blue = bytes.fromhex(parsed[1])
        colours[red, green, blue] = parsed[2]
    return colours


def _with_masks(
    folder: Path, root: Path, category: str, colours: Mapping[Colour, str] | None, findings: Findings
) -> list[_MaskedImage]:
    """Return the images that have masks, with these and their classes."""
    by_stem: dict[str, str] = {}
    for name in list_images(root):
        stem = str(PurePosixPath(name).with_suffix(""))
        if stem in by_stem:
            findings.refuse(name, f"and {by_stem[stem]} have the same mask: name them apart")
        by_stem[stem] = name
    masks: dict[str, list[tuple[str, str | None]]] = defaultdict(list)
    paths = sorted(path for path in (folder / "masks").rglob("*") if path.suffix.lower() == ".png")
    for path in paths:
        name = path.relative_to(folder / "masks").as_posix()
        stem = str(PurePosixPath(name).with_suffix(""))
        first, _, rest = stem.partition("/")
        if stem in by_stem:
            masks[by_stem[stem]].append((f"masks/{name}", None if colours is not None else category))
        elif rest in by_stem and colours is None:
            masks[by_stem[rest]].append((f"masks/{name}", first))
        else:
            findings.refuse(f"masks/{name}", f"has no image of that name in {root}")
    if not paths:
        findings.refuse("masks", "holds no PNG files")
    for _ in set(by_stem.values()) - masks.keys():
        findings.note("images left out that have no mask: they may be unlabelled images")
    return [_MaskedImage(name, tuple(masks[name])) for name in sorted(masks)]


def _read_image(
    folder: Path, root: Path, colours: Mapping[Colour, str] | None, image: _MaskedImage
) -> tuple[SourceImage | None, Findings]:
    findings = Findings()
    size = named_size(findings, image.file_name, root, image.file_name)
    if size is None:
        return None, findings
    drawn: list[Drawn] = []
    for name, category in image.masks:
        try:
            numbers, palette = read_index_image(folder / name, size)
        except ImageError as error:
            findings.refuse(name, str(error))
            continue
        _note_single(numbers, findings)
        # COCO's run lengths go down the columns: transposed once, every mask below is in that order already.
        columns = np.ascontiguousarray(numbers.T)
        for number in np.unique(numbers[numbers > 0]).tolist():
            of_number = (
                category if colours is None else _class_of(f"{name}, {number}", number, palette, colours, findings)
            )
            if of_number is not None:
                drawn.append(Drawn(of_number, encode_mask((columns == number).T)))
    return SourceImage(image.file_name, image.file_name, *size, tuple(drawn)), findings


def _note_single(numbers: NDArray[np.uint16], findings: Findings) -> None:
    """Note a mask that has one number in several parts, as masks of classes have, which do not tell instances apart."""
    used = np.unique(numbers[numbers > 0])
    if len(used) == 1 and cv2.connectedComponents((numbers > 0).astype(np.uint8))[0] >= _SEVERAL_PARTS:
        findings.note("masks with one number in several parts: they are one instance, others need numbers of their own")


def _class_of(
    where: str,
    number: int,
    palette: NDArray[np.uint8] | None,
    colours: Mapping[Colour, str],
    findings: Findings,
) -> str | None:
    if palette is None or number >= len(palette):
        findings.refuse(where, "has no colour: with classes.txt, masks are PNG files with a palette")
        return None
    red, green, blue = palette[number].tolist()
    if (red, green, blue) not in colours:
        findings.refuse(where, f"has the colour #{red:02x}{green:02x}{blue:02x}, which is not in classes.txt")
        return None
    return colours[red, green, blue]
