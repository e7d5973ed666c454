"""segment_anything's SAM over many images and prompts at once: images in, embeddings out, prompts in, candidates out.

The results are those of its `SamPredictor`, given the same images and prompts one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.compute.devices import resolve_precision, usable_device
from pipeline.compute.settings import Compiling, Precision
from pipeline.errors import ImageError, StageError
from pipeline.sam.attention import fast_encoder
from pipeline.sam.decoder import BatchedMaskDecoder, DecodedPrompts, ProjectedImages
from pipeline.sam.encoded import EncodedImage, ImageForSam, image_hw_of
from pipeline.sam.frame import InputFrame
from pipeline.sam.interface import ImageEmbeddings
from pipeline.sam.prompt import Candidates, Prompt
from pipeline.sam.prompt_tensors import batches_of, prompt_tensors

CPU_INPUT_PIXELS = 1024 * 1024
"""Input pixels of all images encoded at once on a CPU: more images gain nothing there and leave the cache."""

CPU_IMAGE_TOKENS = 4096
"""Image tokens of all prompts decoded at once on a CPU: those of one prompt of the published models."""

GPU_PROMPTS = 64
"""Prompts decoded at once on a GPU."""

BATCH_PROMPTS = 8
"""Prompts whose own tokens are decoded together, at least; on a CPU their image tokens may be processed one by one."""


class SamEngine:
    """A SAM of segment_anything on a device, in a precision: an `Engine`.

    It takes the model over: moves it to the device and, in bf16, changes the type of a ViT encoder's weights.
    Masks of the two precisions differ by single pixels of their outlines. A compiled encoder is faster, but only
    after the first batches, which wait for it to be compiled.
    """

    def __init__(
        self,
        sam: Sam,
        device: str | torch.device = "cpu",
        precision: Precision = "auto",
        *,
        batch_images: int = 8,
        compiled: Compiling = "never",
    ) -> None:
        self.device = usable_device(device)
        self.precision = resolve_precision(precision, self.device)
        sam = sam.to(self.device).eval().requires_grad_(False)
        self.frame = InputFrame(sam.image_encoder.img_size, sam.prompt_encoder.mask_input_size[0])
        self._pixel_mean, self._pixel_std = sam.pixel_mean, sam.pixel_std
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        self._encoder = perhaps_compiled(fast_encoder(sam.image_encoder, dtype), compiled, self.device)
        grid_height, grid_width = sam.prompt_encoder.image_embedding_size
        at_once = prompts_at_once(self.device, grid_height * grid_width)
        with torch.inference_mode():
            self._decoder = BatchedMaskDecoder(sam.mask_decoder, sam.prompt_encoder, dtype, at_once)
        self._images_at_once = images_at_once(self.device, self.frame, batch_images)
        self._batch_prompts = max(at_once, BATCH_PROMPTS)

    @torch.inference_mode()
    def encode(self, images: Sequence[ImageForSam]) -> ImageEmbeddings:
        """Embeddings of images of any sizes, in their order; those encoded before do not go through the encoder."""
        if not images:
            raise ValueError("no images to encode")
        fresh = self._encoded([image for image in images if not isinstance(image, EncodedImage)])
        features = [
            torch.from_numpy(image.features.astype(np.float32)).to(self.device)
            if isinstance(image, EncodedImage)
            else next(fresh)
            for image in images
        ]
        return ImageEmbeddings(torch.stack(features), tuple(map(image_hw_of, images)))

    @torch.inference_mode()
    def decode(
        self, embeddings: ImageEmbeddings, image_indices: Sequence[int], prompts: Sequence[Prompt]
    ) -> list[Candidates]:
        """The three candidates of each prompt, about the image at its index; in the order of the prompts."""
        candidates: dict[int, Candidates] = {}
        for places, decoded in self._decoded(embeddings, image_indices, prompts):
            logits, ious = self._decoder.candidates(decoded)
            for place, mask_logits, iou in zip(places, _numpy(logits), _numpy(ious), strict=True):
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
        grid_hw = embeddings.features.shape[-2:]
        for places, decoded in self._decoded(embeddings, [image_index] * len(prompts), prompts):
            rest = iter(places)
            for tokens in decoded.image_tokens:
                yield list(islice(rest, len(tokens))), tokens.float().transpose(1, 2).reshape(len(tokens), -1, *grid_hw)

    def _decoded(
        self, embeddings: ImageEmbeddings, image_indices: Sequence[int], prompts: Sequence[Prompt]
    ) -> Iterator[tuple[list[int], DecodedPrompts]]:
        """Yield the indices of some prompts, and these decoded."""
        images: dict[bool, ProjectedImages] = {}
        for places in batches_of(prompts, self.frame.lowres_side, self._batch_prompts):
            indices = [image_indices[place] for place in places]
            some = [prompts[place] for place in places]
            tensors = prompt_tensors(some, [embeddings.image_hw[index] for index in indices], self.frame, self.device)
            with_masks = tensors.masks is not None
            if with_masks not in images:
                images[with_masks] = self._decoder.project(embeddings.features, with_masks=with_masks)
            yield places, self._decoder(images[with_masks], indices, tensors)

    def _encoded(self, images: Sequence[NDArray[np.uint8]]) -> Iterator[Tensor]:
        """Features of one image after the other, C x h x w float32; some images are encoded at once."""
        for first in range(0, len(images), self._images_at_once):
            inputs = torch.stack([self._prepared(image) for image in images[first : first + self._images_at_once]])
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                features = self._encoder(inputs).float()
            yield from features

    def _prepared(self, image: NDArray[np.uint8]) -> Tensor:
        return prepared_pixels(image, self.frame, self._pixel_mean, self._pixel_std)


def prepared_pixels(image: NDArray[np.uint8], frame: InputFrame, mean: Tensor, std: Tensor) -> Tensor:
    """Return an image as SAM's encoder takes it: resized, normalised, padded with zeros right and below.

    mean, std: 3 x 1 x 1, of the channels, on the device of the result, which is 3 x input_side x input_side float32.
    """
    require_pixels(image)
    side = frame.input_side
    height, width = frame.resized_hw((image.shape[0], image.shape[1]))
    resized = resize_pixels(image, (height, width), mean.device)
    return F.pad((resized - mean) / std, (0, side - width, 0, side - height))


def images_at_once(device: torch.device, frame: InputFrame, batch_images: int) -> int:
    """Return the number of images that a device encodes at once. batch_images: the most."""
    return min(batch_images, max(1, CPU_INPUT_PIXELS // frame.input_side**2)) if device.type == "cpu" else batch_images


def prompts_at_once(device: torch.device, image_tokens: int) -> int:
    """Return the number of prompts that a device decodes at once. image_tokens: of one image."""
    return max(1, CPU_IMAGE_TOKENS // image_tokens) if device.type == "cpu" else GPU_PROMPTS


def require_pixels(image: NDArray[np.uint8]) -> None:
    """Raise ImageError for an array that is not an RGB image."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ImageError(f"SAM needs uint8 pixels (height, width, 3), not {image.dtype} {image.shape}")


