# Mask2Former for images of 128 to 256 px and for training on CPU: sam_tiny's image encoder, 3 decoder layers,
# 64 channels. Of the base (an MMDetection config of everything) only the keys below are read.
_base_ = "mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py"

default_scope = "mmdet"

_channels = 64
_attention = dict(embed_dims=_channels, num_heads=4)
_feedforward = dict(embed_dims=_channels, feedforward_channels=256)
_positions = dict(num_feats=_channels // 2)

model = dict(
    # The base's mean and standard deviation of RGB are those that sam_tiny was trained with too. It pads every batch
    # to 1024 x 1024: at 128 px that would cost a factor of 60.
    data_preprocessor=dict(pad_size_divisor=32, batch_augments=None),
    # It learns, with images in other sizes: as it is, it cannot tell classes apart (AP 8 on the demo instead of 20).
    # With flips alone it learns 40 images by heart (AP 91 on them, 4 on others).
    backbone=dict(_delete_=True, type="s4m.SamTinyBackbone", pretrained=True, frozen_stages=1),
    panoptic_head=dict(
        in_channels=[64, 128, 160, 160],
        feat_channels=_channels,
        out_channels=_channels,
        num_queries=40,
        pixel_decoder=dict(
            encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=_attention, ffn_cfg=_feedforward)),
            positional_encoding=_positions,
        ),
        positional_encoding=_positions,
        transformer_decoder=dict(
            num_layers=3,
            layer_cfg=dict(self_attn_cfg=_attention, cross_attn_cfg=_attention, ffn_cfg=_feedforward),
        ),
    ),
    # The base: 12544, for images 8 times as wide.
    train_cfg=dict(num_points=1024),
    test_cfg=dict(max_per_image=40),
)

optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05, fused=True),
    paramwise_cfg=dict(
        custom_keys=dict(
            # As in the base: what is learned for each query or level does not decay.
            query_embed=dict(decay_mult=0.0),
            query_feat=dict(decay_mult=0.0),
            level_embed=dict(decay_mult=0.0),
        ),
        norm_decay_mult=0.0,
    ),
    clip_grad=dict(max_norm=1.0),
)

schedule = dict(warmup_iterations=50, decay="step", decay_at=[0.75, 0.92], factor=0.1)

train_transforms = [
    dict(type="RandomFlip", prob=[0.25, 0.25, 0.25], direction=["horizontal", "vertical", "diagonal"]),
    dict(type="RandomChoice", transforms=[[dict(type="Resize", scale_factor=by)] for by in (0.75, 1.0, 1.25, 1.5)]),
    dict(type="RandomCrop", crop_size=(128, 128), crop_type="absolute", allow_negative_crop=True),
]

test_transforms = []
