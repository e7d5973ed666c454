"""How good `sam_tiny` is: IoU on unseen scenes and, if given, on COCO data it was never trained on.

`python -m pipeline.sam.tiny.measure [--coco ANNOTATIONS IMAGES]` prints the figures of the model card.
"""

from __future__ import annotations

import argparse
import contextlib
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
from pycocotools.coco import COCO
from segment_anything import SamPredictor
from torch import Tensor

from pipeline.errors import ImageError
from pipeline.masks.overlap import mask_iou
from pipeline.sam.tiny import WEIGHTS_FILE
from pipeline.sam.tiny.batches import box_of, coarse_mask, points_by_confidence, points_in
from pipeline.sam.tiny.model import OWN_SIDE, REFERENCE_SIDE, SIDE_MULTIPLE, TinySam, build_sam_tiny
from pipeline.sam.tiny.scenes import make_scene

UNSEEN_SEED = 1 << 60
"""Scenes from here on are never trained on."""

CARD_SCENES = 500
CARD_SIDES = {REFERENCE_SIDE: 1.0, 2 * REFERENCE_SIDE: 0.2}
"""Input sides, and the share of the scenes measured there."""

ENLARGED_SHARE = 0.3
"""The share of the scenes that are also shown at the model's own side."""

CARD_FIRST = 1_000_000
"""The model card's scenes are not those that the training watches."""

OBJECTS_PER_SCENE = 5
POINTS = 3
SMALLEST_OBJECT_PX = 16


class PromptKind(enum.Enum):
    """What the model is told of an object."""

    POINTS = "3 points"
    BOX = "box"
    POINTS_AND_BOX = "3 points + box"
    COARSE = "coarse mask, its box and 3 of its points"


@dataclass(frozen=True)
class MeasuredImage:
    """An image (H, W, 3) uint8 and some of its objects' masks (N, H, W) bool; `seed` draws the prompts."""

    image_rgb: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    seed: int


@dataclass(frozen=True)
class Prompts:
    """Prompts for N objects in pixels of the input; what is absent is None."""

    points_xy: Tensor | None = None
    boxes_xyxy: Tensor | None = None
    mask_logits_lowres: Tensor | None = None


def unseen_samples(scenes: int, side: int, objects_per_scene: int, first: int = 0) -> Iterator[MeasuredImage]:
    """Scenes that no training sees, with a few objects of each."""
    for index in range(first, first + scenes):
        scene = make_scene(UNSEEN_SEED + index, side)
        rng = np.random.default_rng([UNSEEN_SEED, index])
        count = min(objects_per_scene, scene.instances)
        labels = 1 + rng.choice(scene.instances, count, replace=False)
        yield MeasuredImage(scene.image_rgb, np.stack([scene.labels == label for label in labels]), index)


def coco_samples(annotations: Path, images: Path) -> Iterator[MeasuredImage]:
    """Every object of a COCO file's images that is not tiny."""
    with contextlib.redirect_stdout(sys.stderr):  # it announces itself
        coco = COCO(annotations)
    for image_id in coco.getImgIds():
        path = images / coco.imgs[image_id]["file_name"]
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        if picture is None:
            raise ImageError(f"{path}: cannot be read as an image, but {annotations} names it")
        masks = [coco.annToMask(annotation) > 0 for annotation in coco.imgToAnns[image_id]]
        usable = [mask for mask in masks if mask.sum() >= SMALLEST_OBJECT_PX]
        if usable:
            yield MeasuredImage(picture.astype(np.uint8), np.stack(usable), int(image_id))


def enlarged(sample: MeasuredImage, side: int) -> MeasuredImage:
    """The same picture as an input of this side shows it, a multiple of its own."""
    factor = side // sample.image_rgb.shape[0]
    image_rgb = cv2.resize(sample.image_rgb, (side, side), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    return replace(sample, image_rgb=image_rgb, masks=sample.masks.repeat(factor, axis=1).repeat(factor, axis=2))


def native_side(sample: MeasuredImage) -> int:
    """The smallest input side that shows a sample's image without shrinking it."""
    return SIDE_MULTIPLE * math.ceil(max(sample.image_rgb.shape[:2]) / SIDE_MULTIPLE)


def prompts_for(rng: Generator, sample: MeasuredImage, kind: PromptKind) -> tuple[Prompts, NDArray[np.bool_]]:
    """Prompts for all objects of a sample, and masks (N, H, W) of what they tell already: boxes are filled."""
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
    """What came of N objects: IoUs with the truth (N, 3) and predicted (N, 3), and of what was given (N,)."""

    candidate_iou: NDArray[np.float64]
    predicted_iou: NDArray[np.float64]
    prompt_iou: NDArray[np.float64]

    @property
    def best_iou(self) -> NDArray[np.float64]:
        """(N,) IoU of the best of the three candidates."""
        best: NDArray[np.float64] = self.candidate_iou.max(1)
        return best

    @property
    def chosen_iou(self) -> NDArray[np.float64]:
        """(N,) IoU of the candidate that the model itself thinks best."""
        rows = np.arange(len(self.candidate_iou))
        chosen: NDArray[np.float64] = self.candidate_iou[rows, self.predicted_iou.argmax(1)]
        return chosen


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
    """Means over the objects, rounded for reading."""
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
def encoding_milliseconds(sam: TinySam, repeats: int = 30) -> float:
    """Median time to encode one image at the model's input side."""
    image = torch.zeros(1, 3, sam.image_size, sam.image_size)
    spent = []
    for _ in range(repeats):
        started = time.perf_counter()
        sam.image_encoder(image)
        spent.append(time.perf_counter() - started)
    return round(1000 * float(np.median(spent)), 1)


def load(weights: Path, image_size: int) -> TinySam:
    """The model with these weights."""
    return build_sam_tiny(image_size, torch.load(weights, map_location="cpu", weights_only=True))


def measure(weights: Path, scenes: int, coco: Sequence[tuple[Path, Path]]) -> dict[str, object]:
    """All figures of the model card."""
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
    """Command line."""
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
