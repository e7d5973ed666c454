"""Measure SAMs of transformers against segment_anything's engine, with the same weights in both.

    python -m benchmarks.sams --annotations FILE --images FOLDER [--model vit_b] [--limit 3] [--precision fp32]
    python -m benchmarks.sams --families [--precision fp32]

The weights are random, which changes no time. The labels to refine are the annotations themselves, with the preset
`best` but no enlarged crops. With `--families`, each family of transformers at its published size encodes an image and
decodes prompts of a point, a box and a mask. Everything runs in a process of its own, whose largest memory is
measured. Prints Markdown tables. Where other programs share the processor, use the CPU seconds.
"""

from __future__ import annotations

import argparse
import pickle
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.embeddings import mask_ious
from pipeline.coco.image_folder import ImageFolder
from pipeline.coco.model import CocoDataset
from pipeline.coco.reading import read_coco
from pipeline.compute.settings import Precision
from pipeline.compute.shards import Shard
from pipeline.labels.label_writing import write_label_store
from pipeline.labels.rows import ImageLabels
from pipeline.presentation import words
from pipeline.refinement.coco_file import rows_to_refine
from pipeline.refinement.gate import Gate
from pipeline.refinement.refine_work import RefineWork
from pipeline.refinement.settings import RefineSettings
from pipeline.sam.build import build_sam
from pipeline.sam.hf.engine import HfEngine
from pipeline.sam.hf.loading import LoadedSam
from pipeline.sam.prompt import Prompt
from pipeline.sam.worker import SamChoice, build_engine

NAMES = (
    (r"^image_encoder\.", "vision_encoder."),
    (r"\.blocks\.", ".layers."),
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (r"neck\.0\.", "neck.conv1."),
    (r"neck\.1\.", "neck.layer_norm1."),
    (r"neck\.2\.", "neck.conv2."),
    (r"neck\.3\.", "neck.layer_norm2."),
    (r"\.norm([1-4])\.", r".layer_norm\1."),
    (r"norm_final_attn", "layer_norm_final_attn"),
    (r"pe_layer\.positional_encoding_gaussian_matrix", "shared_embedding.positional_embedding"),
    (r"point_embeddings\.", "point_embed."),
    (r"mask_downscaling\.0\.", "mask_embed.conv1."),
    (r"mask_downscaling\.1\.", "mask_embed.layer_norm1."),
    (r"mask_downscaling\.3\.", "mask_embed.conv2."),
    (r"mask_downscaling\.4\.", "mask_embed.layer_norm2."),
    (r"mask_downscaling\.6\.", "mask_embed.conv3."),
    (r"output_upscaling\.0\.", "upscale_conv1."),
    (r"output_upscaling\.1\.", "upscale_layer_norm."),
    (r"output_upscaling\.3\.", "upscale_conv2."),
    (r"(mlps\.\d+|prediction_head)\.layers\.0\.", r"\1.proj_in."),
    (r"(mlps\.\d+|prediction_head)\.layers\.2\.", r"\1.proj_out."),
    (r"(mlps\.\d+|prediction_head)\.layers\.1\.", r"\1.layers.0."),
)
"""Names of segment_anything's tensors, and of the same ones in transformers, in the order of replacing."""


