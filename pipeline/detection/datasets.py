"""Where training samples come from: labelled images, stored labels, and their mixture (see also `composites`).

A sample is asked for by its name (see `Sample`), and is the same in whatever process it is made.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import cv2
import msgspec
import numpy as np
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.dataset import Compose
from mmengine.logging import print_log
from numpy.typing import NDArray
from torch.utils.data import Dataset

from pipeline.coco.image_folder import ImageFolder
from pipeline.coco.model import CocoAnnotation, CocoCategory, CocoDataset, CocoImage
from pipeline.coco.reading import read_coco
from pipeline.detection.passes import repeat_factors
from pipeline.detection.registry import DATASETS
from pipeline.detection.sample_seed import Sample
from pipeline.detection.settings import InstanceWeight
from pipeline.detection.window_masks import MaskWindow, WindowMasks
from pipeline.errors import ImageError, StageError
from pipeline.labels.class_check import NO_CHECK, ClassCheck
from pipeline.labels.dataset_rows import dataset_rows
from pipeline.labels.label_columns import STATUSES
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import Decision, ImageLabels, InstanceLabel, Status
from pipeline.masks.windows import NOTHING
from pipeline.structure.target_store import StructureStore

LABELLED: Final = "labelled"

_UNUSABLE_IN_A_ROW = 100
NO_SETTINGS: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """An image, uint8 (height, width, 3) RGB, with its labels and whatever else the packing shall find."""

    path: Path
    image_rgb: NDArray[np.uint8]
    labels: ImageLabels
    extras: Mapping[str, Any]


class TrainingImages(Dataset[dict[str, Any]]):
    """Images of one kind.

    source: "labelled", "pseudo" or "composite". pipeline: MMDetection's transforms (see `sample_pipeline`).
    An image that cannot be used is replaced by another of the source, and a warning tells why, once a process.
    """

    def __init__(
        self,
        source: str,
        categories: Sequence[CocoCategory],
        pipeline: Sequence[Mapping[str, Any]],
        *,
        instance_weight: InstanceWeight = "none",
        ignore_dropped: bool = True,
        class_check: ClassCheck = NO_CHECK,
        uncertain_pixel_weight: float = 1.0,
    ) -> None:
        self.source = source
        self.categories = tuple(sorted(categories, key=lambda category: category.id))
        self._label_by_category = {category.id: label for label, category in enumerate(self.categories)}
        self._transforms = composed(pipeline)
        self._instance_weight = instance_weight
        self._ignore_dropped = ignore_dropped
        self._class_check = class_check
        self._uncertain_pixel_weight = uncertain_pixel_weight
        self._told: set[str] = set()
        self.repeats: NDArray[np.float64] | None = None
        """How many times each item is due in a pass; None: once."""

    @property
    def metainfo(self) -> dict[str, Any]:
        """The classes, in the order of labels."""
        return {"classes": tuple(category.name for category in self.categories)}

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def load(self, item: int, draw: int) -> LoadedImage:
        """The image at a position; ImageError, with the file's name, where it cannot be used."""

    def __getitem__(self, sample: Sample) -> dict[str, Any]:
        reason = ""
        for replaced, item in enumerate(self._candidates(sample)):
            try:
                return self._made(item, sample, replaced)
            except ImageError as error:
                reason = str(error)
                self._tell(reason)
        raise StageError(f"No {self.source} image can be used: {replaced + 1} were tried; the last one was {reason}.")

    def _candidates(self, sample: Sample) -> Iterator[int]:
        """The item itself, then others, as long as there is hope."""
        yield sample.item
        others = sample.replacements_rng().permutation(len(self))
        yield from others[others != sample.item][: _UNUSABLE_IN_A_ROW - 1].tolist()

    def _made(self, item: int, sample: Sample, replaced: int) -> dict[str, Any]:
        """Make the sample of an item. replaced: the number of items that could not be used before."""
        loaded = self.load(item, sample.draw)
        with sample.randomness():
            return transformed(self._transforms, self.results(loaded) | {"replaced": replaced})

    def shown(self, labels: ImageLabels) -> list[InstanceLabel]:
        """Return the instances that samples have, those to ignore included."""
        return [each for each in labels.instances if self._ignore_dropped or each.decision is not Decision.DROPPED]

    def results(self, loaded: LoadedImage) -> dict[str, Any]:
        """Return what MMDetection's transforms work on. Instances are numbered in the order of `shown`."""
        labels = loaded.labels
        shown = self.shown(labels)
        masks = [MaskWindow.of_rle(labels.rle(each)) for each in shown]
        boxes_xyxy = np.array([each.box_xyxy for each in shown], dtype=np.float32).reshape(-1, 4)
        height, width = image_hw = loaded.image_rgb.shape[:2]
        uncertain = [_uncertain(labels, each) for each in shown] if self._uncertain_pixel_weight < 1 else None
        return {
            "img": cv2.cvtColor(loaded.image_rgb, cv2.COLOR_RGB2BGR),
            "img_id": labels.image_id,
            "img_path": str(loaded.path),
            "img_shape": image_hw,
            "ori_shape": image_hw,
            "height": labels.height,
            "width": labels.width,
            "source": self.source,
            "gt_bboxes": HorizontalBoxes(boxes_xyxy),
            "gt_masks": WindowMasks.of_image(masks, height, width, uncertain),
            "uncertain_pixel_weight": self._uncertain_pixel_weight,
            "gt_ignore_flags": np.array([each.decision is Decision.DROPPED for each in shown], dtype=np.bool_),
            "gt_bboxes_labels": np.arange(len(shown)),
            "label_by_number": np.array([self._label_by_category[each.category_id] for each in shown], dtype=np.int64),
            "weight_by_number": np.array([self._weight(each) for each in shown], dtype=np.float32),
            **loaded.extras,
        }

    def _weight(self, instance: InstanceLabel) -> float:
        return self._class_check.weight(instance) * self._own_weight(instance)

    def _own_weight(self, instance: InstanceLabel) -> float:
        match self._instance_weight:
            case "none":
                return 1.0
            case "gate":
                return 1.0 if instance.gate_confidence is None else instance.gate_confidence  # None: people's own
            case kind:
                return instance.score_of(kind)

    def _tell(self, reason: str) -> None:
        if reason not in self._told:
            self._told.add(reason)
            print_log(f"{reason}: left out, another image takes its place.", "current", logging.WARNING)


