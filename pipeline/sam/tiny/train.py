"""Train `sam_tiny` from random weights on procedural scenes: `python -m pipeline.sam.tiny.train --work DIR`.

The learning rate stays constant (after a warm-up) for any number of steps; shipped weights come from a branch
on which it decays to zero. So a training can always be continued: the constant part continues from its
checkpoint and a new branch is made from it. Every random number follows from the seed and the step.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline.errors import S4MError, StageError
from pipeline.files.writing import open_atomically
from pipeline.sam.build import DAMAGE, build_sam
from pipeline.sam.prompt import CANDIDATES
from pipeline.sam.tiny.batches import (
    Batch,
    PromptGroup,
    correct,
    draw_layout,
    make_prompts,
    training_batch,
    window_centre_px,
)
from pipeline.sam.tiny.dense import DenseHead, dense_loss, dense_targets
from pipeline.sam.tiny.measure import PromptKind, ask, unseen_samples
from pipeline.sam.tiny.model import REFERENCE_SIDE, TinySam, build_sam_tiny, predict_prompts

logger = logging.getLogger("sam_tiny")

HELD_OUT_SCENES = 60
LOG_EVERY, CHECKPOINT_EVERY, HELD_OUT_EVERY = 50, 100, 250
CHECKPOINT_FORMAT = 2

TRAINED_STEPS = 10_000
"""A training that starts from trained weights counts from here: small images and their scenes are behind it."""

Tensors = tuple[Tensor, ...] | list[Tensor]


@dataclass(frozen=True)
class Recipe:
    """Settings that the trained weights depend on."""

    seed: int = 1
    learning_rate: float = 5e-4
    encoder_learning_rate: float = 1.5e-3
    weight_decay: float = 0.02
    warmup_steps: int = 150
    ema_decay: float = 0.998
    gradient_norm: float = 2.0
    groups: int = 2
    entropy_weight: float = 0.3
    corrected_share: float = 0.4
    dense_weight: float = 0.5
    single_mask_weight: float = 0.7
    other_candidates_weight: float = 0.05


@dataclass(frozen=True)
class Schedule:
    """A learning rate that is constant until `decay_from`, then falls linearly to zero over `decay_steps`."""

    decay_from: int | None = None
    decay_steps: int = 0

    def factor(self, step: int, first_step: int, warmup_steps: int) -> float:
        """Return the share of the full learning rate at a step of a training that began at `first_step`."""
        warm = min(1.0, (step + 1 - first_step) / warmup_steps)
        if self.decay_from is None:
            return warm
        return warm * max(0.0, 1.0 - (step - self.decay_from) / self.decay_steps)


def embed_images(sam: TinySam, batch: Batch) -> Tensor:
    """Return embeddings (B, C, S/8, S/8) of images with padding set to zero, as segment_anything does."""
    images = (batch.images - sam.pixel_mean) / sam.pixel_std
    height, width = batch.content_hw
    images[..., height:, :] = 0
    images[..., width:] = 0
    embeddings: Tensor = sam.image_encoder(images.contiguous(memory_format=torch.channels_last))
    return embeddings.contiguous()


def decode(sam: TinySam, embeddings: Tensor, image_index: Tensor, group: PromptGroup) -> tuple[Tensor, Tensor]:
    """Return logits (G, 4, S/2, S/2) and predicted IoUs (G, 4) for one group of prompts."""
    points = None
    if group.points_xy is not None and group.point_labels is not None:
        points = (group.points_xy, group.point_labels)
    sparse, dense = sam.prompt_encoder(points, group.boxes_xyxy, group.mask_logits_lowres)
    return predict_prompts(sam, embeddings[image_index[group.rows]], sparse, dense)


@dataclass(frozen=True)
class PromptLosses:
    """Means over a group of prompts. `iou` is the best candidate's, for the log."""

    total: Tensor
    mask: float
    iou_error: float
    iou: float


