"""Joins corrected images to the labelled ones of an experiment: one COCO file to label a new experiment with."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import msgspec

from pipeline.coco.model import CocoAnnotation, CocoCategory, CocoDataset, CocoImage
from pipeline.coco.writing import write_coco
from pipeline.review.corrected import Corrected, read_corrected
from pipeline.review.names import ImageFinder


@dataclass(frozen=True)
class KnownImages:
    """What an experiment has: labelled and unlabelled images, and the folders that their names start from."""

    labelled: CocoDataset
    labelled_root: Path
    unlabelled: CocoDataset
    unlabelled_root: Path


@dataclass(frozen=True)
class Labelled:
    """Labelled data of a new experiment, with the folder that its file names start from.

    added: images that were unlabelled. replaced: labelled ones with new annotations. empty: those of both
    without an instance. instances, crowds: what the corrected file held. left: images still unlabelled.
    """

    image_root: Path
    images: tuple[CocoImage, ...]
    categories: tuple[CocoCategory, ...]
    annotations: tuple[CocoAnnotation, ...]
    added: int
    replaced: int
    empty: int
    instances: int
    crowds: int
    left: int

    def write(self, path: Path) -> None:
        """Write it as a COCO file."""
        write_coco(path, self.images, self.categories, self.annotations)


def accept(path: Path, known: KnownImages, *, keep_crowds: bool = False) -> Labelled:
    """Read corrected labels and join them to the labelled images, whose ids stay; see `read_corrected`.

    Every image of the file counts as labelled in full, also where no instance is left; images that are not in
    it are not taken. A corrected image that was labelled before gets the new annotations.
    """
    image_root, prefixes = _common_root(known.labelled_root, known.unlabelled_root)
    labelled = _renamed(known.labelled.images, prefixes[0])
    unlabelled = _with_free_ids(_renamed(known.unlabelled.images, prefixes[1]), {image.id for image in labelled})
    finders = [_NamedImages(images) for images in (unlabelled, labelled)]  # what was reviewed was unlabelled

    def find(given: str) -> Sequence[CocoImage]:
        return finders[0].find(given) or finders[1].find(given)

    corrected = read_corrected(path, find, known.labelled.categories, keep_crowds=keep_crowds)
    changed = corrected.annotations_by_image
    added = [image for image in unlabelled if image.id in changed]
    return Labelled(
        image_root=image_root,
        images=(*labelled, *added),
        categories=known.labelled.categories,
        annotations=_joined(known.labelled.annotations, corrected),
        added=len(added),
        replaced=len(changed) - len(added),
        empty=sum(not annotations for annotations in changed.values()),
        instances=sum(len(annotations) for annotations in changed.values()),
        crowds=corrected.crowds,
        left=len(unlabelled) - len(added),
    )


class _NamedImages:
    def __init__(self, images: Iterable[CocoImage]) -> None:
        self._images = {image.file_name: image for image in images}
        self._finder = ImageFinder(self._images)

    def find(self, given: str) -> list[CocoImage]:
        return [self._images[name] for name in self._finder.find(given)]


def _common_root(first: Path, second: Path) -> tuple[Path, tuple[str, str]]:
    """The folder that holds both, and what leads from it to each."""
    if first.resolve() == second.resolve():
        return first, ("", "")
    paths = [first.resolve(), second.resolve()]
    root = Path(os.path.commonpath(paths))
    prefixes = [path.relative_to(root).as_posix() + "/" for path in paths]
    return root, (prefixes[0].removeprefix("./"), prefixes[1].removeprefix("./"))


def _renamed(images: Iterable[CocoImage], prefix: str) -> list[CocoImage]:
    return [msgspec.structs.replace(image, file_name=prefix + image.file_name) for image in images]


def _with_free_ids(images: Sequence[CocoImage], taken: set[int]) -> list[CocoImage]:
    """The same images; an id that is taken is replaced by one above all."""
    free = count(max(taken | {image.id for image in images}) + 1)
    return [image if image.id not in taken else msgspec.structs.replace(image, id=next(free)) for image in images]


def _joined(labelled: Sequence[CocoAnnotation], corrected: Corrected) -> tuple[CocoAnnotation, ...]:
    """The annotations of images that were not corrected as they were, then the corrected ones, numbered on."""
    changed = corrected.annotations_by_image
    kept = [annotation for annotation in labelled if annotation.image_id not in changed]
    free = count(max((annotation.id for annotation in labelled), default=0) + 1)
    new = [
        msgspec.structs.replace(annotation, id=next(free))
        for image_id in sorted(changed)
        for annotation in changed[image_id]
    ]
    return (*kept, *new)
