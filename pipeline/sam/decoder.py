"""segment_anything's prompt encoder and mask decoder for prompts of many images at once: same weights, same result.

Its own forward takes the prompts of one image, and projects that image's thousands of tokens for every prompt. Here
the first layer projects each image once, and adds what the few maps of a prompt's mask change. Later layers multiply
each projection into a prompt's few tokens instead, which halves their work: attention scores (W_q t)·(W_k k) are
(W_k' W_q t)·k, and the attended values sum(a W_v k) are W_v sum(a k). What concerns the tokens of prompts is computed
for all prompts together, what concerns the tokens of images for as many prompts as fit the cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock, TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.sam.prompt_tensors import PromptTensors
from pipeline.sam.upscaling import MaskUpscaling


@dataclass(frozen=True)
class ProjectedImages:
    """Images as the first layer sees them, with what all prompts add that have a mask, or all that have none.

    tokens: B x h w x C. keys, values, queries: B x c x h w, the tokens as the first layer projects them: the first two
    for the attention of prompts' tokens to images, the last for that of images to prompts' tokens.
    """

    tokens: Tensor
    keys: Tensor
    values: Tensor
    queries: Tensor


@dataclass(frozen=True)
class DecodedPrompts:
    """P decoded prompts.

    tokens: P x T x C float32, the iou token first, then the mask tokens, then the prompt's own. image_tokens: the
    image's tokens after the two-way transformer, rows first, p x h w x C: of some prompts after the other.
    """

    tokens: Tensor
    image_tokens: tuple[Tensor, ...]


class BatchedMaskDecoder(nn.Module):
    """The prompt encoder and the mask decoder, over the submodules of segment_anything's own.

    dtype: number format of the tokens of images and of their products; tokens of prompts stay float32. at_once: number
    of prompts whose image tokens are processed together.
    """

    def __init__(
        self, decoder: MaskDecoder, prompt_encoder: PromptEncoder, dtype: torch.dtype = torch.float32, at_once: int = 1
    ) -> None:
        super().__init__()
        self.dtype, self.at_once = dtype, at_once
        self.prompt_encoder = prompt_encoder
        self.transformer: TwoWayTransformer = decoder.transformer
        self.output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).detach()
        self.mask_mlps: nn.ModuleList = decoder.output_hypernetworks_mlps
        self.iou_head: nn.Module = decoder.iou_prediction_head
        positions = prompt_encoder.get_dense_pe().detach()
        self.upscaling = MaskUpscaling(decoder.output_upscaling, (positions.shape[2], positions.shape[3]), dtype)
        self.positions = positions.flatten(2).transpose(1, 2).contiguous()
        self.rounded_positions = self.positions.to(dtype)
        # A prompt without a mask adds one vector to all tokens; one with a mask another, and products of few maps.
        *layers, last = prompt_encoder.mask_downscaling
        self.mask_maps = nn.Sequential(*layers)
        self.without_mask, self.with_mask = prompt_encoder.no_mask_embed.weight[0].detach(), last.bias.detach()
        maps_weight = last.weight.detach().flatten(1)
        self.maps_weight = maps_weight.T.to(dtype)
        self.projected_maps_weights = [(each.weight.detach() @ maps_weight).to(dtype) for each in self._projections]

    def project(self, features: Tensor, *, with_masks: bool) -> ProjectedImages:
        """Return images, B x C x h x w float32, for prompts that all have a mask, or that all have none."""
        tokens = features.flatten(2).transpose(1, 2) + (self.with_mask if with_masks else self.without_mask)
        positioned = tokens + self.positions
        projected = (
            projection(each).transpose(1, 2).to(self.dtype).contiguous()
            for projection, each in zip(self._projections, (positioned, tokens, positioned), strict=True)
        )
        return ProjectedImages(tokens.to(self.dtype), *projected)

    def forward(self, images: ProjectedImages, indices: Sequence[int], prompts: PromptTensors) -> DecodedPrompts:
        """Decode P prompts of one form, each about the image at its index."""
        sparse, _ = self.prompt_encoder(prompts.points, prompts.boxes, None)
        tokens = torch.cat([each.expand(len(indices), -1, -1) for each in (self.output_tokens, sparse)], dim=1)
        maps = None if prompts.masks is None else self.mask_maps(prompts.masks).flatten(2).to(self.dtype)
        first, *later = self.transformer.layers
        queries, image_tokens = self._first_layer(first, tokens, images, indices, maps)
        for layer in later:
            queries, image_tokens = self._layer(layer, queries, tokens, image_tokens)
        attended = self._attended(self.transformer.final_attn_token_to_image, queries + tokens, image_tokens)
        return DecodedPrompts(self.transformer.norm_final_attn(queries + attended), tuple(image_tokens))

    def candidates(self, decoded: DecodedPrompts) -> tuple[Tensor, Tensor]:
        """The multimask answers: mask logits P x 3 x 4h x 4w and predicted IoUs P x 3."""
        kernels = [mlp(decoded.tokens[:, 1 + index]) for index, mlp in enumerate(self.mask_mlps) if index > 0]
        parts = zip(decoded.image_tokens, torch.split(torch.stack(kernels, dim=1), self.at_once), strict=True)
        predicted_iou: Tensor = self.iou_head(decoded.tokens[:, 0])
        return torch.cat([self.upscaling(*part) for part in parts]), predicted_iou[:, 1:]

    def _first_layer(
        self,
        layer: TwoWayAttentionBlock,
        tokens: Tensor,
        images: ProjectedImages,
        indices: Sequence[int],
        maps: Tensor | None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the prompts' tokens, and the image's tokens of some prompts after the other, after the first layer."""
        key_weight, value_weight, query_weight = self.projected_maps_weights

        def seen(each: Tensor, weight: Tensor, start: int) -> Tensor:
            some = _of_images(each, indices[start : start + self.at_once])
            if maps is None:
                return some
            changes = maps[start : start + self.at_once]
            return torch.baddbmm(some, weight.expand(len(changes), -1, -1), changes)

        starts = range(0, len(indices), self.at_once)
        queries = _attend_themselves(layer, tokens, tokens)
        attended = [
            _tokens_attend_projected(
                layer.cross_attn_token_to_image,
                questions,
                seen(images.keys, key_weight, start),
                seen(images.values, value_weight, start),
            )
            for start, questions in zip(starts, torch.split(queries + tokens, self.at_once), strict=True)
        ]
        queries = _after_attention(layer, queries, torch.cat(attended))
        image_tokens = []
        for start, answers, values in self._answers(queries, tokens):
            weights, weighed = _projected_attend_tokens(
                layer.cross_attn_image_to_token, seen(images.queries, query_weight, start), answers, values
            )
            if maps is not None:
                changes = maps[start : start + self.at_once]
                weights = torch.cat([weights, changes], dim=1)
                weighed = torch.cat([weighed, self.maps_weight.expand(len(changes), -1, -1)], dim=1)
            before = _of_images(images.tokens, indices[start : start + self.at_once])
            image_tokens.append(_normed(layer.norm4, torch.baddbmm(before, weights.transpose(1, 2), weighed)))
        return queries, image_tokens

    def _layer(
        self, layer: TwoWayAttentionBlock, queries: Tensor, tokens: Tensor, image_tokens: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the prompts' and the image's tokens after a later layer. It overwrites the image's of before."""
        queries = _attend_themselves(layer, queries, tokens)
        attended = self._attended(layer.cross_attn_token_to_image, queries + tokens, image_tokens)
        queries = _after_attention(layer, queries, attended)
        changed = []
        for before, (_, answers, values) in zip(image_tokens, self._answers(queries, tokens), strict=True):
            weights, weighed = _image_attends_tokens(
                layer.cross_attn_image_to_token, before + self.rounded_positions, answers, values
            )
            changed.append(_normed(layer.norm4, before.baddbmm_(weights.transpose(1, 2), weighed)))
        return queries, changed

    def _attended(self, attention: Attention, questions: Tensor, image_tokens: Sequence[Tensor]) -> Tensor:
        """Return what the prompts' tokens P x T x C gather from the tokens of their images."""
        parts = zip(torch.split(questions, self.at_once), image_tokens, strict=True)
        return torch.cat(
            [_tokens_attend_image(attention, some, keys + self.rounded_positions, keys) for some, keys in parts]
        )

    def _answers(self, queries: Tensor, tokens: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield the keys and values that the image's tokens attend to, of some prompts after the other."""
        parts = zip(torch.split(queries + tokens, self.at_once), torch.split(queries, self.at_once), strict=True)
        for number, (keys, values) in enumerate(parts):
            yield number * self.at_once, keys, values

    @property
    def _projections(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        """Return the first layer's projections of images: keys and values of one attention, queries of the other."""
        layer: TwoWayAttentionBlock = self.transformer.layers[0]
        to_image, to_tokens = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
        return to_image.k_proj, to_image.v_proj, to_tokens.q_proj


def _of_images(values: Tensor, indices: Sequence[int]) -> Tensor:
    """Return the values, B x ..., of the image at each index; of a single image without a copy."""
    if len(set(indices)) == 1:
        return values[indices[0]].expand(len(indices), *values.shape[1:])
    return values[list(indices)]


def _attend_themselves(layer: TwoWayAttentionBlock, queries: Tensor, tokens: Tensor) -> Tensor:
    """Apply a layer's attention of prompts' tokens to each other."""
    if layer.skip_first_layer_pe:
        attended: Tensor = layer.self_attn(q=queries, k=queries, v=queries)
    else:
        positioned = queries + tokens
        attended = queries + layer.self_attn(q=positioned, k=positioned, v=queries)
    normed: Tensor = layer.norm1(attended)
    return normed


def _after_attention(layer: TwoWayAttentionBlock, queries: Tensor, attended: Tensor) -> Tensor:
    """Add what the prompts' tokens gathered from the image, and apply a layer's MLP."""
    queries = layer.norm2(queries + attended)
    result: Tensor = layer.norm3(queries + layer.mlp(queries))
    return result


def _tokens_attend_projected(attention: Attention, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Apply attention of queries P x T x C over projected keys and values P x c x N."""
    heads = attention.num_heads
    projected = _scaled(_split(attention.q_proj(queries), heads)).transpose(1, 2).to(keys.dtype)
    weights = (projected @ _in_heads(keys, heads)).softmax(dim=-1)
    gathered = weights @ _in_heads(values, heads).transpose(2, 3)
    attended: Tensor = attention.out_proj(gathered.float().transpose(1, 2).flatten(2))
    return attended


def _tokens_attend_image(attention: Attention, queries: Tensor, positioned_keys: Tensor, keys: Tensor) -> Tensor:
    """Return `attention(q=queries, k=positioned_keys, v=keys)` for queries P x T x C and many keys P x N x C."""
    heads = attention.num_heads
    projected = _scaled(_split(attention.q_proj(queries), heads))
    # The bias of k_proj adds the same to all scores of a query, which softmax takes away again.
    folded = torch.einsum("pthc,hcd->phtd", projected, _rows_of_heads(attention.k_proj.weight, heads)).flatten(1, 2)
    scores = (positioned_keys @ folded.to(keys.dtype).transpose(1, 2)).transpose(1, 2)
    gathered = (scores.contiguous().softmax(dim=-1) @ keys).float()
    gathered = gathered.reshape(len(keys), heads, -1, keys.shape[-1])
    values = torch.einsum("phtd,hcd->pthc", gathered, _rows_of_heads(attention.v_proj.weight, heads))
    attended: Tensor = attention.out_proj(values.flatten(2) + attention.v_proj.bias)
    return attended


def _projected_attend_tokens(
    attention: Attention, queries: Tensor, keys: Tensor, values: Tensor
) -> tuple[Tensor, Tensor]:
    """Return weights P x h T x N, whose products with P x h T x C are attention over few keys and values P x T x C.

    queries: P x c x N, projected.
    """
    heads = attention.num_heads
    projected = _scaled(_split(attention.k_proj(keys), heads)).transpose(1, 2).to(queries.dtype)
    weights = (projected @ _in_heads(queries, heads)).softmax(dim=2)
    return weights.flatten(1, 2), _weighed(attention, values).to(queries.dtype)


def _image_attends_tokens(
    attention: Attention, positioned_queries: Tensor, keys: Tensor, values: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the same as `_projected_attend_tokens` for queries P x N x C that are not projected."""
    heads, dtype = attention.num_heads, positioned_queries.dtype
    projected = _scaled(_split(attention.k_proj(keys), heads))
    folded = torch.einsum("pthc,hcd->phtd", projected, _rows_of_heads(attention.q_proj.weight, heads)).flatten(1, 2)
    offset = torch.einsum("pthc,hc->pht", projected, attention.q_proj.bias.reshape(heads, -1)).flatten(1)
    scores = torch.baddbmm(offset.to(dtype)[:, None], positioned_queries, folded.to(dtype).transpose(1, 2))
    weights = _in_heads(scores.transpose(1, 2).contiguous(), heads).softmax(dim=2)
    return weights.flatten(1, 2), _weighed(attention, values).to(dtype)


def _weighed(attention: Attention, values: Tensor) -> Tensor:
    """Return values P x T x C as each head projects them and the output projection maps them, P x h T x C."""
    heads = attention.num_heads
    out_weight = _split(attention.out_proj.weight, heads)
    folded = torch.einsum("pthc,dhc->phtd", _split(attention.v_proj(values), heads), out_weight)
    # The weights of each head add up to one: its share of the bias may go into what they weigh.
    weighed: Tensor = (folded + attention.out_proj.bias / heads).flatten(1, 2)
    return weighed


def _normed(norm: nn.LayerNorm, values: Tensor) -> Tensor:
    """Apply a norm in the format of the values."""
    weight, bias = norm.weight.to(values.dtype), norm.bias.to(values.dtype)
    return F.layer_norm(values, norm.normalized_shape, weight, bias, norm.eps)


def _split(values: Tensor, parts: int) -> Tensor:
    """... x parts c to ... x parts x c."""
    return values.reshape(*values.shape[:-1], parts, -1)


def _in_heads(values: Tensor, heads: int) -> Tensor:
    """P x heads c x N to P x heads x c x N."""
    return values.reshape(len(values), heads, -1, values.shape[-1])


def _scaled(queries: Tensor) -> Tensor:
    return queries / math.sqrt(queries.shape[-1])


def _rows_of_heads(weight: Tensor, heads: int) -> Tensor:
    """A projection's weight, heads c x C, as heads x c x C."""
    return weight.reshape(heads, -1, weight.shape[-1])
