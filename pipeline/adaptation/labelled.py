"""The labelled images that SAM is fitted to and measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.adaptation.encoding import KeptInMemory
from pipeline.adaptation.imitated_teacher import SMALLEST_PX
from pipeline.coco.image_folder import ImageFolder
from pipeline.coco.model import CocoDataset
from pipeline.coco.reading import read_coco
from pipeline.compute.execution import TooManyFailedError
from pipeline.compute.settings import ComputeSettings
from pipeline.datasets.held_out import held_out_ids
from pipeline.errors import ImageError
from pipeline.masks.run_lengths import CompressedRle, area_px

MOST_IMAGES: Final = 500
"""Images that are used, drawn at random if there are more: a few hundred steps do not see more of them."""


@dataclass(frozen=True)
class UsableImages:
    """Images that can be read and have an instance large enough to imitate a teacher's mask of it.

    image_ids: in a random order. masks: of each image, as run lengths. failures: reasons by file name, of images that
    cannot be read.
    """

    dataset: CocoDataset
    folder: ImageFolder
    image_ids: tuple[int, ...]
    masks: Mapping[int, tuple[CompressedRle, ...]]
    failures: Mapping[str, str]
    _kept: KeptInMemory[NDArray[np.uint8]] = field(default_factory=lambda: KeptInMemory(lambda image: image.nbytes))

    @classmethod
    def read(
        cls, annotations: Path, image_root: Path, compute: ComputeSettings, seed: int, held_out: float = 0.0
    ) -> UsableImages:
        """Read annotations, and every image once. Raise StageError if more images fail than `compute` allows.

        held_out: share of the images that is left out, because a gate is fitted on it.
        """
        dataset = read_coco(annotations)
        folder = ImageFolder.of(image_root, [image.file_name for image in dataset.images])
        known = dataset.image_by_id.keys() - held_out_ids(list(dataset.image_by_id), held_out)
        order = np.random.default_rng([seed, len(dataset.images)]).permutation(sorted(known))
        found = cls(dataset, folder, (), {}, {})
        masks: dict[int, tuple[CompressedRle, ...]] = {}
        failures: dict[str, str] = {}
        for image_id in order.tolist():
            if len(masks) == MOST_IMAGES:
                break
            usable = tuple(
                rle for each in dataset.instances(image_id) if area_px(rle := dataset.rle(each)) >= SMALLEST_PX
            )
            if usable:
                try:
                    found.pixels(image_id)
                    masks[image_id] = usable
                except ImageError as error:
                    failures[dataset.image_by_id[image_id].file_name] = str(error)
        images = len(masks) + len(failures)
        if len(failures) > compute.may_fail(images):
            raise TooManyFailedError("adapt", len(failures), images, compute.failed_share)
        return cls(dataset, folder, tuple(masks), masks, failures, found._kept)

    def pixels(self, image_id: int) -> NDArray[np.uint8]:
        """Return an image, uint8 (height, width, 3); ImageError if it cannot be read."""
        image = self.dataset.image_by_id[image_id]
        return self._kept.get(image_id, lambda: self.folder.read(image.file_name, (image.width, image.height)))

    def folds(self, count: int) -> tuple[tuple[int, ...], ...]:
        """Divide the images into as many groups, of sizes that differ by one at most; fewer if there are fewer."""
        groups = min(count, len(self.image_ids))
        return tuple(self.image_ids[first::groups] for first in range(groups))

    def without(self, held_out: Sequence[int]) -> tuple[int, ...]:
        """Return the other images."""
        left_out = set(held_out)
        return tuple(image_id for image_id in self.image_ids if image_id not in left_out)