def as_in_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a SAM of segment_anything by their names in transformers."""
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    renamed["shared_image_embedding.positional_embedding"] = renamed[
        "prompt_encoder.shared_embedding.positional_embedding"
    ]
    return renamed


@dataclass(frozen=True)
class Measured:
    """What a process measured. gigabytes: the most memory that it had at once."""

    precision: str
    seconds: float
    cpu_seconds: float
    gigabytes: float
    labels: list[ImageLabels]


def write_models(model: str, folder: Path) -> tuple[Path, Path]:
    """Write the same random weights as a checkpoint of segment_anything and as a folder of transformers."""
    from transformers import SamConfig, SamImageProcessor, SamModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    sam = build_sam(model, random_weights_seed=0)
    checkpoint, hf_folder = folder / f"{model}.pth", folder / "hf"
    torch.save(sam.state_dict(), checkpoint)
    encoder = sam.image_encoder
    vision: dict[str, Any] = {
        "hidden_size": encoder.pos_embed.shape[-1],
        "mlp_dim": encoder.blocks[0].mlp.lin1.out_features,
        "num_hidden_layers": len(encoder.blocks),
        "num_attention_heads": encoder.blocks[0].attn.num_heads,
        "global_attn_indexes": [index for index, block in enumerate(encoder.blocks) if not block.window_size],
    }
    converted = SamModel(SamConfig(vision_config=vision))
    converted.load_state_dict(as_in_transformers(sam.state_dict()))
    converted.save_pretrained(hf_folder)
    SamImageProcessor().save_pretrained(hf_folder)
    return checkpoint, hf_folder


SAM2_LARGE: dict[str, Any] = {
    "backbone_config": {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 144,
        "num_attention_heads": 2,
        "blocks_per_stage": [2, 6, 36, 4],
        "embed_dim_per_stage": [144, 288, 576, 1152],
        "num_attention_heads_per_stage": [2, 4, 8, 16],
        "window_size_per_stage": [8, 4, 16, 8],
        "global_attention_blocks": [23, 33, 43],
    },
    "backbone_channel_list": [1152, 576, 288, 144],
}
EDGETAM: dict[str, Any] = {
    "backbone_config": {
        "model_type": "timm_wrapper",
        "architecture": "repvit_m1",
        "num_classes": 2,
        "label_names": ["a", "b"],
        "model_args": {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]},
    }
}


def family(name: str) -> LoadedSam:
    """Return a model of a published size with random weights."""
    import transformers as library

    stretched = library.Sam2ImageProcessor()
    made: dict[str, Callable[[], tuple[Any, Any]]] = {
        "SAM ViT-B": lambda: (library.SamModel(library.SamConfig()), library.SamImageProcessor()),
        "HQ-SAM ViT-B": lambda: (library.SamHQModel(library.SamHQConfig()), library.SamImageProcessor()),
        "SAM 2.1 tiny": lambda: (library.Sam2Model(library.Sam2Config()), stretched),
        "SAM 2.1 large": lambda: (library.Sam2Model(library.Sam2Config(vision_config=SAM2_LARGE)), stretched),
        "EdgeTAM": lambda: (library.EdgeTamModel(library.EdgeTamConfig(vision_config=EDGETAM)), stretched),
        "SAM 3's tracker": lambda: (
            library.Sam3TrackerModel(library.Sam3TrackerConfig()),
            library.Sam3ImageProcessor(),
        ),
    }
    model, processor = made[name]()
    for parameter in model.parameters():
        # Some families begin with weights of 1e-10, whose products are denormal numbers and ten times as slow.
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return LoadedSam.of(model, processor)


FAMILIES = ("EdgeTAM", "SAM 2.1 tiny", "SAM ViT-B", "HQ-SAM ViT-B", "SAM 2.1 large", "SAM 3's tracker")
PROMPTS = 8


def example_prompt(lowres_side: int) -> Prompt:
    """Return a prompt of a point, a box and an empty mask."""
    box = np.array([200, 100, 500, 400], np.float32)
    return Prompt(box[None, :2] + 100, np.ones(1, np.int64), box, np.zeros((lowres_side, lowres_side), np.float32))


def measure_family(name: str, precision: Precision) -> str:
    """Return a row of the table: a family encodes an image and decodes prompts."""
    loaded = family(name)
    engine = HfEngine(loaded, precision=precision)
    side, parameters = engine.frame.lowres_side, sum(each.numel() for each in loaded.model.parameters())
    prompt = example_prompt(side)
    begun = time.process_time()
    embeddings = engine.encode([np.full((600, 800, 3), 90, np.uint8)])
    encoded = time.process_time()
    engine.decode(embeddings, [0] * PROMPTS, [prompt] * PROMPTS)
    decoded = (time.process_time() - encoded) / PROMPTS
    kept = embeddings.to_numpy()[0].nbytes
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return (
        f"| {name} | {parameters / 1e6:.0f} M | {engine.frame.input_side} | {side} | {encoded - begun:.1f} "
        f"| {decoded:.2f} | {gigabytes:.1f} | {kept:,} |"
    )


def print_families(precision: Precision) -> None:
    """Print a row for each family, measured in a process of its own."""
    print("| | parameters | input | masks | CPU s/image | CPU s/prompt | most memory, GB | kept, bytes/image |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name in FAMILIES:
        command = [sys.executable, "-m", "benchmarks.sams", "--family", name, "--precision", precision]
        print(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout, end="", flush=True)


def measure(work: RefineWork, image_ids: list[int]) -> Measured:
    """Refine images one by one, after the model is loaded and has seen one."""
    engine = build_engine(work.sam)
    engine.encode([np.zeros((64, 64, 3), np.uint8)])
    wall, cpu = time.perf_counter(), time.process_time()
    labels = [row.labels for image_id in image_ids for row in work.compute(Shard(0, (image_id,)))]
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Measured(engine.precision, seconds, cpu_seconds, kilobytes / 1e6, labels)


def in_a_process(work: RefineWork, image_ids: list[int], folder: Path) -> Measured:
    """Measure in a process of its own."""
    given, answer = folder / "work.pickle", folder / "measured.pickle"
    given.write_bytes(pickle.dumps((work, image_ids)))
    subprocess.run([sys.executable, "-m", "benchmarks.sams", "--work", given, "--answer", answer], check=True)
    measured = pickle.loads(answer.read_bytes())
    assert isinstance(measured, Measured)
    return measured


def compare(dataset: CocoDataset, image_root: Path, model: str, device: str, precision: Precision) -> None:
    """Refine the dataset with both engines, and print the table."""
    image_ids = [image.id for image in dataset.images]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_label_store(folder / "teacher.zarr", rows_to_refine(dataset, {}), dataset.categories, {})
        checkpoint, hf_folder = write_models(model, folder)
        measured = {}
        for name, sam in (
            ("segment_anything's engine", SamChoice(model, checkpoint, device, precision, batch_images=8)),
            ("transformers' (`hf:`)", SamChoice(f"hf:{hf_folder}", None, device, precision, batch_images=8)),
        ):
            settings = RefineSettings(zoom_below_px=0)
            work = RefineWork(
                folder / "teacher.zarr", ImageFolder(image_root), folder / "shards", sam, settings, Gate()
            )
            measured[name] = in_a_process(work, image_ids, folder)
    first, second = measured.values()
    ious = mask_ious(first.labels, second.labels)
    counts = f"{words.count(len(image_ids), 'image')}, {words.count(len(ious), 'instance')}"
    print(f"{model}, {counts}, {device}, {first.precision}\n")
    print("| | images/s | CPU s/image | most memory, GB |\n|---|---:|---:|---:|")
    for name, each in measured.items():
        rate, cpu = len(image_ids) / each.seconds, each.cpu_seconds / len(image_ids)
        print(f"| {name} | {rate:.3f} | {cpu:.1f} | {each.gigabytes:.2f} |")
    print(f"\nmean IoU of the masks of both: {np.mean(ious):.5f} (lowest {np.min(ious):.4f})")


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path, help="COCO instance annotations")
    parser.add_argument("--images", type=Path, help="the folder that their file names start from")
    parser.add_argument("--limit", type=int, default=3)
    parser.add_argument("--model", default="vit_b")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--families", action="store_true", help="measure the families of transformers instead")
    parser.add_argument("--family", choices=FAMILIES, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.family is not None:
        print(measure_family(arguments.family, arguments.precision))
        return
    if arguments.families:
        print_families(arguments.precision)
        return
    if arguments.work is not None:
        arguments.answer.write_bytes(pickle.dumps(measure(*pickle.loads(arguments.work.read_bytes()))))
        return
    dataset = read_coco(arguments.annotations)
    dataset = dataset.subset([image.id for image in dataset.images][: arguments.limit])
    compare(dataset, arguments.images.absolute(), arguments.model, arguments.device, arguments.precision)


if __name__ == "__main__":
    main()
