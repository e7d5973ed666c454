"""The small SAM: its architecture against segment_anything, its scenes and prompts, its training, its weights."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom

from pipeline.errors import StageError
from pipeline.masks.overlap import mask_iou
from pipeline.sam.tiny import WEIGHTS_FILE, batches, train
from pipeline.sam.tiny.batches import (
    PromptLayout,
    box_of,
    coarse_mask,
    correct,
    draw_layout,
    jitter_box,
    make_batch,
    make_prompts,
    points_by_confidence,
    points_in,
    training_batch,
    window_centre_px,
)
from pipeline.sam.tiny.dense import DISTANCE_UNIT_PX, dense_loss, dense_targets
from pipeline.sam.tiny.measure import Answers, PromptKind, ask, load, unseen_samples
from pipeline.sam.tiny.model import (
    EMBEDDING_CHANNELS,
    STAGE_CHANNELS,
    TinyEncoder,
    build_sam_tiny,
    predict_prompts,
)
from pipeline.sam.tiny.outlines import draw_outline
from pipeline.sam.tiny.scenes import MIN_VISIBLE_PX, make_scene
from pipeline.sam.tiny.train import Recipe, Schedule, Trainer, answer_losses


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture(scope="module")
def sam():
    torch.manual_seed(0)
    return build_sam_tiny()


def disc(side: int, radius: float, centre_xy: tuple[float, float]) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side]
    return (columns - centre_xy[0]) ** 2 + (rows - centre_xy[1]) ** 2 <= radius**2


# Architecture


def test_segment_anythings_predictor_takes_any_image_shape(sam):
    predictor = SamPredictor(sam)
    predictor.set_image(np.zeros((45, 90, 3), dtype=np.uint8))
    masks, predicted_iou, logits = predictor.predict(
        point_coords=np.array([[40.0, 20.0]]), point_labels=np.array([1]), box=np.array([10, 5, 60, 40])
    )
    assert masks.shape == (3, 45, 90) and predicted_iou.shape == (3,)
    assert logits.shape == (3, sam.lowres_side, sam.lowres_side) == (3, 64, 64)


@pytest.mark.parametrize("image_size", [64, 128])
def test_predict_prompts_answers_as_segment_anythings_decoder(image_size):
    torch.manual_seed(1)
    sam = build_sam_tiny(image_size)
    with torch.no_grad():
        embeddings = sam.image_encoder(torch.randn(2, 3, image_size, image_size))
        points = (torch.tensor([[[9.0, 20.0]], [[30.0, 31.0]], [[50.0, 4.0]]]), torch.ones(3, 1))
        sparse, dense = sam.prompt_encoder(points, None, torch.randn(3, 1, sam.lowres_side, sam.lowres_side))
        image_index = torch.tensor([0, 1, 1])
        logits, predicted_iou = predict_prompts(sam, embeddings[image_index], sparse, dense)
        for multimask, tokens in ((True, slice(1, None)), (False, slice(0, 1))):
            for image, prompts in ((0, [0]), (1, [1, 2])):
                expected_logits, expected_iou = sam.mask_decoder(
                    image_embeddings=embeddings[image : image + 1],
                    image_pe=sam.prompt_encoder.get_dense_pe(),
                    sparse_prompt_embeddings=sparse[prompts],
                    dense_prompt_embeddings=dense[prompts],
                    multimask_output=multimask,
                )
                torch.testing.assert_close(logits[prompts][:, tokens], expected_logits, rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(predicted_iou[prompts][:, tokens], expected_iou, rtol=1e-4, atol=1e-5)


def test_positions_are_segment_anythings_at_the_reference_side(sam):
    original = PositionEmbeddingRandom(EMBEDDING_CHANNELS // 2)
    original.load_state_dict(sam.prompt_encoder.pe_layer.state_dict())
    torch.testing.assert_close(sam.prompt_encoder.get_dense_pe()[0], original((16, 16)))


def test_positions_are_pixels_from_the_centre_at_every_side():
    sam = build_sam_tiny(128)
    small = sam.prompt_encoder.get_dense_pe()
    point = sam.prompt_encoder._embed_points(torch.tensor([[[70.5, 40.5]]]), torch.ones(1, 1), pad=False)
    sam.resize(256)
    large = sam.prompt_encoder.get_dense_pe()
    moved = sam.prompt_encoder._embed_points(torch.tensor([[[134.5, 104.5]]]), torch.ones(1, 1), pad=False)
    torch.testing.assert_close(large[:, :, 8:24, 8:24], small, rtol=0, atol=1e-4)
    torch.testing.assert_close(moved, point, rtol=0, atol=1e-4)


def test_a_window_has_the_positions_it_would_have_in_the_whole_image():
    sam = build_sam_tiny(256)
    whole = sam.prompt_encoder.get_dense_pe()
    sam.resize(64)
    sam.prompt_encoder.pe_layer.centre_px = (-96.0, 32.0)
    torch.testing.assert_close(sam.prompt_encoder.get_dense_pe(), whole[:, :, 16:24, 0:8], rtol=0, atol=1e-4)


def test_resize_changes_every_frame_and_refuses_other_sides():
    sam = build_sam_tiny(192)
    assert (sam.image_size, sam.lowres_side) == (192, 96)
    assert sam.prompt_encoder.mask_input_size == (96, 96)
    assert SamPredictor(sam).transform.target_length == 192
    with pytest.raises(ValueError, match="multiple of 32, is 100"):
        sam.resize(100)
    assert sam.image_size == 192


def test_an_image_is_embedded_alike_alone_and_in_a_batch(sam):
    images = torch.randn(3, 3, 128, 128)
    with torch.no_grad():
        together = sam.image_encoder(images)
        alone = torch.cat([sam.image_encoder(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_encoder_is_a_backbone_with_four_levels(sam):
    levels = sam.image_encoder.forward_features(torch.zeros(1, 3, 96, 160))
    assert [tuple(level.shape[1:]) for level in levels] == [
        (channels, 96 // stride, 160 // stride)
        for channels, stride in zip(STAGE_CHANNELS, TinyEncoder.strides, strict=True)
    ]


# Scenes


def test_a_scene_follows_from_its_seed():
    first, again, other = make_scene(3, 96), make_scene(3, 96), make_scene(4, 96)
    assert np.array_equal(first.image_rgb, again.image_rgb) and np.array_equal(first.labels, again.labels)
    assert not np.array_equal(first.image_rgb, other.image_rgb)


def test_scenes_are_labelled_without_gaps_and_vary():
    scenes = [make_scene(seed, 128) for seed in range(40)]
    for scene in scenes:
        assert scene.image_rgb.shape == (128, 128, 3) and scene.image_rgb.dtype == np.uint8
        visible_px = np.bincount(scene.labels.ravel())[1:]
        assert len(visible_px) == scene.instances >= 1 and visible_px.min() >= MIN_VISIBLE_PX
    grey = [np.ptp(scene.image_rgb, axis=2).max() == 0 for scene in scenes]
    counts = [scene.instances for scene in scenes]
    assert 4 <= sum(grey) <= 25
    assert min(counts) <= 4 and max(counts) >= 18


@pytest.mark.parametrize("radius_px", [4.0, 12.0, 40.0])
def test_outlines_are_one_connected_object_of_about_the_size_asked_for(rng, radius_px):
    for _ in range(40):
        alpha = draw_outline(rng, radius_px)
        assert alpha.min() >= 0 and alpha.max() <= 1
        rows = np.flatnonzero((alpha > 0.5).any(1))
        assert len(rows) == 0 or rows[-1] - rows[0] <= 2.8 * radius_px + 4
        parts, _, stats, _ = cv2.connectedComponentsWithStats((alpha > 0).astype(np.uint8))
        largest = stats[1:, cv2.CC_STAT_AREA].max(initial=0)
        assert parts <= 1 or largest >= 0.6 * (alpha > 0).sum()


# Prompts


def test_a_training_batch_follows_from_seed_and_step():
    first, again = training_batch(1, 5), training_batch(1, 5)
    assert torch.equal(first.images, again.images) and np.array_equal(first.masks, again.masks)
    assert not torch.equal(first.images[0], training_batch(1, 6).images[0])


def test_small_images_are_windows_of_the_largest_and_others_lie_in_its_centre():
    centres = np.array([window_centre_px(1, step, 64) for step in range(200)])
    assert -96 <= centres.min() < -60 and 60 < centres.max() <= 96
    assert window_centre_px(1, 5, 128) == (0.0, 0.0)


def test_padding_holds_no_object(rng):
    batch = make_batch(rng, first_seed=10, side=64, images=4, padded=True)
    height, width = batch.content_hw
    assert min(height, width) < 64
    assert batch.masks.any((1, 2)).all()
    assert not batch.masks[:, height:].any() and not batch.masks[:, :, width:].any()


def test_an_enlarged_batch_shows_scenes_twice_as_large(rng):
    batch = make_batch(rng, first_seed=3, side=128, images=1, padded=False, enlarged=True)
    scene = make_scene(3, 64)
    assert np.array_equal(batch.labels[0][::2, ::2], scene.labels)
    assert np.array_equal(batch.labels[0][1::2, 1::2], scene.labels)
    shown = batch.images[0].permute(1, 2, 0).numpy().reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert np.abs(shown - scene.image_rgb).mean() < np.abs(scene.image_rgb - scene.image_rgb.mean()).mean() / 4


def test_points_and_boxes_lie_where_they_should(rng):
    mask = disc(64, 9, (40, 20))
    xy = points_in(rng, mask, 50).astype(int)
    assert mask[xy[:, 1], xy[:, 0]].all()
    assert box_of(mask).tolist() == [31, 11, 50, 30]
    boxes = np.stack([jitter_box(rng, box_of(mask), 64) for _ in range(50)])
    assert (boxes[:, 2:] > boxes[:, :2]).all() and boxes.min() >= 0 and boxes.max() <= 64
    assert np.abs(boxes - box_of(mask)).max() < 8


def test_points_by_confidence_lie_inside_a_coarse_mask(rng):
    logits = coarse_mask(rng, disc(64, 10, (30, 30)))
    xy = points_by_confidence(rng, logits, 40)
    lowres = (xy // 2).astype(int)
    assert (logits[lowres[:, 1], lowres[:, 0]] > 0).all()


def test_coarse_masks_are_near_the_truth_but_not_it(rng):
    mask = disc(128, 20, (60, 70))
    truth = cv2.resize(mask.astype(np.float32), (64, 64), interpolation=cv2.INTER_AREA) > 0.5
    iou = np.array([mask_iou(coarse_mask(rng, mask) > 0, truth) for _ in range(60)])
    assert iou.min() > 0.2 and 0.6 < iou.mean() < 0.9


@pytest.mark.parametrize(
    "layout",
    [
        PromptLayout(2, False, False),
        PromptLayout(0, True, False),
        PromptLayout(3, True, True),
        PromptLayout(1, False, True),
    ],
)
def test_prompts_have_their_layout(rng, layout):
    batch = make_batch(rng, first_seed=1, side=64, images=2, padded=False)
    group = make_prompts(rng, batch, np.array([1, 4, 7]), layout)
    assert (group.points_xy is not None) == (layout.points > 0)
    assert (group.boxes_xyxy is not None) == layout.box
    assert (group.mask_logits_lowres is not None) == layout.mask
    if group.points_xy is not None:
        assert group.points_xy.shape == (3, layout.points, 2) and group.points_xy.dtype == torch.float32
    if group.mask_logits_lowres is not None:
        assert group.mask_logits_lowres.shape == (3, 1, 32, 32)


def test_every_layout_asks_for_something(rng):
    layouts = [draw_layout(rng) for _ in range(300)]
    assert all(layout.points or layout.box for layout in layouts)
    assert any(layout.mask for layout in layouts)


def test_a_correction_points_at_an_error_and_says_what_is_right(rng):
    batch = make_batch(rng, first_seed=1, side=64, images=1, padded=False)
    group = make_prompts(rng, batch, np.array([0, 1]), PromptLayout(1, False, False))
    truth = torch.zeros(2, 32, 32, dtype=torch.bool)
    truth[:, 8:16, 8:16] = True
    answers = torch.full((2, 32, 32), -1.0)
    answers[0, 8:16, 8:24] = 1.0  # too wide
    answers[1, 8:16, 8:12] = 1.0  # too narrow
    generator = torch.Generator().manual_seed(0)
    corrected = correct(group, answers, truth, add_point=True, generator=generator)
    place = (corrected.points_xy[:, -1] // 2).long()
    assert 16 <= place[0, 0] < 24 and corrected.point_labels[0, -1] == 0
    assert 12 <= place[1, 0] < 16 and corrected.point_labels[1, -1] == 1
    assert torch.equal(corrected.mask_logits_lowres[:, 0], answers)


# Training


def test_dense_targets_say_what_object_a_pixel_belongs_to():
    labels = np.zeros((1, 32, 32), dtype=np.int32)
    labels[0, 4:14, 6:20] = 1
    labels[0, 14:20, 6:20] = 2
    targets = dense_targets(labels)
    assert targets.inside[0].sum() == 8 * 7
    x0, y0, x1, y1 = box_of(labels[0] == 2)
    row, column = 8, 5  # pixel (10.5, 16.5), in the second object
    distances_px = targets.distances[0, :, row, column] * DISTANCE_UNIT_PX
    assert distances_px.tolist() == [10.5 - x0, 16.5 - y0, x1 - 10.5, y1 - 16.5]
    assert targets.border[0, 7, 5] == 1 and targets.border[0, 5, 5] == 0


def test_dense_loss_is_small_only_for_the_right_answer():
    labels = make_scene(2, 64).labels[None]
    targets = dense_targets(labels)
    right = torch.cat(
        [(targets.inside[:, None] - 0.5) * 40, (targets.border[:, None] - 0.5) * 40, targets.distances], dim=1
    )
    assert dense_loss(right, targets) < 1e-6
    for channel in range(6):
        wrong = right.clone()
        wrong[:, channel] = right[:, channel].roll(5, dims=-1)
        assert dense_loss(wrong, targets) > 0.01


def test_losses_tell_right_answers_from_wrong_ones():
    truth = torch.from_numpy(np.stack([disc(64, 12, (30, 30)), disc(64, 8, (20, 40))])).float()
    right = torch.nn.functional.avg_pool2d(truth[:, None], 2).sub(0.5).mul(40).repeat(1, 4, 1, 1)
    good = answer_losses(Recipe(), right, torch.ones(2, 4), truth)
    bad = answer_losses(Recipe(), right.flip(0), torch.ones(2, 4), truth)
    assert good.iou > 0.93 and good.mask < 0.2
    assert bad.iou < 0.2 and bad.total > good.total + 1
    one_right = right.flip(0).clone()
    one_right[:, 2] = right[:, 2]
    assert answer_losses(Recipe(), one_right, torch.ones(2, 4), truth).iou == pytest.approx(good.iou)


def test_the_learning_rate_warms_up_stays_and_decays_on_a_branch_only():
    assert [Schedule().factor(step, 0, 10) for step in (0, 4, 9, 5000)] == [0.1, 0.5, 1.0, 1.0]
    assert [Schedule().factor(step, 3000, 10) for step in (3000, 3009)] == [0.1, 1.0]
    branch = Schedule(decay_from=100, decay_steps=50)
    assert [branch.factor(step, 0, 10) for step in (100, 125, 150)] == [1.0, 0.5, 0.0]


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(batches, "SMALL_SIDES", ((32, 2, 0.5), (64, 1, 0.5)))
    monkeypatch.setattr(train, "HELD_OUT_SCENES", 1)


def arguments(work: Path, steps: int, decay_steps: int = 0, start: Path | None = None) -> argparse.Namespace:
    return argparse.Namespace(
        work=work, start=start, steps=steps, minutes=None, decay_steps=decay_steps, export=None, seed=1
    )


def weights_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["model"]


@pytest.mark.slow
def test_an_interrupted_training_ends_with_the_same_weights(tmp_path, small_batches, monkeypatch):
    train.train(arguments(tmp_path / "whole", steps=4))
    train.train(arguments(tmp_path / "parts", steps=2))
    done = []
    step = Trainer.train_step
    monkeypatch.setattr(Trainer, "train_step", lambda self: (done.append(self.step), step(self))[1])
    train.train(arguments(tmp_path / "parts", steps=4))
    assert done == [2, 3]
    whole, parts = (weights_of(tmp_path / name / "constant.pt") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.slow
def test_a_training_starts_from_given_weights_once(tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "SIDES", ((32, 2, 1.0),))
    monkeypatch.setattr(train, "HELD_OUT_SCENES", 1)
    first = train.TRAINED_STEPS
    train.train(arguments(tmp_path, steps=first + 1, start=WEIGHTS_FILE))
    checkpoint = torch.load(tmp_path / "constant.pt", weights_only=True)
    assert (checkpoint["first_step"], checkpoint["step"]) == (first, first + 1)
    shipped = torch.load(WEIGHTS_FILE, weights_only=True)
    name = "mask_decoder.iou_token.weight"
    moved = (checkpoint["model"][name] - shipped[name].float()).abs().max()
    assert 0 < moved < 1e-4  # one step at the rate that the warm-up begins with
    train.train(arguments(tmp_path, steps=first + 2, start=WEIGHTS_FILE))
    assert torch.load(tmp_path / "constant.pt", weights_only=True)["step"] == first + 2


@pytest.mark.slow
def test_the_decaying_branch_leaves_the_constant_part_alone(tmp_path, small_batches):
    train.train(arguments(tmp_path, steps=2))
    before = (tmp_path / "constant.pt").read_bytes()
    train.train(arguments(tmp_path, steps=2, decay_steps=2))
    assert torch.load(tmp_path / "constant.pt", weights_only=True)["step"] == 2
    assert torch.load(tmp_path / "decay-2-2.pt", weights_only=True)["step"] == 4
    kept = weights_of(tmp_path / "constant.pt")
    (tmp_path / "before.pt").write_bytes(before)
    assert all(torch.equal(value, kept[name]) for name, value in weights_of(tmp_path / "before.pt").items())
    exported = torch.load(tmp_path / "sam_tiny.pt", weights_only=True)
    build_sam_tiny(64, exported)


@pytest.mark.slow
def test_a_checkpoint_of_another_seed_is_refused(tmp_path, small_batches):
    train.train(arguments(tmp_path, steps=1))
    with pytest.raises(StageError, match="seed 1, but this is format 2 and seed 2"):
        Trainer(Recipe(seed=2), Schedule()).load(tmp_path / "constant.pt")


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04"])
def test_a_damaged_checkpoint_is_told_without_torchs_advice(tmp_path, content):
    path = tmp_path / "constant.pt"
    path.write_bytes(content)
    with pytest.raises(StageError, match="damaged, or not a checkpoint of this program") as caught:
        Trainer(Recipe(), Schedule()).load(path)
    assert "weights_only" not in str(caught.value)


def test_an_interrupted_write_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "constant.pt"
    train.save_tensors({"step": 1}, path)

    def half_written(value: object, file: BinaryIO) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half_written)
    with pytest.raises(KeyboardInterrupt):
        train.save_tensors({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_start_that_is_no_sam_tiny_is_told(tmp_path, monkeypatch, capsys):
    (tmp_path / "other.pt").write_bytes(b"no archive")
    monkeypatch.setattr("sys.argv", ["train", "--work", str(tmp_path), "--start", str(tmp_path / "other.pt")])
    with pytest.raises(SystemExit):
        train.main()
    assert "other.pt" in capsys.readouterr().err


# Shipped weights


def test_the_choice_and_the_best_of_the_candidates():
    answers = Answers(np.array([[0.2, 0.9, 0.5]]), np.array([[0.1, 0.4, 0.8]]), np.array([1.0]))
    assert answers.best_iou.tolist() == [0.9] and answers.chosen_iou.tolist() == [0.5]


def test_shipped_weights_are_small_and_hold_tensors_only():
    state = torch.load(WEIGHTS_FILE, weights_only=True)
    floating = [value for value in state.values() if value.is_floating_point()]
    assert {value.dtype for value in floating} == {torch.float16}
    assert all(value.isfinite().all() for value in floating)
    assert WEIGHTS_FILE.stat().st_size < 12_000_000


@pytest.mark.slow
def test_shipped_weights_find_objects_never_seen():
    sam = load(WEIGHTS_FILE, 128)
    answers = ask(sam, unseen_samples(15, 128, objects_per_scene=4, first=5000), PromptKind.POINTS_AND_BOX)
    assert answers.best_iou.mean() > answers.prompt_iou.mean() + 0.05  # than the filled box
    assert np.corrcoef(answers.candidate_iou.ravel(), answers.predicted_iou.ravel())[0, 1] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("image_size", [128, 256])
def test_shipped_weights_improve_coarse_masks_at_every_side(image_size):
    sam = load(WEIGHTS_FILE, image_size)
    answers = ask(sam, unseen_samples(12, image_size, objects_per_scene=4, first=5000), PromptKind.COARSE)
    assert answers.chosen_iou.mean() > answers.prompt_iou.mean() + 0.01
    assert answers.best_iou.mean() > answers.chosen_iou.mean()
