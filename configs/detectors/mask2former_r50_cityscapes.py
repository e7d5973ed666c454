# Mask2Former with ResNet-50 from ImageNet weights, for Cityscapes (8 classes of things, set by the data). The model and
# its optimizer are those for COCO. S4M trains the student for 90,000 iterations on 16 labelled and 16 unlabelled images
# each; iterations and batches are the experiment's. Other than the release, which trains the backbone's batch norm
# here, this keeps it as it is for COCO.
_base_ = "./mask2former_r50_coco.py"

# The release decays polynomially (power 0.9) from the first iteration; of the schedules here a cosine is the nearest.
schedule = dict(_delete_=True, warmup_iterations=0, decay="cosine")

# As in the release: the shorter side of 1024 px scaled by 0.5 to 2.0 in steps of 0.1, crops 1024 px wide, 512 px high.
train_transforms = [
    dict(
        type="RandomChoiceResize",
        scales=[(4096, tenths * 1024 // 10) for tenths in range(5, 21)],
        keep_ratio=True,
        resize_type="mmdet.Resize",
    ),
    dict(
        type="RandomCrop",
        crop_size=(1024, 512),
        crop_type="absolute",
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    dict(type="RandomFlip", prob=0.5),
]

# Whole images, 2048 x 1024.
test_transforms = [dict(type="Resize", scale=(2048, 1024), keep_ratio=True)]
