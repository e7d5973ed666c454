"""sam_tiny's image encoder as a detector's backbone: the start that small detectors learn from."""

from __future__ import annotations

from mmengine.model import BaseModule
from torch import Tensor, nn

from pipeline.detection.registry import MODELS
from pipeline.sam.build import build_sam
from pipeline.sam.tiny.model import TinyEncoder


@MODELS.register_module()
class SamTinyBackbone(BaseModule):  # type: ignore[misc]
    """Backbone with four feature maps: strides 4, 8, 16 and 32, channels `pipeline.sam.tiny.model.STAGE_CHANNELS`.

    pretrained: training starts from the weights shipped with this program; building the backbone reads no weights.
    norm_eval: batch norm keeps the statistics of those weights.
    frozen_stages: so many of the four stages, from the first, and the stem do not learn; they also cost most.
    """

    def __init__(self, pretrained: bool = True, norm_eval: bool = True, frozen_stages: int = 0) -> None:
        super().__init__()
        self.pretrained = pretrained
        self.norm_eval = norm_eval
        encoder = TinyEncoder()
        # The layers that fuse the stages into SAM's one map are left out: a detector has its own neck.
        self.stem, self.stages = encoder.stem, encoder.stages
        if frozen_stages > 0:
            for part in (self.stem, *self.stages[:frozen_stages]):
                part.requires_grad_(False)

    def init_weights(self) -> None:
        """Load the shipped weights with `pretrained`; MMEngine calls this once, when training starts."""
        super().init_weights()
        if self.pretrained:
            state = build_sam("sam_tiny").image_encoder.state_dict()
            self.load_state_dict({name: state[name] for name in self.state_dict()})

    def train(self, mode: bool = True) -> SamTinyBackbone:
        """Set training mode; with `norm_eval` batch norm stays in evaluation mode."""
        super().train(mode)
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the feature maps of normalised images, B x 3 x H x W, finest first."""
        features = self.stem(images)
        levels = []
        for stage in self.stages:
            features = stage(features)
            levels.append(features)
        return tuple(levels)
