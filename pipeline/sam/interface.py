"""What the pipeline asks of a SAM, whichever library computes it: encode images, decode prompts, learn from labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.compute.settings import NumberFormat, Precision
from pipeline.sam.encoded import ImageForSam
from pipeline.sam.frame import InputFrame
from pipeline.sam.prompt import Candidates, Prompt

Part = Literal["encoder", "decoder"]
"""What takes part in encoding images, and what in decoding prompts."""

State = Mapping[str, Tensor]
"""All tensors of a SAM by name."""


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


class Learner(Protocol):
    """A SAM on a device whose weights can be fitted to labels, in float32."""

    @property
    def module(self) -> nn.Module:
        """Return the module that has all its tensors, in evaluation mode: norms keep their statistics."""

    @property
    def frame(self) -> InputFrame:
        """Return how it resizes images."""

    @property
    def device(self) -> torch.device:
        """Return where it computes."""

    def part_of(self, name: str) -> Part | None:
        """Return what a parameter of the module belongs to; None for one that is no weight and is never trained."""

    def copied(self, *, with_encoder: bool) -> Self:
        """Return another with weights of its own, which are the same; the encoder is shared unless `with_encoder`."""

    def encode(self, image_rgb: NDArray[np.uint8]) -> ImageEmbeddings:
        """Return the embedding of one image, through which gradients reach the encoder."""

    def decode(self, embeddings: ImageEmbeddings, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        """Return mask logits P x K x h x w and predicted IoUs P x K of prompts of one form, all about one image.

        The last `CANDIDATES` of the K are what `Engine.decode` returns; there may be a single mask before them.
        Gradients reach the embeddings and the decoder.
        """

    def engine(self, state: State, precision: Precision) -> Engine:
        """Return an engine of this SAM with other weights, which shares no tensor with it."""

    def publish(self, state: State, folder: Path) -> None:
        """Write this SAM with other weights into a folder, from which `pipeline.sam.adapted` reads it."""
