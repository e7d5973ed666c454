"""Measure the SAM engine against a plain loop over segment_anything's SamPredictor, without kept embeddings.

    python -m benchmarks.refine [--model vit_b] [--checkpoint FILE] [--instances 20] [--rounds 3] [--device cuda]

In every round each way in turn refines the same image with the same prompts: encode, three candidates for every
instance, the best of them (by predicted IoU) at the image's size as COCO RLE. Without a checkpoint the weights are
random, which changes no time. Prints Markdown tables of medians. Where other programs share the processor, use the CPU
seconds; wall time also includes the system's time to provide memory.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from segment_anything import SamPredictor
from segment_anything.modeling import Sam

from pipeline.compute.devices import keep_freed_memory
from pipeline.masks.crop_mask import CropMask
from pipeline.masks.run_lengths import CompressedRle
from pipeline.masks.windows import nonzero_window
from pipeline.refinement.geometry import LowresFrame
from pipeline.sam.build import build_sam
from pipeline.sam.engine import SamEngine
from pipeline.sam.prompt import Prompt


@dataclass
class Way:
    """One way to refine an image, and its times, one per round."""

    name: str
    run: Callable[[], list[CompressedRle]]
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    masks: list[CompressedRle] = field(default_factory=list)

    def time(self) -> None:
        """Refine the image once."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.masks = self.run()
        self.seconds.append(time.perf_counter() - wall)
        self.cpu_seconds.append(time.process_time() - cpu)


def draw_scene(height: int, width: int, instances: int) -> tuple[NDArray[np.uint8], list[Prompt]]:
    """Return an image of blobs, and for each blob a prompt of its box and three points inside it."""
    rng = np.random.default_rng(0)
    image = rng.integers(60, 120, (height, width, 3), dtype=np.uint8)
    rows, columns = np.mgrid[:height, :width]
    prompts = []
    for _ in range(instances):
        radius_xy = rng.uniform(0.03, 0.12, 2) * min(height, width)
        centre_xy = rng.uniform(radius_xy, np.array([width, height]) - radius_xy)
        inside = ((columns - centre_xy[0]) / radius_xy[0]) ** 2 + ((rows - centre_xy[1]) / radius_xy[1]) ** 2 < 1
        image[inside] = rng.integers(0, 256, 3)
        points_xy = centre_xy + rng.uniform(-0.5, 0.5, (3, 2)) * radius_xy
        box_xyxy = np.concatenate([centre_xy - radius_xy, centre_xy + radius_xy])
        prompts.append(Prompt(points_xy.astype(np.float32), np.ones(3, dtype=np.int64), box_xyxy.astype(np.float32)))
    return image, prompts


def plain_loop(sam: Sam, image: NDArray[np.uint8], prompts: list[Prompt], autocast: bool) -> list[CompressedRle]:
    """Refine with segment_anything alone, one prompt after the other."""
    predictor = SamPredictor(sam)
    masks = []
    with torch.autocast(sam.device.type, torch.bfloat16, enabled=autocast):
        predictor.set_image(image)
        for prompt in prompts:
            assert prompt.box_xyxy_full is not None
            hw = image.shape[:2]
            points_xy = predictor.transform.apply_coords(prompt.points_xy_full, hw)
            points = torch.as_tensor(points_xy, dtype=torch.float, device=sam.device)
            box_xyxy = predictor.transform.apply_boxes(prompt.box_xyxy_full, hw)
            box = torch.as_tensor(box_xyxy, dtype=torch.float, device=sam.device)
            labels = torch.as_tensor(prompt.point_labels, device=sam.device)
            candidates, predicted_iou, _ = predictor.predict_torch(points[None], labels[None], box)
            best = candidates[0, int(predicted_iou[0].argmax())].cpu().numpy()
            masks.append(coco_mask.encode(np.asfortranarray(best, dtype=np.uint8)))
    return masks


