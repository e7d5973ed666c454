# Mask R-CNN for images of 128 to 256 px and for training on CPU: ResNet-18 from random weights, slim heads.
_base_ = "mmdet::_base_/models/mask-rcnn_r50_fpn.py"

default_scope = "mmdet"

_channels = 96

model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(
        depth=18,
        frozen_stages=-1,
        norm_eval=False,
        init_cfg=None,
    ),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=_channels),
    rpn_head=dict(
        in_channels=_channels,
        feat_channels=_channels,
        # Objects are 10 to 80 px across: a quarter of what the full-size config expects.
        anchor_generator=dict(scales=[4]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=_channels),
        bbox_head=dict(in_channels=_channels, fc_out_channels=256),
        mask_roi_extractor=dict(out_channels=_channels),
        mask_head=dict(num_convs=2, in_channels=_channels, conv_out_channels=_channels),
    ),
    # The base says these for every proposal of large images.
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=250),
        rcnn=dict(sampler=dict(num=128)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=250)),
)
