"""Divide prompts into batches, and convert them to the arguments of a prompt encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.sam.frame import InputFrame
from pipeline.sam.prompt import Prompt


@dataclass(frozen=True)
class PromptForm:
    """What prompts must have in common to be decoded at once.

    A prompt encoder pads points that come without a box with one that is not a point. Padding them further
    would change the answer, so that only prompts of as many points are decoded together.
    """

    points: int
    has_box: bool
    has_mask: bool


@dataclass(frozen=True)
class PromptTensors:
    """P prompts of one form, as the prompt encoder's arguments.

    points: (P x n x 2 float32 in SAM's input frame, P x n int64), boxes: P x 4 float32 in SAM's input frame,
    masks: P x 1 x lowres_side x lowres_side float32.
    """

    points: tuple[Tensor, Tensor] | None
    boxes: Tensor | None
    masks: Tensor | None


def form_of(prompt: Prompt, lowres_side: int) -> PromptForm:
    """Return the form of a prompt; ValueError for one that cannot be decoded."""
    points, labels = prompt.points_xy_full, prompt.point_labels
    box, mask = prompt.box_xyxy_full, prompt.mask_logits_lowres
    if not len(labels) and box is None and mask is None:
        raise ValueError("an empty prompt: give points, a box or mask logits")
    if points.shape != (len(labels), 2) or not np.isin(labels, (0, 1)).all():
        raise ValueError(f"points {points.shape} need as many labels, each 0 or 1: {labels.tolist()}")
    if box is not None and box.shape != (4,):
        raise ValueError(f"a box must be x0, y0, x1, y1, is {box.tolist()}")
    if mask is not None and mask.shape != (lowres_side, lowres_side):
        raise ValueError(f"mask logits must be {lowres_side} x {lowres_side}, are {mask.shape}")
    return PromptForm(len(labels), has_box=box is not None, has_mask=mask is not None)


def batches_of(prompts: Sequence[Prompt], lowres_side: int, most: int) -> Iterator[list[int]]:
    """Yield the indices of prompts that are decoded at once: of one form, at most so many."""
    by_form: dict[PromptForm, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_form.setdefault(form_of(prompt, lowres_side), []).append(index)
    for indices in by_form.values():
        for first in range(0, len(indices), most):
            yield indices[first : first + most]


def prompt_tensors(
    prompts: Sequence[Prompt], image_hw: Sequence[tuple[int, int]], frame: InputFrame, device: torch.device
) -> PromptTensors:
    """Return the tensors of prompts of one form, each with the height and width of its image."""
    points_xy, boxes_xyxy, masks = [], [], []
    for prompt, hw in zip(prompts, image_hw, strict=True):
        points_xy.append(frame.to_input_xy(prompt.points_xy_full, hw))
        if prompt.box_xyxy_full is not None:
            boxes_xyxy.append(frame.to_input_xy(prompt.box_xyxy_full.reshape(2, 2), hw).ravel())
        if prompt.mask_logits_lowres is not None:
            masks.append(prompt.mask_logits_lowres[None])

    def tensor(rows: Sequence[NDArray[np.generic]], dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(np.stack(rows)).to(device, dtype)

    labels = [prompt.point_labels for prompt in prompts]
    return PromptTensors(
        points=(tensor(points_xy, torch.float32), tensor(labels, torch.int64)) if len(labels[0]) else None,
        boxes=tensor(boxes_xyxy, torch.float32) if boxes_xyxy else None,
        masks=tensor(masks, torch.float32) if masks else None,
    )
