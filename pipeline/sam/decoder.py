"""segment_anything's mask decoder for prompts of many images at once: same weights, same result.

Its own forward takes the prompts of one image, and projects that image's thousands of tokens for every prompt.
A prompt has few tokens: multiplying each projection into them instead halves the work, and what is left are a
few large matrix products. Attention scores (W_q t)·(W_k k) are (W_k' W_q t)·k, and the attended values
sum(a W_v k) are W_v sum(a k).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from segment_anything.modeling import MaskDecoder
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock, TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class DecodedPrompts:
    """P decoded prompts.

    tokens: P x T x C, the iou token first, then the mask tokens, then the prompt's own.
    image_tokens: P x h w x C, the image's tokens after the two-way transformer, rows first.
    """

    tokens: Tensor
    image_tokens: Tensor


class BatchedMaskDecoder(nn.Module):
    """The mask decoder over the submodules of segment_anything's own.

    positions: 1 x C x h x w, the positional encoding of the image's tokens.
    """

    positions: Tensor
    first_weight: Tensor
    first_bias: Tensor
    second_weight: Tensor
    second_bias: Tensor

    def __init__(self, decoder: MaskDecoder, positions: Tensor) -> None:
        super().__init__()
        self.transformer: TwoWayTransformer = decoder.transformer
        self.output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).detach()
        self.mask_mlps: nn.ModuleList = decoder.output_hypernetworks_mlps
        self.iou_head: nn.Module = decoder.iou_prediction_head
        self.grid_hw = (positions.shape[2], positions.shape[3])
        self.register_buffer("positions", positions.flatten(2).transpose(1, 2).contiguous(), persistent=False)
        first, self.norm, self.first_activation, second, self.second_activation = decoder.output_upscaling
        assert isinstance(self.norm, LayerNorm2d)
        for name, layer in (("first", first), ("second", second)):
            weight, bias = _as_linear(layer)
            self.register_buffer(f"{name}_weight", weight, persistent=False)
            self.register_buffer(f"{name}_bias", bias, persistent=False)

    def forward(self, image_tokens: Tensor, sparse: Tensor, dense: Tensor) -> DecodedPrompts:
        """Decode P prompts, each on its own image's embedding.

        image_tokens: P x h w x C. sparse: P x n x C and dense: P x C x h x w, from the prompt encoder.
        """
        prompts = sparse.shape[0]
        tokens = torch.cat([self.output_tokens.expand(prompts, -1, -1), sparse], dim=1)
        keys = image_tokens + dense.flatten(2).transpose(1, 2)
        queries = tokens
        for layer in self.transformer.layers:
            queries, keys = self._two_way(layer, queries, keys, tokens)
        queries = queries + _tokens_attend_image(
            self.transformer.final_attn_token_to_image, queries + tokens, keys + self.positions, keys
        )
        queries = self.transformer.norm_final_attn(queries)
        return DecodedPrompts(queries, keys)

    def candidates(self, decoded: DecodedPrompts) -> tuple[Tensor, Tensor]:
        """The multimask answers: mask logits P x 3 x 4h x 4w and predicted IoUs P x 3."""
        kernels = [mlp(decoded.tokens[:, 1 + index]) for index, mlp in enumerate(self.mask_mlps) if index > 0]
        logits = torch.stack(kernels, dim=1) @ self._upscale(decoded.image_tokens).transpose(1, 2)
        predicted_iou: Tensor = self.iou_head(decoded.tokens[:, 0])
        return self._to_grid(logits), predicted_iou[:, 1:]

    def _to_grid(self, values: Tensor) -> Tensor:
        """Rearrange P x K x 16 h w, in the order of `_upscale`, to P x K x 4h x 4w."""
        height, width = self.grid_hw
        nested = values.reshape(*values.shape[:2], height, width, 2, 2, 2, 2)
        return nested.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(*values.shape[:2], 4 * height, 4 * width)

    def _two_way(
        self, layer: TwoWayAttentionBlock, queries: Tensor, keys: Tensor, tokens: Tensor
    ) -> tuple[Tensor, Tensor]:
        """segment_anything's `TwoWayAttentionBlock.forward`."""
        if layer.skip_first_layer_pe:
            queries = layer.self_attn(q=queries, k=queries, v=queries)
        else:
            positioned = queries + tokens
            queries = queries + layer.self_attn(q=positioned, k=positioned, v=queries)
        queries = layer.norm1(queries)
        positioned_keys = keys + self.positions
        queries = queries + _tokens_attend_image(
            layer.cross_attn_token_to_image, queries + tokens, positioned_keys, keys
        )
        queries = layer.norm2(queries)
        queries = layer.norm3(queries + layer.mlp(queries))
        _image_attends_tokens(layer.cross_attn_image_to_token, positioned_keys, queries + tokens, queries, keys)
        return queries, layer.norm4(keys)

    def _upscale(self, keys: Tensor) -> Tensor:
        """Apply the two transposed convolutions to image tokens P x h w x C, giving P x 16 h w x c.

        As their strides equal their kernels, they are products token by token: `_to_grid` puts these in place.
        """
        weight, bias, eps = self.norm.weight, self.norm.bias, self.norm.eps
        features = _split(F.linear(keys, self.first_weight, self.first_bias), 4)
        features = self.first_activation(F.layer_norm(features, weight.shape, weight, bias, eps))
        features = _split(F.linear(features, self.second_weight, self.second_bias), 4)
        upscaled: Tensor = self.second_activation(features).flatten(1, 3)
        return upscaled


