"""Asks SAM about instances: a prompt for each, and one cleaned mask with SAM's own measures as the answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from math import ceil

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ImageError
from pipeline.masks.crop_mask import CropMask
from pipeline.masks.parts import best_supported_part, fill_holes
from pipeline.masks.soft_masks import SoftMask
from pipeline.masks.windows import Window, nonzero_window
from pipeline.refinement.choice import Choice, choose
from pipeline.refinement.geometry import LowresFrame
from pipeline.refinement.prompts import build_prompt, instance_rng
from pipeline.refinement.settings import RefineSettings
from pipeline.refinement.soft import SoftView, soft_lowres, soft_view
from pipeline.sam.encoded import ImageForSam
from pipeline.sam.frame import InputFrame
from pipeline.sam.interface import Engine, ImageEmbeddings
from pipeline.sam.prompt import Prompt

PROMPTS_AT_ONCE = 256
"""Instances whose candidates are in memory at once: 200 MB of logits for a low-resolution side of 256."""

MOST_LOGIT = 8.0
"""Limit of logits before they are smoothed."""

BAND_PIXELS = 1 << 22
"""Pixels of a mask that are interpolated at once."""


@dataclass(frozen=True)
class Question:
    """One instance to ask SAM about.

    image_id, instance: they seed its random numbers. view: index of its view among the given images. window: the part
    of the image that the view shows. soft_mask: the teacher's, in pixels of the image.
    """

    image_id: int
    instance: int
    view: int
    window: Window
    soft_mask: SoftMask


@dataclass(frozen=True)
class Answer:
    """SAM's mask of one instance, cleaned, in pixels of its image; it may be empty."""

    mask: CropMask
    candidate: int
    predicted_iou: float
    stability: float


def ask(
    images: Sequence[ImageForSam], questions: Sequence[Question], engine: Engine, settings: RefineSettings
) -> Iterator[Answer]:
    """Encode the views once and answer every question, in order."""
    if not questions:
        return
    embeddings = engine.encode(images)
    for first in range(0, len(questions), PROMPTS_AT_ONCE):
        batch = [Asked.of(question, engine.frame, settings) for question in questions[first : first + PROMPTS_AT_ONCE]]
        for asked, choice in zip(batch, _decode(batch, embeddings, engine, settings), strict=True):
            yield _answer(asked, choice, settings)


@dataclass(frozen=True)
class Asked:
    """A question with its prompt and soft mask, in the frame of its view."""

    question: Question
    frame: LowresFrame
    view: SoftView
    probability_lowres: NDArray[np.float32]
    prompt: Prompt

    @classmethod
    def of(cls, question: Question, sam: InputFrame, settings: RefineSettings) -> Asked:
        """Make the prompt about an instance. sam: the frame of the SAM that is asked."""
        window = question.window
        frame = LowresFrame(window.height, window.width, sam)
        soft_mask = question.soft_mask.moved(-window.x0, -window.y0)
        view = soft_view(soft_mask)
        probability_lowres = soft_lowres(soft_mask, frame)
        rng = instance_rng(settings.seed, question.image_id, question.instance)
        prompt = build_prompt(view, probability_lowres, frame, settings, rng)
        return cls(question, frame, view, probability_lowres, prompt)


def _decode(
    asked: Sequence[Asked], embeddings: ImageEmbeddings, engine: Engine, settings: RefineSettings
) -> list[Choice]:
    """Return the candidates chosen in the last pass; each later pass gets those of the pass before as prompts."""
    views = [each.question.view for each in asked]
    prompts = [each.prompt for each in asked]
    choices: list[Choice] = []
    for _ in range(settings.passes):
        if choices:
            prompts = [
                replace(prompt, mask_logits_lowres=choice.mask_logits_lowres)
                for prompt, choice in zip(prompts, choices, strict=True)
            ]
        answered = engine.decode(embeddings, views, prompts)
        choices = [
            _checked(choose(candidates, each.probability_lowres, each.frame, settings.choice), each.question)
            for each, candidates in zip(asked, answered, strict=True)
        ]
    return choices


def _checked(choice: Choice, question: Question) -> Choice:
    if not (np.isfinite(choice.predicted_iou) and np.isfinite(choice.mask_logits_lowres).all()):
        raise ImageError(
            f"SAM's answer for instance {question.instance} of image {question.image_id} is not a number: its "
            "weights are damaged, or compute.precision is too low for them (try fp32)"
        )
    return choice


def _answer(asked: Asked, choice: Choice, settings: RefineSettings) -> Answer:
    logits_lowres = smoothed(choice.mask_logits_lowres, asked.frame, settings.smoothing_cells)
    content = asked.frame.content
    region = asked.frame.to_image(nonzero_window(logits_lowres[: content.height, : content.width] > 0))
    mask = _interpolated(logits_lowres, asked.frame, region)
    if settings.largest_component:
        mask = best_supported_part(mask, *_votes(asked.view, region))
    if settings.fill_holes:
        mask = fill_holes(mask)
    window = asked.question.window
    return Answer(
        mask=CropMask.of_array(mask, region.moved(window.x0, window.y0)),
        candidate=choice.index,
        predicted_iou=choice.predicted_iou,
        stability=choice.stability,
    )


def smoothed(logits_lowres: NDArray[np.float32], frame: LowresFrame, cells: float) -> NDArray[np.float32]:
    """Return low-resolution logits (lowres_side, lowres_side) smoothed by a Gaussian this many cells wide.

    Each cell has an error of its own, and logits are steep: enlarged as they are, the outline has a step at every
    cell. Logits are limited first, so that a sure cell does not outweigh its neighbours. Padding stays as it is.
    """
    if cells == 0:
        return logits_lowres
    reach = max(1, ceil(3 * cells))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / cells) ** 2)
    weights /= weights.sum()
    height, width = frame.content.height, frame.content.width
    shown = np.clip(logits_lowres[:height, :width], -MOST_LOGIT, MOST_LOGIT)
    for axis in (0, 1):
        padded = np.pad(shown, [(reach, reach) if each == axis else (0, 0) for each in (0, 1)], mode="edge")
        shown = np.lib.stride_tricks.sliding_window_view(padded, len(weights), axis) @ weights.astype(np.float32)
    result = logits_lowres.copy()
    result[:height, :width] = shown
    return result


def _interpolated(logits_lowres: NDArray[np.float32], frame: LowresFrame, region: Window) -> NDArray[np.bool_]:
    """Return the mask in a region of its view, (height, width), made in bands of rows to keep few logits in memory."""
    mask = np.empty((region.height, region.width), dtype=np.bool_)
    band_rows = max(1, BAND_PIXELS // max(1, region.width))
    for y0 in range(region.y0, region.y1, band_rows):
        band = replace(region, y0=y0, y1=min(y0 + band_rows, region.y1))
        logits = frame.sam.full_logits(logits_lowres, (frame.height, frame.width), astuple(band))
        np.greater(logits, 0, out=mask[region.slices(band)])
    return mask


def _votes(view: SoftView, region: Window) -> tuple[NDArray[np.float32], NDArray[np.intp], NDArray[np.intp]]:
    """Return the soft mask's probabilities within a region, and their rows and columns in it."""
    rows, columns = np.indices(view.probability.shape)
    points_xy = view.points_xy(rows.ravel(), columns.ravel())
    xs = np.floor(points_xy[:, 0]).astype(np.intp) - region.x0
    ys = np.floor(points_xy[:, 1]).astype(np.intp) - region.y0
    within = (xs >= 0) & (xs < region.width) & (ys >= 0) & (ys < region.height)
    return view.probability.ravel()[within], ys[within], xs[within]
