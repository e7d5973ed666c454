"""The stores of labels and folders of images that composites are made from, and making a composite of a pair."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path

from pipeline.augment.composite import LabelledImage, composite
from pipeline.augment.pairs import ImageKey, Pair, Pairing
from pipeline.augment.settings import AugmentSettings
from pipeline.coco.image_folder import ImageFolder
from pipeline.errors import ImageError
from pipeline.labels.class_check import NO_CHECK, ClassCheck
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import Status

IMAGES_KEPT = 3

ReadImage = Callable[[ImageKey], LabelledImage]


@dataclass(frozen=True)
class LabelledFolder:
    """A label store and the folder of its images."""

    store_path: Path
    images: ImageFolder

    @classmethod
    def of(cls, store_path: Path, image_root: Path) -> LabelledFolder:
        """Look for the images of a store in a folder. image_root: the folder that file names are relative to."""
        images = ImageFolder.of(image_root, LabelStore.open(store_path).file_names())
        return cls(store_path.absolute(), images)


@dataclass(frozen=True)
class CompositeSources:
    """The sources of composites.

    labelled: set if labelled images are partners too. check: what is done to refined labels whose class is doubted.
    A pickled copy does not include what was read.
    """

    refined: LabelledFolder
    labelled: LabelledFolder | None
    settings: AugmentSettings
    check: ClassCheck = NO_CHECK

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """Return all composites that the settings ask for, in the order of the result."""
        return tuple(chain.from_iterable(map(self.pairs_of_copy, range(self.settings.copies))))

    def pairs_of_copy(self, copy: int) -> tuple[Pair, ...]:
        """Return the composites of a copy, by any index from 0."""
        return self._pairing.of_copy(copy)

    def nothing_to_paste(self) -> str:
        """Return why no composite differs from its base, or ""."""
        refined = self.refined_store
        if len(refined) < 2 or any(pair.donor for pair in self.pairs_of_copy(0)):
            return ""
        return (
            f"no instance out of {refined.attributes.instances:,} may be pasted, composites equal their images: "
            f"{_conditions(self.settings)}. Loosen these, or set augment.mode to none"
        )

    @property
    def paths(self) -> tuple[Path, ...]:
        """Return the stores and folders of images."""
        folders = (self.refined, *filter(None, [self.labelled]))
        return tuple(chain.from_iterable((folder.store_path, folder.images.root) for folder in folders))

    @cached_property
    def by_id(self) -> dict[int, Pair]:
        """Return the pairs by the id of their composite."""
        return {pair.composite_id: pair for pair in self.pairs}

    @property
    def refined_store(self) -> LabelStore:
        """Return the store of refined labels."""
        return self._stores[0]

    def reader(self) -> ReadImage:
        """Return `read` with the last images kept: the two images of a pair are used by two composites."""
        return lru_cache(IMAGES_KEPT)(self.read)

    def compose(self, pair: Pair, read: ReadImage) -> LabelledImage:
        """Make a composite, with its own id and the base's file name. Raise ImageError if an image cannot be read."""
        base = read(ImageKey(pair.base_id))
        donor = None if pair.donor is None else read(pair.donor)
        made = composite(base, donor, self.settings, pair.rng(self.settings.seed))
        return replace(made, labels=replace(made.labels, image_id=pair.composite_id))

    def read(self, key: ImageKey) -> LabelledImage:
        """Read an image with its labels. Raise ImageError if it cannot be used."""
        folder = self.labelled if key.is_labelled else self.refined
        store = self._stores[key.is_labelled]
        assert folder is not None and store is not None  # only then are there such keys
        labels = store.by_id(key.image_id)
        if labels.status is Status.FAILED:
            raise ImageError(f"{labels.file_name}: {labels.message}")
        try:
            image_rgb = folder.images.read(labels.file_name, (labels.width, labels.height))
        except ImageError as error:
            raise ImageError(f"{labels.file_name}: {error}") from error
        image_rgb.setflags(write=False)  # it is the base of one composite and the donor of another
        checked = labels if key.is_labelled else self.check.applied(labels)
        return LabelledImage(image_rgb, checked, is_truth=key.is_labelled)

    @cached_property
    def _pairing(self) -> Pairing:
        # In a view an instance may be larger than in its image.
        any_size = {"min_area_px": 0.0, "min_area_share": 0.0} if self.settings.views else {}
        return Pairing(*self._stores, self.settings.model_copy(update=any_size))

    @cached_property
    def _stores(self) -> tuple[LabelStore, LabelStore | None]:
        labelled = None if self.labelled is None else LabelStore.open(self.labelled.store_path)
        return LabelStore.open(self.refined.store_path), labelled

    def __reduce__(self) -> tuple[type[CompositeSources], tuple[object, ...]]:
        return type(self), (self.refined, self.labelled, self.settings, self.check)


def _conditions(settings: AugmentSettings) -> str:
    """Return the settings that decide which instances may be pasted, with their values."""
    names = ("decisions", "min_score", "min_area_px", "min_area_share")
    values = settings.model_dump(mode="json", include=set(names))
    return ", ".join(f"augment.{name} is {values[name]}" for name in names)
