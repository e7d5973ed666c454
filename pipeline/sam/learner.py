"""Build a SAM whose weights can be fitted to labels."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from torch import Tensor

from pipeline.compute.devices import usable_device
from pipeline.compute.settings import Precision
from pipeline.sam.build import build_sam, write_state
from pipeline.sam.encoded import image_hw_of
from pipeline.sam.engine import SamEngine, prepared_pixels
from pipeline.sam.files import ADAPTED_WEIGHTS, hf_folder
from pipeline.sam.frame import InputFrame
from pipeline.sam.interface import ImageEmbeddings, Learner, Part, State
from pipeline.sam.prompt import Prompt
from pipeline.sam.prompt_tensors import prompt_tensors
from pipeline.sam.settings import SamSettings
from pipeline.sam.tiny.model import predict_prompts


def build_learner(sam: SamSettings, device: str | torch.device) -> Learner:
    """Return the SAM that settings name; raise S4MError for one that cannot be used."""
    folder = hf_folder(sam.model)
    if folder is None:
        return SamLearner(build_sam(sam.model, sam.checkpoint, input_side=sam.input_side), device)
    from pipeline.sam.hf.learner import HfLearner
    from pipeline.sam.hf.loading import load_hf_sam

    return HfLearner(load_hf_sam(folder), folder, device)


class SamLearner:
    """A SAM of segment_anything on a device: a `Learner`. It takes the model over."""

    def __init__(self, sam: Sam, device: str | torch.device = "cpu") -> None:
        self.device = usable_device(device)
        self.module: Sam = sam.to(self.device).eval()
        self.frame = InputFrame(sam.image_encoder.img_size, sam.prompt_encoder.mask_input_size[0])

    def part_of(self, name: str) -> Part:
        """Return what a parameter belongs to."""
        return "encoder" if name.startswith("image_encoder.") else "decoder"

    def copied(self, *, with_encoder: bool) -> SamLearner:
        """Return another with weights of its own, which are the same; the encoder is shared unless `with_encoder`."""
        encoder = self.module.image_encoder
        return SamLearner(deepcopy(self.module, {} if with_encoder else {id(encoder): encoder}), self.device)

    def encode(self, image_rgb: NDArray[np.uint8]) -> ImageEmbeddings:
        """Return the embedding of one image, through which gradients reach the encoder."""
        pixels = prepared_pixels(image_rgb, self.frame, self.module.pixel_mean, self.module.pixel_std)
        return ImageEmbeddings(self.module.image_encoder(pixels[None]), (image_hw_of(image_rgb),))

    def decode(self, embeddings: ImageEmbeddings, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        """Return mask logits P x 4 x h x w and predicted IoUs P x 4: the single mask first, then the candidates."""
        tensors = prompt_tensors(prompts, embeddings.image_hw * len(prompts), self.frame, self.device)
        sparse, dense = self.module.prompt_encoder(tensors.points, tensors.boxes, tensors.masks)
        return predict_prompts(self.module, embeddings.features.expand(len(prompts), -1, -1, -1), sparse, dense)

    def engine(self, state: State, precision: Precision) -> SamEngine:
        """Return an engine of this SAM with other weights, which shares no tensor with it."""
        sam = deepcopy(self.module)
        sam.load_state_dict(dict(state))
        return SamEngine(sam, self.device, precision)

    def publish(self, state: State, folder: Path) -> None:
        """Write the weights into a folder."""
        write_state(state, folder / ADAPTED_WEIGHTS)