def engine_run(
    engine: SamEngine, image: NDArray[np.uint8], prompts: list[Prompt], parts: dict[str, list[float]]
) -> list[CompressedRle]:
    """Refine with the engine; add the seconds of its parts to `parts`."""
    height, width = image.shape[:2]
    frame = LowresFrame(height, width, engine.frame)
    clock = [time.perf_counter()]
    embeddings = engine.encode([image])
    if engine.device.type == "cuda":
        torch.cuda.synchronize()
    clock.append(time.perf_counter())
    answers = engine.decode(embeddings, [0] * len(prompts), prompts)
    clock.append(time.perf_counter())
    masks = []
    for answer in answers:
        logits = answer.mask_logits_lowres[answer.predicted_iou.argmax()]
        window = frame.to_image(nonzero_window(logits > 0))
        inside = engine.frame.full_logits(logits, (height, width), astuple(window)) > 0
        masks.append(CropMask.of_array(inside, window).to_rle(height, width))
    clock.append(time.perf_counter())
    for name, seconds in zip(("encode", "decode", "masks at full size, RLE"), np.diff(clock), strict=True):
        parts.setdefault(name, []).append(float(seconds))
    return masks


def print_ways(ways: list[Way], exact: Way, ours: Way) -> None:
    """Print a table with a row for each way."""
    print("| | s/image | images/s | CPU s/image | engine is faster by | in CPU time by | mask IoU with fp32 loop |")
    print("|---|---|---|---|---|---|---|")
    for way in ways:
        seconds = statistics.median(way.seconds)
        faster, faster_cpu = (
            statistics.median(one / our for one, our in zip(theirs, mine, strict=True))
            for theirs, mine in ((way.seconds, ours.seconds), (way.cpu_seconds, ours.cpu_seconds))
        )
        ious = [coco_mask.iou([a], [b], [0]).item() for a, b in zip(way.masks, exact.masks, strict=True)]
        print(
            f"| {way.name} | {seconds:.2f} | {1 / seconds:.3f} | {statistics.median(way.cpu_seconds):.2f} "
            f"| {faster:.2f} | {faster_cpu:.2f} | mean {np.mean(ious):.4f}, lowest {min(ious):.4f} |"
        )


def print_parts(parts: dict[str, list[float]]) -> None:
    """Print a table with a row for each part of the engine's work."""
    medians = {name: statistics.median(seconds) for name, seconds in parts.items()}
    print("\n| engine's part | s/image | share |\n|---|---|---|")
    for name, seconds in medians.items():
        print(f"| {name} | {seconds:.3f} | {seconds / sum(medians.values()):.1%} |")


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_b")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--precision", default="auto", choices=["auto", "fp32", "bf16"], help="the engine's number format"
    )
    parser.add_argument("--instances", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--width", type=int, default=1024)
    arguments = parser.parse_args()

    seed = None if arguments.checkpoint else 0
    sam = build_sam(arguments.model, arguments.checkpoint, random_weights_seed=seed)
    engine = SamEngine(copy.deepcopy(sam), arguments.device, arguments.precision)
    sam = sam.to(arguments.device)
    image, prompts = draw_scene(arguments.height, arguments.width, arguments.instances)
    keep_freed_memory()  # as workers do; all ways gain by it
    parts: dict[str, list[float]] = {}
    exact = Way("SamPredictor, fp32", lambda: plain_loop(sam, image, prompts, autocast=False))
    autocast = Way("SamPredictor, bf16 autocast", lambda: plain_loop(sam, image, prompts, autocast=True))
    ours = Way(f"engine, {engine.precision}", lambda: engine_run(engine, image, prompts, parts))
    engine_run(engine, image, prompts, {})  # warm up: kernels, interpolation matrices
    for _ in range(arguments.rounds):
        for way in (exact, autocast, ours):
            way.time()

    print(
        f"{arguments.model}, {arguments.width} x {arguments.height} px, {arguments.instances} instances per image, "
        f"{engine.device}, {torch.get_num_threads()} threads, medians of {arguments.rounds} rounds\n"
    )
    print_ways([exact, autocast, ours], exact, ours)
    print_parts(parts)


if __name__ == "__main__":
    main()
