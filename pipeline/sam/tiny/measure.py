"""Measure `sam_tiny`: IoU on unseen scenes and, if given, on COCO data that it was never trained on.

`python -m pipeline.sam.tiny.measure [--coco ANNOTATIONS IMAGES]` prints the figures of the model card.
"""

from __future__ import annotations

import argparse
import enum
import json
import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from segment_anything import SamPredictor
from torch import Tensor

from pipeline.coco.paths import resolve_image_path
from pipeline.coco.reading import read_coco
from pipeline.files.images import read_image
from pipeline.masks.overlap import mask_iou
from pipeline.sam.tiny import WEIGHTS_FILE
from pipeline.sam.tiny.batches import box_of, coarse_mask, enlarge, points_by_confidence, points_in
from pipeline.sam.tiny.model import OWN_SIDE, REFERENCE_SIDE, SIDE_MULTIPLE, TinySam, build_sam_tiny
from pipeline.sam.tiny.scenes import make_scene

UNSEEN_SEED = 1 << 60
"""Scenes of this seed and above are never trained on."""

CARD_SCENES = 500
CARD_SIDES = {REFERENCE_SIDE: 1.0, 2 * REFERENCE_SIDE: 0.2}
"""Input sides, and the share of the scenes measured there."""

ENLARGED_SHARE = 0.3
"""The share of the scenes that are also enlarged to the model's own side."""

CARD_FIRST = 1_000_000
"""First scene of the model card: others than those that the training measures."""

OBJECTS_PER_SCENE = 5
POINTS = 3
SMALLEST_OBJECT_PX = 16


class PromptKind(enum.Enum):
    """What a prompt says of an object."""

    POINTS = "3 points"
    BOX = "box"
    POINTS_AND_BOX = "3 points + box"
    COARSE = "coarse mask, its box and 3 of its points"


@dataclass(frozen=True)
class MeasuredImage:
    """An image (H, W, 3) uint8 and masks (N, H, W) bool of some of its objects; `seed` draws the prompts."""

    image_rgb: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    seed: int


@dataclass(frozen=True)
class Prompts:
    """Prompts for N objects in pixels of the input."""

    points_xy: Tensor | None = None
    boxes_xyxy: Tensor | None = None
    mask_logits_lowres: Tensor | None = None


def unseen_samples(scenes: int, side: int, objects_per_scene: int, first: int = 0) -> Iterator[MeasuredImage]:
    """Yield scenes that no training sees, with a few objects of each."""
    for index in range(first, first + scenes):
        scene = make_scene(UNSEEN_SEED + index, side)
        rng = np.random.default_rng([UNSEEN_SEED, index])
        count = min(objects_per_scene, scene.instances)
        labels = 1 + rng.choice(scene.instances, count, replace=False)
        yield MeasuredImage(scene.image_rgb, np.stack([scene.labels == label for label in labels]), index)


def coco_samples(annotations: Path, images: Path) -> Iterator[MeasuredImage]:
    """Yield the images of a COCO file with their objects that are not tiny."""
    dataset = read_coco(annotations)
    for image in dataset.images:
        masks = [dataset.mask(each) for each in dataset.annotations_by_image[image.id]]
        usable = [mask for mask in masks if mask.sum() >= SMALLEST_OBJECT_PX]
        if usable:
            pixels = read_image(resolve_image_path(images, image.file_name), (image.width, image.height))
            yield MeasuredImage(pixels, np.stack(usable), image.id)


