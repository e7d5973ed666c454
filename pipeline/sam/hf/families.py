"""The kinds of SAM in transformers, by what their decoders need of an image.

All of them have one forward and one `get_image_embeddings`; these differ in the maps that they exchange.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from pipeline.errors import S4MError
from pipeline.sam.interface import Part

Maps = tuple[Tensor, tuple[Tensor, ...]]
"""The image embedding B x C x h x w, and finer maps of the same images, channels first."""


@dataclass(frozen=True)
class FinerMap:
    """A finer map: its channels, and its pixels along a side of a cell of the image embedding."""

    channels: int
    fineness: int

    @property
    def folded_channels(self) -> int:
        """Return the channels of the map in the grid of the embedding."""
        return self.channels * self.fineness**2


class Family:
    """SAM: the decoder needs the image embedding alone."""

    classes: ClassVar[frozenset[str]] = frozenset({"SamModel"})
    encoders: ClassVar[tuple[str, ...]] = ("vision_encoder.",)
    """What the names of parameters begin with that take part in encoding images."""

    def prepare(self, model: Any) -> None:
        """Change a model, where it must be changed to answer as its authors' own code does."""

    def part_of(self, name: str) -> Part | None:
        """Return what a parameter belongs to; None for the frequencies of positions, which were drawn once for all."""
        if name.endswith("positional_embedding"):
            return None
        return "encoder" if name.startswith(self.encoders) else "decoder"

    def finer_maps(self, model: Any) -> tuple[FinerMap, ...]:
        """Return what the finer maps of a model are."""
        return ()

    def embed(self, model: Any, pixels: Tensor) -> Maps:
        """Return the maps of a batch of images."""
        return _image_embeddings(model, pixels), ()

    def arguments(self, features: Tensor, finer: Sequence[Tensor]) -> dict[str, Any]:
        """Return the arguments of the model's forward that hand these maps on."""
        del finer
        return {"image_embeddings": features}


class HighResolution(Family):
    """SAM 2, EdgeTAM and SAM 3's tracker: two finer maps are added while masks are upscaled."""

    classes = frozenset({"Sam2Model", "EdgeTamModel", "Sam3TrackerModel"})
    encoders = ("vision_encoder.", "no_memory_embedding", "mask_decoder.conv_s0.", "mask_decoder.conv_s1.")

    def prepare(self, model: Any) -> None:
        """Let the encoder give the maps alone that the decoder takes, as its authors' own code does.

        SAM 3's gives a coarser one besides, to which transformers 5.24 adds what belongs to the image embedding.
        """
        levels = len(model.backbone_feature_sizes)

        def leave_out(module: nn.Module, given: Any, answer: Any) -> Any:
            for name in ("fpn_hidden_states", "fpn_position_encoding"):
                setattr(answer, name, getattr(answer, name)[:levels])
            return answer

        model.vision_encoder.register_forward_hook(leave_out)

    def finer_maps(self, model: Any) -> tuple[FinerMap, ...]:
        """Return what the finer maps of a model are."""
        decoder, sides = model.mask_decoder, [height for height, _ in model.backbone_feature_sizes]
        projected = zip((decoder.conv_s0, decoder.conv_s1), sides, strict=False)
        return tuple(FinerMap(each.out_channels, side // sides[-1]) for each, side in projected)

    def embed(self, model: Any, pixels: Tensor) -> Maps:
        """Return the maps of a batch of images."""
        *finer, features = _image_embeddings(model, pixels)
        return features, tuple(finer)

    def arguments(self, features: Tensor, finer: Sequence[Tensor]) -> dict[str, Any]:
        """Return the arguments of the model's forward that hand these maps on."""
        return {"image_embeddings": [*finer, features]}


class HighQuality(Family):
    """HQ-SAM: the output of the encoder's first global block as well, in the grid of the embedding."""

    classes = frozenset({"SamHQModel"})

    def prepare(self, model: Any) -> None:
        """Let the decoder upscale what its transformer makes of the image, as HQ-SAM's own code does.

        transformers 5.24 upscales the image embedding from before the transformer, with rows and columns exchanged.
        """
        UpscaleDecodedTokens().install(model.mask_decoder)

    def finer_maps(self, model: Any) -> tuple[FinerMap, ...]:
        """Return what the finer maps of a model are."""
        return (FinerMap(model.mask_decoder.compress_vit_conv1.in_channels, 1),)

    def embed(self, model: Any, pixels: Tensor) -> Maps:
        """Return the maps of a batch of images. The decoder uses the first of the intermediate embeddings alone."""
        features, intermediate = _image_embeddings(model, pixels)
        return features, (intermediate[0].permute(0, 3, 1, 2),)

    def arguments(self, features: Tensor, finer: Sequence[Tensor]) -> dict[str, Any]:
        """Return the arguments of the model's forward that hand these maps on."""
        return {"image_embeddings": features, "intermediate_embeddings": [finer[0].permute(0, 2, 3, 1)]}


@dataclass
class UpscaleDecodedTokens:
    """Hooks on a mask decoder: its upscaling gets the image tokens that its transformer returned last."""

    tokens: Tensor | None = None

    def install(self, decoder: nn.Module) -> None:
        """Add the hooks."""
        decoder.get_submodule("transformer").register_forward_hook(self._keep)
        decoder.get_submodule("upscale_conv1").register_forward_pre_hook(self._replace)

    def _keep(self, module: nn.Module, given: Any, answer: tuple[Tensor, Tensor]) -> None:
        self.tokens = answer[1]

    def _replace(self, module: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        assert self.tokens is not None, "the transformer runs before the upscaling"
        tokens, self.tokens = self.tokens, None
        return (image_grid(tokens, given[0].shape[-2:]),)


def _image_embeddings(model: Any, pixels: Tensor) -> Any:
    """Call a model's `get_image_embeddings` without its `no_grad`, so that gradients can reach the encoder."""
    return inspect.unwrap(type(model).get_image_embeddings)(model, pixels)


def image_grid(tokens: Tensor, grid_hw: Sequence[int]) -> Tensor:
    """Return a transformer's image tokens, prompts x 1 x h w x C, as prompts x C x h x w."""
    flat = tokens.flatten(0, 1).transpose(1, 2)
    return flat.reshape(*flat.shape[:2], *grid_hw)


FAMILIES = (Family(), HighResolution(), HighQuality())


def family_of(model: object) -> Family:
    """Return the family of a model of transformers; raise S4MError for one that is no SAM for single images."""
    name = type(model).__name__
    for family in FAMILIES:
        if name in family.classes:
            return family
    known = sorted(each for family in FAMILIES for each in family.classes)
    raise S4MError(f"{name} is no SAM that can be asked about single images; those are {', '.join(known)}")
