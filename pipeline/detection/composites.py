"""Composites that are made while training: of whole images, or of training views that are scaled and cropped before."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.augment.composite import LabelledImage, composite
from pipeline.augment.pairs import ImageKey, Pair
from pipeline.augment.settings import AugmentSettings
from pipeline.augment.sources import CompositeSources, LabelledFolder
from pipeline.detection.datasets import (
    NO_SETTINGS,
    LoadedImage,
    TrainingImages,
    composed,
    require_weights,
    transformed,
    usable_positions,
)
from pipeline.detection.registry import DATASETS
from pipeline.detection.sample_seed import Sample
from pipeline.detection.settings import InstanceWeight
from pipeline.detection.window_masks import MaskWindow, WindowMasks, mask_windows
from pipeline.labels.class_check import ClassCheck
from pipeline.labels.rows import ImageLabels, InstanceLabel, with_mask
from pipeline.masks.crop_mask import CropMask

_COPIES_KEPT: Final = 2  # where one pass over the composites ends and the next begins, both are asked for
_PADDING: Final = 128


@DATASETS.register_module()
class Composites(TrainingImages):
    """Composites made while training: those of the augment stage, and every pass over them is a new copy.

    Items are the images that may be a base. labelled_store and labelled_root: where labelled images are donors.
    settings: the experiment's `augment`. geometry: a detector's geometric transforms, for `augment.views`; base and
    donor go through them each on its own, and `pipeline` has the transforms behind them.
    """

    def __init__(
        self,
        refined_store: str,
        image_root: str,
        labelled_store: str | None,
        labelled_root: str | None,
        settings: Mapping[str, Any],
        pipeline: Sequence[Mapping[str, Any]],
        instance_weight: InstanceWeight = "none",
        ignore_dropped: bool = True,
        class_check: Mapping[str, Any] = NO_SETTINGS,
        uncertain_pixel_weight: float = 1.0,
        geometry: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        labelled = None
        if labelled_store is not None and labelled_root is not None:
            labelled = LabelledFolder.of(Path(labelled_store), Path(labelled_root))
        self._settings = AugmentSettings.model_validate_json(json.dumps(settings))
        self._sources = CompositeSources(
            LabelledFolder.of(Path(refined_store), Path(image_root)),
            labelled,
            self._settings,
            ClassCheck(**class_check),
        )
        store = self._sources.refined_store
        require_weights(store, instance_weight)
        super().__init__(
            "composite",
            store.attributes.categories,
            pipeline,
            instance_weight=instance_weight,
            ignore_dropped=ignore_dropped,
            class_check=ClassCheck(**class_check),
            uncertain_pixel_weight=uncertain_pixel_weight,
        )
        self._geometry = composed(geometry)
        self._base_ids = store.image_ids[usable_positions(store)]
        self._drawn: dict[int, dict[int, Pair]] = {}

    def __len__(self) -> int:
        return len(self._base_ids)

    def load(self, item: int, draw: int) -> LoadedImage:
        """Make the composite of whole images."""
        return self._loaded(self._sources.compose(self._pair(item, draw), self._sources.read))

    def _made(self, item: int, sample: Sample, replaced: int) -> dict[str, Any]:
        if not self._settings.views:
            return super()._made(item, sample, replaced)
        pair, read = self._pair(item, sample.draw), self._sources.read
        base, donor = read(ImageKey(pair.base_id)), None if pair.donor is None else read(pair.donor)
        with sample.randomness():
            shown, pasted = self._view(base), None if donor is None else self._view(donor)
            made = composed_view(shown, pasted, self._settings, pair.rng(self._settings.seed))
            made = replace(made, labels=replace(made.labels, image_id=pair.composite_id))
            return transformed(self._transforms, self.results(self._loaded(made)) | {"replaced": replaced})

    def _loaded(self, image: LabelledImage) -> LoadedImage:
        return LoadedImage(self._sources.refined.images.path(image.labels.file_name), image.image_rgb, image.labels, {})

    def _view(self, image: LabelledImage) -> CroppedView:
        """Scale and crop an image at random."""
        results = transformed(self._geometry, self.results(self._loaded(image)))
        numbered, windows = self.shown(image.labels), mask_windows(results["gt_masks"])
        masks, numbers = results["gt_masks"], results["gt_bboxes_labels"].tolist()
        noted = masks.uncertain() if isinstance(masks, WindowMasks) else None
        uncertain: list[CropMask | None] = [None] * len(numbers) if noted is None else [_crop(each) for each in noted]
        instances = [
            ShownInstance(numbered[number], _crop(mask), own)
            for number, mask, own in zip(numbers, windows, uncertain, strict=True)
        ]
        image_rgb = np.asarray(cv2.cvtColor(results["img"], cv2.COLOR_BGR2RGB), np.uint8)
        return CroppedView(
            image_rgb, image.labels, tuple(each for each in instances if not each.mask.is_empty), image.is_truth
        )

    def _pair(self, item: int, draw: int) -> Pair:
        """Return the pair of an item; those of the last copies are kept."""
        copy = draw // len(self)
        if copy not in self._drawn:
            while len(self._drawn) >= _COPIES_KEPT:
                del self._drawn[next(iter(self._drawn))]
            self._drawn[copy] = {pair.base_id: pair for pair in self._sources.pairs_of_copy(copy)}
        return self._drawn[copy][int(self._base_ids[item])]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_drawn": {}}


def _crop(mask: MaskWindow) -> CropMask:
    return CropMask.of_array(mask.pixels.view(np.bool_), mask.window)


@dataclass(frozen=True)
class ShownInstance:
    """What a view shows of an instance: its mask, and its uncertain pixels if these are known."""

    label: InstanceLabel
    mask: CropMask
    uncertain: CropMask | None = None

    def in_image(self, height: int, width: int) -> InstanceLabel:
        """Return the instance as one of an image of this size."""
        uncertain = None if self.uncertain is None else self.uncertain.to_rle(height, width)
        return with_mask(self.label, self.mask.to_rle(height, width), uncertain)


@dataclass(frozen=True, eq=False)
class CroppedView:
    """An image that was scaled and cropped, uint8 (height, width, 3) RGB.

    labels: those of the whole image. instances: what the view shows of them, in its pixels.
    """

    image_rgb: NDArray[np.uint8]
    labels: ImageLabels
    instances: tuple[ShownInstance, ...]
    is_truth: bool = False

    def padded(self, height: int, width: int) -> LabelledImage:
        """Return the view with grey below and to the right of it, as an image of its own with its labels."""
        own_height, own_width = self.image_rgb.shape[:2]
        missing = ((0, height - own_height), (0, width - own_width), (0, 0))
        image_rgb = np.pad(self.image_rgb, missing, constant_values=_PADDING)
        instances = tuple(each.in_image(height, width) for each in self.instances)
        labels = ImageLabels.of_instances(self.labels.image_id, self.labels.file_name, width, height, instances)
        return LabelledImage(image_rgb, labels, self.is_truth)


def composed_view(
    base: CroppedView, donor: CroppedView | None, settings: AugmentSettings, rng: np.random.Generator
) -> LabelledImage:
    """Return the base's view with the donor's instances pasted into it; as large as both, the base at the upper left.

    Areas count in pixels of the views.
    """
    sizes_hw = [view.image_rgb.shape[:2] for view in (base, donor) if view is not None]
    height, width = (max(sides) for sides in zip(*sizes_hw, strict=True))
    pasted = None if donor is None else donor.padded(*donor.image_rgb.shape[:2])
    return composite(base.padded(height, width), pasted, settings, rng)
