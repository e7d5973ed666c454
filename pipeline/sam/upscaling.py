"""The last step of segment_anything's mask decoder: from the image's tokens to the logits of masks."""

from __future__ import annotations

import torch
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F


class MaskUpscaling(nn.Module):
    """Two transposed convolutions, and a product of their output with the kernel of each mask.

    As the strides of the convolutions equal their kernels, they are products token by token.
    """

    def __init__(self, layers: nn.Sequential, grid_hw: tuple[int, int], dtype: torch.dtype) -> None:
        super().__init__()
        first, norm, self.first_activation, second, self.second_activation = layers
        assert isinstance(norm, LayerNorm2d)
        assert isinstance(first, nn.ConvTranspose2d) and isinstance(second, nn.ConvTranspose2d)
        self.grid_hw, self.dtype, self.eps = grid_hw, dtype, norm.eps
        self.norm_weight, self.norm_bias = norm.weight.detach().to(dtype), norm.bias.detach().to(dtype)
        self.first_weight, self.first_bias = _as_linear(first, dtype)
        self.second_weight, self.second_bias = _as_linear(second, dtype)

    def forward(self, tokens: Tensor, kernels: Tensor) -> Tensor:
        """Return float32 logits P x K x 4h x 4w for image tokens P x h w x C and kernels P x K x c."""
        features = F.linear(tokens, self.first_weight, self.first_bias).reshape(*tokens.shape[:2], 4, -1)
        features = F.layer_norm(features, self.norm_weight.shape, self.norm_weight, self.norm_bias, self.eps)
        features = F.linear(self.first_activation(features), self.second_weight, self.second_bias)
        upscaled = self.second_activation(features).reshape(len(tokens), -1, kernels.shape[-1])
        logits = (upscaled @ kernels.to(self.dtype).transpose(1, 2)).float()
        # P x 16 h w x K: the 2 x 2 outputs of the second convolution for each of the first, these for each token.
        height, width = self.grid_hw
        nested = logits.reshape(len(tokens), height, width, 2, 2, 2, 2, -1)
        in_grid: Tensor = nested.permute(0, 7, 1, 3, 5, 2, 4, 6)
        return in_grid.reshape(len(tokens), -1, 4 * height, 4 * width)


def _as_linear(layer: nn.ConvTranspose2d, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the linear layer that makes the 2 x 2 outputs of each input position."""
    assert layer.kernel_size == layer.stride == (2, 2)
    assert layer.bias is not None
    weight = layer.weight.detach().permute(2, 3, 1, 0).flatten(0, 2).to(dtype).contiguous()
    return weight, layer.bias.detach().repeat(4).to(dtype)
