"""Fitting SAM: what is trained and what stays, the prompts, and resuming."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.adaptation import fitting as module
from pipeline.adaptation import views
from pipeline.adaptation.encoding import EncodedOnce, KeptInMemory
from pipeline.adaptation.fitting import Course, Fitting, half_way, learning_rate_factor, lesson_loss, truth_of
from pipeline.adaptation.labelled import UsableImages
from pipeline.adaptation.settings import AdaptSettings
from pipeline.adaptation.views import TrainingView, draw_lesson, draw_view
from pipeline.compute.settings import ComputeSettings
from pipeline.errors import StageError
from pipeline.masks.run_lengths import encode_mask
from pipeline.refinement.asking import Asked, Question
from pipeline.refinement.settings import RefineSettings
from pipeline.sam.build import build_sam
from pipeline.sam.engine import SamEngine
from pipeline.sam.frame import InputFrame
from pipeline.sam.learner import SamLearner
from tests.one_lesson import losses_of_one_lesson
from tests.refinement_fake import disc, iou, paint
from tests.tiny_coco import tiny_coco

SIDE = 64
FRAME = InputFrame(SIDE, SIDE // 2)
ADAPT = AdaptSettings(iterations=3, batch_images=1, instances=2)
REFINE = RefineSettings(zoom_below_px=0)


def ignore(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    data = tiny_coco(tmp_path_factory.mktemp("adapt"), images=3)
    return UsableImages.read(data.annotations, data.image_root, ComputeSettings(), 0)


@pytest.fixture(scope="module")
def sam():
    return build_sam("sam_tiny", input_side=SIDE)


@pytest.fixture
def fitting(labelled, sam):
    def make(adapt=ADAPT, refine=REFINE, frozen=None):
        course = Course("tried", 1, labelled.image_ids, 0.8)
        return Fitting(SamLearner(sam), labelled, course, refine, adapt, frozen)

    return make


def changed(before, after) -> set[str]:
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


@pytest.mark.slow
def test_everything_is_trained_but_norms_and_buffers(fitting, sam, tmp_path):
    before = {name: value.clone() for name, value in sam.state_dict().items()}
    after = fitting().run(tmp_path / "checkpoint", ignore)
    assert not changed(before, sam.state_dict())  # the SAM that was given stays
    trained = changed(before, after)
    norms = {name for name in before if name not in dict(sam.named_parameters())}
    norms |= {
        f"{name}.{part}" for name, each in sam.named_modules() if module._is_norm(each) for part in ("weight", "bias")
    }
    assert not trained & norms
    assert {name.partition(".")[0] for name in trained} == {"image_encoder", "prompt_encoder", "mask_decoder"}
    assert all(value.isfinite().all() for value in after.values())


@pytest.mark.slow
def test_a_frozen_encoder_stays_and_encodes_each_view_once(fitting, sam, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "VARIANTS", 2)
    frozen = EncodedOnce(SamEngine(build_sam("sam_tiny", input_side=SIDE), precision="fp32"))
    seen = []
    encode = frozen._encode
    frozen._encode = lambda images: seen.append(images[0].tobytes()) or encode(images)
    before = {name: value.clone() for name, value in sam.state_dict().items()}
    after = fitting(ADAPT.model_copy(update={"iterations": 12}), frozen=frozen).run(tmp_path / "c", ignore)
    trained = changed(before, after)
    assert trained
    assert not [name for name in trained if name.startswith("image_encoder.")]
    assert len(seen) == len(set(seen)) <= 6  # 3 images in 2 variants


@pytest.mark.slow
def test_a_stopped_training_goes_on_to_the_same_weights(fitting, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHECKPOINT_EVERY", 2)
    whole = fitting().run(tmp_path / "whole", ignore)
    stopped = fitting()
    real = stopped._save

    def stop(path):
        real(path)
        raise KeyboardInterrupt

    monkeypatch.setattr(stopped, "_save", stop)
    with pytest.raises(KeyboardInterrupt):
        stopped.run(tmp_path / "stopped", ignore)
    told: list[str] = []
    resumed = fitting()
    steps = []
    step = resumed.train_step
    monkeypatch.setattr(resumed, "train_step", lambda: steps.append(resumed._step) or step())
    again = resumed.run(tmp_path / "stopped", told.append)
    assert steps == [2]
    assert told[0] == "adapt: tried, continuing after step 2"
    assert not changed(whole, again)
    assert not (tmp_path / "stopped").exists()


@pytest.mark.slow
def test_a_lesson_is_learned(labelled, sam, fitting):
    """The same lesson again and again: the loss must fall."""
    losses = losses_of_one_lesson(fitting(), labelled, FRAME, REFINE, steps=8)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.slow
def test_every_pass_counts_and_prompts_of_several_forms_are_answered(labelled, sam):
    rng = np.random.default_rng(3)
    image_id = labelled.image_ids[0]
    view = draw_view(labelled.pixels(image_id), labelled.masks[image_id], FRAME, 0, 3, rng)
    refine = RefineSettings(passes=2, mask_prompt=False, background_point=True, zoom_below_px=0)
    lesson = draw_lesson(view, FRAME, 0.8, refine, 0, rng)
    bare = replace(lesson.asked[0], prompt=replace(lesson.asked[0].prompt, box_xyxy_full=None))
    mixed = replace(lesson, asked=(bare, *lesson.asked[1:]))
    learner = SamLearner(sam)
    embeddings = learner.encode(view.image_rgb)
    once = lesson_loss(learner, embeddings, mixed, refine.model_copy(update={"passes": 1}))
    twice = lesson_loss(learner, embeddings, mixed, refine)
    assert twice.isfinite()
    assert float(once.detach()) != float(twice.detach())


def test_a_loss_that_is_not_a_number_ends_the_training(fitting, monkeypatch):
    def nan(sam, embeddings, *_):
        return embeddings.features.sum() * float("nan")

    monkeypatch.setattr(module, "lesson_loss", nan)
    with pytest.raises(StageError, match=r"the loss is not a number after 0 steps: lower adapt.learning_rate"):
        fitting().train_step()


def test_the_learning_rate_warms_up_and_falls():
    factors = [learning_rate_factor(step, 200) for step in range(200)]
    assert factors[0] < 0.1
    assert max(factors) == factors[20] == 1
    assert factors[-1] < 0.001
    assert all(learning_rate_factor(step, steps) > 0 for steps in (1, 2, 3) for step in range(steps))


def test_half_way_is_the_mean_and_keeps_counts():
    first, second = ({"a": torch.tensor([value]), "n": torch.tensor(3)} for value in (1.0, 4.0))
    mean = half_way(first, second)
    assert mean["a"].tolist() == [2.5]
    assert (mean["n"].item(), mean["n"].dtype) == (3, torch.int64)


@pytest.mark.parametrize("image_hw", [(96, 128), (128, 96), (40, 30)])
def test_the_truth_lies_where_sam_sees_it(image_hw):
    height, width = image_hw
    truth = truth_of(disc(height, width, width * 0.4, height * 0.5, height * 0.3), FRAME)
    assert truth.shape == (SIDE, SIDE)
    scale = SIDE / max(image_hw)
    expected = disc(SIDE, SIDE, width * 0.4 * scale, height * 0.5 * scale, height * 0.3 * scale)
    assert iou(truth > 0.5, expected) > 0.95


def test_lessons_ask_as_refinement_does(labelled):
    """The prompt of a lesson is that of a question with the same teacher's mask and numbers."""
    masks = [disc(96, 128, 40, 40, 20), disc(96, 128, 90, 60, 25)]
    image = paint(96, 128, masks)
    rng = np.random.default_rng(1)
    view = draw_view(image, [encode_mask(mask) for mask in masks], FRAME, 0, 8, rng)
    lesson = draw_lesson(view, FRAME, 0.5, REFINE, 11, rng)
    assert len(lesson.asked) == len(lesson.truths) == len(view.masks)
    for number, asked in enumerate(lesson.asked):
        question = Question(11, number, 0, asked.question.window, asked.question.soft_mask)
        again = Asked.of(question, FRAME, REFINE)
        assert np.array_equal(again.prompt.points_xy_full, asked.prompt.points_xy_full)
        assert np.array_equal(again.prompt.mask_logits_lowres, asked.prompt.mask_logits_lowres)
        assert len(asked.prompt.points_xy_full) == 3


