"""The detectors that are trained: MMDetection's, on labelled and pseudo-labelled images, with SAM's structure.

State dicts have MMDetection's names, so that its weights are a start and ours run in it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, cast

import numpy as np
import torch
from mmdet.models.detectors import BaseDetector
from mmdet.models.detectors import Mask2Former as MMDetectionMask2Former
from mmdet.models.detectors import MaskRCNN as MMDetectionMaskRCNN
from mmdet.structures import DetDataSample
from mmdet.utils import reduce_mean
from mmengine.dist import get_world_size
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from pipeline.compute.settings import NumberFormat
from pipeline.detection.mask2former_head import MASKS_IN_ALL
from pipeline.detection.parts import step_in_parts
from pipeline.detection.registry import MODELS
from pipeline.structure.loss import Geometry, ImageStructure, StructuralLoss

LABELLED: Final = "labelled"
PSEUDO_PREFIX: Final = "pseudo_"

Losses = dict[str, Any]
"""MMDetection's: losses and other measures by name, each a tensor or one for each level."""


class SemiSupervisedDetector(BaseDetector):  # type: ignore[misc]
    """Adds to an MMDetection detector what S4M's training needs; predicting is unchanged.

    Images whose `source` is not "labelled" form a group of their own: their losses are multiplied by
    `pseudo_weight`. With `structural_weight`, labelled images that carry structural targets also teach the features
    to resemble each other as SAM's do. Features are made of all images at once, in `features_in`, and given to the
    heads as float32. A training step takes its images in `batch_parts` parts. What parts and processes must know of
    each other's groups is exchanged before, by `share_counts`; the losses of a group wait for nobody.
    """

    def __init__(
        self,
        *,
        structural_weight: float = 0.0,
        pseudo_weight: float = 1.0,
        features_in: NumberFormat = "fp32",
        batch_parts: int = 1,
        **detector: Any,
    ) -> None:
        super().__init__(**detector)
        self.pseudo_weight = pseudo_weight
        self.batch_parts = batch_parts
        self.structural_loss = StructuralLoss(structural_weight) if structural_weight > 0 else None
        self._in_bf16 = features_in == "bf16"
        self._features: tuple[Tensor, ...] | None = None  # of the group whose losses are computed

    @abstractmethod
    def structural_features(self) -> tuple[nn.Module, int]:
        """The module whose first output is the finest feature map, B x C x h x w, and the map's stride."""

    def share_counts(self, samples: Sequence[DetDataSample]) -> None:
        """Exchange with all processes what losses are divided by, once a step, given its samples in this process."""

    def train_step(self, data: Mapping[str, list[Any]], optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """Do a step, as MMEngine's, in parts."""
        return step_in_parts(self, self, data, optim_wrapper)

    def loss(self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample]) -> Losses:
        """The detector's losses by name, those of pseudo-labels prefixed; `loss_structure` where there are targets."""
        samples = batch_data_samples
        labelled, pseudo = _groups(samples)
        features = float32_features(self, batch_inputs, in_bf16=self._in_bf16)
        losses: Losses = {}
        for group, losses_of in ((labelled, self._labelled_losses), (pseudo, self._pseudo_losses)):
            if not group:
                continue
            self._features = tuple(level[group] for level in features)
            try:
                losses |= losses_of(batch_inputs[group], [samples[index] for index in group])
            finally:
                self._features = None
        return losses

    def extract_feat(self, batch_inputs: Tensor) -> tuple[Tensor, ...]:
        """Feature maps, finest first; while losses are computed those made for the whole batch."""
        features: tuple[Tensor, ...] = self._features or super().extract_feat(batch_inputs)
        return features

    def _pseudo_losses(self, inputs: Tensor, samples: list[DetDataSample]) -> Losses:
        return _as_pseudo(super().loss(inputs, samples), self.pseudo_weight)

    def _labelled_losses(self, inputs: Tensor, samples: list[DetDataSample]) -> Losses:
        taught = [index for index, sample in enumerate(samples) if "structure_maps" in sample]
        if self.structural_loss is None or not taught:
            supervised: Losses = super().loss(inputs, samples)
            return supervised
        module, stride = self.structural_features()
        with first_outputs(module) as outputs:
            losses: Losses = super().loss(inputs, samples)
        # A module that made the features has run already: its first output is the finest of them.
        finest = outputs[0] if outputs else cast(tuple[Tensor, ...], self._features)[0]
        features = finest[taught]
        samples = [samples[index] for index in taught]
        targets = [
            ImageStructure(sample.structure_anchors_xy, sample.structure_windows_xyxy, sample.structure_maps)
            for sample in samples
        ]
        losses["loss_structure"] = self.structural_loss(features, targets, _geometry(samples, features, stride))
        return losses


