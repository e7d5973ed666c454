"""Small SAMs of every family that transformers has, with random weights, and their folders as `save_pretrained` writes.

transformers is an extra: import this module after `pytest.importorskip("transformers")`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    EdgeTamConfig,
    EdgeTamModel,
    PreTrainedModel,
    ProcessorMixin,
    Sam2Config,
    Sam2ImageProcessor,
    Sam2Model,
    Sam2Processor,
    Sam3ImageProcessor,
    Sam3TrackerConfig,
    Sam3TrackerModel,
    Sam3TrackerProcessor,
    SamConfig,
    SamHQConfig,
    SamHQModel,
    SamHQProcessor,
    SamImageProcessor,
    SamModel,
    SamProcessor,
)
from transformers.utils import logging

SIDE = 128  # of the input; 112 for SAM 3, whose patches have 14 pixels
HIDDEN = 32


def _decoder() -> dict[str, Any]:
    return {"hidden_size": HIDDEN, "mlp_dim": 64, "num_attention_heads": 4, "iou_head_hidden_dim": 32}


def _vit(**more: Any) -> dict[str, Any]:
    return {
        "vision_config": {
            "hidden_size": 32,
            "output_channels": HIDDEN,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": 16,
            "mlp_dim": 64,
            "num_pos_feats": HIDDEN // 2,
            "window_size": 3,
            "global_attn_indexes": [1, 2],
        },
        "prompt_encoder_config": {
            "hidden_size": HIDDEN,
            "image_size": SIDE,
            "patch_size": 16,
            "image_embedding_size": SIDE // 16,
        },
        "mask_decoder_config": {**_decoder(), **more},
    }


def _prompts(side: int, patch: int) -> dict[str, Any]:
    return {"hidden_size": HIDDEN, "image_size": side, "patch_size": patch}


def _feature_sizes(grid: int) -> list[list[int]]:
    return [[grid * times, grid * times] for times in (4, 2, 1)]


def sam_config(**vision: Any) -> SamConfig:
    """The config of a small SAM. vision: other values of its image encoder."""
    config = _vit()
    return SamConfig(**config | {"vision_config": config["vision_config"] | vision})


def sam() -> SamModel:
    return SamModel(sam_config())


def sam_hq() -> SamHQModel:
    return SamHQModel(SamHQConfig(**_vit(vit_dim=32)))


def sam2() -> Sam2Model:
    vision = {
        "backbone_config": {
            "model_type": "sam2_hiera_det_model",
            "hidden_size": 8,
            "image_size": [SIDE, SIDE],
            "blocks_per_stage": [1, 1, 2, 1],
            "embed_dim_per_stage": [8, 16, 32, 64],
            "num_attention_heads_per_stage": [1, 1, 2, 2],
            "window_size_per_stage": [4, 4, 7, 4],
            "global_attention_blocks": [3],
        },
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": _feature_sizes(SIDE // 16),
        "fpn_hidden_size": HIDDEN,
    }
    prompts = _prompts(SIDE, 16)
    return Sam2Model(Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=_decoder()))


def edgetam() -> EdgeTamModel:
    vision = {
        "backbone_config": {
            "model_type": "timm_wrapper",
            "architecture": "repvit_m1",
            "num_classes": 2,
            "label_names": ["a", "b"],
            "model_args": {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]},
        },
        "backbone_feature_sizes": _feature_sizes(SIDE // 16),
        "fpn_hidden_size": HIDDEN,
    }
    prompts = _prompts(SIDE, 16)
    return EdgeTamModel(
        EdgeTamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=_decoder())
    )


def sam3_tracker() -> Sam3TrackerModel:
    side = 112
    vision = {
        "model_type": "sam3_vision_model",
        "backbone_config": {
            "model_type": "sam3_vit_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": side,
            "patch_size": 14,
            "window_size": 4,
            "global_attn_indexes": [1],
            "pretrain_image_size": 56,
        },
        "backbone_feature_sizes": _feature_sizes(side // 14),
        "fpn_hidden_size": HIDDEN,
    }
    return Sam3TrackerModel(
        Sam3TrackerConfig(
            vision_config=vision, prompt_encoder_config=_prompts(side, 14), mask_decoder_config=_decoder()
        )
    )


def _padded() -> SamImageProcessor:
    return SamImageProcessor(size={"longest_edge": SIDE}, pad_size={"height": SIDE, "width": SIDE})


def _stretched(side: int = SIDE) -> Sam2ImageProcessor:
    return Sam2ImageProcessor(size={"height": side, "width": side})


@dataclass(frozen=True)
class Builder:
    model: Callable[[], PreTrainedModel]
    image_processor: Callable[[], Any]
    processor: Callable[[Any], ProcessorMixin]


BUILDERS = {
    "sam": Builder(sam, _padded, SamProcessor),
    "sam2": Builder(sam2, _stretched, lambda images: Sam2Processor(images, target_size=SIDE)),
    "sam_hq": Builder(sam_hq, _padded, SamHQProcessor),
    "edgetam": Builder(edgetam, _stretched, lambda images: Sam2Processor(images, target_size=SIDE)),
    "sam3_tracker": Builder(
        sam3_tracker,
        lambda: Sam3ImageProcessor(size={"height": 112, "width": 112}),
        lambda images: Sam3TrackerProcessor(images, target_size=112),
    ),
}


def build(family: str) -> PreTrainedModel:
    """A model whose random weights all matter: no zeros for positions, no ones for scales."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BUILDERS[family].model().eval()
        for name, parameter in model.named_parameters():
            if not name.endswith("positional_embedding"):
                nn.init.normal_(parameter, std=0.2 if parameter.ndim < 2 else 1 / parameter[0].numel() ** 0.5)
                if name.endswith("weight") and parameter.ndim < 2:  # of a norm; EdgeTAM's add up over many blocks
                    parameter.data += 1 if "norm" in name else 0.5
    return model.requires_grad_(False)


def save(family: str, folder: Path) -> Path:
    """The folder of a family's model, with its weights and configs."""
    logging.disable_progress_bar()
    build(family).save_pretrained(folder)
    BUILDERS[family].image_processor().save_pretrained(folder)
    return folder