def enlarged(sample: MeasuredImage, side: int) -> MeasuredImage:
    """Enlarge a sample to an input side that is a multiple of its own side."""
    image_rgb, masks = enlarge(sample.image_rgb, sample.masks, side // sample.image_rgb.shape[0])
    return replace(sample, image_rgb=image_rgb, masks=masks)


def native_side(sample: MeasuredImage) -> int:
    """Return the smallest input side that shows a sample's image without shrinking it."""
    return SIDE_MULTIPLE * math.ceil(max(sample.image_rgb.shape[:2]) / SIDE_MULTIPLE)


def prompts_for(rng: Generator, sample: MeasuredImage, kind: PromptKind) -> tuple[Prompts, NDArray[np.bool_]]:
    """Return prompts for all objects of a sample, and the masks (N, H, W) that they give: boxes are filled."""
    if kind is PromptKind.COARSE:
        logits = [coarse_mask(rng, mask) for mask in sample.masks]
        points = np.stack([points_by_confidence(rng, each, POINTS) for each in logits])
        boxes = np.stack([2 * box_of(each > 0) for each in logits])
        side = sample.masks.shape[1:]
        given = np.stack([cv2.resize(each, side[::-1], interpolation=cv2.INTER_LINEAR) > 0 for each in logits])
        stacked = torch.from_numpy(np.stack(logits))[:, None]
        return Prompts(torch.from_numpy(points), torch.from_numpy(boxes), stacked), given
    xy = torch.from_numpy(np.stack([points_in(rng, mask, POINTS) for mask in sample.masks]))
    xyxy = torch.from_numpy(np.stack([box_of(mask) for mask in sample.masks]))
    if kind is PromptKind.POINTS:
        return Prompts(points_xy=xy), np.zeros_like(sample.masks)
    filled = np.zeros_like(sample.masks)
    for mask, (x0, y0, x1, y1) in zip(filled, xyxy.int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    return Prompts(points_xy=None if kind is PromptKind.BOX else xy, boxes_xyxy=xyxy), filled


@dataclass(frozen=True)
class Answers:
    """Answers for N objects: IoUs with the truth (N, 3) and predicted (N, 3), and IoUs of the prompts (N,)."""

    candidate_iou: NDArray[np.float64]
    predicted_iou: NDArray[np.float64]
    prompt_iou: NDArray[np.float64]

    @property
    def best_iou(self) -> NDArray[np.float64]:
        """Return the IoU of the best of the three candidates, (N,)."""
        return np.asarray(self.candidate_iou.max(1))

    @property
    def chosen_iou(self) -> NDArray[np.float64]:
        """Return the IoU of the candidate that the model predicts to be the best, (N,)."""
        chosen = self.predicted_iou.argmax(1)[:, None]
        return np.take_along_axis(self.candidate_iou, chosen, axis=1)[:, 0]


@torch.no_grad()
def ask(sam: TinySam, samples: Iterable[MeasuredImage], kind: PromptKind) -> Answers:
    """Prompt for every object of images whose sides are the model's input side."""
    predictor = SamPredictor(sam)
    candidate_iou, predicted_iou, prompt_iou = [], [], []
    for sample in samples:
        rng = np.random.default_rng([UNSEEN_SEED, sample.seed, 1])
        predictor.set_image(sample.image_rgb)
        prompts, given = prompts_for(rng, sample, kind)
        labels = None if prompts.points_xy is None else torch.ones(prompts.points_xy.shape[:2])
        masks, predicted, _ = predictor.predict_torch(
            prompts.points_xy, labels, prompts.boxes_xyxy, prompts.mask_logits_lowres, multimask_output=True
        )
        candidate_iou.append(mask_iou(masks.numpy(), sample.masks[:, None]))
        predicted_iou.append(predicted.numpy())
        prompt_iou.append(mask_iou(given, sample.masks))
    return Answers(np.concatenate(candidate_iou), np.concatenate(predicted_iou), np.concatenate(prompt_iou))


def summary(answers: Answers) -> dict[str, float]:
    """Return means over the objects, rounded."""
    figures = {
        "objects": float(len(answers.candidate_iou)),
        "prompt_iou": float(answers.prompt_iou.mean()),
        "best_of_3_iou": float(answers.best_iou.mean()),
        "chosen_iou": float(answers.chosen_iou.mean()),
        "best_over_0.9": float((answers.best_iou > 0.9).mean()),
        "predicted_iou_error": float(np.abs(answers.predicted_iou - answers.candidate_iou).mean()),
    }
    return {name: round(value, 4) for name, value in figures.items()}


@torch.no_grad()
def encoding_milliseconds(sam: TinySam) -> float:
    """Return the median time to encode one image at the model's input side."""
    image = torch.zeros(1, 3, sam.image_size, sam.image_size)
    spent = []
    for _ in range(30):
        started = time.perf_counter()
        sam.image_encoder(image)
        spent.append(time.perf_counter() - started)
    return round(1000 * float(np.median(spent)), 1)


def load(weights: Path, image_size: int) -> TinySam:
    """Return the model with these weights."""
    return build_sam_tiny(image_size, torch.load(weights, map_location="cpu", weights_only=True))


def measure(weights: Path, scenes: int, coco: Sequence[tuple[Path, Path]]) -> dict[str, object]:
    """Return all figures of the model card."""
    sam = load(weights, REFERENCE_SIDE)
    figures: dict[str, object] = {
        "parameters": sum(parameter.numel() for parameter in sam.parameters()),
        "file_bytes": weights.stat().st_size,
        "encoding_milliseconds": encoding_milliseconds(sam),
    }
    for side, share in CARD_SIDES.items():
        sam.resize(side)
        for kind in PromptKind:
            samples = unseen_samples(int(share * scenes), side, OBJECTS_PER_SCENE, CARD_FIRST)
            figures[f"scenes of {side} px, {kind.value}"] = summary(ask(sam, samples, kind))
    sam.resize(OWN_SIDE)
    for kind in PromptKind:
        samples = unseen_samples(int(ENLARGED_SHARE * scenes), REFERENCE_SIDE, OBJECTS_PER_SCENE, CARD_FIRST)
        answers = ask(sam, (enlarged(sample, OWN_SIDE) for sample in samples), kind)
        figures[f"scenes of {REFERENCE_SIDE} px shown at {OWN_SIDE} px, {kind.value}"] = summary(answers)
    for file, images in coco:
        real = list(coco_samples(file, images))
        sam.resize(native_side(real[0]))
        for kind in PromptKind:
            figures[f"{file}, {kind.value}"] = summary(ask(sam, real, kind))
    return figures


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=WEIGHTS_FILE)
    parser.add_argument(
        "--coco",
        type=Path,
        nargs=2,
        action="append",
        default=[],
        metavar=("ANNOTATIONS", "IMAGES"),
        help="a COCO file and its image folder, to measure on as well; images of one size",
    )
    parser.add_argument("--scenes", type=int, default=CARD_SCENES)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    json.dump(measure(arguments.weights, arguments.scenes, arguments.coco), sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
