"""Refines the masks, boxes or soft masks of one image, without files or stores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pipeline.compute.settings import ComputeSettings, Device
from pipeline.errors import ArrayError
from pipeline.labels.array_view import Instances, as_rgb
from pipeline.refinement.gate import make_gate
from pipeline.refinement.image import RefineInput, refine_images
from pipeline.refinement.settings import RefinePreset, RefineSettings
from pipeline.sam.adapted import settings_of
from pipeline.sam.settings import SamModel, SamSettings
from pipeline.sam.worker import SamChoice, build_engine

FOR_BOXES: Final = RefineSettings(
    points=0, center_point=True, box="tight", mask_prompt=False, choice="predicted_iou", gate="none"
)
"""A box says nothing of the shape in it: SAM is asked by the box and its centre, and its own estimate decides."""


def refine(
    image: Any,
    masks: Any = None,
    *,
    boxes: Any = None,
    sam: SamModel | SamSettings | Path = "sam_tiny",
    preset: RefinePreset | RefineSettings | None = None,
    device: Device = "auto",
) -> Instances:
    """Let SAM draw the masks of one image again, and return all instances, in their order.

    image: uint8 (height, width, 3) as RGB, grey (height, width), or the path of a file. masks: as for
    `Instances.of_masks`, or `Instances`, such as those that a detector found; of these the soft masks are used too.
    boxes: instead of masks, (N, 4): left, top, right, bottom in pixels. sam: a name, its settings, or a folder that
    `s4m sam adapt` wrote. preset: for masks, `best` by default; or all
    settings. On a CPU the work is done by one core, and PyTorch is left with one thread.

    Raise ArrayError for arrays of other shapes or values, S4MError if SAM's weights cannot be used.
    """
    if (masks is None) == (boxes is None):
        raise ArrayError("give either masks or boxes")
    if boxes is not None and preset is not None:
        raise ArrayError("boxes are refined in a way of their own: leave preset out")
    if boxes is not None:
        given = Instances.of_boxes(image, boxes)
    else:
        known = isinstance(masks, Instances)
        given = replace(masks, image_rgb=as_rgb(image)) if known else Instances.of_masks(image, masks)
    settings = FOR_BOXES if boxes is not None else _settings(preset)
    choice = SamChoice.of(_sam(sam), ComputeSettings(device=device))
    item = RefineInput(given.image_rgb, given.labels)
    (refined,) = refine_images([item], build_engine(choice), settings, make_gate(settings))
    return replace(given, labels=refined.labels)


def _sam(sam: SamModel | SamSettings | Path) -> SamSettings:
    if isinstance(sam, Path):
        return settings_of(sam)
    return sam if isinstance(sam, SamSettings) else SamSettings(model=sam)


def _settings(preset: RefinePreset | RefineSettings | None) -> RefineSettings:
    return preset if isinstance(preset, RefineSettings) else RefineSettings(preset=preset or "best")
