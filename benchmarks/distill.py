"""Measures what structural targets of a large image cost: SAM's encoder for each tile, its decoder for each anchor.

    python -m benchmarks.distill [--model vit_b] [--width 2048] [--height 1024] [--cell-px 4] [--anchors 4096]

One tile is encoded and a few anchors are decoded, on one core, with random weights, which change no time. From their
times follow those of an image: tiles times the first plus anchors times the second. Prints a Markdown table in seconds
of processor time. Bytes are those of the maps before compression.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import astuple
from typing import TypeVar

import numpy as np
import torch
import typer

from pipeline.sam.build import build_sam
from pipeline.sam.engine import SamEngine
from pipeline.structure.anchors import sample_anchors
from pipeline.structure.maps import anchor_prompts, similarity_maps
from pipeline.structure.settings import DistillSettings
from pipeline.structure.target_columns import MAP_SIDE
from pipeline.structure.tiles import tiles_of

Result = TypeVar("Result")


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """Return what some work makes, and its processor time."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def main(
    model: str = "vit_b",
    width: int = 2048,
    height: int = 1024,
    cell_px: float = 4.0,
    anchors: int = 4096,
    measured_anchors: int = 32,
) -> None:
    """Measure, and print the table."""
    torch.set_num_threads(1)
    engine = SamEngine(build_sam(model, random_weights_seed=0), device="cpu", precision="fp32")
    tiles = tiles_of((height, width), cell_px, MAP_SIDE)
    side_xy = tiles[0].width, tiles[0].height
    rng = np.random.default_rng(0)
    tile_rgb = rng.integers(0, 255, (side_xy[1], side_xy[0], 3), dtype=np.uint8)
    points = sample_anchors(1, tile_rgb.shape[:2], [], DistillSettings(anchors=measured_anchors))
    with torch.inference_mode():
        embeddings, encoding = timed(lambda: engine.encode([tile_rgb]))
        prompts = anchor_prompts(points, None)
        _, decoding = timed(lambda: similarity_maps(engine, embeddings, 0, points.xy, prompts, MAP_SIDE))
    of_anchor = decoding / measured_anchors
    print(f"{model}, {width} x {height} px, cells of {cell_px} px: {len(tiles)} tiles, the first {astuple(tiles[0])}\n")
    print("| | seconds |\n|---|---|")
    print(f"| encode a tile | {encoding:.2f} |\n| decode an anchor and compare | {of_anchor:.3f} |")
    print(f"| an image, {anchors:,} anchors | {len(tiles) * encoding + anchors * of_anchor:,.0f} |")
    print(f"\n{anchors * MAP_SIDE**2 / 1e6:.1f} MB of maps an image")


if __name__ == "__main__":
    typer.run(main)