@MODELS.register_module()
class MaskRCNN(SemiSupervisedDetector, MMDetectionMaskRCNN):  # type: ignore[misc]
    """Mask R-CNN; structure is taught to the FPN's finest level."""

    def __init__(self, **detector: Any) -> None:
        super().__init__(**detector)
        self.rpn_head.in_bf16 = self.roi_head.in_bf16 = self._in_bf16

    def structural_features(self) -> tuple[nn.Module, int]:
        """The FPN, whose finest level the RPN's first anchors lie on."""
        return self.neck, int(self.rpn_head.prior_generator.strides[0][0])


@MODELS.register_module()
class Mask2Former(SemiSupervisedDetector, MMDetectionMask2Former):  # type: ignore[misc]
    """Mask2Former; structure is taught to the pixel decoder's mask features."""

    def structural_features(self) -> tuple[nn.Module, int]:
        """The pixel decoder, whose mask features have the stride of the backbone's finest level."""
        pixel_decoder = self.panoptic_head.pixel_decoder
        return pixel_decoder, int(pixel_decoder.strides[0])

    def share_counts(self, samples: Sequence[DetDataSample]) -> None:
        """Tell every sample how many masks its group has in a part of a process, on average over all."""
        if get_world_size() == 1 and self.batch_parts == 1:
            return
        groups = [[samples[index] for index in group] for group in _groups(samples)]
        own = [sum(map(self.panoptic_head.masks_counted, group)) / self.batch_parts for group in groups]
        device = next(self.parameters()).device
        shared = reduce_mean(torch.tensor(own, dtype=torch.float32, device=device)).tolist()
        for group, masks in zip(groups, shared, strict=True):
            for sample in group:
                sample.set_metainfo({MASKS_IN_ALL: masks})


def _groups(samples: Sequence[DetDataSample]) -> tuple[list[int], list[int]]:
    """Return the indices of the labelled samples, and of the others."""
    labelled = [index for index, sample in enumerate(samples) if sample.get("source", LABELLED) == LABELLED]
    return labelled, sorted(set(range(len(samples))) - set(labelled))


def float32_features(model: BaseDetector, inputs: Tensor, *, in_bf16: bool) -> tuple[Tensor, ...]:
    """Return a detector's feature maps of a batch, finest first, as float32; made in bf16 if asked for.

    mmcv's operators (NMS, RoIAlign, deformable attention) know no bf16: only the features are made in it.
    """
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=in_bf16):
        features = model.extract_feat(inputs)
    return tuple(level.float() for level in features)


@contextmanager
def first_outputs(module: nn.Module) -> Iterator[list[Tensor]]:
    """Give the first output of a module at each of its calls, filled while the context is open."""
    outputs: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output[0]))
    try:
        yield outputs
    finally:
        handle.remove()


def _as_pseudo(losses: Losses, weight: float) -> Losses:
    """The same by other names, losses (not other measures) multiplied."""
    scaled: Losses = {}
    for name, value in losses.items():
        factor = weight if "loss" in name else 1.0
        parts = [part * factor for part in value] if isinstance(value, list) else value * factor
        scaled[PSEUDO_PREFIX + name] = parts
    return scaled


def _geometry(samples: list[DetDataSample], features: Tensor, stride: int) -> Geometry:
    """How images lie in the input that their features, B x C x h x w, cover."""

    def sizes_wh(key: str) -> Tensor:
        sizes = [sample.metainfo[key][1::-1] for sample in samples]
        return torch.tensor(sizes, dtype=torch.float32, device=features.device)

    homographies = [np.asarray(sample.get("homography_matrix", np.eye(3)), dtype=np.float32) for sample in samples]
    return Geometry(
        homography=torch.from_numpy(np.stack(homographies)).to(features.device),
        visible_wh=sizes_wh("img_shape"),
        input_wh=(features.shape[-1] * stride, features.shape[-2] * stride),
    )
