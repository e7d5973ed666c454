"""Measure everything that a GPU does in this pipeline, and write a Markdown file. On a bare machine: make bench-gpu.

    python -m benchmarks.gpu [--device cuda] [--output work/bench-gpu.md] [--minutes 25] [--only refine training]
    python -m benchmarks.gpu --device cpu --tiny     # the same code with the smallest models, to try it

Weights are random, which changes no time, and all data are generated: nothing is downloaded. Every section runs in a
process of its own; one that fails or takes too long is told in the file, and the others run. The peak of a card is its
makers' figure for dense bf16 products; "share of the peak" counts the products of SAM's encoder alone.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.refine import draw_scene
from pipeline.coco.image_folder import ImageFolder
from pipeline.coco.model import CocoCategory
from pipeline.compute.devices import allow_tf32, fastest_format
from pipeline.compute.settings import Compiling
from pipeline.compute.shards import Shard
from pipeline.errors import S4MError
from pipeline.labels.label_writing import write_label_store
from pipeline.labels.rows import Decision, ImageLabels, label_from_mask
from pipeline.refinement.gate import Gate
from pipeline.refinement.refine_work import RefineWork
from pipeline.refinement.settings import RefineSettings
from pipeline.sam.build import build_sam
from pipeline.sam.engine import SamEngine
from pipeline.sam.worker import SamChoice, build_engine

ROOT: Final = Path(__file__).parent.parent

PEAKS_TFLOPS: Final = {
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "A10": 125,
    "RTX 4090": 165,
    "RTX 3090": 71,
    "V100": 125,
}
"""Dense products in bf16 (fp16 on a V100), in 10^12 operations a second, by a part of the card's name."""


@dataclass(frozen=True)
class Bench:
    """What is measured on. tiny: with the smallest models and data, to try the benchmark itself."""

    device: str
    tiny: bool

    @property
    def models(self) -> tuple[str, ...]:
        """Return the SAMs that refine."""
        return ("sam_tiny",) if self.tiny else ("vit_b", "vit_h")

    def synchronize(self) -> None:
        """Wait until the device has done all that it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def peak_tflops(self) -> float | None:
        """Return the card's own figure; None where it is not known."""
        name = torch.cuda.get_device_name() if self.device == "cuda" else ""
        return next((float(peak) for card, peak in PEAKS_TFLOPS.items() if card in name), None)

    def most_memory_gb(self) -> str:
        """Return the most memory that tensors had on the GPU in this process."""
        return f"{torch.cuda.max_memory_allocated() / 1e9:.1f}" if self.device == "cuda" else "-"


# ---- sections ---------------------------------------------------------------------------------------


def machine(bench: Bench) -> Iterator[str]:
    """Yield what the machine is, and whether mmcv's operators run on it."""
    from pipeline.detection.gpu_operators import check_operators

    names = ("torch", "onedl-mmcv", "onedl-mmdetection", "transformers")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in names if find_spec(_module_of(name))]
    card = torch.cuda.get_device_name() if bench.device == "cuda" else platform.processor() or platform.machine()
    yield f"{card}, {os.cpu_count()} processors, CUDA {torch.version.cuda}; {', '.join(versions)}.\n"
    differences = check_operators(torch.device(bench.device))
    yield "| mmcv's operator | largest difference from the CPU |\n|---|---:|"
    yield from (f"| {name} | {difference:.1e} |" for name, difference in differences.items())


def products(bench: Bench) -> Iterator[str]:
    """Yield how fast the device multiplies matrices in every format."""
    side = 256 if bench.tiny else 8192
    yield f"Products of {side} x {side} matrices.\n"
    yield "| format | 10^12 operations/s | share of the peak |\n|---|---:|---:|"
    ways = {"float32": (torch.float32, "fp32"), "TF32": (torch.float32, "auto"), "bf16": (torch.bfloat16, "auto")}
    for name, (dtype, precision) in ways.items():
        if name == "TF32" and bench.device == "cpu":
            continue
        allow_tf32(torch.device(bench.device), precision)
        left, right = torch.rand(2, side, side, device=bench.device).to(dtype)
        rate = 2 * side**3 / seconds_of(bench, partial(torch.mm, left, right), 10) / 1e12
        yield f"| {name} | {rate:.2f} | {_share(rate, bench)} |"


