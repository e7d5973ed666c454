# Mask2Former with ResNet-50 from ImageNet weights, for COCO: the model of Mask2Former's release as MMDetection has it.
# S4M trains it with AdamW (1e-4, weight decay 0.05, a tenth of the rate for the backbone), the student on 12 labelled
# and 12 unlabelled images an iteration. Mask2Former's whole training of COCO is 368,750 iterations; iterations and
# batches are the experiment's.
# Of the base (an MMDetection config of everything) only the keys below are read.
_base_ = "mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py"

default_scope = "mmdet"

# Batches are padded to their largest image. The base pads all to 1024 x 1024, which would not follow another crop.
model = dict(data_preprocessor=dict(batch_augments=None))

# As in the base: its parameters of queries, levels and norms do not decay.
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.05, fused=True),
    paramwise_cfg=dict(
        custom_keys=dict(
            backbone=dict(lr_mult=0.1),
            query_embed=dict(decay_mult=0.0),
            query_feat=dict(decay_mult=0.0),
            level_embed=dict(decay_mult=0.0),
        ),
        norm_decay_mult=0.0,
    ),
    clip_grad=dict(max_norm=0.01, norm_type=2),
)

# As in the base: steps at 327,778 and 355,092 of 368,750 iterations, no warm-up.
schedule = dict(warmup_iterations=0, decay="step", decay_at=[327778 / 368750, 355092 / 368750], factor=0.1)

# As in the base: large-scale jitter.
train_transforms = [
    dict(type="RandomFlip", prob=0.5),
    dict(
        type="RandomResize",
        scale=(1024, 1024),
        ratio_range=(0.1, 2.0),
        keep_ratio=True,
        resize_type="mmdet.Resize",
    ),
    dict(
        type="RandomCrop",
        crop_size=(1024, 1024),
        crop_type="absolute",
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
]

test_transforms = [dict(type="Resize", scale=(1333, 800), keep_ratio=True)]
