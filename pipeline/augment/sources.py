"""Where composites come from: the stores of labels and the folders of images, and what a pair of them becomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path

from pipeline.augment.composite import LabelledImage, composite
from pipeline.augment.pairs import ImageKey, Pair, Pairing
from pipeline.augment.settings import AugmentSettings
from pipeline.coco.paths import resolve_image_path
from pipeline.errors import ImageError
from pipeline.files.images import read_image
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import ImageLabels, Status

IMAGES_KEPT = 3

ReadImage = Callable[[ImageKey], LabelledImage]


@dataclass(frozen=True)
class LabelledFolder:
    """A label store and the folder that its file names start from."""

    store_path: Path
    image_root: Path


@dataclass(frozen=True)
class CompositeSources:
    """What composites are made of. `labelled` is there where labelled images are partners too.

    It may travel to other processes; what it has read does not.
    """

    refined: LabelledFolder
    labelled: LabelledFolder | None
    settings: AugmentSettings

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """All composites that the settings ask for, in the order of the result."""
        return tuple(chain.from_iterable(map(self.pairs_of_copy, range(self.settings.copies))))

    def pairs_of_copy(self, copy: int) -> tuple[Pair, ...]:
        """The composites of a copy, of any number."""
        return self._pairing.of_copy(copy)

    def nothing_to_paste(self) -> str:
        """Why all composites are the images as they are, where that is so; else empty."""
        refined = self.refined_store
        if len(refined) < 2 or any(pair.donor for pair in self.pairs_of_copy(0)):
            return ""
        return (
            f"none of {refined.attributes.instances:,} instances may be pasted, composites are images as they are: "
            f"{_conditions(self.settings)}. Loosen these, or set augment.mode to none"
        )

    @cached_property
    def by_id(self) -> dict[int, Pair]:
        """Pairs by the id of their composite."""
        return {pair.composite_id: pair for pair in self.pairs}

    @property
    def refined_store(self) -> LabelStore:
        """The refined labels."""
        return self._stores[0]

    def base_labels(self, pair: Pair) -> ImageLabels:
        """The labels of a pair's base."""
        return self.refined_store.by_id(pair.base_id)

    def reader(self) -> ReadImage:
        """Reads images with their labels and keeps the last ones: the two of a pair take part in two composites."""
        return lru_cache(IMAGES_KEPT)(self.read)

    def compose(self, pair: Pair, read: ReadImage) -> LabelledImage:
        """A composite, under its own id and the base's file name; ImageError where an image cannot be read."""
        base = read(ImageKey(pair.base_id))
        donor = None if pair.donor is None else read(pair.donor)
        made = composite(base, donor, self.settings, pair.rng(self.settings.seed))
        return replace(made, labels=replace(made.labels, image_id=pair.composite_id))

    def read(self, key: ImageKey) -> LabelledImage:
        """An image with its labels; ImageError where it cannot be used."""
        folder = self.labelled if key.is_labelled else self.refined
        store = self._stores[key.is_labelled]
        assert folder is not None and store is not None  # there is no key of it otherwise
        labels = store.by_id(key.image_id)
        if labels.status is Status.FAILED:
            raise ImageError(f"{labels.file_name}: {labels.message}")
        try:
            path = resolve_image_path(folder.image_root, labels.file_name)
            image_rgb = read_image(path, (labels.width, labels.height))
        except ImageError as error:
            raise ImageError(f"{labels.file_name}: {error}") from error
        image_rgb.setflags(write=False)  # it is the base of one composite and the donor of another
        return LabelledImage(image_rgb, labels, is_truth=key.is_labelled)

    @cached_property
    def _pairing(self) -> Pairing:
        return Pairing(*self._stores, self.settings)

    @cached_property
    def _stores(self) -> tuple[LabelStore, LabelStore | None]:
        labelled = None if self.labelled is None else LabelStore.open(self.labelled.store_path)
        return LabelStore.open(self.refined.store_path), labelled

    def __reduce__(
        self,
    ) -> tuple[type[CompositeSources], tuple[LabelledFolder, LabelledFolder | None, AugmentSettings]]:
        return type(self), (self.refined, self.labelled, self.settings)


def _conditions(settings: AugmentSettings) -> str:
    """The settings that decide what may be pasted, with their values."""
    names = ("decisions", "min_score", "min_area_px", "min_area_share")
    values = settings.model_dump(mode="json", include=set(names))
    return ", ".join(f"augment.{name} is {values[name]}" for name in names)