def answer_losses(recipe: Recipe, logits_lowres: Tensor, predicted_iou: Tensor, truth: Tensor) -> PromptLosses:
    """Return the losses of answers (G, K, S/2, S/2) against masks (G, S, S) float, at full resolution.

    The first of the K is the single mask, the last `CANDIDATES` compete. A recipe that gives the single mask no weight
    takes the candidates alone too. Dice and cross-entropy; of the candidates the best one counts, the others only a
    little, so that all of them keep learning.
    """
    side = truth.shape[-1]
    logits = F.interpolate(logits_lowres, (side, side), mode="bilinear", align_corners=False).flatten(2)
    target = truth.flatten(1).unsqueeze(1)
    area = target.sum(2)
    # Normalised by the object's area, so that small objects are not lost in the background.
    entropy = F.binary_cross_entropy_with_logits(logits, target.expand_as(logits), reduction="none").sum(2)
    entropy = entropy / (area + 0.01 * side * side)
    probability = logits.sigmoid()
    overlap = (probability * target).sum(2)
    dice = 1 - (2 * overlap + 1) / (probability.sum(2) + area + 1)
    mask_loss = recipe.entropy_weight * entropy + dice
    with torch.no_grad():
        inside = logits > 0
        both = (inside * target).sum(2)
        iou = both / (inside.sum(2) + area - both).clamp(min=1)
    iou_error = F.mse_loss(predicted_iou, iou)
    candidates = mask_loss[:, -CANDIDATES:]
    best = candidates.min(1).values.mean()
    total = (
        best
        + recipe.other_candidates_weight * candidates.mean()
        + recipe.single_mask_weight * mask_loss[:, 0].mean()
        + iou_error
    )
    best_iou = iou[:, -CANDIDATES:].max(1).values.mean()
    return PromptLosses(total, float(best.detach()), float(iou_error.detach()), float(best_iou))


def prompt_losses(recipe: Recipe, sam: TinySam, embeddings: Tensor, batch: Batch, step: int) -> Iterator[PromptLosses]:
    """Yield the losses of a first round of prompts and, for some groups, of a round of corrections."""
    rng = np.random.default_rng([recipe.seed, step, 2])
    generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
    truth = torch.from_numpy(batch.masks).float()
    for rows in np.array_split(rng.permutation(len(batch.masks)), recipe.groups):
        group = make_prompts(rng, batch, rows, draw_layout(rng))
        truth_here = truth[group.rows]
        logits, predicted_iou = decode(sam, embeddings, batch.image_index, group)
        yield answer_losses(recipe, logits, predicted_iou, truth_here)
        if rng.random() >= recipe.corrected_share:
            continue
        answer = logits.detach()[torch.arange(len(rows)), 1 + predicted_iou.detach()[:, 1:].argmax(1)]
        truth_lowres = F.avg_pool2d(truth_here[:, None], 2)[:, 0] > 0.5
        group = correct(group, answer, truth_lowres, add_point=rng.random() < 0.7, generator=generator)
        logits, predicted_iou = decode(sam, embeddings, batch.image_index, group)
        yield answer_losses(recipe, logits, predicted_iou, truth_here)


def parameter_groups(recipe: Recipe, sam: TinySam, dense_head: nn.Module) -> list[dict[str, Any]]:
    """Group parameters by learning rate and weight decay: the convolutions learn faster than the decoder.

    Weight decay is for matrices and kernels, not for biases, norms and learned tokens.
    """
    groups = []
    encoder = [*sam.image_encoder.named_parameters(), *dense_head.named_parameters()]
    decoder = [*sam.prompt_encoder.named_parameters(), *sam.mask_decoder.named_parameters()]
    for peak, named in ((recipe.encoder_learning_rate, encoder), (recipe.learning_rate, decoder)):
        is_free = [value.ndim < 2 or "embed" in name or "token" in name for name, value in named]
        for decay, wanted in ((recipe.weight_decay, False), (0.0, True)):
            chosen = [value for (_, value), free in zip(named, is_free, strict=True) if free is wanted]
            groups.append({"params": chosen, "peak_lr": peak, "lr": peak, "weight_decay": decay})
    return groups