def test_what_a_lesson_asks_may_be_grossly_wrong_and_its_truth_is_not(monkeypatch):
    """Of two touching discs the teacher takes the other one: the answer that is taught is still the right one."""
    masks = (disc(96, 128, 40, 40, 20), disc(96, 128, 78, 40, 18))
    other = {id(mask): masks[1 - number] for number, mask in enumerate(masks)}
    monkeypatch.setattr(views, "with_gross_errors", lambda mask, masks, noise, rng: other[id(mask)])
    view = TrainingView(paint(96, 128, list(masks)), masks)
    lesson = draw_lesson(view, FRAME, 0.1, REFINE, 11, np.random.default_rng(1))
    assert [iou(truth, mask) for truth, mask in zip(lesson.truths, masks, strict=True)] == [1, 1]
    for asked, middle in zip(lesson.asked, (78, 40), strict=True):
        shown = asked.question.soft_mask.window
        assert (shown.x0 + shown.x1) / 2 == pytest.approx(middle, abs=3)


def test_views_show_their_masks_whatever_is_cropped_and_mirrored():
    masks = [disc(96, 128, 40, 40, 20), disc(96, 128, 90, 60, 25)]
    image = np.zeros((96, 128, 3), dtype=np.uint8)
    image[masks[0] | masks[1]] = 200
    encoded = [encode_mask(mask) for mask in masks]
    shapes = set()
    for seed in range(20):
        view = draw_view(image, encoded, FRAME, 0, 8, np.random.default_rng(seed))
        shown = np.any(view.masks, axis=0)
        bright = view.image_rgb.mean(axis=2) > 100
        assert np.count_nonzero(shown & ~bright) == 0
        shapes.add(view.image_rgb.shape)
    assert len(shapes) > 10


def test_small_instances_are_shown_enlarged_as_refinement_does():
    mask = disc(512, 512, 100, 300, 8)
    view = draw_view(
        np.zeros((512, 512, 3), np.uint8), [encode_mask(mask)], InputFrame(256, 128), 32, 8, np.random.default_rng(0)
    )
    assert max(view.image_rgb.shape[:2]) <= 256
    assert len(view.masks) == 1


def test_what_is_kept_in_memory_has_a_limit():
    made: list[int] = []
    kept: KeptInMemory[bytes] = KeptInMemory(len, most_bytes=20)

    def get(key: int) -> bytes:
        return kept.get(key, lambda: made.append(key) or bytes(10))

    for key in (1, 2, 1, 3, 1, 2):
        get(key)
    assert made == [1, 2, 3, 2]
