"""sam_tiny's image encoder as a detector's backbone: the start that small detectors learn from."""

from __future__ import annotations

from mmengine.model import BaseModule
from torch import Tensor, nn

from pipeline.detection.registry import MODELS
from pipeline.sam.build import build_sam
from pipeline.sam.tiny.model import TinyEncoder


@MODELS.register_module()
class SamTinyBackbone(BaseModule):  # type: ignore[misc]
    """Four feature maps, of strides 4, 8, 16 and 32 and as many channels as `pipeline.sam.tiny.model.STAGE_CHANNELS`.

    With `pretrained`, training starts from the weights shipped with this program; building reads none. With
    `norm_eval`, batch norm keeps the statistics that the weights came with. The first `frozen_stages` of the four
    stages, and what lies before them, do not learn: they are also the ones that cost most.
    """

    def __init__(self, pretrained: bool = True, norm_eval: bool = True, frozen_stages: int = 0) -> None:
        super().__init__()
        self.pretrained = pretrained
        self.norm_eval = norm_eval
        encoder = TinyEncoder()
        # Without what fuses the stages into SAM's one map: a detector has its own neck for them.
        self.stem, self.stages = encoder.stem, encoder.stages
        if frozen_stages > 0:
            for part in (self.stem, *self.stages[:frozen_stages]):
                part.requires_grad_(False)

    def init_weights(self) -> None:
        """Take the shipped weights, where that is asked for; called once, when training starts."""
        super().init_weights()
        if self.pretrained:
            state = build_sam("sam_tiny").image_encoder.state_dict()
            self.load_state_dict({name: state[name] for name in self.state_dict()})

    def train(self, mode: bool = True) -> SamTinyBackbone:
        """Training mode, or not; batch norm stays out of it with `norm_eval`."""
        super().train(mode)
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of normalised images B x 3 x H x W, finest first."""
        features = self.stem(images)
        levels = []
        for stage in self.stages:
            features = stage(features)
            levels.append(features)
        return tuple(levels)
