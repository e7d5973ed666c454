"""Predicts with a trained detector: MMDetection's own detections, with the probabilities of their masks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from mmcv.transforms import Compose
from mmdet.datasets.transforms import PackDetInputs
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox2roi
from mmengine import ConfigDict
from mmengine.registry import TRANSFORMS, init_default_scope
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.coco.model import CocoCategory
from pipeline.compute.devices import prepare_worker, resolve_precision, usable_device
from pipeline.compute.settings import Precision
from pipeline.detection.flip import merge, mirrored_back
from pipeline.detection.gpu_operators import require_gpu_operators
from pipeline.detection.models import first_outputs, float32_features
from pipeline.detection.painted_masks import Prediction, QueryMask, RegionMask
from pipeline.detection.published import (
    DetectorChoice,
    PublishedDetector,
    build_published,
    read_published,
    refused_if_damaged,
)
from pipeline.errors import StageError
from pipeline.masks.windows import BoxXyxy

_HEADS: Final = ("rpn_head", "roi_head.bbox_head", "roi_head.mask_head", "panoptic_head")
Inputs = tuple[Tensor, DetDataSample]
"""The input of the detector for an image: pixels, uint8 3 x height x width, blue first, and their data sample."""


@dataclass(frozen=True, eq=False)
class FeatureLevels:
    """Feature maps of one image, each float32 1 x C x h x w, the finest first.

    shown_hw: the share of their height and width that the image fills; the rest is padding.
    """

    maps: tuple[Tensor, ...]
    shown_hw: tuple[float, float]


class Predictor:
    """A detector on a device.

    All images of a batch have the same size, so that none is padded. On a CPU a batch is one image: larger batches are
    not faster, and the rounding of sums would depend on the other images.
    """

    def __init__(self, published: PublishedDetector, device: str, precision: Precision, batch_images: int) -> None:
        self.categories: tuple[CocoCategory, ...] = published.card.categories
        self._folder = published.folder
        self._device = torch.device(device)
        self._is_bf16 = resolve_precision(precision, self._device) == "bf16"
        self._batch_images = 1 if self._device.type == "cpu" else batch_images
        self._model: Any = build_published(published, device)  # MMDetection's modules carry no types
        self._heads = [module for name, module in self._model.named_modules() if name in _HEADS]
        with refused_if_damaged(published.folder):
            self._prepare = _preparation(published.config.get("test_transforms", ()))

    def predict(self, images_rgb: Sequence[NDArray[np.uint8]], min_score: float = 0.0) -> list[list[Prediction]]:
        """Return the instances of images, each uint8 (height, width, 3); those with a lower class score are left out.

        Raise StageError if the model's answer holds values that are not finite.
        """
        inputs = [self._input(image) for image in images_rgb]
        found: list[list[Prediction]] = [[] for _ in images_rgb]
        for indices in self._batches([pixels.shape for pixels, _ in inputs]):
            predictions = self._predict_batch([inputs[index] for index in indices], min_score)
            for index, instances in zip(indices, predictions, strict=True):
                found[index] = instances
        return found

    def predict_twice(self, images_rgb: Sequence[NDArray[np.uint8]]) -> list[list[Prediction]]:
        """Return the instances found on images and on their mirror images, merged."""
        mirror_images = [np.ascontiguousarray(image[:, ::-1]) for image in images_rgb]
        found = self.predict([*images_rgb, *mirror_images])
        count = len(images_rgb)
        return [
            merge(direct, [mirrored_back(each, image.shape[1]) for each in mirrored])
            for image, direct, mirrored in zip(images_rgb, found[:count], found[count:], strict=True)
        ]

    @torch.inference_mode()
    def structural_features(self, image_rgb: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """Return the features that the structural loss teaches, for an image, uint8 (height, width, 3).

        They are 1 x C x h x w float32. With them comes the share of their width and height that the image fills, (2,).
        """
        pixels, (sample,) = self._preprocessed([self._input(image_rgb)])
        module, stride = self._model.structural_features()
        with first_outputs(module) as outputs:
            features = self._features(pixels)
            if not outputs:  # the module is not one of the feature maps, but works on them
                module(features)
        height, width = sample.img_shape
        shown_wh = torch.tensor([width, height], dtype=torch.float32, device=self._device)
        found = outputs[0].float()
        return found, shown_wh / (stride * shown_wh.new_tensor([found.shape[3], found.shape[2]]))

    @torch.inference_mode()
    def feature_levels(self, image_rgb: NDArray[np.uint8]) -> FeatureLevels:
        """Return the feature maps of an image, uint8 (height, width, 3), that instances of a class have in common.

        They are all levels of the FPN, or the mask features and the memories of Mask2Former's pixel decoder.
        """
        pixels, (sample,) = self._preprocessed([self._input(image_rgb)])
        maps = self._features(pixels)
        if hasattr(self._model, "panoptic_head"):
            mask_features, memories = self._model.panoptic_head.pixel_decoder(maps)
            maps = (mask_features, *reversed(memories))
        _require_finite(maps, self._folder)
        (shown_height, shown_width), (height, width) = sample.img_shape, pixels.shape[-2:]
        return FeatureLevels(maps, (shown_height / height, shown_width / width))

    def _batches(self, shapes: Sequence[tuple[int, ...]]) -> Iterator[list[int]]:
        """Yield the indices of the images of each batch."""
        indices_by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, shape in enumerate(shapes):
            indices_by_shape[shape].append(index)
        for indices in indices_by_shape.values():
            for first in range(0, len(indices), self._batch_images):
                yield indices[first : first + self._batch_images]

    def _input(self, image_rgb: NDArray[np.uint8]) -> Inputs:
        size_hw = image_rgb.shape[:2]
        # MMDetection reads files blue first; the detector's preprocessor reorders the channels.
        pixels_bgr = np.ascontiguousarray(image_rgb[..., ::-1])
        # MMDetection's Resize overwrites the scale; without one it is 1.
        image = {"img": pixels_bgr, "img_shape": size_hw, "ori_shape": size_hw, "scale_factor": (1.0, 1.0)}
        packed = self._prepare(image)
        return packed["inputs"], packed["data_samples"]

    @torch.inference_mode()
    def _predict_batch(self, batch: Sequence[Inputs], min_score: float) -> list[list[Prediction]]:
        pixels, samples = self._preprocessed(batch)
        features = self._features(pixels)
        find = _query_instances if hasattr(self._model, "panoptic_fusion_head") else _region_instances
        _require_finite(features, self._folder)
        with _finite_answers(self._heads, self._folder):
            return find(self._model, features, samples, min_score)

    def _preprocessed(self, batch: Sequence[Inputs]) -> tuple[Tensor, list[DetDataSample]]:
        """Return the normalised and padded pixels of a batch, and its data samples."""
        data = {"inputs": [pixels for pixels, _ in batch], "data_samples": [sample for _, sample in batch]}
        data = self._model.data_preprocessor(data, False)
        return data["inputs"], data["data_samples"]

    def _features(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the feature maps of a batch, finest first."""
        return float32_features(self._model, inputs, in_bf16=self._is_bf16)


