"""Fit a SAM to labelled images, with the prompts that refinement will ask."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import cos, pi
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.adaptation.encoding import EncodedOnce
from pipeline.adaptation.labelled import UsableImages
from pipeline.adaptation.settings import AdaptSettings
from pipeline.adaptation.views import Lesson, TrainingView, draw_lesson, draw_view
from pipeline.errors import StageError
from pipeline.files.writing import open_atomically
from pipeline.masks.windows import BoolMask
from pipeline.presentation import words
from pipeline.refinement.choice import choose
from pipeline.refinement.settings import RefineSettings
from pipeline.sam.frame import InputFrame
from pipeline.sam.interface import ImageEmbeddings, Learner, State
from pipeline.sam.prompt import CANDIDATES, Candidates, Prompt
from pipeline.sam.prompt_tensors import batches_of
from pipeline.sam.tiny.train import Recipe, answer_losses

WARM_UP_STEPS: Final = 20
AVERAGE_DECAY: Final = 0.98
GRADIENT_NORM: Final = 1.0
CHECKPOINT_EVERY: Final = 50
SECONDS_BETWEEN_LINES: Final = 10.0

VARIANTS: Final = 8
"""Different views of an image where the encoder stays as it is: each is encoded once."""

LOSS: Final = Recipe(single_mask_weight=0.0)
"""Weights of the losses. Refinement chooses among three candidates: the single mask is not asked for."""


@dataclass(frozen=True)
class Course:
    """What a SAM is fitted to. name: for messages, and for the file of the checkpoint; number: seeds the random draws.

    most_noise: of the imitated teachers, which are between perfect and this bad.
    """

    name: str
    number: int
    image_ids: tuple[int, ...]
    most_noise: float


class Fitting:
    """A SAM on a device, its moving average and its optimizer, at some step of a course.

    frozen: a SAM with the same encoder, which then stays as it is; None to train the encoder too.
    """

    def __init__(
        self,
        sam: Learner,
        labelled: UsableImages,
        course: Course,
        refine: RefineSettings,
        adapt: AdaptSettings,
        frozen: EncodedOnce | None,
    ) -> None:
        self._sam = sam.copied(with_encoder=frozen is None)
        self._labelled, self._course, self._refine, self._adapt = labelled, course, refine, adapt
        self._frozen = frozen
        self._trained = trained_parameters(self._sam, with_encoder=frozen is None)
        self._average = {name: value.detach().clone() for name, value in self._trained.items()}
        self._optimizer = torch.optim.AdamW(self._groups(), betas=(0.9, 0.98), fused=True)
        self._step = 0

    def run(self, checkpoint: Path, say: Callable[[str], None]) -> State:
        """Do the steps that are left; return the averaged weights, on the CPU. checkpoint: read if it is there."""
        if checkpoint.exists():
            self._load(checkpoint)
            say(f"adapt: {self._course.name}, continuing after step {self._step}")
        steps, first, begun = self._adapt.iterations, self._step, time.monotonic()
        said = begun
        while self._step < steps:
            loss = self.train_step()
            now = time.monotonic()
            if now - said >= SECONDS_BETWEEN_LINES:
                said = now
                left = (steps - self._step) * (now - begun) / (self._step - first)
                say(
                    f"adapt: {self._course.name}, step {self._step} of {steps}, {words.duration(left)} to go, "
                    f"loss {loss:.3f}"
                )
            if self._step % CHECKPOINT_EVERY == 0 and self._step < steps:
                self._save(checkpoint)
        checkpoint.unlink(missing_ok=True)
        return {name: self._average.get(name, value).cpu() for name, value in self._sam.module.state_dict().items()}

    def train_step(self) -> float:
        """Do one step of the optimizer; return the loss."""
        factor = learning_rate_factor(self._step, self._adapt.iterations)
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        self._optimizer.zero_grad(set_to_none=True)
        losses = [self._learn(index) for index in range(self._adapt.batch_images)]
        values = list(self._trained.values())
        norm = nn.utils.clip_grad_norm_(values, GRADIENT_NORM)
        if not torch.isfinite(norm):
            raise StageError(
                f"adapt: {self._course.name}: the loss is not a number after {self._step} steps: lower "
                f"adapt.learning_rate (it is {self._adapt.learning_rate:g}), or set adapt.enabled to false"
            )
        self._optimizer.step()
        with torch.no_grad():
            for average, value in zip(self._average.values(), values, strict=True):
                average.lerp_(value, 1 - AVERAGE_DECAY)
        self._step += 1
        return float(np.mean(losses))

    def _learn(self, index: int) -> float:
        """Add the gradients of one image of a batch; return its loss."""
        rng = np.random.default_rng([self._adapt.seed, self._course.number, self._step, index])
        image_id = int(rng.choice(self._course.image_ids))
        view = self._view(image_id, rng)
        number = self._step * self._adapt.batch_images + index
        lesson = draw_lesson(view, self._sam.frame, self._course.most_noise, self._refine, number, rng)
        if not lesson.asked:
            return 0.0
        loss = lesson_loss(self._sam, self._embedding(view), lesson, self._refine)
        (loss / self._adapt.batch_images).backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def _view(self, image_id: int, rng: np.random.Generator) -> TrainingView:
        """Draw a view of an image, one of a few where the encoder stays as it is."""
        if self._frozen is not None:
            words_of_id = (image_id & 0xFFFFFFFF, image_id >> 32 & 0xFFFFFFFF)
            rng = np.random.default_rng([self._adapt.seed, *words_of_id, int(rng.integers(VARIANTS))])
        return draw_view(
            self._labelled.pixels(image_id),
            self._labelled.masks[image_id],
            self._sam.frame,
            self._refine.zoom_below_px,
            self._adapt.instances,
            rng,
        )

    def _embedding(self, view: TrainingView) -> ImageEmbeddings:
        if self._frozen is None:
            return self._sam.encode(view.image_rgb)
        kept = self._frozen.encode([view.image_rgb])
        # Copies: what was made in inference mode takes no part in a training.
        return replace(kept, features=kept.features.clone(), finer=tuple(each.clone() for each in kept.finer))

    def _groups(self) -> list[dict[str, Any]]:
        rates = {"encoder": self._adapt.learning_rate * self._adapt.encoder_rate, "decoder": self._adapt.learning_rate}
        groups = []
        for part, rate in rates.items():
            chosen = [value for name, value in self._trained.items() if self._sam.part_of(name) == part]
            if chosen:
                groups.append({"params": chosen, "peak_lr": rate, "lr": rate})
        return groups

    def _save(self, path: Path) -> None:
        values = {name: value.detach() for name, value in self._trained.items()}
        state = {"step": self._step, "trained": values, "average": self._average}
        with open_atomically(path) as file:
            torch.save(state | {"optimizer": self._optimizer.state_dict()}, file)

    def _load(self, path: Path) -> None:
        state = torch.load(path, map_location=self._sam.device, weights_only=True)
        self._step = state["step"]
        with torch.no_grad():
            for name, value in self._trained.items():
                value.copy_(state["trained"][name])
                self._average[name].copy_(state["average"][name])
        self._optimizer.load_state_dict(state["optimizer"])


def trained_parameters(sam: Learner, *, with_encoder: bool) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained, by name; switch off the gradients of all others."""
    parts = ("encoder", "decoder") if with_encoder else ("decoder",)
    norms = {
        id(value) for module in sam.module.modules() if _is_norm(module) for value in module.parameters(recurse=False)
    }
    trained: dict[str, nn.Parameter] = {}
    for name, value in sam.module.named_parameters():
        wanted = id(value) not in norms and sam.part_of(name) in parts
        value.requires_grad_(wanted)
        if wanted:
            trained[name] = value
    return trained


