"""The smallest detectors that can be trained, and an experiment that trains them on tiny images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from pipeline.workflow.experiment import Experiment
from pipeline.workflow.loading import load_experiment
from tests.tiny_experiment import POOL, make_experiment_files

DETECTOR = """
_base_ = "mmdet::_base_/models/mask-rcnn_r50_fpn.py"
default_scope = "mmdet"
model = dict(
    backbone=dict(depth=18, base_channels=4, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[4, 8, 16, 32], out_channels=8),
    rpn_head=dict(in_channels=8, feat_channels=8, anchor_generator=dict(scales=[2])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=8),
        bbox_head=dict(in_channels=8, fc_out_channels=16),
        mask_roi_extractor=dict(out_channels=8),
        mask_head=dict(num_convs=1, in_channels=8, conv_out_channels=8),
    ),
    train_cfg=dict(rpn_proposal=dict(nms_pre=50, max_per_img=20), rcnn=dict(sampler=dict(num=16))),
    test_cfg=dict(rpn=dict(nms_pre=50, max_per_img=20)),
)
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.01))
schedule = dict(warmup_iterations=2, decay="step", decay_at=[0.7], factor=0.1)
train_transforms = [
    dict(type="RandomFlip", prob=0.5),
    dict(type="RandomCrop", crop_size=(48, 48), crop_type="absolute", allow_negative_crop=True),
]
test_transforms = []
"""

MASK2FORMER = """
_base_ = "mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py"
default_scope = "mmdet"
_attention = dict(embed_dims=16, num_heads=2)
_layer = dict(self_attn_cfg=_attention, ffn_cfg=dict(embed_dims=16, feedforward_channels=16))
_positions = dict(num_feats=8)
model = dict(
    data_preprocessor=dict(pad_size_divisor=32, batch_augments=None),
    backbone=dict(depth=18, base_channels=4, frozen_stages=-1, norm_eval=False, init_cfg=None),
    panoptic_head=dict(
        in_channels=[4, 8, 16, 32],
        feat_channels=16,
        out_channels=16,
        num_queries=6,
        pixel_decoder=dict(
            norm_cfg=dict(num_groups=4),
            encoder=dict(num_layers=1, layer_cfg=_layer),
            positional_encoding=_positions,
        ),
        positional_encoding=_positions,
        transformer_decoder=dict(num_layers=1, layer_cfg=dict(cross_attn_cfg=_attention, **_layer)),
    ),
    train_cfg=dict(num_points=64),
    test_cfg=dict(max_per_image=5),
)
optim_wrapper = dict(_delete_=True, type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.01))
schedule = dict(warmup_iterations=2, decay="cosine")
train_transforms = [dict(type="RandomFlip", prob=0.5)]
test_transforms = []
"""

TEACHER: Final = {"detector": "tiny_detector.py", "iterations": 6, "batch_size": 2, "distillation_weight": 0.0}


def training_experiment(folder: Path, settings: dict[str, Any] | None = None, *overrides: str) -> Experiment:
    """An experiment whose trainings take seconds: of 6 images, 3 are labelled; no distillation."""
    content: dict[str, Any] = {
        "data": POOL | {"validation": {"annotations": "annotations.json", "images": "images"}},
        "teacher": TEACHER,
        "student": {"iterations": 6, "batch_size": 1, "unlabelled_batch_size": 2},
        "predict": {"score_threshold": 0.0, "max_instances": 5},
        "compute": {"loader_workers": 0, "checkpoint_every": 2, "device": "cpu"},
    }
    (folder / "tiny_detector.py").write_text(DETECTOR)
    (folder / "tiny_mask2former.py").write_text(MASK2FORMER)
    path = make_experiment_files(folder, content | (settings or {}))
    return load_experiment(path, [f"store={folder / 'stores'}", *overrides], {})
