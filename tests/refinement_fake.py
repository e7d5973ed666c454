"""A SAM that knows the truth: images whose objects have a colour each, and candidates that are exact."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from pipeline.labels.rows import Decision, ImageLabels, label_from_rle
from pipeline.masks.soft_masks import make_soft_mask
from pipeline.refinement.gate import make_gate
from pipeline.refinement.geometry import LowresFrame
from pipeline.refinement.image import RefineInput, refine_images
from pipeline.refinement.settings import RefineSettings
from pipeline.sam.frame import InputFrame
from pipeline.sam.prompt import Candidates

HEIGHT, WIDTH = 120, 160
FRAME = InputFrame(128, 64)
ALL_PROMPTS = RefineSettings(
    preset="s4m",
    points=3,
    center_point=True,
    background_point=True,
    box="elastic",
    mask_prompt=True,
    passes=2,
    choice="agreement",
)


def encode(mask):
    return coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))


def paint(height, width, masks):
    """An image whose red channel is the number of the object, 1, 2, …, the later ones on top."""
    image = np.zeros((height, width, 3), np.uint8)
    for number, mask in enumerate(masks, start=1):
        image[mask, 0] = number
    return image


def disc(height, width, x, y, radius):
    ys, xs = np.mgrid[:height, :width]
    return (xs + 0.5 - x) ** 2 + (ys + 0.5 - y) ** 2 <= radius**2


def teacher_label(mask, *, score=0.9, category_id=1, soft=True, probability=None):
    """What a teacher says: a mask, and the blurred mask as its probability."""
    label = label_from_rle(encode(mask), category_id, score, Decision.TEACHER)
    if not soft:
        return label
    if probability is None:
        probability = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.7)
    return replace(label, soft_mask=make_soft_mask(probability, label.box_xyxy))


def labels_of(instances, height, width, image_id=7):
    return ImageLabels.of_instances(image_id, f"{image_id}.png", width, height, tuple(instances))


def refine_input(image, instances, image_id=7):
    return RefineInput(image, labels_of(instances, *image.shape[:2], image_id))


def decoded(counts, height, width):
    return coco_mask.decode({"size": [height, width], "counts": counts}).astype(bool)


@dataclass
class FakeEngine:
    """Candidates: the object's core, the object, the object with all that is near; estimates as given."""

    frame: InputFrame = FRAME
    predicted_iou: tuple[float, float, float] = (0.6, 0.9, 0.7)
    offset_px: int = 0
    encoded_shapes: list = field(default_factory=list)
    decoded_prompts: list = field(default_factory=list)

    def encode(self, images):
        self.encoded_shapes += [image.shape[:2] for image in images]
        return [image[..., 0].copy() for image in images]

    def decode(self, embeddings, image_indices, prompts):
        self.decoded_prompts.append(list(zip(image_indices, prompts, strict=True)))
        return [self.answer(embeddings[i], prompt) for i, prompt in zip(image_indices, prompts, strict=True)]

    def answer(self, numbers, prompt):
        number = self._asked_for(numbers, prompt)
        truth = (numbers == number) & (number > 0)
        truth = np.roll(truth, self.offset_px, axis=1)
        kernel = np.ones((15, 15), np.uint8)
        masks = [cv2.erode(truth.astype(np.uint8), kernel), truth, cv2.dilate(truth.astype(np.uint8), kernel)]
        logits = np.stack([self._logits(mask.astype(bool)) for mask in masks])
        return Candidates(logits, np.array(self.predicted_iou, np.float32))

    def _asked_for(self, numbers, prompt):
        votes = np.zeros(256)
        height, width = numbers.shape
        for (x, y), label in zip(prompt.points_xy_full, prompt.point_labels, strict=True):
            votes[numbers[min(int(y), height - 1), min(int(x), width - 1)]] += 1 if label else -1
        if prompt.box_xyxy_full is not None:
            x0, y0, x1, y1 = np.round(prompt.box_xyxy_full).astype(int)
            votes += np.bincount(numbers[y0:y1, x0:x1].ravel(), minlength=256) / max(1, (x1 - x0) * (y1 - y0))
        if prompt.mask_logits_lowres is not None:
            frame = LowresFrame(height, width, self.frame)
            rows, columns = np.nonzero(prompt.mask_logits_lowres > 0)
            ys = np.minimum((rows + 0.5) / frame.scale_y, height - 1).astype(int)
            xs = np.minimum((columns + 0.5) / frame.scale_x, width - 1).astype(int)
            votes += np.bincount(numbers[ys, xs], minlength=256) / max(1, rows.size)
        votes[0] = 0
        return int(votes.argmax()) if votes.max() > 0 else 0

    def _logits(self, mask):
        height, width = mask.shape
        frame = LowresFrame(height, width, self.frame)
        content = frame.content
        logits = np.full((self.frame.lowres_side, self.frame.lowres_side), -8.0, np.float32)
        size = (content.width, content.height)
        covered = cv2.resize(255 * mask.view(np.uint8), size, interpolation=cv2.INTER_AREA)
        logits[: content.height, : content.width] = covered / 255 * 16 - 8
        return logits


def iou(first, second):
    return (first & second).sum() / (first | second).sum()


def refine(inputs, settings=ALL_PROMPTS, engine=None, gate=None):
    refined = refine_images(inputs, engine or FakeEngine(), settings, gate or make_gate(settings))
    return [list(each.labels.instances) for each in refined]


def mask_of(instance, height=HEIGHT, width=WIDTH):
    return decoded(instance.rle_counts, height, width)


def scene():
    """Two discs, and a teacher that is off by a few pixels."""
    truths = [disc(HEIGHT, WIDTH, 50, 60, 25), disc(HEIGHT, WIDTH, 120, 40, 18)]
    taught = [disc(HEIGHT, WIDTH, 54, 62, 23), disc(HEIGHT, WIDTH, 117, 42, 20)]
    labels = [teacher_label(taught[0], score=0.9, category_id=3), teacher_label(taught[1], score=0.8, category_id=5)]
    return paint(HEIGHT, WIDTH, truths), labels, truths, taught
