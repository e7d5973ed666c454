"""`sam_tiny`: segment_anything's prompt encoder and mask decoder on a small convolutional image encoder.

The encoder is fully convolutional and positions are measured in pixels of the input, so one set of weights
serves every input side that is a multiple of 32 (`TinySam.resize`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom
from torch import Tensor, nn
from torch.nn import functional as F

REFERENCE_SIDE = 128
"""Input side, in pixels, at which positions are encoded exactly as segment_anything encodes them."""
OWN_SIDE = 256
"""Input side by default: twice that of small images, whose outlines get better by it."""

EMBEDDING_STRIDE = 8
EMBEDDING_CHANNELS = 128
SIDE_MULTIPLE = 32
"""The input side is a multiple of the encoder's coarsest stride."""

STAGE_STRIDES = (4, 8, 16, 32)
STAGE_CHANNELS = (64, 128, 160, 160)
STAGE_BLOCKS = (2, 3, 3, 1)


class ConvNorm(nn.Sequential):
    """Convolution, batch norm and, by default, ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, activate: bool = True
    ) -> None:
        convolution = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
        activation = [nn.ReLU(inplace=True)] if activate else []
        super().__init__(convolution, nn.BatchNorm2d(out_channels), *activation)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around a shortcut; starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvNorm(channels, channels)
        self.second = ConvNorm(channels, channels, activate=False)
        norm = self.second[1]
        assert isinstance(norm, nn.BatchNorm2d)
        nn.init.zeros_(norm.weight)

    def forward(self, features: Tensor) -> Tensor:
        return F.relu(features + self.second(self.first(features)))


class TinyEncoder(nn.Module):
    """A four-stage residual network whose levels are fused into one map of stride 8.

    segment_anything calls `forward`, as of an encoder; a detector calls `forward_features`, as of a backbone.
    """

    strides = STAGE_STRIDES
    channels = STAGE_CHANNELS

    def __init__(self, img_size: int = REFERENCE_SIDE) -> None:
        super().__init__()
        self.img_size = img_size  # read by segment_anything: the side it resizes and pads images to
        self.stem = ConvNorm(3, 32, stride=2)
        self.stages = nn.ModuleList()
        previous = 32
        for channels, blocks in zip(STAGE_CHANNELS, STAGE_BLOCKS, strict=True):
            self.stages.append(
                nn.Sequential(ConvNorm(previous, channels, stride=2), *(ResidualBlock(channels) for _ in range(blocks)))
            )
            previous = channels
        at_4, at_8, at_16, at_32 = STAGE_CHANNELS
        # Outlines need stride 4: a strided convolution folds them into the stride 8 map.
        self.from_4 = ConvNorm(at_4, EMBEDDING_CHANNELS, stride=2, activate=False)
        self.from_8 = ConvNorm(at_8, EMBEDDING_CHANNELS, kernel=1, activate=False)
        self.from_16 = ConvNorm(at_16, EMBEDDING_CHANNELS, kernel=1, activate=False)
        self.from_32 = ConvNorm(at_32, EMBEDDING_CHANNELS, kernel=1, activate=False)
        self.fuse = ResidualBlock(EMBEDDING_CHANNELS)
        self.project = nn.Sequential(
            nn.Conv2d(EMBEDDING_CHANNELS, EMBEDDING_CHANNELS, 1, bias=False), LayerNorm2d(EMBEDDING_CHANNELS)
        )

    def forward_features(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return feature maps of strides 4, 8, 16 and 32 of normalised images B x 3 x H x W (any H and W)."""
        features = self.stem(images)
        levels: list[Tensor] = []
        for stage in self.stages:
            features = stage(features)
            levels.append(features)
        at_4, at_8, at_16, at_32 = levels
        return at_4, at_8, at_16, at_32

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings B x 128 x H/8 x W/8 of normalised images B x 3 x H x W; H and W multiples of 32."""
        at_4, at_8, at_16, at_32 = self.forward_features(images)
        coarse = self.from_16(at_16) + F.interpolate(self.from_32(at_32), scale_factor=2.0, mode="nearest")
        coarse = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
        fused = F.relu(self.from_4(at_4) + self.from_8(at_8) + coarse)
        embedding: Tensor = self.project(self.fuse(fused))
        return embedding


class PixelPositionEmbedding(PositionEmbeddingRandom):  # type: ignore[misc]
    """segment_anything's random Fourier features, of distances in pixels from the image's centre.

    Its own features are of positions relative to the image's side, so that the same offset in pixels would be
    another one at every input side. At `REFERENCE_SIDE` both agree. `centre_px` (x, y) moves the image within a
    larger frame: training uses it to learn far positions from small images.
    """

    def __init__(self, num_pos_feats: int) -> None:
        super().__init__(num_pos_feats)
        self.input_side = REFERENCE_SIDE
        self.centre_px = (0.0, 0.0)

    def _pe_encoding(self, coords: Tensor) -> Tensor:
        from_centre_px = (coords - 0.5) * self.input_side + coords.new_tensor(self.centre_px)
        encoded: Tensor = super()._pe_encoding(from_centre_px / REFERENCE_SIDE + 0.5)
        return encoded


class TinySam(Sam):  # type: ignore[misc]
    """A `segment_anything` Sam that can change its input side."""

    image_encoder: TinyEncoder
    prompt_encoder: PromptEncoder
    mask_decoder: MaskDecoder

    @property
    def image_size(self) -> int:
        """Return the side, in pixels, that images are resized and padded to."""
        return self.image_encoder.img_size

    @property
    def lowres_side(self) -> int:
        """Return the side of the low-resolution mask logits and of mask prompts: half the input side."""
        return 4 * self.image_size // EMBEDDING_STRIDE

    def resize(self, image_size: int) -> None:
        """Change the input side; the weights stay as they are."""
        if image_size <= 0 or image_size % SIDE_MULTIPLE:
            raise ValueError(f"image_size must be a positive multiple of {SIDE_MULTIPLE}, is {image_size}")
        side = image_size // EMBEDDING_STRIDE
        self.image_encoder.img_size = image_size
        self.prompt_encoder.input_image_size = (image_size, image_size)
        self.prompt_encoder.image_embedding_size = (side, side)
        self.prompt_encoder.mask_input_size = (4 * side, 4 * side)
        self.prompt_encoder.pe_layer.input_side = image_size


def build_sam_tiny(image_size: int = REFERENCE_SIDE, state: Mapping[str, Tensor] | None = None) -> TinySam:
    """Build a `TinySam` in evaluation mode for square inputs of `image_size` pixels.

    `state` is a state dict of any floating type (the shipped weights are half precision) made at any input
    side; without it the weights are random.
    """
    side = REFERENCE_SIDE // EMBEDDING_STRIDE
    prompt_encoder = PromptEncoder(
        embed_dim=EMBEDDING_CHANNELS,
        image_embedding_size=(side, side),
        input_image_size=(REFERENCE_SIDE, REFERENCE_SIDE),
        mask_in_chans=16,
    )
    prompt_encoder.pe_layer = PixelPositionEmbedding(EMBEDDING_CHANNELS // 2)
    sam = TinySam(
        image_encoder=TinyEncoder(),
        prompt_encoder=prompt_encoder,
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=EMBEDDING_CHANNELS, mlp_dim=512, num_heads=4),
            transformer_dim=EMBEDDING_CHANNELS,
            activation=nn.ReLU,  # a GELU at stride 2 costs a tenth of the training time
            iou_head_depth=3,
            iou_head_hidden_dim=EMBEDDING_CHANNELS,
        ),
    )
    if state is not None:
        sam.load_state_dict(state)
    sam.resize(image_size)
    sam.eval()
    return sam


def predict_prompts(sam: Sam, embeddings: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
    """Decode prompts that belong to different images in one pass.

    segment_anything's decoder repeats a single image's embedding over its prompts; here row i of `embeddings`
    (P x C x h x w) is the image of prompt i. Returns the low-resolution logits P x 4 x 4h x 4w and predicted
    IoUs P x 4 of all four mask tokens: the single mask first, then the three candidates.
    """
    decoder = sam.mask_decoder
    prompts = sparse.shape[0]
    tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight], dim=0)
    tokens = torch.cat([tokens.unsqueeze(0).expand(prompts, -1, -1), sparse], dim=1)
    positions = sam.prompt_encoder.get_dense_pe().expand(prompts, -1, -1, -1)
    hidden, source = decoder.transformer(embeddings + dense, positions, tokens)
    channels, height, width = embeddings.shape[1:]
    upscaled = decoder.output_upscaling(source.transpose(1, 2).reshape(prompts, channels, height, width))
    kernels = torch.stack(
        [mlp(hidden[:, 1 + index]) for index, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=1
    )
    logits_lowres = (kernels @ upscaled.flatten(2)).unflatten(2, upscaled.shape[2:])
    return logits_lowres, decoder.iou_prediction_head(hidden[:, 0])