def _as_linear(layer: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the linear layer that makes the 2 x 2 outputs of each input position."""
    assert layer.kernel_size == layer.stride == (2, 2)
    assert layer.bias is not None
    return layer.weight.detach().permute(2, 3, 1, 0).flatten(0, 2).contiguous(), layer.bias.detach().repeat(4)


def _tokens_attend_image(attention: Attention, queries: Tensor, positioned_keys: Tensor, keys: Tensor) -> Tensor:
    """`attention(q=queries, k=positioned_keys, v=keys)` for few queries P x T x C and many keys P x N x C."""
    heads = attention.num_heads
    projected = _scaled(_split(attention.q_proj(queries), heads))
    # The bias of k_proj adds the same to all scores of a query, which softmax takes away again.
    folded = torch.einsum("pthc,hcd->phtd", projected, _rows_of_heads(attention.k_proj.weight, heads))
    scores = folded.flatten(1, 2) @ positioned_keys.transpose(1, 2)
    gathered = scores.softmax(dim=-1) @ keys
    gathered = gathered.reshape(len(keys), heads, -1, keys.shape[-1])
    values = torch.einsum("phtd,hcd->pthc", gathered, _rows_of_heads(attention.v_proj.weight, heads))
    attended: Tensor = attention.out_proj(values.flatten(2) + attention.v_proj.bias)
    return attended


def _image_attends_tokens(
    attention: Attention, positioned_keys: Tensor, queries: Tensor, values: Tensor, keys: Tensor
) -> None:
    """`keys += attention(q=positioned_keys, k=queries, v=values)`: few tokens P x T x C, many keys P x N x C."""
    heads = attention.num_heads
    projected = _scaled(_split(attention.k_proj(queries), heads))
    folded = torch.einsum("pthc,hcd->phtd", projected, _rows_of_heads(attention.q_proj.weight, heads))
    offset = torch.einsum("pthc,hc->pht", projected, attention.q_proj.bias.reshape(heads, -1))
    scores = folded.flatten(1, 2) @ positioned_keys.transpose(1, 2) + offset.flatten(1).unsqueeze(-1)
    weights = scores.reshape(len(keys), heads, -1, keys.shape[1]).softmax(dim=2).flatten(1, 2)
    out_weight = _split(attention.out_proj.weight, heads)
    folded_values = torch.einsum("pthc,dhc->phtd", _split(attention.v_proj(values), heads), out_weight)
    # The weights of each head add up to one: its share of the bias may go into what they weigh.
    folded_values = (folded_values + attention.out_proj.bias / heads).flatten(1, 2)
    keys += weights.transpose(1, 2) @ folded_values


def _split(values: Tensor, parts: int) -> Tensor:
    """... x parts c to ... x parts x c."""
    return values.reshape(*values.shape[:-1], parts, -1)


def _scaled(queries: Tensor) -> Tensor:
    return queries / math.sqrt(queries.shape[-1])


def _rows_of_heads(weight: Tensor, heads: int) -> Tensor:
    """A projection's weight, heads c x C, as heads x c x C."""
    return weight.reshape(heads, -1, weight.shape[-1])