@lru_cache(maxsize=2)
def build_predictor(choice: DetectorChoice) -> Predictor:
    """Load the detector of a worker process; the last two are kept, for comparisons."""
    device = usable_device(choice.device)
    prepare_worker(device, choice.precision)
    if device.type != "cpu":
        require_gpu_operators()
    return Predictor(read_published(choice.folder), str(device), choice.precision, choice.batch_images)


@contextmanager
def _finite_answers(heads: Sequence[nn.Module], folder: Path) -> Iterator[None]:
    """Raise StageError within this context if a head answers with values that are not finite.

    MMDetection drops boxes whose score is NaN: a broken model would seem to find nothing.
    """
    hooks = [head.register_forward_hook(lambda _, __, answer: _require_finite(answer, folder)) for head in heads]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _require_finite(values: Any, folder: Path) -> None:
    """Raise StageError unless all values in a tensor, or in lists of tensors, are finite."""
    if isinstance(values, Tensor):
        if not values.isfinite().all():
            raise StageError(
                f"{folder}: this model answers with values that are not numbers (NaN or infinite): its training "
                "diverged. Train again, with a lower learning rate"
            )
    elif isinstance(values, list | tuple):
        for each in values:
            _require_finite(each, folder)


def _preparation(test_transforms: Sequence[dict[str, Any]]) -> Compose:
    """Return the test-time transforms of a model, which may only resize, followed by packing."""
    init_default_scope("mmdet")
    packing = PackDetInputs(meta_keys=("ori_shape", "img_shape", "scale_factor"))
    return Compose([*(TRANSFORMS.build(step) for step in test_transforms), packing])