def refine(bench: Bench) -> Iterator[str]:
    """Yield images a second of the stage `refine`, from image file to masks, and of SAM's encoder alone."""
    batches, images = ((1, 2), 4) if bench.tiny else ((1, 8, 32), 96)
    side, instances = (128, 3) if bench.tiny else (1024, 10)
    form = fastest_format(bench.device)
    yield f"{images} images of {side} px with {instances} instances, preset `best`, {form}, files to masks.\n"
    yield "| SAM | images a batch | images/s | encoder alone, images/s | share of the peak | GPU memory, GB |"
    yield "|---|---:|---:|---:|---:|---:|"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_scenes(folder, images, side, instances)
        for model in bench.models:
            checkpoint = folder / f"{model}.pth"
            torch.save(build_sam(model, random_weights_seed=0).state_dict(), checkpoint)
            for batch in batches:
                sam = SamChoice(model, checkpoint, bench.device, form, batch_images=batch)
                yield _refine_row(bench, sam, folder, images)


def _refine_row(bench: Bench, sam: SamChoice, folder: Path, images: int) -> str:
    work = RefineWork(
        folder / "teacher.zarr", ImageFolder(folder), folder / "shards", sam, RefineSettings(zoom_below_px=0), Gate()
    )
    if bench.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    work.compute(Shard(0, tuple(range(1, sam.batch_images + 1))))  # the model is built and warm
    begun = time.perf_counter()
    rows = work.compute(Shard(0, tuple(range(1, images + 1))))
    seconds = time.perf_counter() - begun
    failed = [row.labels.message for row in rows if row.labels.message]
    if failed:
        raise S4MError(failed[0])
    engine = build_engine(sam)
    assert isinstance(engine, SamEngine)
    batch = [np.zeros((engine.frame.input_side,) * 2 + (3,), np.uint8)] * sam.batch_images
    encoding = seconds_of(bench, lambda: engine.encode(batch), 3) / sam.batch_images
    share = _share(encoder_flops(sam.model) / encoding / 1e12, bench)
    return (
        f"| {sam.model} | {sam.batch_images} | {images / seconds:.2f} | {1 / encoding:.2f} | {share} "
        f"| {bench.most_memory_gb()} |"
    )


def compiled(bench: Bench) -> Iterator[str]:
    """Yield what compiling SAM's encoder costs and gains."""
    batch = 2 if bench.tiny else 8
    form = fastest_format(bench.device)
    yield "| SAM | images a batch | encoder, images/s | compiled | seconds of compiling |\n|---|---:|---:|---:|---:|"
    for model in bench.models:
        rates, compiling = [], 0.0
        ways: tuple[Compiling, ...] = ("never", "always")
        for way in ways:
            sam = build_sam(model, random_weights_seed=0)
            engine = SamEngine(sam, bench.device, form, batch_images=batch, compiled=way)
            images = [np.zeros((engine.frame.input_side,) * 2 + (3,), np.uint8)] * batch
            begun = time.perf_counter()
            engine.encode(images)
            bench.synchronize()
            compiling = time.perf_counter() - begun
            rates.append(batch / seconds_of(bench, partial(engine.encode, images), 3))
        yield f"| {model} | {batch} | {rates[0]:.2f} | {rates[1]:.2f} | {compiling:.0f} |"


