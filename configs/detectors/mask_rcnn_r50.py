# Mask R-CNN with ResNet-50 and FPN, from ImageNet weights: MMDetection's model and its "1x" training of COCO, whose
# 90,000 iterations of 16 images are 12 epochs. For 8 images a step halve the learning rate.
_base_ = "mmdet::_base_/models/mask-rcnn_r50_fpn.py"

default_scope = "mmdet"

# As in mmdet::_base_/schedules/schedule_1x.py.
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.02, momentum=0.9, weight_decay=0.0001),
)

# As there: a warm-up of 500 iterations, steps after 8 and 11 of 12 epochs.
schedule = dict(warmup_iterations=500, decay="step", decay_at=[8 / 12, 11 / 12], factor=0.1)

# As in mmdet::_base_/datasets/coco_instance.py.
train_transforms = [
    dict(type="Resize", scale=(1333, 800), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
]

test_transforms = [dict(type="Resize", scale=(1333, 800), keep_ratio=True)]