def warming_average(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """Return an exponential moving average that forgets fast at first, while the weights change much."""

    def update(averages: Tensors, values: Tensors, updates: Tensor | int) -> None:
        count = int(updates)
        average = get_ema_multi_avg_fn(min(decay, (1 + count) / (10 + count)))  # type: ignore[no-untyped-call]
        average(averages, values, count)

    return update


class Trainer:
    """The model, its moving average and its optimizer at some step of a schedule."""

    def __init__(self, recipe: Recipe, schedule: Schedule, start: Mapping[str, Tensor] | None = None) -> None:
        self.recipe, self.schedule = recipe, schedule
        torch.manual_seed(recipe.seed)
        self.sam = build_sam_tiny(state=start).train()
        self.sam.image_encoder.to(memory_format=torch.channels_last)
        self.dense_head = DenseHead()
        groups = parameter_groups(recipe, self.sam, self.dense_head)
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
        self.average = AveragedModel(self.sam, multi_avg_fn=warming_average(recipe.ema_decay), use_buffers=True)
        self.first_step = self.step = 0 if start is None else TRAINED_STEPS

    def train_step(self) -> dict[str, float]:
        """Do one optimizer step; return what the log says of it."""
        factor = self.schedule.factor(self.step, self.first_step, self.recipe.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        batch = training_batch(self.recipe.seed, self.step)
        self.sam.resize(batch.side)
        self.sam.prompt_encoder.pe_layer.centre_px = window_centre_px(self.recipe.seed, self.step, batch.side)
        embeddings = embed_images(self.sam, batch)
        losses = list(prompt_losses(self.recipe, self.sam, embeddings, batch, self.step))
        total = torch.stack([loss.total for loss in losses]).mean()
        dense = dense_loss(self.dense_head(embeddings), dense_targets(batch.labels))
        total = total + self.recipe.dense_weight * dense
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.sam.parameters(), self.recipe.gradient_norm)
        self.optimizer.step()
        self.average.update_parameters(self.sam)
        self.step += 1
        return {
            "loss": float(total.detach()),
            "mask": float(np.mean([loss.mask for loss in losses])),
            "dense": float(dense.detach()),
            "iou_error": float(np.mean([loss.iou_error for loss in losses])),
            "train_iou": float(np.mean([loss.iou for loss in losses])),
        }

    def averaged_state(self) -> dict[str, Tensor]:
        """Return the moving average's state dict."""
        return {name: value.clone() for name, value in self.average.module.state_dict().items()}

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        checkpoint = {
            "format": CHECKPOINT_FORMAT,
            "step": self.step,
            "first_step": self.first_step,
            "seed": self.recipe.seed,
            "model": self.sam.state_dict(),
            "dense_head": self.dense_head.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        save_tensors(checkpoint, path)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint, with the schedule of this trainer."""
        try:
            checkpoint = torch.load(path, weights_only=True)
        except DAMAGE as error:
            # Not torch's message, which says how to run the code in a file.
            raise StageError(
                f"{path}: damaged, or not a checkpoint of this program ({type(error).__name__}): remove it"
            ) from None
        if checkpoint["format"] != CHECKPOINT_FORMAT or checkpoint["seed"] != self.recipe.seed:
            raise StageError(
                f"{path}: of format {checkpoint['format']} and seed {checkpoint['seed']}, but this is format "
                f"{CHECKPOINT_FORMAT} and seed {self.recipe.seed}: choose another --work"
            )
        self.step, self.first_step = checkpoint["step"], checkpoint["first_step"]
        self.sam.load_state_dict(checkpoint["model"])
        self.dense_head.load_state_dict(checkpoint["dense_head"])
        self.average.load_state_dict(checkpoint["average"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])


def save_tensors(value: object, path: Path) -> None:
    """Write a file of `torch.save`, whole or not at all."""
    with open_atomically(path) as file:
        torch.save(value, file)


def export_weights(state: dict[str, Tensor], path: Path) -> None:
    """Write the shipped form: half-precision tensors and nothing else."""
    save_tensors({name: value.half() if value.is_floating_point() else value for name, value in state.items()}, path)


def held_out_iou(state: dict[str, Tensor]) -> float:
    """Return the mean best-of-three IoU with points and a box on scenes that no training sees."""
    sam = build_sam_tiny(REFERENCE_SIDE, state)
    samples = unseen_samples(HELD_OUT_SCENES, REFERENCE_SIDE, objects_per_scene=3)
    return float(ask(sam, samples, PromptKind.POINTS_AND_BOX).best_iou.mean())


def run(trainer: Trainer, last_step: int, deadline: float | None, checkpoint: Path, log: Path) -> None:
    """Train up to `last_step`, or until `time.monotonic` passes `deadline`."""
    started, first = time.monotonic(), trainer.step
    recent: list[dict[str, float]] = []
    while trainer.step < last_step and (deadline is None or time.monotonic() < deadline):
        recent.append(trainer.train_step())
        done = trainer.step >= last_step
        if trainer.step % LOG_EVERY == 0 or done:
            record: dict[str, float] = {"step": trainer.step}
            record |= {name: float(np.mean([each[name] for each in recent])) for name in recent[0]}
            record["seconds_per_step"] = (time.monotonic() - started) / (trainer.step - first)
            if trainer.step % HELD_OUT_EVERY == 0 or done:
                record["held_out_iou"] = held_out_iou(trainer.averaged_state())
            recent.clear()
            line = json.dumps({key: round(value, 4) for key, value in record.items()})
            logger.info(line)
            with log.open("a") as stream:
                stream.write(line + "\n")
        if trainer.step % CHECKPOINT_EVERY == 0:
            trainer.save(checkpoint)
    trainer.save(checkpoint)


def train(arguments: argparse.Namespace) -> None:
    """Train the constant part, then, if asked for, the decaying branch; export its weights."""
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(seed=arguments.seed)
    constant = work / "constant.pt"
    begins_trained = arguments.start is not None and not constant.exists()
    start = build_sam("sam_tiny", arguments.start).state_dict() if begins_trained else None
    trainer = Trainer(recipe, Schedule(), start)
    if constant.exists():
        trainer.load(constant)
        logger.info("continuing at step %d", trainer.step)
    deadline = None if arguments.minutes is None else time.monotonic() + 60 * arguments.minutes
    run(trainer, arguments.steps, deadline, constant, work / "log.jsonl")
    if not arguments.decay_steps:
        return
    schedule = Schedule(trainer.step, arguments.decay_steps)
    branch = work / f"decay-{trainer.step}-{arguments.decay_steps}.pt"
    decaying = Trainer(recipe, schedule)
    decaying.load(branch if branch.exists() else constant)
    run(decaying, trainer.step + arguments.decay_steps, None, branch, work / f"{branch.stem}.jsonl")
    export_weights(decaying.averaged_state(), arguments.export or work / "sam_tiny.pt")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and logs; continues there")
    parser.add_argument("--start", type=Path, help="trained weights to start from; use another --seed for other scenes")
    parser.add_argument("--steps", type=int, default=8000, help="last step of the constant part")
    parser.add_argument("--minutes", type=float, help="end the constant part after this time, if sooner")
    parser.add_argument("--decay-steps", type=int, default=4000, help="length of the decaying branch, 0 for none")
    parser.add_argument("--export", type=Path, help="where the weights go (default: sam_tiny.pt in --work)")
    parser.add_argument("--seed", type=int, default=1, help="of random weights, scenes and prompts")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    cv2.setNumThreads(1)
    try:
        train(parser.parse_args())
    except S4MError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
