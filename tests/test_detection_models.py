"""The two groups of a batch, the structural loss, and what the detectors are made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from torch import nn
from torch.nn import functional as F

from pipeline.detection.backbone import SamTinyBackbone
from pipeline.sam.build import build_sam
from pipeline.sam.tiny.model import STAGE_CHANNELS, STAGE_STRIDES
from pipeline.structure.sampling import grid_positions, quantise, sample_features
from tests.detection_samples import FAMILIES, SIDE, build, gradients, images, instances, losses_of, sample

ONE, OTHER = (8, 8, 30, 30), (34, 30, 60, 62)
ANCHORS = 12
MAP_SIDE = 8


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def test_state_dicts_have_mmdetections_names(family):
    ours, theirs = build(family, structural_weight=1.0).state_dict(), build(family, ours=False).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_a_mixed_batch_costs_both_groups_the_second_multiplied(family):
    samples = [
        sample(instances(ONE), source="pseudo"),
        sample(instances(OTHER), source="labelled"),
        sample(instances(ONE, OTHER, weights=[0.3, 0.8]), source="composite"),
    ]
    inputs = images(3)
    doubling, plain = build(family, pseudo_weight=2.0), build(family)
    torch.manual_seed(0)
    found = doubling.loss(inputs, samples)
    torch.manual_seed(0)
    labelled = plain.loss(inputs[[1]], [samples[1]])
    pseudo = plain.loss(inputs[[0, 2]], [sample(instances(ONE)), sample(samples[2].gt_instances)])
    assert found.keys() == labelled.keys() | {f"pseudo_{name}" for name in pseudo}
    for prefix, own, factor in (("", labelled, 1.0), ("pseudo_", pseudo, 2.0)):
        for name, value in own.items():
            scale = factor if "loss" in name else 1.0
            expected = [scale * part.sum().item() for part in as_list(value)]
            assert [part.sum().item() for part in as_list(found[prefix + name])] == pytest.approx(expected, rel=1e-6)


def as_list(value):
    return value if isinstance(value, list) else [value]


@pytest.mark.parametrize("source", ["pseudo", "labelled"])
def test_a_batch_of_one_group_has_no_losses_of_the_other(family, source):
    losses = losses_of(build(family), images(1), [sample(instances(ONE), source=source)])
    assert {name.startswith("pseudo_") for name in losses} == {source == "pseudo"}
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_mask2former_divides_by_the_masks_of_all_processes_and_asks_for_them_once(monkeypatch):
    """Whatever groups a process has: the others wait for its answer."""
    asked = []

    def twice_as_many(counts):
        asked.append(counts.tolist())
        return 2 * counts

    def batch(sources):
        truths = {"labelled": instances(ONE, OTHER), "pseudo": instances(ONE)}
        return images(len(sources)), [sample(truths[source], source=source) for source in sources]

    batches = {(2.0, 1.0): ["labelled", "pseudo"], (2.0, 0.0): ["labelled"], (0.0, 2.0): ["pseudo", "pseudo"]}
    for counts, sources in batches.items():
        alone = losses_of(build("Mask2Former"), *batch(sources))
        with monkeypatch.context() as patch:
            patch.setattr("pipeline.detection.models.get_world_size", lambda: 2)
            patch.setattr("pipeline.detection.models.reduce_mean", twice_as_many)
            detector, (inputs, samples) = build("Mask2Former"), batch(sources)
            detector.share_counts(samples)
            among_others = losses_of(detector, inputs, samples)
        assert tuple(asked.pop()) == counts
        assert asked == []
        for name, loss in alone.items():
            factor = 1.0 if name.endswith("cls") else 0.5
            assert among_others[name].item() == pytest.approx(factor * loss.item(), rel=1e-5), name


@pytest.mark.parametrize(("count", "expected"), [(0, 1), (2, 2), (64, 40)], ids=["none", "some", "many"])
def test_mask2formers_count_is_that_of_its_matches(monkeypatch, count, expected):
    """Known before they are made; there are 40 queries."""
    counted = []
    monkeypatch.setattr("pipeline.detection.models.get_world_size", lambda: 2)
    monkeypatch.setattr("pipeline.detection.models.reduce_mean", lambda counts: counted.append(counts) or counts)
    detector = build("Mask2Former")
    many = [(x, y, x + 6, y + 6) for x in range(0, 56, 7) for y in range(0, 56, 7)]
    matched = []
    single = detector.panoptic_head.get_targets
    detector.panoptic_head.get_targets = lambda *inputs: matched.append(single(*inputs)) or matched[-1]
    batch = [sample(instances(*many[:count]))]
    detector.share_counts(batch)
    losses_of(detector, images(1), batch)
    assert counted[0].tolist() == [expected, 0]
    assert {targets[4] for targets in matched} == {expected}


def test_mixed_groups_train_every_parameter(family):
    detector = build(family, structural_weight=1.0)
    samples = [sample(instances(ONE), source="labelled"), sample(instances(), source="pseudo")]
    found = gradients(detector, losses_of(detector, images(2), samples))
    assert [name for name, gradient in found.items() if gradient is None] == []


def noted_formats(detector):
    """The number formats that convolutions computed in, by name, filled by what follows: those outside the decoders."""
    formats = {}
    for name, module in detector.named_modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and not name.startswith("panoptic_head"):
            module.register_forward_hook(lambda _, __, output, name=name: formats.update({name: output.dtype}))
    return formats


@pytest.mark.slow
def test_mixed_precision_trains_and_costs_about_the_same(family):
    (taught,), _ = taught_batch(flips=(True,))
    samples = [taught, sample(instances(ONE, OTHER, weights=[0.5, 0]), source="pseudo", ignored=instances(OTHER))]
    exact = losses_of(build(family, structural_weight=1.0), images(2), samples)
    detector = build(family, structural_weight=1.0, features_in="bf16")
    formats = noted_formats(detector)
    mixed = losses_of(detector, images(2), samples)
    assert {loss.dtype for loss in mixed.values()} == {torch.float32}
    assert sum(mixed.values()).item() == pytest.approx(sum(exact.values()).item(), rel=0.1)
    assert sum(mixed.values()).item() != sum(exact.values()).item()
    assert all(torch.isfinite(each).all() for each in gradients(detector, mixed).values())
    assert set(formats.values()) == {torch.bfloat16}


def test_the_features_of_all_images_are_made_at_once(family):
    detector = build(family, structural_weight=1.0)
    seen = []
    detector.backbone.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    (taught,), _ = taught_batch(flips=(True,))
    samples = [sample(instances(OTHER), source="pseudo"), taught]
    found = losses_of(detector, images(2), samples)
    assert seen == [2]
    alone = losses_of(detector, images(2)[1:], [taught])
    assert {name for name in found if not name.startswith("pseudo_")} == set(alone)
    assert found["loss_structure"].item() > 0


def test_every_parameter_trains_without_structure(family):
    detector = build(family)
    found = gradients(detector, losses_of(detector, images(1), [sample(instances(ONE))]))
    assert [name for name, gradient in found.items() if gradient is None] == []


# Structure: what a picture shows is planted as the detector's features, so that its own maps are the targets.


def picture(height, width):
    """Colours that change smoothly and tell every place from every other: uint8 H x W x 3."""
    y, x = np.mgrid[0:height, 0:width] / 50.0
    waves = np.stack([np.sin(2 * x + y), np.cos(3 * y - x), np.sin(x * y + 1)], axis=-1)
    return np.clip(waves * 110 + 128, 0, 255).astype(np.uint8)


def as_features(image):
    return torch.from_numpy(image.astype(np.float32) - 128).permute(2, 0, 1)[None]


def targets(image, seed):
    """Anchors (A x 2, pixels), their windows and maps, as SAM would have given them with the picture as its features.

    Half of the windows are the whole image, half are tiles of three quarters of it.
    """
    height, width, _ = image.shape
    size_wh = torch.tensor([width, height], dtype=torch.float32)
    tile = [width // 4, height // 4, width, height]
    windows_xyxy = torch.tensor([[0, 0, width, height], tile] * (ANCHORS // 2), dtype=torch.int32)
    low, sides = windows_xyxy[:, :2].float(), (windows_xyxy[:, 2:] - windows_xyxy[:, :2]).float()
    anchors_xy = low + torch.rand(ANCHORS, 2, generator=torch.Generator().manual_seed(seed)) * sides
    positions_xy = grid_positions(MAP_SIDE, sides) + low[:, None]
    features = as_features(image).expand(ANCHORS, -1, -1, -1)
    own = sample_features(features, (anchors_xy / size_wh)[:, None])
    others = sample_features(features, positions_xy / size_wh)
    maps = (own * others).sum(dim=2)
    return anchors_xy, windows_xyxy, quantise(maps).unflatten(1, (MAP_SIDE, MAP_SIDE))


def transformed(image, seed, flip):
    """An image as a training sample sees it, and the matrix that leads there."""
    np.random.seed(seed)
    steps = [
        {"type": "mmdet.RandomResize", "scale": (120, 100), "ratio_range": (0.8, 1.6), "keep_ratio": False}
        | {"resize_type": "mmdet.Resize", "type": "RandomResize"},
        {"type": "mmdet.RandomCrop", "crop_size": (SIDE, SIDE), "allow_negative_crop": True},
        {"type": "mmdet.RandomFlip", "prob": float(flip)},
    ]
    return Compose(steps)({"img": image, "img_shape": image.shape[:2], "ori_shape": image.shape[:2]})


class Planted(nn.Module):
    """In place of the module whose first output is taught: the picture, in its first three channels."""

    def __init__(self, module, features):
        super().__init__()
        self.module = module
        self.strides = getattr(module, "strides", None)
        self.features = nn.Parameter(features.clone())

    def forward(self, levels):
        first, *others = self.module(levels)
        assert first.shape[-2:] == self.features.shape[-2:]
        planted = F.pad(self.features, (0, 0, 0, 0, 0, first.shape[1] - 3))
        return planted, *others


def plant(detector, family, features):
    if family == "MaskRCNN":
        detector.neck = Planted(detector.neck, features)
        return detector.neck
    detector.panoptic_head.pixel_decoder = Planted(detector.panoptic_head.pixel_decoder, features)
    return detector.panoptic_head.pixel_decoder


def taught_batch(flips):
    samples, features = [], []
    for seed, flip in enumerate(flips):
        original = picture(96 - 8 * seed, 80)
        result = transformed(original, seed, flip)
        taught = sample(
            instances(ONE),
            source="labelled",
            ori_shape=original.shape[:2],
            homography_matrix=result["homography_matrix"],
        )
        taught.structure_anchors_xy, taught.structure_windows_xyxy, taught.structure_maps = targets(original, seed)
        samples.append(taught)
        features.append(F.avg_pool2d(as_features(result["img"]), 4))
    return samples, torch.cat(features)


def test_structure_is_followed_through_resize_crop_and_flip(family):
    samples, features = taught_batch(flips=(True, False, True))
    detector = build(family, structural_weight=1.0)
    planted = plant(detector, family, features)
    right = losses_of(detector, images(3), samples)["loss_structure"]
    assert right.item() < 2e-3
    with torch.no_grad():
        planted.features.copy_(features.flip(-1))
    assert losses_of(detector, images(3), samples)["loss_structure"].item() > 20 * right.item()
    with torch.no_grad():
        planted.features.copy_(features)
    for each in samples:
        each.structure_windows_xyxy = each.structure_windows_xyxy.roll(1, dims=0)
    assert losses_of(detector, images(3), samples)["loss_structure"].item() > 20 * right.item()
    for each in samples:
        each.structure_windows_xyxy = each.structure_windows_xyxy.roll(-1, dims=0)
    assert losses_of(detector, images(3), samples)["loss_structure"].item() < 2e-3
    for each in samples:
        each.set_metainfo({"homography_matrix": np.eye(3)})
    assert losses_of(detector, images(3), samples)["loss_structure"].item() > 20 * right.item()


@pytest.mark.slow
def test_structure_teaches_the_features_it_is_measured_on(family):
    samples, features = taught_batch(flips=(False,))
    detector = build(family, structural_weight=1.0)
    planted = plant(detector, family, features + 40 * torch.randn(features.shape))
    losses_of(detector, images(1), samples)["loss_structure"].backward()
    assert planted.features.grad.abs().sum() > 0


@pytest.mark.slow
def test_structure_is_weighed(family):
    samples, _ = taught_batch(flips=(False, True))
    single, triple = (
        losses_of(build(family, structural_weight=weight), images(2), samples)["loss_structure"]
        for weight in (1.0, 3.0)
    )
    assert triple.item() == pytest.approx(3 * single.item(), rel=1e-5)
    assert single.item() > 0


def test_structure_leaves_the_other_losses_as_they_are(family):
    samples, _ = taught_batch(flips=(False,))
    with_structure = losses_of(build(family, structural_weight=1.0), images(1), samples)
    without = losses_of(build(family), images(1), samples)
    assert with_structure.keys() == without.keys() | {"loss_structure"}
    assert all(with_structure[name].item() == loss.item() for name, loss in without.items())


def test_only_labelled_images_with_targets_are_taught(family, monkeypatch):
    monkeypatch.setattr("pipeline.structure.loss.EVERY", 1)  # which positions are drawn depends on the other images
    (taught,), _ = taught_batch(flips=(False,))
    detector = build(family, structural_weight=1.0)
    alone = losses_of(detector, images(2)[:1], [taught])["loss_structure"]
    beside = losses_of(detector, images(2), [taught, sample(instances(ONE))])["loss_structure"]
    assert beside.item() == pytest.approx(alone.item(), rel=1e-4)
    taught.set_metainfo({"source": "pseudo"})
    assert not any("structure" in name for name in losses_of(detector, images(1), [taught]))


def test_anchors_that_failed_teach_nothing(family):
    samples, _ = taught_batch(flips=(False,))
    samples[0].structure_anchors_xy = torch.full((ANCHORS, 2), torch.nan)
    assert losses_of(build(family, structural_weight=1.0), images(1), samples)["loss_structure"].item() == 0


def test_hooks_are_gone_after_a_step(family):
    samples, _ = taught_batch(flips=(False,))
    detector = build(family, structural_weight=1.0)
    module, stride = detector.structural_features()
    losses_of(detector, images(1), samples)
    assert stride == STAGE_STRIDES[0]
    assert not module._forward_hooks


def test_training_and_predicting_build_no_sam(family, monkeypatch):
    detector = build(family, structural_weight=1.0)
    monkeypatch.setattr("pipeline.detection.backbone.build_sam", lambda *_: pytest.fail("built a SAM"))
    samples, _ = taught_batch(flips=(False,))
    losses_of(detector, images(1), samples)
    with torch.no_grad():
        detector.eval().predict(images(1), [sample(instances(), scale_factor=(1.0, 1.0))])


def test_the_backbone_starts_from_sam_tinys_encoder():
    backbone = SamTinyBackbone()
    backbone.init_weights()
    encoder = build_sam("sam_tiny").image_encoder
    picture_batch = images(1)
    with torch.no_grad():
        found = backbone.train()(picture_batch)
        expected = encoder.forward_features(picture_batch)
    assert [level.shape[1] for level in found] == list(STAGE_CHANNELS)
    assert [SIDE // level.shape[-1] for level in found] == list(STAGE_STRIDES)
    assert all(torch.equal(mine, own) for mine, own in zip(found, expected, strict=True))


def test_building_a_backbone_reads_no_weights(monkeypatch):
    monkeypatch.setattr("pipeline.detection.backbone.build_sam", lambda *_: pytest.fail("read the weights"))
    SamTinyBackbone()
    SamTinyBackbone(pretrained=False).init_weights()


def test_batch_norm_learns_statistics_where_asked():
    assert not any(module.training for module in SamTinyBackbone().train().modules() if _is_norm(module))
    assert all(module.training for module in SamTinyBackbone(norm_eval=False).train().modules() if _is_norm(module))


def _is_norm(module):
    return isinstance(module, nn.BatchNorm2d)
