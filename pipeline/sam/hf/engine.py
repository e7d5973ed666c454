"""SAMs of transformers over many images and prompts at once.

The results are those of a model's own forward, given the same images and prompts one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.compute.devices import resolve_precision, usable_device
from pipeline.compute.settings import Compiling, Precision
from pipeline.sam.encoded import EncodedImage, ImageForSam, image_hw_of
from pipeline.sam.engine import images_at_once, perhaps_compiled, prompts_at_once
from pipeline.sam.hf.asking import ask, pixel_values
from pipeline.sam.hf.families import Maps, image_grid
from pipeline.sam.hf.loading import LoadedSam
from pipeline.sam.interface import ImageEmbeddings
from pipeline.sam.prompt import Candidates, Prompt
from pipeline.sam.prompt_tensors import batches_of


class HfEngine:
    """A SAM of transformers on a device, in a precision: an `Engine`. It takes the model over.

    In bf16 the encoder and the mask decoder run under autocast; prompts are encoded in float32, as eight bits are too
    few for a coordinate. The object scores of SAM 2 and later are not used: the teacher says that the object is there.
    """

    def __init__(
        self,
        sam: LoadedSam,
        device: str | torch.device = "cpu",
        precision: Precision = "auto",
        *,
        batch_images: int = 8,
        compiled: Compiling = "never",
    ) -> None:
        self.device = usable_device(device)
        self.precision = resolve_precision(precision, self.device)
        self.frame = sam.frame
        self._sam, self._model = sam, sam.model.to(self.device)
        for module in (self._model.prompt_encoder, self._model.shared_image_embedding):
            module.forward = torch.autocast(self.device.type, enabled=False)(module.forward)
        self._embed = perhaps_compiled(_Embedder(sam), compiled, self.device)
        self._images_at_once = images_at_once(self.device, self.frame, batch_images)
        grid_height, grid_width = self._model.prompt_encoder.image_embedding_size
        self._prompts_at_once = prompts_at_once(self.device, grid_height * grid_width)

    @torch.inference_mode()
    def encode(self, images: Sequence[ImageForSam]) -> ImageEmbeddings:
        """Return the embeddings of images of any sizes; those encoded before do not go through the encoder."""
        if not images:
            raise ValueError("no images to encode")
        fresh = self._encoded([image for image in images if not isinstance(image, EncodedImage)])
        maps = [self._restored(image) if isinstance(image, EncodedImage) else next(fresh) for image in images]
        features, *finer = (torch.stack(each) for each in zip(*maps, strict=True))
        return ImageEmbeddings(features, tuple(map(image_hw_of, images)), tuple(finer))

    @torch.inference_mode()
    def decode(
        self, embeddings: ImageEmbeddings, image_indices: Sequence[int], prompts: Sequence[Prompt]
    ) -> list[Candidates]:
        """Return the candidates of each prompt, about the image at its index; in the order of the prompts."""
        candidates: dict[int, Candidates] = {}
        for places in batches_of(prompts, self.frame.lowres_side, self._prompts_at_once):
            answer = self._asked(
                embeddings, [image_indices[each] for each in places], [prompts[each] for each in places]
            )
            logits, ious = _numpy(answer.pred_masks[:, 0]), _numpy(answer.iou_scores[:, 0])
            for place, mask_logits, iou in zip(places, logits, ious, strict=True):
                candidates[place] = Candidates(mask_logits_lowres=mask_logits, predicted_iou=iou)
        return [candidates[place] for place in range(len(prompts))]

    @torch.inference_mode()
    def decoder_tokens(
        self, embeddings: ImageEmbeddings, image_index: int, prompts: Sequence[Prompt]
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Yield what the decoder's two-way transformer makes of the image's tokens, for each prompt alone.

        Some prompts at a time: their indices, and p x C x h x w float32 on the engine's device, in the grid of the
        image embedding (before the upscaling that masks are made of).
        """
        for indices in batches_of(prompts, self.frame.lowres_side, self._prompts_at_once):
            decoded: list[Tensor] = []
            hook = self._model.mask_decoder.transformer.register_forward_hook(
                lambda _module, _given, answer, decoded=decoded: decoded.append(answer[1])
            )
            with hook:
                self._asked(embeddings, [image_index] * len(indices), [prompts[index] for index in indices])
            yield indices, image_grid(decoded[0].float(), embeddings.features.shape[-2:])

    def _asked(self, embeddings: ImageEmbeddings, images: Sequence[int], prompts: Sequence[Prompt]) -> Any:
        """Return the model's answer to prompts of one form, each about the image of its index."""
        with self._autocast():
            return ask(self._sam, embeddings, images, prompts)

    def _encoded(self, images: Sequence[NDArray[np.uint8]]) -> Iterator[tuple[Tensor, ...]]:
        """Yield the maps of one image after the other, float32; some images are encoded at once."""
        for first in range(0, len(images), self._images_at_once):
            pixels = self._prepared(images[first : first + self._images_at_once])
            with self._autocast():
                features, finer = self._embed(pixels)
            yield from zip(features.float(), *(each.float() for each in finer), strict=True)

    def _prepared(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        return pixel_values(self._sam, images, self.device)

    def _restored(self, image: EncodedImage) -> tuple[Tensor, ...]:
        """Return the maps of an image from the form in which they are kept."""
        kept = torch.from_numpy(image.features.astype(np.float32)).to(self.device)
        finer = self._sam.finer
        channels = [self._sam.channels, *(each.folded_channels for each in finer)]
        features, *folded = torch.split(kept, channels)
        unfolded = (F.pixel_shuffle(each, of.fineness) for each, of in zip(folded, finer, strict=True))
        return features, *unfolded

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


class _Embedder(nn.Module):
    """A model's image encoder with what its family makes of the output."""

    def __init__(self, sam: LoadedSam) -> None:
        super().__init__()
        self.model, self.family = sam.model, sam.family

    def forward(self, pixels: Tensor) -> Maps:
        """Return the maps of a batch of images."""
        return self.family.embed(self.model, pixels)


def _numpy(tensor: Tensor) -> NDArray[np.float32]:
    return np.asarray(tensor.float().cpu().numpy())
