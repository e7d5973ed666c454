"""Digests of all files and images that an experiment names, by dotted key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from pipeline.files.identity import IdentityCache, ImageList, hash_text, list_images
from pipeline.sam.files import checkpoint_path
from pipeline.settings import ConfigMarker, FolderMarker, named_paths
from pipeline.workflow.detector_files import config_files, starts_from_sam_tiny
from pipeline.workflow.experiment import Experiment


class _ListedImage(msgspec.Struct):
    id: int
    file_name: str


class _Listing(msgspec.Struct):
    """The part of a COCO file that lists its images."""

    images: list[_ListedImage]


def read_contents(experiment: Experiment, cache: IdentityCache, *, trust: bool = False) -> dict[str, str]:
    """Return the content digest of every file and image folder that the experiment names, by dotted key.

    With `trust`, images count as unchanged since they were last read.
    """
    contents: dict[str, str] = {}
    named = {key: (path, marker) for key, path, marker in named_paths(experiment)}
    for key, (path, marker) in named.items():
        if not isinstance(marker, FolderMarker):
            contents[key] = _config(path, cache) if isinstance(marker, ConfigMarker) else cache.file(path)
    for key, (path, marker) in named.items():
        if isinstance(marker, FolderMarker):
            # Of a folder, the images count that the annotations beside it list.
            beside = f"{key.rpartition('.')[0]}.annotations"
            listing = _listing(named[beside][0], contents[beside]) if beside in named else _every_image_of(path)
            contents[key] = cache.images(path, listing, trust=trust)
    # Without a checkpoint, the weights that belong to the model count.
    contents["sam.checkpoint"] = cache.file(checkpoint_path(experiment.sam.model, experiment.sam.checkpoint))
    return contents


def _listing(annotations: Path, digest: str) -> ImageList:
    return ImageList(digest, lambda: _listed(annotations))


def _every_image_of(folder: Path) -> ImageList:
    return ImageList("", lambda: _numbered(list_images(folder)))


def _listed(annotations: Path) -> Sequence[str]:
    """Return `id, tab, file name` of every image of a COCO file.

    Return nothing for an invalid file: `split` reads it in full and says what is wrong.
    """
    try:
        listing = msgspec.json.decode(annotations.read_bytes(), type=_Listing)
    except (msgspec.DecodeError, UnicodeDecodeError, OSError):
        return []
    return [f"{image.id}\t{image.file_name}" for image in listing.images if _is_usable(image.file_name)]


def _is_usable(file_name: str) -> bool:
    """Return whether a name fits into a line of text; `split` refuses one that does not."""
    return "\n" not in file_name and file_name.isprintable()


def _numbered(names: Sequence[str]) -> list[str]:
    return [f"{number}\t{name}" for number, name in enumerate(names, start=1)]


def _config(path: Path, cache: IdentityCache) -> str:
    files = config_files(path)
    if starts_from_sam_tiny(files):
        files = (*files, checkpoint_path("sam_tiny"))
    return hash_text("\n".join(cache.file(file) for file in files))