def _region_instances(
    model: Any, features: tuple[Tensor, ...], samples: list[DetDataSample], min_score: float
) -> list[list[Prediction]]:
    """Return the instances of Mask R-CNN, as MMDetection's `TwoStageDetector.predict`, without painting masks."""
    heads = model.roi_head
    proposals = model.rpn_head.predict(features, samples, rescale=False)
    metainfos = [sample.metainfo for sample in samples]
    # Suppression of overlaps takes time, and one that is left out suppresses none that is kept.
    least = max(heads.test_cfg.score_thr, float(np.nextafter(np.float32(min_score), np.float32(-1))))
    test_cfg = ConfigDict(heads.test_cfg, score_thr=least)
    found = heads.predict_bbox(features, metainfos, proposals, test_cfg, rescale=False)
    found = [each[each.scores >= min_score] for each in found]
    rois = bbox2roi([each.bboxes for each in found])
    if not len(rois):
        return [[] for _ in found]
    mask_logits = heads._mask_forward(features, rois)["mask_preds"].split([len(each) for each in found])
    predictions = []
    for sample, each, logits in zip(samples, found, mask_logits, strict=True):
        channels = torch.zeros_like(each.labels) if heads.mask_head.class_agnostic else each.labels
        cells = logits.sigmoid()[torch.arange(len(each), device=logits.device), channels]
        boxes_xyxy = each.bboxes / each.bboxes.new_tensor(sample.scale_factor).repeat((1, 2))
        threshold = heads.test_cfg.mask_thr_binary
        # Cells divide the box evenly: their mean inside is that of the mask, without painting it.
        inside = cells >= threshold
        mask_scores = (cells * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)
        masks = [RegionMask(*mask, sample.ori_shape, threshold) for mask in zip(cells, boxes_xyxy, strict=True)]
        boxes = map(tuple, boxes_xyxy.tolist())
        values = zip(each.labels.tolist(), each.scores.tolist(), mask_scores.tolist(), boxes, masks, strict=True)
        predictions.append(
            [
                Prediction(label, class_score, mask_score, False, box, mask)
                for label, class_score, mask_score, box, mask in values
            ]
        )
    return predictions


def _query_instances(
    model: Any, features: tuple[Tensor, ...], samples: list[DetDataSample], min_score: float
) -> list[list[Prediction]]:
    """Return the instances of Mask2Former, as MMDetection's `MaskFormerFusionHead.instance_postprocess` does."""
    class_logits, mask_logits = model.panoptic_head(features, samples)
    fusion = model.panoptic_fusion_head
    predictions = []
    for sample, classes, masks in zip(samples, class_logits[-1], mask_logits[-1], strict=True):
        scores = classes.softmax(-1)[:, :-1].flatten()
        most = min(fusion.test_cfg.get("max_per_image", 100), len(scores))
        top_scores, indices = scores.topk(most, sorted=False)
        found = []
        for score, index in zip(top_scores.tolist(), indices.tolist(), strict=True):
            query, label = divmod(index, fusion.num_classes)
            if score >= min_score and label < fusion.num_things_classes:
                mask = QueryMask(masks[query], sample.batch_input_shape, sample.img_shape, sample.ori_shape)
                found.append(_query_prediction(label, score, mask))
        predictions.append(found)
    return predictions


def _query_prediction(label: int, class_score: float, source: QueryMask) -> Prediction:
    """Return a prediction with the box of its mask."""
    logits = source.logits()
    inside = logits > 0
    mask_score = float((logits.sigmoid() * inside).sum() / (inside.sum(dtype=torch.float32) + 1e-6))
    rows, columns = inside.any(1).nonzero(), inside.any(0).nonzero()
    box_xyxy: BoxXyxy = (0.0, 0.0, 0.0, 0.0)
    if len(rows):
        box_xyxy = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
    return Prediction(label, class_score, mask_score, True, box_xyxy, source)
