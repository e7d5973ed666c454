"""The detectors that are trained: MMDetection's, on labelled and pseudo-labelled images, with SAM's structure.

State dicts have MMDetection's names, so that its weights are a start and ours run in it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from mmdet.models.detectors import BaseDetector
from mmdet.models.detectors import Mask2Former as MMDetectionMask2Former
from mmdet.models.detectors import MaskRCNN as MMDetectionMaskRCNN
from mmdet.structures import DetDataSample
from mmdet.utils import reduce_mean
from mmengine.dist import get_world_size
from torch import Tensor, nn

from pipeline.detection.mask2former_head import MASKS_IN_ALL
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
    to resemble each other as SAM's do. What the processes of a distributed training must know of each other's groups is
    exchanged by `share_counts`; the losses of a group wait for nobody.
    """

    def __init__(self, *, structural_weight: float = 0.0, pseudo_weight: float = 1.0, **detector: Any) -> None:
        super().__init__(**detector)
        self.pseudo_weight = pseudo_weight
        self.structural_loss = StructuralLoss(structural_weight) if structural_weight > 0 else None
        self._features_dtype: torch.dtype | None = None

    @abstractmethod
    def structural_features(self) -> tuple[nn.Module, int]:
        """The module whose first output is the finest feature map, B x C x h x w, and the map's stride."""

    def share_counts(self, groups: Sequence[list[DetDataSample]]) -> None:
        """Exchange with all processes what losses are divided by, once a step; `groups` may be empty."""

    def loss(self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample]) -> Losses:
        """The detector's losses by name, those of pseudo-labels prefixed; `loss_structure` where there are targets."""
        device = batch_inputs.device.type
        # mmcv's operators (NMS, RoIAlign, deformable attention) know no bf16: in mixed precision only the features
        # are made in it, by `extract_feat`.
        self._features_dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        try:
            with torch.autocast(device, enabled=False):
                return self._losses_of_groups(batch_inputs, batch_data_samples)
        finally:
            self._features_dtype = None

    def extract_feat(self, batch_inputs: Tensor) -> tuple[Tensor, ...]:
        """Feature maps, finest first; in a training of mixed precision made in that and given as float32."""
        if self._features_dtype is None:
            features: tuple[Tensor, ...] = super().extract_feat(batch_inputs)
            return features
        with torch.autocast(batch_inputs.device.type, self._features_dtype):
            features = super().extract_feat(batch_inputs)
        return tuple(level.float() for level in features)

    def _losses_of_groups(self, inputs: Tensor, samples: list[DetDataSample]) -> Losses:
        labelled: list[int] = []
        pseudo: list[int] = []
        for index, sample in enumerate(samples):
            (labelled if sample.get("source", LABELLED) == LABELLED else pseudo).append(index)
        self.share_counts([[samples[index] for index in group] for group in (labelled, pseudo)])
        losses: Losses = {}
        if labelled:
            losses |= self._labelled_losses(inputs[labelled], [samples[index] for index in labelled])
        if pseudo:
            found = super().loss(inputs[pseudo], [samples[index] for index in pseudo])
            losses |= _as_pseudo(found, self.pseudo_weight)
        return losses

    def _labelled_losses(self, inputs: Tensor, samples: list[DetDataSample]) -> Losses:
        taught = [index for index, sample in enumerate(samples) if "structure_maps" in sample]
        if self.structural_loss is None or not taught:
            supervised: Losses = super().loss(inputs, samples)
            return supervised
        module, stride = self.structural_features()
        with first_outputs(module) as outputs:
            losses: Losses = super().loss(inputs, samples)
        features = outputs[0][taught]
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

    def share_counts(self, groups: Sequence[list[DetDataSample]]) -> None:
        """Tell every sample how many masks its group has in a process, on average over all."""
        if get_world_size() == 1:
            return
        own = [sum(self.panoptic_head.masks_counted(sample) for sample in group) for group in groups]
        device = next(self.parameters()).device
        shared = reduce_mean(torch.tensor(own, dtype=torch.float32, device=device)).tolist()
        for group, masks in zip(groups, shared, strict=True):
            for sample in group:
                sample.set_metainfo({MASKS_IN_ALL: masks})


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
