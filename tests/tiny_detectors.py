"""Published detectors of a few channels and random weights, of both families."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from mmengine.hub import get_config

from pipeline.coco.model import CocoCategory
from pipeline.detection.config import Detector, published_config
from pipeline.detection.published import FORMAT, FORMAT_VERSION, ModelCard, build_model, publish

CATEGORIES: Final = (CocoCategory(3, "three"), CocoCategory(7, "seven"))
FAMILIES: Final = ("mask_rcnn", "mask2former")
RESIZE: Final = {"type": "Resize", "scale": (96, 80), "keep_ratio": True}
CHANNELS: Final = 16
BACKBONE: Final = {"depth": 18, "base_channels": 8, "init_cfg": None}
LEVELS: Final = [8, 16, 32, 64]


def publish_tiny(folder: Path, family: str, *, resized: bool = False, seed: int = 0) -> Path:
    """Write a detector that finds things everywhere: it was never trained. Gives its folder."""
    model = _mask_rcnn() if family == "mask_rcnn" else _mask2former()
    content = {"model": model, "test_transforms": [RESIZE] if resized else []}
    config = published_config(Detector(folder, content), CATEGORIES)
    torch.manual_seed(seed)
    network = build_model(config)
    _scattered(network)
    card = ModelCard(FORMAT, FORMAT_VERSION, "tiny", "train-teacher", 1, CATEGORIES, {}, {})
    folder.mkdir(parents=True)
    publish(folder, network.state_dict(), config, card)
    return folder


def _scattered(network: torch.nn.Module) -> None:
    """Weights so large that answers differ from place to place, as a trained model's do."""
    with torch.no_grad():
        for name, weights in network.named_parameters():
            if weights.ndim > 1 and ("head" in name or "neck" in name):
                weights.normal_(0.0, 1.5 / (weights[0].numel() ** 0.5))


def _mask_rcnn() -> dict[str, Any]:
    config = get_config("mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py")
    narrow = {"in_channels": CHANNELS}
    config.merge_from_dict(
        {
            "model.backbone": BACKBONE,
            "model.neck": {"in_channels": LEVELS, "out_channels": CHANNELS},
            "model.rpn_head": narrow | {"feat_channels": CHANNELS, "anchor_generator": {"scales": [4]}},
            "model.roi_head.bbox_roi_extractor": {"out_channels": CHANNELS},
            "model.roi_head.bbox_head": narrow | {"fc_out_channels": 32, "num_classes": len(CATEGORIES)},
            "model.roi_head.mask_roi_extractor": {"out_channels": CHANNELS},
            "model.roi_head.mask_head": narrow
            | {"num_convs": 1, "conv_out_channels": CHANNELS, "num_classes": len(CATEGORIES)},
            "model.test_cfg.rpn": {"nms_pre": 60, "max_per_img": 30},
            "model.test_cfg.rcnn": {"score_thr": 0.0, "max_per_img": 12},
        }
    )
    return config.model.to_dict()


def _mask2former() -> dict[str, Any]:
    config = get_config("mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py")
    attention = {"embed_dims": CHANNELS, "num_heads": 2}
    classes = {"num_things_classes": len(CATEGORIES)}
    encoding = {"num_feats": CHANNELS // 2}
    ffn = {"embed_dims": CHANNELS, "feedforward_channels": 32}
    head = "model.panoptic_head"
    config.merge_from_dict(
        {
            "model.data_preprocessor.batch_augments": None,
            "model.backbone": BACKBONE,
            head: classes | {"in_channels": LEVELS, "feat_channels": CHANNELS, "out_channels": CHANNELS},
            f"{head}.num_queries": 8,
            f"{head}.positional_encoding": encoding,
            f"{head}.loss_cls.class_weight": [1.0] * len(CATEGORIES) + [0.1],
            f"{head}.pixel_decoder.norm_cfg.num_groups": 4,
            f"{head}.pixel_decoder.positional_encoding": encoding,
            f"{head}.pixel_decoder.encoder.num_layers": 1,
            f"{head}.pixel_decoder.encoder.layer_cfg": {"self_attn_cfg": attention, "ffn_cfg": ffn},
            f"{head}.transformer_decoder.num_layers": 2,
            f"{head}.transformer_decoder.layer_cfg": {
                "self_attn_cfg": attention,
                "cross_attn_cfg": attention,
                "ffn_cfg": ffn,
            },
            "model.panoptic_fusion_head": classes,
            "model.test_cfg.max_per_image": 10,
        }
    )
    return config.model.to_dict()