@DATASETS.register_module()
class LabelledImages(TrainingImages):
    """The images of a COCO file; crowds are ignored. `structure`: a store of structural targets for them.

    image_ids: which of them, if not all. repeat_threshold: repeat images of classes that a smaller share of the images
    has (see `repeat_factors`); 0: none.
    """

    def __init__(
        self,
        annotations: str,
        image_root: str,
        pipeline: Sequence[Mapping[str, Any]],
        structure: str | None = None,
        image_ids: Sequence[int] | None = None,
        repeat_threshold: float = 0.0,
    ) -> None:
        dataset = read_coco(Path(annotations))
        super().__init__(LABELLED, dataset.categories, pipeline)
        if image_ids is not None:
            missing = sorted(set(image_ids) - set(dataset.image_by_id))
            if missing:
                raise StageError(f"{annotations}: there is no image with the id {missing[0]}.")
            dataset = dataset.subset(image_ids)
        self._path = dataset.path
        self._images = ImageFolder.of(Path(image_root), [image.file_name for image in dataset.images])
        self._structure = None if structure is None else StructureStore.open(Path(structure))
        # One block of bytes: objects would be copied into every worker, page by page, as they are looked at.
        texts = [msgspec.json.encode((image, dataset.annotations_by_image[image.id])) for image in dataset.images]
        self._offsets = np.cumsum([0, *map(len, texts)])
        self._texts = b"".join(texts)
        if repeat_threshold:
            classes = [
                {each.category_id for each in dataset.annotations_by_image[image.id]} for image in dataset.images
            ]
            self.repeats = repeat_factors(classes, repeat_threshold)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def load(self, item: int, draw: int) -> LoadedImage:
        labels = self._labels(item)
        extras = {}
        if self._structure is not None:
            targets = self._structure.by_id(labels.image_id)
            extras = {
                "structure_anchors_xy": targets.anchors_xy,
                "structure_windows_xyxy": targets.windows_xyxy,
                "structure_maps": targets.maps,
            }
        return LoadedImage(*_read(self._images, labels), labels, extras)

    def _labels(self, item: int) -> ImageLabels:
        start, end = self._offsets[item : item + 2]
        image, annotations = msgspec.json.decode(
            self._texts[start:end], type=tuple[CocoImage, tuple[CocoAnnotation, ...]]
        )
        return next(dataset_rows(CocoDataset(self._path, (image,), self.categories, annotations)))


