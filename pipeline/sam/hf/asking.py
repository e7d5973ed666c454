"""Ask a SAM of transformers: pixels for its encoder, and prompts about images for its decoder.

Each prompt is an entry of a batch, with its image's maps, since transformers gives one mask prompt to all prompts of an
entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import ImageError
from pipeline.sam.engine import require_pixels
from pipeline.sam.hf.loading import LoadedSam
from pipeline.sam.interface import ImageEmbeddings
from pipeline.sam.prompt import Prompt
from pipeline.sam.prompt_tensors import prompt_tensors


def pixel_values(sam: LoadedSam, images: Sequence[NDArray[np.uint8]], device: torch.device) -> Tensor:
    """Return pixel values B x 3 x input_side x input_side, as the model's image processor makes them."""
    for image in images:
        require_pixels(image)
        if sam.frame.keeps_aspect and 2 * sam.frame.input_side * min(image.shape[:2]) < max(image.shape[:2]):
            raise ImageError(f"{image.shape[1]} x {image.shape[0]} pixels are too thin for this SAM: no row is left")
    prepared = sam.processor(
        # A copy where torch cannot share the memory: a read-only array or a reversed view.
        images=[np.require(image, requirements=["C", "W"]) for image in images],
        input_data_format="channels_last",
        return_tensors="pt",
        device=device,
    )
    pixels: Tensor = prepared["pixel_values"]
    return pixels.to(device)


def ask(sam: LoadedSam, embeddings: ImageEmbeddings, images: Sequence[int], prompts: Sequence[Prompt]) -> Any:
    """Return the model's answer to prompts of one form, each about the image of its index."""
    image_hw = [embeddings.image_hw[index] for index in images]
    tensors = prompt_tensors(prompts, image_hw, sam.frame, embeddings.features.device)
    features, *finer = (each[list(images)] for each in (embeddings.features, *embeddings.finer))
    asked: dict[str, Any] = sam.family.arguments(features, finer)
    if tensors.points is not None:
        asked["input_points"], asked["input_labels"] = (each.unsqueeze(1) for each in tensors.points)
    if tensors.boxes is not None:
        asked["input_boxes"] = tensors.boxes.unsqueeze(1)
    return sam.model(**asked, input_masks=tensors.masks, multimask_output=True)