def resize_pixels(image: NDArray[np.uint8], size_hw: tuple[int, int], device: torch.device) -> Tensor:
    """Pixels 3 x h x w on a device, resized as segment_anything does it: by Pillow, bilinear, antialiased.

    On a GPU, Pillow's two passes are done there, rounded after each as Pillow does.
    """
    if device.type == "cpu":
        height, width = size_hw
        resized = np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        return torch.from_numpy(resized).permute(2, 0, 1)
    # A copy where torch cannot share the memory: a read-only array or a reversed view.
    pixels = torch.from_numpy(np.require(image, requirements=["C", "W"])).to(device)
    return resize_in_two_passes(pixels.permute(2, 0, 1), size_hw)


def resize_in_two_passes(pixels: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Pixels 3 x H x W in another size, as float32 of whole numbers."""
    for size in ((pixels.shape[1], size_hw[1]), size_hw):
        exact = F.interpolate(pixels[None].float(), size, mode="bilinear", align_corners=False, antialias=True)[0]
        pixels = (exact + 0.5).floor().clamp(0, 255)
    return pixels


def _numpy(tensor: Tensor) -> NDArray[np.float32]:
    return np.asarray(tensor.float().cpu().numpy())


def perhaps_compiled(encoder: nn.Module, compiled: Compiling, device: torch.device) -> Callable[[Tensor], Any]:
    """Return an encoder that torch.compile works on at the first batch, and again for other sizes of batches.

    Where compiling is not asked for, or only on GPUs and this is none, the encoder itself. What cannot be compiled runs
    as it is with `on_gpu`, and raises StageError with `always`.
    """
    if compiled == "never" or (compiled == "on_gpu" and device.type != "cuda"):
        return encoder
    fast: Callable[[Tensor], Any] = torch.compile(encoder)

    def encode(inputs: Tensor) -> Any:
        nonlocal fast
        try:
            return fast(inputs)
        except RuntimeError as error:
            from torch._dynamo.exc import TorchDynamoException  # a second to import

            if fast is encoder or not isinstance(error, TorchDynamoException):
                raise
            if compiled == "always":
                reason = str(error).strip().partition("\n")[0]
                raise StageError(f"compute.compile: SAM's encoder cannot be compiled here: {reason}") from error
            fast = encoder
            return fast(inputs)

    return encode
