"""What the pipeline asks of a SAM, whichever library computes it: encode images, decode prompts about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pipeline.compute.settings import NumberFormat
from pipeline.sam.encoded import ImageForSam
from pipeline.sam.frame import InputFrame
from pipeline.sam.prompt import Candidates, Prompt


@dataclass(frozen=True)
class ImageEmbeddings:
    """Encoded images: what an engine needs of them to answer prompts.

    features: B x C x h x w float32, on the engine's device. image_hw: height and width of each image.
    finer: further maps that some decoders use, B x c x k h x k w float32, each with its own c and whole k.
    """

    features: Tensor
    image_hw: tuple[tuple[int, int], ...]
    finer: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.image_hw)

    def to_numpy(self) -> NDArray[np.float16]:
        """Return all maps in half precision to be kept: `Engine.encode` takes each image back as `EncodedImage`.

        They are B x C' x h x w: the features first, then each finer map with its k x k pixels of a cell as channels.
        """
        width = self.features.shape[-1]
        folded = [F.pixel_unshuffle(each, each.shape[-1] // width) for each in self.finer]
        return np.asarray(torch.cat([self.features, *folded], dim=1).half().cpu().numpy())


class Engine(Protocol):
    """A SAM on a device, in a precision."""

    @property
    def frame(self) -> InputFrame:
        """Return how it resizes images."""

    @property
    def device(self) -> torch.device:
        """Return where it computes."""

    @property
    def precision(self) -> NumberFormat:
        """Return the number format of its products."""

    def encode(self, images: Sequence[ImageForSam]) -> ImageEmbeddings:
        """Return the embeddings of images of any sizes, in their order."""

    def decode(
        self, embeddings: ImageEmbeddings, image_indices: Sequence[int], prompts: Sequence[Prompt]
    ) -> list[Candidates]:
        """Return the candidates of each prompt, about the image at its index; in the order of the prompts."""

    def decoder_tokens(
        self, embeddings: ImageEmbeddings, image_index: int, prompts: Sequence[Prompt]
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Yield what the decoder's two-way transformer makes of the image's tokens, for each prompt alone.

        Some prompts at a time: their indices, and p x C x h x w float32 on the engine's device, in the grid of the
        image embedding (before the upscaling that masks are made of).
        """
