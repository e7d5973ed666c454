# Mask R-CNN for images of 128 to 256 px and for training on CPU: sam_tiny's image encoder, slim heads.
_base_ = "mmdet::_base_/models/mask-rcnn_r50_fpn.py"

default_scope = "mmdet"

_channels = 64
# Regions up to 56 px across are read at stride 4 (the base: 112 px), one sample a cell: small ones need no more.
_regions = dict(out_channels=_channels, finest_scale=28, roi_layer=dict(sampling_ratio=1))

model = dict(
    # The base's mean and standard deviation of RGB are those that sam_tiny was trained with too.
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(_delete_=True, type="s4m.SamTinyBackbone", pretrained=True, frozen_stages=1),
    neck=dict(in_channels=[64, 128, 160, 160], out_channels=_channels),
    rpn_head=dict(
        in_channels=_channels,
        feat_channels=_channels,
        # Objects are 10 to 80 px across: half of what the full-size config expects at each level.
        anchor_generator=dict(scales=[4]),
    ),
    roi_head=dict(
        bbox_roi_extractor=_regions,
        bbox_head=dict(in_channels=_channels, fc_out_channels=256),
        mask_roi_extractor=_regions,
        mask_head=dict(num_convs=2, in_channels=_channels, conv_out_channels=_channels),
    ),
    # The base's numbers are for the many proposals of large images.
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=250, max_per_img=120),
        rcnn=dict(sampler=dict(num=32)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=250)),
)

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05, fused=True),
    paramwise_cfg=dict(norm_decay_mult=0.0),
    clip_grad=dict(max_norm=10.0),
)

schedule = dict(warmup_iterations=50, decay="step", decay_at=[0.75, 0.92], factor=0.1)

train_transforms = [
    dict(type="RandomFlip", prob=[0.25, 0.25, 0.25], direction=["horizontal", "vertical", "diagonal"]),
    # Images of 128 px pass as they are.
    dict(type="RandomCrop", crop_size=(128, 128), crop_type="absolute", allow_negative_crop=True),
]

test_transforms = []
