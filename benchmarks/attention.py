"""Measure ways to compute the attention of SAM's ViT encoders, and its mask decoder, in bf16 and fp32 on one core.

    python -m benchmarks.attention [--rounds 5] [--prompts 20]

Sizes are vit_b's: 4,096 tokens for global attention, 5 windows of 196 tokens, 12 heads, 64 channels. Random numbers;
medians of rounds in which all ways run in turn, in milliseconds of processor time. Prints two Markdown tables.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor
from torch.nn import functional as F

from pipeline.compute.settings import NumberFormat
from pipeline.sam.decoder import BatchedMaskDecoder
from pipeline.sam.prompt_tensors import PromptTensors

FORMATS: dict[NumberFormat, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}
GLOBAL, WINDOWS = (1, 64), (5, 14)
HEADS, CHANNELS = 12, 64
STEP_ROWS = 4
"""Query rows whose mask or scores are made at once in global attention."""

Name = TypeVar("Name")


@dataclass(frozen=True)
class Attention:
    """Random inputs: queries, keys, values G x heads x side² x channels, tables side x side x channels of positions."""

    side: int
    queries: Tensor
    keys: Tensor
    values: Tensor
    rows_table: Tensor
    columns_table: Tensor

    @classmethod
    def drawn(cls, groups: int, side: int, dtype: torch.dtype) -> Attention:
        """Draw the inputs."""
        tokens = (torch.randn(groups, HEADS, side * side, CHANNELS).to(dtype) for _ in range(3))
        tables = (0.02 * torch.randn(side, side, CHANNELS).to(dtype) for _ in range(2))
        return cls(side, *tokens, *tables)

    def terms(self) -> tuple[Tensor, Tensor]:
        """Return what positions add to the scores of each query: for each key row, and for each key column."""
        in_rows = self.queries.unflatten(2, (self.side, self.side))
        return (
            torch.einsum("gnhwc,hkc->gnhwk", in_rows, self.rows_table).flatten(2, 3),
            torch.einsum("gnhwc,wkc->gnhwk", in_rows, self.columns_table).flatten(2, 3),
        )

    def places(self) -> Tensor:
        """Return a one in the row and one in the column of each key, side² x 2 side."""
        ones = torch.eye(self.side, dtype=self.queries.dtype)
        return torch.cat([ones.repeat_interleave(self.side, 0), ones.repeat(self.side, 1)], dim=1)

    def in_steps(self, attend: Callable[[slice, slice], Tensor]) -> Tensor:
        """Return the attended values; global attention takes a head and a few query rows at a time."""
        if self.side < GLOBAL[1]:
            return attend(slice(None), slice(None))
        step, attended = STEP_ROWS * self.side, torch.empty_like(self.queries)
        for head in range(HEADS):
            for first in range(0, self.queries.shape[2], step):
                heads, rows = slice(head, head + 1), slice(first, first + step)
                attended[:, heads, rows] = attend(heads, rows)
        return attended


def mask_of_sums(given: Attention) -> Tensor:
    """Fused attention, the sum of both position terms as its mask."""
    to_rows, to_columns = given.terms()

    def attend(heads: slice, rows: slice) -> Tensor:
        mask = (to_rows[:, heads, rows].unsqueeze(-1) + to_columns[:, heads, rows].unsqueeze(-2)).flatten(3)
        return F.scaled_dot_product_attention(
            given.queries[:, heads, rows], given.keys[:, heads], given.values[:, heads], attn_mask=mask
        )

    return given.in_steps(attend)


def mask_by_product(given: Attention) -> Tensor:
    """The same, the mask made by a product."""
    terms, places = torch.cat(given.terms(), dim=-1), given.places().T.contiguous()

    def attend(heads: slice, rows: slice) -> Tensor:
        return F.scaled_dot_product_attention(
            given.queries[:, heads, rows],
            given.keys[:, heads],
            given.values[:, heads],
            attn_mask=terms[:, heads, rows] @ places,
        )

    return given.in_steps(attend)


def plain(given: Attention) -> Tensor:
    """Plain products and softmax, both terms added in place."""
    to_rows, to_columns = given.terms()
    queries = given.queries * CHANNELS**-0.5

    def attend(heads: slice, rows: slice) -> Tensor:
        scores = queries[:, heads, rows] @ given.keys[:, heads].transpose(2, 3)
        nested = scores.unflatten(3, (given.side, given.side))
        nested += to_rows[:, heads, rows].unsqueeze(-1)
        nested += to_columns[:, heads, rows].unsqueeze(-2)
        return scores.softmax(dim=-1) @ given.values[:, heads]

    return given.in_steps(attend)


def channels(given: Attention) -> Tensor:
    """Fused attention without a mask, position terms as channels of queries and keys."""
    scale, places = CHANNELS**-0.5, given.places()
    queries = torch.cat([given.queries, *(each / scale for each in given.terms())], dim=-1)
    keys = torch.cat([given.keys, places.expand(*given.keys.shape[:2], -1, -1)], dim=-1)
    values = F.pad(given.values, (0, places.shape[1]))
    return F.scaled_dot_product_attention(queries, keys, values, scale=scale)[..., :CHANNELS]


WAYS = (mask_of_sums, mask_by_product, plain, channels)


def decoders(prompts: int) -> dict[NumberFormat, Callable[[], object]]:
    """Return what decodes prompts of points and boxes with vit_b's decoder, in both formats."""
    encoder = PromptEncoder(
        embed_dim=256, image_embedding_size=(64, 64), input_image_size=(1024, 1024), mask_in_chans=16
    )
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    decoder = MaskDecoder(transformer_dim=256, transformer=transformer)
    points = 1024 * torch.rand(prompts, 3, 2), torch.ones(prompts, 3, dtype=torch.int64)
    tensors, features = PromptTensors(points, 1024 * torch.rand(prompts, 4), None), torch.randn(1, 256, 64, 64)

    def decode(fast: BatchedMaskDecoder) -> None:
        fast.candidates(fast(fast.project(features, with_masks=False), [0] * prompts, tensors))

    return {name: partial(decode, BatchedMaskDecoder(decoder, encoder, dtype)) for name, dtype in FORMATS.items()}


def medians(tasks: Mapping[Name, Callable[[], object]], rounds: int) -> dict[Name, float]:
    """Return the milliseconds of processor time of each task; all run in turn, once to warm up."""
    measured: dict[Name, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds + 1):
        for name, task in tasks.items():
            begun = time.process_time()
            task()
            measured[name].append(1000 * (time.process_time() - begun))
    return {name: statistics.median(each[1:]) for name, each in measured.items()}


@torch.inference_mode()
def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    columns = [(name, size) for name in FORMATS for size in (GLOBAL, WINDOWS)]
    given = {(name, size): Attention.drawn(*size, FORMATS[name]) for name, size in columns}
    times = medians(
        {(way, column): partial(way, given[column]) for way in WAYS for column in columns}, arguments.rounds
    )
    print("| way | global, bf16 | windows, bf16 | global, fp32 | windows, fp32 |\n|---|---:|---:|---:|---:|")
    for way in WAYS:
        name = (way.__doc__ or "").rstrip(".")
        print(f"| {name} | " + " | ".join(f"{times[way, column]:.1f}" for column in columns) + " |")
    print(f"\n| decoder, {arguments.prompts} prompts of points and a box | ms |\n|---|---:|")
    for name, taken in medians(decoders(arguments.prompts), arguments.rounds).items():
        print(f"| {name} | {taken:.0f} |")


if __name__ == "__main__":
    main()