@DATASETS.register_module()
class StoredLabels(TrainingImages):
    """The images of a label store that did not fail; those without instances teach what is background.

    instance_weight: what an instance counts. ignore_dropped: dropped instances are ignored, or else as if they
    were not there. class_check: the fields of a `ClassCheck`; empty for none. uncertain_pixel_weight: the weight of
    uncertain pixels in the loss of masks.
    """

    def __init__(
        self,
        store: str,
        image_root: str,
        pipeline: Sequence[Mapping[str, Any]],
        source: Literal["pseudo", "composite"] = "pseudo",
        instance_weight: InstanceWeight = "none",
        ignore_dropped: bool = True,
        class_check: Mapping[str, Any] = NO_SETTINGS,
        uncertain_pixel_weight: float = 1.0,
    ) -> None:
        self._store = LabelStore.open(Path(store))
        require_weights(self._store, instance_weight)
        super().__init__(
            source,
            self._store.attributes.categories,
            pipeline,
            instance_weight=instance_weight,
            ignore_dropped=ignore_dropped,
            class_check=ClassCheck(**class_check),
            uncertain_pixel_weight=uncertain_pixel_weight,
        )
        self._images = ImageFolder.of(Path(image_root), self._store.file_names())
        self._positions = usable_positions(self._store)

    def __len__(self) -> int:
        return len(self._positions)

    def load(self, item: int, draw: int) -> LoadedImage:
        labels = self._class_check.applied(self._store[int(self._positions[item])])
        return LoadedImage(*_read(self._images, labels), labels, {})


@DATASETS.register_module()
class Mixture(Dataset[dict[str, Any]]):
    """Several sources of the same classes, for `MixtureSampler`."""

    def __init__(self, datasets: Sequence[TrainingImages | Mapping[str, Any]]) -> None:
        self.datasets = [each if isinstance(each, TrainingImages) else _built(each) for each in datasets]
        classes = {tuple((category.id, category.name) for category in each.categories) for each in self.datasets}
        if len(classes) != 1:
            raise StageError(f"The sources of a mixture must have the same categories, these have {sorted(classes)}.")
        if any(each.source == LABELLED and not len(each) for each in self.datasets):
            raise StageError("There is no labelled image to train on.")

    @property
    def metainfo(self) -> dict[str, Any]:
        """The classes, in the order of labels."""
        return self.datasets[0].metainfo

    def __len__(self) -> int:
        return sum(len(each) for each in self.datasets)

    def __getitem__(self, sample: Sample) -> dict[str, Any]:
        return self.datasets[sample.source][sample]


def transformed(transforms: Compose, results: dict[str, Any]) -> dict[str, Any]:
    """Return what transforms make of an image. Raise ImageError if they refuse it."""
    made: dict[str, Any] | None = transforms(results)
    if made is None:
        path = results["img_path"]
        raise ImageError(f"{path}: the transforms refuse it; RandomCrop needs allow_negative_crop=True")
    return made


def _built(config: Mapping[str, Any]) -> TrainingImages:
    source: TrainingImages = DATASETS.build(config)
    return source


def require_weights(store: LabelStore, instance_weight: InstanceWeight) -> None:
    """Raise StageError if no instance of a store has the measure that weighs it."""
    if not store.attributes.instances:
        return
    if instance_weight == "gate" and np.isnan(store.column("instances/gate_confidence")).all():
        raise StageError(
            f"{store.path}: these labels went through no gate, so that student.instance_weight cannot be gate: "
            "set it to class or none, or refine the labels."
        )
    if instance_weight == "mask" and np.isnan(store.mask_scores()).all():
        raise StageError(
            f"{store.path}: these labels have no mask scores, so that student.instance_weight cannot be mask: "
            "set it to class or none, or give results with mask scores."
        )


def usable_positions(store: LabelStore) -> NDArray[np.intp]:
    """Return the positions of the images that did not fail."""
    return np.flatnonzero(store.column("images/status") != STATUSES.index(Status.FAILED))


def _uncertain(labels: ImageLabels, instance: InstanceLabel) -> MaskWindow:
    """Return the uncertain pixels of an instance; none where they are not known."""
    rle = labels.uncertain_rle(instance)
    return MaskWindow(NOTHING, np.zeros((0, 0), np.uint8)) if rle is None else MaskWindow.of_rle(rle)


def _read(images: ImageFolder, labels: ImageLabels) -> tuple[Path, NDArray[np.uint8]]:
    """An image's path and its pixels, RGB."""
    try:
        return images.path(labels.file_name), images.read(labels.file_name, (labels.width, labels.height))
    except ImageError as error:
        raise ImageError(f"{images.root / labels.file_name}: {error}") from error


def composed(pipeline: Sequence[Mapping[str, Any]]) -> Compose:
    """Build a pipeline of transforms."""
    return Compose([_with_tuples(transform) for transform in pipeline])


def _with_tuples(value: Any) -> Any:
    """Sizes as tuples again, which transforms insist on and JSON has not: lists of whole numbers."""
    if isinstance(value, Mapping):
        return {key: _with_tuples(each) for key, each in value.items()}
    if isinstance(value, list):
        whole = bool(value) and all(isinstance(each, int) for each in value)
        return tuple(value) if whole else [_with_tuples(each) for each in value]
    return value
