"""Settings of the images: three shapes, one for each way to say which images are labelled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Discriminator, Field, Tag

from pipeline.settings import FilePath, FolderPath, Seed, Settings

ShapesDifficulty = Literal["easy", "medium", "hard"]
"""How hard generated shapes are to tell apart."""


class AnnotatedSet(Settings):
    """Images and their COCO annotations."""

    annotations: FilePath
    """COCO file (JSON) with the instances of the images."""
    images: FolderPath
    """Folder that the file names in the COCO file are relative to."""


class UnlabelledSet(Settings):
    """Images to learn from without labels."""

    images: FolderPath
    """Folder of the images. Without `annotations`, every image in it and in its subfolders is used."""
    annotations: FilePath | None = None
    """COCO file (JSON) that lists the images. Its instances measure the pseudo-labels; nothing learns from them."""


class PairedData(Settings):
    """Labelled images and unlabelled images in two sets."""

    labelled: AnnotatedSet
    """Images with labels to learn from."""
    unlabelled: UnlabelledSet
    """Images without labels to learn from. Labelled ones, and in a folder validation ones, are left out, copies too."""
    validation: AnnotatedSet | None = None
    """Images on which teacher and student are measured. Null: models are not measured."""

    @property
    def labelled_source(self) -> AnnotatedSet:
        """Return the set that the labelled images are in."""
        return self.labelled

    @property
    def unlabelled_source(self) -> UnlabelledSet:
        """Return the set that the unlabelled images are in."""
        return self.unlabelled


class _PooledData(Settings):
    """One annotated set: some of its images are used as labelled, the others as unlabelled."""

    annotated: AnnotatedSet
    """One annotated set instead of `labelled` and `unlabelled`: part of its images is used without the labels."""
    validation: AnnotatedSet | None = None
    """Images on which teacher and student are measured. Null: models are not measured."""

    @property
    def labelled_source(self) -> AnnotatedSet:
        """Return the set that the labelled images are in."""
        return self.annotated

    @property
    def unlabelled_source(self) -> AnnotatedSet:
        """Return the set that the unlabelled images are in."""
        return self.annotated


class PercentData(_PooledData):
    """One annotated set, of which a random part is labelled."""

    percent: Annotated[float, Field(gt=0, lt=100)]
    """Percentage of the images of `annotated` that are labelled; they are chosen at random."""
    seed: Seed = 0
    """Seed of the random choice that `percent` makes."""


class ListedData(_PooledData):
    """One annotated set, of which the images of a list are labelled."""

    labelled_list: FilePath
    """File that lists the labelled images of `annotated`, by id or file name, as text or JSON."""


def _shape_of(given: Any) -> str:
    """Return the tag of the shape that the keys mean. Where they fit no shape, validation of that one says why."""
    if isinstance(given, Mapping):
        if given.get("annotated") is None:
            return "paired"
        return "percent" if given.get("labelled_list") is None else "listed"
    if isinstance(given, _PooledData):
        return "percent" if isinstance(given, PercentData) else "listed"
    return "paired"


DataSettings = Annotated[
    Annotated[PairedData, Tag("paired")]
    | Annotated[PercentData, Tag("percent")]
    | Annotated[ListedData, Tag("listed")],
    Discriminator(_shape_of),
]
"""Either `labelled` and `unlabelled`, or one `annotated` set split by `percent` or by `labelled_list`."""

_MISSING = "missing; give data.labelled and data.unlabelled, or data.annotated"
_NOTHING_TO_SPLIT = "splits data.annotated, which is not given"
_BOTH_WAYS = "given beside data.labelled or data.unlabelled; keep one of the two ways"
_NOT_ONE_SPLIT = "needs exactly one of data.percent and data.labelled_list to split it"

SHAPE_PROBLEMS: Final[Mapping[tuple[str, str, str], tuple[str, str]]] = {
    ("paired", "labelled", "missing"): ("labelled", _MISSING),
    ("paired", "unlabelled", "missing"): ("unlabelled", _MISSING),
    ("paired", "percent", "extra_forbidden"): ("percent", _NOTHING_TO_SPLIT),
    ("paired", "labelled_list", "extra_forbidden"): ("labelled_list", _NOTHING_TO_SPLIT),
    ("paired", "seed", "extra_forbidden"): ("seed", "belongs to data.percent, which is not given"),
    ("percent", "percent", "missing"): ("annotated", _NOT_ONE_SPLIT),
    ("percent", "labelled", "extra_forbidden"): ("annotated", _BOTH_WAYS),
    ("percent", "unlabelled", "extra_forbidden"): ("annotated", _BOTH_WAYS),
    ("listed", "percent", "extra_forbidden"): ("annotated", _NOT_ONE_SPLIT),
    ("listed", "seed", "extra_forbidden"): ("seed", "belongs to data.percent, which is not given"),
    ("listed", "labelled", "extra_forbidden"): ("annotated", _BOTH_WAYS),
    ("listed", "unlabelled", "extra_forbidden"): ("annotated", _BOTH_WAYS),
}
"""How to say that keys of `data` fit no shape: by shape, key and pydantic's type of error; the key to name, and why."""