def hf(bench: Bench) -> Iterator[str]:
    """Yield how fast the families of transformers encode images and decode prompts."""
    if find_spec("transformers") is None:
        yield "Not measured: transformers is not installed (make setup EXTRAS=hf)."
        return
    from benchmarks.sams import FAMILIES, PROMPTS, example_prompt, family
    from pipeline.sam.hf.engine import HfEngine

    batch = 1 if bench.tiny else 8
    yield f"| model | images/s, {batch} a batch | prompts/s | GPU memory, GB |\n|---|---:|---:|---:|"
    for name in FAMILIES[:1] if bench.tiny else FAMILIES:
        engine = HfEngine(family(name), bench.device, fastest_format(bench.device), batch_images=batch)
        prompt = example_prompt(engine.frame.lowres_side)
        images = [np.full((600, 800, 3), 90, np.uint8)] * batch
        encoding = seconds_of(bench, partial(engine.encode, images), 3) / batch
        embeddings = engine.encode(images[:1])
        decode = partial(engine.decode, embeddings, [0] * PROMPTS, [prompt] * PROMPTS)
        decoding = seconds_of(bench, decode, 3) / PROMPTS
        yield f"| {name} | {1 / encoding:.2f} | {1 / decoding:.1f} | {bench.most_memory_gb()} |"


def training(bench: Bench) -> Iterator[str]:
    """Yield the seconds of training iterations, the share of waiting for samples, and memory."""
    from benchmarks.training import make_bench

    steps, batch, side, images = (6, 2, 128, 12) if bench.tiny else (40, 8, 1024, 48)
    config = "mask2former_small.py" if bench.tiny else "mask2former_r50_coco.py"
    shared = [
        f"teacher.detector={ROOT / 'configs/detectors' / config}",
        f"compute.device={bench.device}",
        "distill.anchors=128",
        *([] if bench.tiny else ['teacher.overrides={"model.backbone.init_cfg": null}', "teacher.crop_px=1024"]),
        *([] if bench.tiny else ["student.crop_px=1024"]),
    ]
    yield f"`{config}`, random weights, images of {side} px, {batch} an iteration; medians of {steps} iterations.\n"
    yield "| training | s/iteration | waiting for samples | GPU memory, GB |\n|---|---:|---:|---:|"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).absolute()
        os.environ["S4M_WORK"] = str(folder / "work")
        results = f"predict.results={folder / 'results.json'}"
        with redirect_stdout(sys.stderr):  # what the stages say
            made = make_bench(folder, images, steps, batch, side)
            for stage, *own in (("split",), ("distill",), ("predict", results), ("refine", results)):
                made.run(stage, *shared, *own)
        half = (f"student.batch_size={batch // 2}", f"student.unlabelled_batch_size={batch // 2}")
        on_the_fly = (results, "augment.mode=on-the-fly", *half)
        for name, stage, own in (
            ("teacher", "train-teacher", ("teacher.distillation_weight=0",)),
            ("teacher with SD", "train-teacher", ()),
            ("student, composites on the fly", "train-student", on_the_fly),
        ):
            if bench.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            with redirect_stdout(sys.stderr):
                logged = made.train(stage, *shared, *own)
            seconds = statistics.median(step.seconds for step in logged)
            waiting = sum(step.data_seconds for step in logged) / sum(step.seconds for step in logged)
            yield f"| {name} | {seconds:.3f} | {waiting:.1%} | {bench.most_memory_gb()} |"


def sam_tiny(bench: Bench) -> Iterator[str]:
    """Yield the time of a step of sam_tiny's own training."""
    from pipeline.sam.tiny.train import Recipe, Schedule, Trainer

    trainer, steps = Trainer(Recipe(seed=1), Schedule()), 1 if bench.tiny else 5
    trainer.train_step()
    begun = time.perf_counter()
    for _ in range(steps):
        trainer.train_step()
    seconds = (time.perf_counter() - begun) / steps
    yield f"{seconds:.1f} s a step, on the CPU ({torch.get_num_threads()} threads): this training uses no GPU."


SECTIONS: Final[dict[str, tuple[str, Callable[[Bench], Iterator[str]]]]] = {
    "machine": ("Machine", machine),
    "products": ("Products of matrices", products),
    "refine": ("Refining", refine),
    "compiled": ("SAM's encoder, compiled", compiled),
    "hf": ("SAMs of transformers", hf),
    "training": ("Training", training),
    "sam_tiny": ("Training sam_tiny", sam_tiny),
}


# ---- what they share --------------------------------------------------------------------------------


