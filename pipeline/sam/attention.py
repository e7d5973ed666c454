"""Compute segment_anything's ViT image encoder faster: same weights, same result, no N x N tensors kept.

Its attention with decomposed relative position writes the scores of all pairs of tokens, adds two broadcast
terms to all of them, and normalises: at 64 x 64 tokens that moves gigabytes an image. Here the two terms are
computed for a few query rows at a time, while they fit the cache, and given to fused attention as its mask. Where a
CPU multiplies bf16, products cost less than sums: there the terms become channels of the queries, which meet a one in
the keys of their row and of their column, and there is no mask at all.
Everything that is done token by token (norms, projections, MLP) runs over strips of rows for the same reason.
"""

from __future__ import annotations

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Block, get_rel_pos
from torch import Tensor, nn
from torch.nn import functional as F

CPU_STRIP_ROWS = 16
"""Token rows of a strip of a global block on a CPU: 16 x 64 tokens make full-speed matrix products."""

CPU_QUERY_ROWS = 4
"""Query rows of a step of global attention on a CPU: with one head a thread, its scores use 4 MB a thread."""

GPU_MASK_ELEMENTS = 1 << 28
"""Elements of the attention mask computed at once on a GPU."""


def fast_encoder(encoder: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return the fast form of one of segment_anything's ViT encoders; any other encoder stays what it is.

    The fast form shares the encoder's weights and changes their type where `dtype` is another one.
    """
    if isinstance(encoder, ImageEncoderViT):
        return FastImageEncoderViT(encoder, dtype)
    if dtype == torch.bfloat16:
        # With a pixel's channels side by side convolutions are faster. In float32 they would sum up in another order.
        encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return encoder


class FastImageEncoderViT(nn.Module):
    """`ImageEncoderViT` for inference: images B x 3 x S x S, normalised, to float32 embeddings B x C x h x w.

    With a `dtype` of lower precision, products are computed in it; the residual stream and the norms stay float32.
    """

    def __init__(self, encoder: ImageEncoderViT, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.img_size: int = encoder.img_size
        self.patch_embed: nn.Conv2d = encoder.patch_embed.proj
        self.pos_embed: Tensor | None = encoder.pos_embed
        grid_side = encoder.img_size // self.patch_embed.stride[0]
        self.blocks = nn.ModuleList(FastBlock(block, grid_side, dtype) for block in encoder.blocks)
        self.neck: nn.Sequential = encoder.neck
        for layer in (self.patch_embed, *self.neck):
            if isinstance(layer, nn.Conv2d):
                layer.to(dtype)

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings of a batch of images."""
        patches = self.patch_embed(images.to(self.patch_embed.weight.dtype))
        tokens = patches.permute(0, 2, 3, 1).to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        if self.pos_embed is not None:
            tokens += self.pos_embed
        for block in self.blocks:
            block(tokens)
        features = tokens.permute(0, 3, 1, 2)
        for layer in self.neck:
            features = layer(features.to(layer.weight.dtype))
        embeddings: Tensor = features.float()
        return embeddings


class FastBlock(nn.Module):
    """One transformer block, over the submodules of segment_anything's own; changes its tokens in place."""

    rows_table: Tensor
    columns_table: Tensor
    places: Tensor

    def __init__(self, block: Block, grid_side: int, dtype: torch.dtype) -> None:
        super().__init__()
        attention = block.attn
        assert attention.use_rel_pos, "SAM's blocks have relative positions"
        self.window_side: int = block.window_size
        self.heads: int = attention.num_heads
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.qkv: nn.Linear = attention.qkv.to(dtype)
        self.project: nn.Linear = attention.proj.to(dtype)
        self.mlp: nn.Module = block.mlp.to(dtype)
        side = self.window_side or grid_side
        # side x side x channels: what query row (column) i adds for key row (column) k, to be multiplied by q.
        for name, table in (("rows_table", attention.rel_pos_h), ("columns_table", attention.rel_pos_w)):
            self.register_buffer(name, get_rel_pos(side, side, table.detach()).to(dtype), persistent=False)
        # side² x 2 side: a one in the row and one in the column of each key.
        ones = torch.eye(side, device=attention.rel_pos_h.device)
        places = torch.cat([ones.repeat_interleave(side, 0), ones.repeat(side, 1)], dim=1)
        self.register_buffer("places", places.to(dtype), persistent=False)

    def forward(self, tokens: Tensor) -> None:
        """Replace tokens B x H x W x C, float32, by the block's output."""
        if self.window_side:
            self._windowed(tokens)
        else:
            self._global(tokens)

    def _windowed(self, tokens: Tensor) -> None:
        # A row of windows depends on no other row: the whole block runs on it while it is in the cache.
        rows = self.window_side if tokens.device.type == "cpu" else tokens.shape[1]
        for strip in torch.split(tokens, rows, dim=1):
            self._finish(strip, self._attend_windows(self._qkv(strip)))

    def _global(self, tokens: Tensor) -> None:
        height = tokens.shape[1]
        strip_rows = CPU_STRIP_ROWS if tokens.device.type == "cpu" else height
        strips = torch.split(tokens, strip_rows, dim=1)
        # 3 x B x heads x H x W x channels of a head: queries, keys and values, each in one piece.
        qkv = torch.cat([self._qkv(strip).permute(3, 0, 4, 1, 2, 5) for strip in strips], dim=3)
        queries, keys, values = qkv.unbind(0)
        keys, values = keys.flatten(2, 3), values.flatten(2, 3)
        if self._is_bf16_on_cpu(tokens):
            keys = torch.cat([keys, self.places.expand(*keys.shape[:2], -1, -1)], dim=-1)
            values = F.pad(values, (0, self.places.shape[1]))  # fused attention wants as many channels
        parts = torch.split(queries, strip_rows, dim=2), torch.split(self.rows_table, strip_rows)
        for strip, strip_queries, rows_table in zip(strips, *parts, strict=True):
            self._finish(strip, self._attend_all(strip_queries, keys, values, rows_table))

    def _qkv(self, tokens: Tensor) -> Tensor:
        """Return B x h x W x 3 x heads x channels of a head."""
        qkv: Tensor = self.qkv(self.norm1(tokens).to(self.qkv.weight.dtype))
        return qkv.reshape(*tokens.shape[:3], 3, self.heads, -1)

    def _finish(self, tokens: Tensor, attended: Tensor) -> None:
        """Apply in place what follows attention: projection, MLP and their shortcuts."""
        tokens += self.project(attended)
        tokens += self.mlp(self.norm2(tokens).to(self.qkv.weight.dtype))

    def _attend_windows(self, qkv: Tensor) -> Tensor:
        """Apply attention inside each window: from qkv B x h x W x 3 x heads x c to B x h x W x C."""
        batch, height, width = qkv.shape[:3]
        side = self.window_side
        down, across = -(-height // side), -(-width // side)
        padded = qkv
        if (down * side, across * side) != (height, width):
            # Padding is zero before the projection, and its bias after it.
            padded = self.qkv.bias.view(qkv.shape[3:]).repeat(batch, down * side, across * side, 1, 1, 1)
            padded[:, :height, :width] = qkv
        windows = padded.view(batch, down, side, across, side, -1).transpose(2, 3)
        windows = windows.reshape(-1, side * side, 3, self.heads, qkv.shape[-1])
        queries, keys, values = windows.permute(2, 0, 3, 1, 4)
        terms = torch.cat(self._position_terms(_in_rows(queries, side), self.rows_table), dim=-1)
        mask = terms.flatten(2, 3) @ self.places.T
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        merged = attended.transpose(1, 2).reshape(batch, down, across, side, side, -1).transpose(2, 3)
        merged = merged.reshape(batch, down * side, across * side, -1)
        # In one piece: else the projection is a product for each row, each with a copy of the weights.
        return merged[:, :height, :width].contiguous()

    def _is_bf16_on_cpu(self, tokens: Tensor) -> bool:
        return tokens.device.type == "cpu" and self.places.dtype == torch.bfloat16

    def _attend_all(self, queries: Tensor, keys: Tensor, values: Tensor, rows_table: Tensor) -> Tensor:
        """Apply attention of B x heads x h x W x c queries over all B x heads x N x c keys, to B x h x W x C."""
        batch, heads, height, width, channels = queries.shape
        if keys.shape[-1] > channels:
            scale = channels**-0.5  # is for the products of channels alone
            terms = [each / scale for each in self._position_terms(queries, rows_table)]
            extended = torch.cat([queries, *terms], dim=-1).flatten(2, 3)
            attended = F.scaled_dot_product_attention(extended, keys, values, scale=scale)[..., :channels]
            return _in_rows(attended, width).permute(0, 2, 3, 1, 4).flatten(3)
        if queries.device.type == "cpu":
            row_step, head_step = CPU_QUERY_ROWS, min(heads, torch.get_num_threads())
        else:
            row_step, head_step = max(1, GPU_MASK_ELEMENTS // (batch * heads * width * keys.shape[2])), heads
        to_rows, to_columns = self._position_terms(queries, rows_table)
        attended = torch.empty_like(queries)
        for row in range(0, height, row_step):
            rows = slice(row, row + row_step)
            for head in range(0, heads, head_step):
                at_once = slice(head, head + head_step)
                mask = _position_scores(to_rows[:, at_once, rows], to_columns[:, at_once, rows])
                attended[:, at_once, rows] = _in_rows(
                    F.scaled_dot_product_attention(
                        queries[:, at_once, rows].flatten(2, 3), keys[:, at_once], values[:, at_once], attn_mask=mask
                    ),
                    width,
                )
        return attended.permute(0, 2, 3, 1, 4).flatten(3)

    def _position_terms(self, queries: Tensor, rows_table: Tensor) -> tuple[Tensor, Tensor]:
        """Return what queries G x heads x h x W x c add to their scores for each key row and for each key column.

        rows_table: h x H x c, the rows of the table that belong to the queries' rows.
        """
        to_rows = torch.einsum("gnhwc,hkc->gnhwk", queries, rows_table)
        return to_rows, torch.einsum("gnhwc,wkc->gnhwk", queries, self.columns_table)


def _position_scores(to_rows: Tensor, to_columns: Tensor) -> Tensor:
    """Add both terms for each of N keys: G x heads x h x W x H and ... x W to G x heads x h W x N."""
    scores = to_rows.new_empty(*to_rows.shape, to_columns.shape[-1])
    torch.add(to_rows.unsqueeze(-1), to_columns.unsqueeze(-2), out=scores)
    return scores.flatten(4).flatten(2, 3)


def _in_rows(tokens: Tensor, width: int) -> Tensor:
    """Reshape G x heads x h W x c to G x heads x h x W x c."""
    return tokens.reshape(*tokens.shape[:2], -1, width, tokens.shape[-1])