def _is_norm(module: nn.Module) -> bool:
    return "Norm" in type(module).__name__


def learning_rate_factor(step: int, steps: int) -> float:
    """Return the share of the full learning rate: a linear warm-up, then half a cosine down to nothing."""
    warm_up = min(WARM_UP_STEPS, steps // 2)
    if step < warm_up:
        return (step + 1) / (warm_up + 1)
    return (1 + cos(pi * (step - warm_up) / (steps - warm_up))) / 2


def half_way(first: State, second: State) -> State:
    """Return the mean of two sets of weights."""
    return {name: (value + second[name]) / 2 if value.is_floating_point() else value for name, value in first.items()}


def lesson_loss(sam: Learner, embeddings: ImageEmbeddings, lesson: Lesson, refine: RefineSettings) -> Tensor:
    """Return the mean loss of SAM's answers about one view, over all passes. embeddings: of the view."""
    frame, device = sam.frame, embeddings.features.device
    truths = torch.from_numpy(np.stack([truth_of(mask, frame) for mask in lesson.truths])).to(device)
    prompts = [asked.prompt for asked in lesson.asked]
    losses: list[Tensor] = []
    for number in range(refine.passes):
        answered: dict[int, Prompt] = {}
        for indices in batches_of(prompts, frame.lowres_side, len(prompts)):
            logits, ious = sam.decode(embeddings, [prompts[index] for index in indices])
            losses.append(len(indices) * answer_losses(LOSS, logits, ious, truths[indices]).total)
            if number + 1 < refine.passes:
                answered |= _with_answers(lesson, prompts, indices, (logits, ious), refine)
        prompts = [answered.get(index, prompt) for index, prompt in enumerate(prompts)]
    return torch.stack(losses).sum() / (len(prompts) * refine.passes)


def truth_of(mask: BoolMask, frame: InputFrame) -> NDArray[np.float32]:
    """Return the share of a true mask in the cells of a grid twice as fine as SAM's low-resolution logits.

    mask: of the view. The result is square, with zeros in the padding.
    """
    side = 2 * frame.lowres_side
    height, width = (
        max(1, round(each * side / frame.input_side)) for each in frame.resized_hw((mask.shape[0], mask.shape[1]))
    )
    smaller = height < mask.shape[0]
    interpolation = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    truth = np.zeros((side, side), dtype=np.float32)
    truth[:height, :width] = cv2.resize(mask.astype(np.float32), (width, height), interpolation=interpolation)
    return truth


def _with_answers(
    lesson: Lesson,
    prompts: Sequence[Prompt],
    indices: Sequence[int],
    answers: tuple[Tensor, Tensor],
    refine: RefineSettings,
) -> dict[int, Prompt]:
    """Return the prompts of the next pass by index: the chosen candidates become mask prompts."""
    logits, ious = (each.detach()[:, -CANDIDATES:].float().cpu().numpy() for each in answers)
    chosen = {}
    for row, index in enumerate(indices):
        asked = lesson.asked[index]
        choice = choose(Candidates(logits[row], ious[row]), asked.probability_lowres, asked.frame, refine.choice)
        chosen[index] = replace(prompts[index], mask_logits_lowres=choice.mask_logits_lowres)
    return chosen