def seconds_of(bench: Bench, call: Callable[[], object], times: int) -> float:
    """Return the median seconds of a call, after one to warm up."""
    taken = []
    for number in range(times + 1):
        bench.synchronize()
        begun = time.perf_counter()
        call()
        bench.synchronize()
        if number:
            taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def encoder_flops(model: str) -> int:
    """Return the operations of a SAM's encoder for one image."""
    with torch.device("meta"):
        encoder = build_sam(model, random_weights_seed=0).image_encoder
        side = encoder.img_size
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            encoder(torch.zeros(1, 3, side, side))
    return int(counter.get_total_flops())


def _share(tflops: float, bench: Bench) -> str:
    peak = bench.peak_tflops()
    return "-" if peak is None else f"{tflops / peak:.1%}"


def write_scenes(folder: Path, images: int, side: int, instances: int) -> None:
    """Write images of blobs, and a teacher's labels of them: their boxes."""
    rows = []
    for image_id in range(1, images + 1):
        pixels, prompts = draw_scene(side, side, instances)
        Image.fromarray(pixels).save(folder / f"{image_id}.png", compress_level=1)
        labels = []
        for prompt in prompts:
            assert prompt.box_xyxy_full is not None
            x0, y0, x1, y1 = prompt.box_xyxy_full.astype(int)
            mask = np.zeros((side, side), bool)
            mask[y0:y1, x0:x1] = True
            labels.append(label_from_mask(mask, 1, 0.9, Decision.TEACHER))
        rows.append(ImageLabels.of_instances(image_id, f"{image_id}.png", side, side, tuple(labels)))
    write_label_store(folder / "teacher.zarr", rows, [CocoCategory(1, "blob")], {})


def _module_of(package: str) -> str:
    return {"onedl-mmcv": "mmcv", "onedl-mmdetection": "mmdet"}.get(package, package)


def run_sections(bench: Bench, names: Sequence[str], output: Path, minutes: float) -> int:
    """Run sections in processes of their own, and write the file as they end; return how many failed."""
    deadline, failed = time.monotonic() + 60 * minutes, 0
    output.parent.mkdir(parents=True, exist_ok=True)
    command = f"python -m benchmarks.gpu --device {bench.device}{' --tiny' if bench.tiny else ''}"
    output.write_text(f"# What the device does\n\n`{command}`\n")
    for name in names:
        title, _ = SECTIONS[name]
        print(f"{title} …", flush=True)
        given = [sys.executable, "-m", "benchmarks.gpu", "--device", bench.device, "--section", name]
        left, begun = max(deadline - time.monotonic(), 0.0), time.monotonic()
        try:
            if left < 1:
                raise subprocess.TimeoutExpired(given, 0)
            done = subprocess.run(
                [*given, *(["--tiny"] if bench.tiny else [])], cwd=ROOT, capture_output=True, text=True, timeout=left
            )
            told = done.stdout
            if done.returncode:
                failed += 1
                told += f"\n**Failed:** {(done.stderr.strip().splitlines() or ['without a word'])[-1]}\n"
        except subprocess.TimeoutExpired as error:
            failed += 1
            told = f"{_text(error.stdout)}\n**Not finished** within the {minutes:g} minutes of all sections.\n"
        with output.open("a") as file:
            file.write(f"\n## {title}\n\n{told.strip()}\n\n*{time.monotonic() - begun:.0f} s*\n")
    print(output.read_text())
    return failed


def _text(output: str | bytes | None) -> str:
    return output.decode() if isinstance(output, bytes) else output or ""


def main() -> None:
    """Run all sections, or print one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="the smallest models and data")
    parser.add_argument("--output", type=Path, default=Path("work/bench-gpu.md"))
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), help="sections")
    parser.add_argument("--section", choices=list(SECTIONS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; to try the benchmark itself: --device cpu --tiny")
    bench = Bench(options.device, options.tiny)
    if options.section is None:
        sys.exit(run_sections(bench, options.only, options.output, options.minutes) > 0)
    for line in SECTIONS[options.section][1](bench):
        print(line, flush=True)


if __name__ == "__main__":
    main()
