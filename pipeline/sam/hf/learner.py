"""A SAM of transformers whose weights can be fitted to labels."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.compute.devices import usable_device
from pipeline.compute.settings import Precision
from pipeline.files.writing import open_atomically
from pipeline.sam.build import write_state
from pipeline.sam.encoded import image_hw_of
from pipeline.sam.files import CONFIG_FILES
from pipeline.sam.hf.asking import ask, pixel_values
from pipeline.sam.hf.engine import HfEngine
from pipeline.sam.hf.folder import WEIGHTS
from pipeline.sam.hf.loading import LoadedSam
from pipeline.sam.interface import ImageEmbeddings, Part, State
from pipeline.sam.prompt import Prompt


class HfLearner:
    """A SAM of transformers on a device: a `Learner`. It takes the model over.

    folder: where it was loaded from, with its configs.
    """

    def __init__(self, sam: LoadedSam, folder: Path, device: str | torch.device = "cpu") -> None:
        self.device = usable_device(device)
        self.frame = sam.frame
        self._sam, self._folder = sam, folder
        self.module: nn.Module = sam.model.to(self.device)

    def part_of(self, name: str) -> Part | None:
        """Return what a parameter belongs to; None for one that is no weight and is never trained."""
        return self._sam.family.part_of(name)

    def copied(self, *, with_encoder: bool) -> HfLearner:
        """Return another with weights of its own, which are the same; the encoder is shared unless `with_encoder`."""
        encoder = self._sam.model.vision_encoder
        return HfLearner(self._with_copy({} if with_encoder else {id(encoder): encoder}), self._folder, self.device)

    def encode(self, image_rgb: NDArray[np.uint8]) -> ImageEmbeddings:
        """Return the embedding of one image, through which gradients reach the encoder."""
        features, finer = self._sam.family.embed(self._sam.model, pixel_values(self._sam, [image_rgb], self.device))
        return ImageEmbeddings(features, (image_hw_of(image_rgb),), finer)

    def decode(self, embeddings: ImageEmbeddings, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        """Return mask logits P x 3 x h x w and predicted IoUs P x 3 of the candidates."""
        answer = ask(self._sam, embeddings, [0] * len(prompts), prompts)
        return answer.pred_masks[:, 0], answer.iou_scores[:, 0]

    def engine(self, state: State, precision: Precision) -> HfEngine:
        """Return an engine of this SAM with other weights, which shares no tensor with it."""
        sam = self._with_copy({})
        sam.model.load_state_dict(dict(state))
        return HfEngine(sam, self.device, precision)

    def publish(self, state: State, folder: Path) -> None:
        """Write the weights into a folder, with copies of the configs: a folder of transformers again.

        Tensors of two names are written once, as transformers does.
        """
        for name in CONFIG_FILES:
            if (self._folder / name).is_file():
                with (self._folder / name).open("rb") as given, open_atomically(folder / name) as copied:
                    shutil.copyfileobj(given, copied)
        again = self._sam.model.all_tied_weights_keys
        own = {name: tensor for name, tensor in state.items() if name not in again}
        write_state(own, folder / WEIGHTS, {"format": "pt"})

    def _with_copy(self, shared: dict[int, nn.Module]) -> LoadedSam:
        return replace(self._sam, model=deepcopy(self._sam.model, shared))
