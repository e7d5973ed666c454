"""Digests of all files and images that an experiment names, by dotted key."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from pipeline.coco.json_text import read_json_object
from pipeline.coco.paths import file_name_problem
from pipeline.errors import S4MError
from pipeline.files.identity import IdentityCache, ImageList, hash_text, list_images
from pipeline.files.shipped import config_path
from pipeline.sam.files import checkpoint_path, sam_digest
from pipeline.settings import ConfigMarker, FolderMarker, named_paths
from pipeline.workflow.experiment import Experiment

if TYPE_CHECKING:
    from pipeline.coco.model import CocoImage

BACKBONE: Final = "SamTinyBackbone"
"""Name of the backbone that takes its first weights from the shipped SAM."""


class _ListedImage(msgspec.Struct):
    id: int
    file_name: str


def read_contents(experiment: Experiment, cache: IdentityCache, *, trust: bool = False) -> dict[str, str]:
    """Return the content digest of every file and image folder that the experiment names, by dotted key.

    trust: count images as unchanged since they were last read.
    """
    contents: dict[str, str] = {}
    named = {key: (path, marker) for key, path, marker in named_paths(experiment)}
    for key, (path, marker) in named.items():
        if not isinstance(marker, FolderMarker):
            contents[key] = _config(path, cache) if isinstance(marker, ConfigMarker) else cache.file(path)
    for key, (path, marker) in named.items():
        if isinstance(marker, FolderMarker):
            # Only the images that the annotations list count.
            beside = f"{key.rpartition('.')[0]}.annotations"
            listing = ImageList("", partial(_every_image, path))
            if beside in named:
                listing = ImageList(contents[beside], partial(_listed, named[beside][0]))
            contents[key] = cache.images(path, listing, trust=trust)
    contents["sam.checkpoint"] = sam_digest(experiment.sam.model, experiment.sam.checkpoint, cache.file)
    return contents


def _every_image(folder: Path) -> list[str]:
    lines = list_images(folder)
    for index, name in enumerate(lines):  # in place: there may be a million
        lines[index] = f"{index + 1}\t{name}"
    return lines


def _listed(annotations: Path) -> list[str]:
    """Return `id, tab, file name` of every image of a COCO file; DatasetError for a list that `split` would refuse."""
    images: Sequence[_ListedImage | CocoImage]
    try:
        images = msgspec.json.decode(read_json_object(annotations)["images"], type=list[_ListedImage])
    except (ValueError, KeyError, RecursionError):
        images = []
    if not images or any(file_name_problem(image.file_name) for image in images):
        from pipeline.coco.reading import read_images  # NumPy and Pillow, only to say what is wrong

        images = read_images(annotations)
    return [f"{image.id}\t{image.file_name}" for image in images]


def _config(path: Path, cache: IdentityCache) -> str:
    files = config_files(path)
    if any(BACKBONE in file.read_text(encoding="utf-8") for file in files if file.is_file()):
        files = (*files, checkpoint_path("sam_tiny"))
    return hash_text("\n".join(cache.file(file) for file in files))


def config_files(config: Path) -> tuple[Path, ...]:
    """Return a detector config and the files that it inherits from, in order of first mention, without importing them.

    Bases inside a package (`mmdet::…`) are left out: that package has a pinned version.
    """
    found: dict[Path, None] = {}
    pending = [config_path(config).absolute()]
    while pending:
        path = pending.pop(0)
        if path in found:
            continue
        found[path] = None
        pending += _bases(path)
    return tuple(found)


def _bases(path: Path) -> list[Path]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []  # its digest says that it is absent; MMDetection names the missing file when it needs it
    except (SyntaxError, ValueError, OSError) as error:
        raise S4MError(f"{path}: not a detector config that can be read: {error}") from error
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "_base_" for target in statement.targets
        ):
            try:
                value = ast.literal_eval(statement.value)
            except ValueError as error:
                raise S4MError(f"{path}: _base_ must be a plain list of file names") from error
            names = [value] if isinstance(value, str) else list(value)
            return [(path.parent / name).resolve() for name in names if "::" not in name]
    return []
