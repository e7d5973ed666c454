"""Measure a training step: waiting for samples, distillation, composites, precisions, and MMDetection's own.

    python -m benchmarks.training [--folder work/bench-train] [--images 40] [--steps 25] [--rounds 2]

Trains the small Mask R-CNN on generated shapes, through the project's stages. Every kind of training has `steps`
iterations. In every round the kinds run in turn, with the same random numbers; the first fifth of each is left out. The
labels of the unlabelled images are the true ones, refined by SAM, so that a step has as many instances as with a good
teacher. Times come from the trainings' own logs. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import msgspec
import torch
import yaml
from mmengine import Config
from mmengine.runner import Runner

from pipeline.coco.reading import read_coco
from pipeline.datasets.shapes import ShapesSettings, make_shapes
from pipeline.detection.config import read_detector
from pipeline.detection.hooks import LoggedStep, StepLog, TrainingFolder
from pipeline.detection.training import CONFIG_RECORD
from pipeline.labels.coco_export import export_dataset
from pipeline.labels.label_store import LabelStore
from pipeline.workflow.experiment import Experiment
from pipeline.workflow.loading import load_experiment
from pipeline.workflow.result_files import LABELS
from stages.options import workspace
from stages.runner import run_stage

ROOT: Final = Path(__file__).parent.parent
WORKERS: Final = (0, 1)
MODES: Final = ("none", "materialised", "on-the-fly")
PRECISIONS: Final = ("fp32", "bf16")
PLAIN_COLOURS: Final = ("student.jitter=0", "student.grey=0", "student.blur=0")


@dataclass
class Way:
    """One kind of training, and its steps without the first ones, a list per round."""

    run: Callable[[], list[LoggedStep]]
    rounds: list[list[LoggedStep]] = field(default_factory=list)

    def step_seconds(self) -> list[float]:
        """Return the seconds of the median step of each round."""
        return [statistics.median(step.seconds for step in steps) for steps in self.rounds]

    def waiting_share(self) -> float:
        """Return the share of the time spent waiting for samples."""
        steps = [step for steps in self.rounds for step in steps]
        return sum(step.data_seconds for step in steps) / sum(step.seconds for step in steps)


@dataclass(frozen=True)
class Bench:
    """The data and the settings that all trainings share."""

    folder: Path
    steps: int
    threads: int

    def experiment(self, *overrides: str) -> Experiment:
        """Return the experiment with overrides."""
        return load_experiment(self.folder / "bench.yaml", overrides, {})

    def run(self, stage: str, *overrides: str) -> Path:
        """Bring a stage up to date; return the folder of its result."""
        experiment = self.experiment(*overrides)
        run_stage(experiment, stage, 1)
        return workspace(experiment).result(stage)

    def train(self, stage: str, *overrides: str) -> list[LoggedStep]:
        """Train, and delete the result, so that the same training runs again in the next round."""
        torch.set_num_threads(self.threads)  # SAM's stages set it to 1 for the whole process
        result = self.run(stage, *overrides)
        shutil.copy(result / CONFIG_RECORD, self.folder / CONFIG_RECORD)
        steps = self.logged(result)
        shutil.rmtree(result)
        return steps

    def logged(self, training: Path) -> list[LoggedStep]:
        """Return the logged steps of a training, without the first ones."""
        lines = TrainingFolder(training).log.read_bytes().splitlines()
        return [msgspec.json.decode(line, type=LoggedStep) for line in lines[max(1, self.steps // 5) :]]


def make_bench(folder: Path, images: int, steps: int, batch_size: int, side: int = 128) -> Bench:
    """Write images, true labels as a detector's results, and an experiment; a quarter of the images is labelled."""
    make_shapes(folder / "shapes", ShapesSettings(images=images, validation=1, image_size_px=side))
    dataset = read_coco(folder / "shapes" / "train.json")
    results = [
        {
            "image_id": annotation.image_id,
            "category_id": annotation.category_id,
            "score": 0.9,
            "segmentation": json.loads(bytes(annotation.segmentation)),
        }
        for annotation in dataset.annotations
    ]
    (folder / "results.json").write_text(json.dumps(results))
    training = {"iterations": steps, "batch_size": batch_size}
    content = {
        "data": {
            "annotated": {
                "annotations": str(folder / "shapes" / "train.json"),
                "images": str(folder / "shapes" / "train" / "images"),
            },
            "percent": 25,
        },
        "teacher": {"detector": str(ROOT / "configs" / "detectors" / "mask_rcnn_small.py"), **training},
        "student": {"start": "scratch", "iterations": steps, **_student_batches(batch_size)},
        "compute": {"device": "cpu"},
        "store": str(folder / "stores"),
    }
    (folder / "bench.yaml").write_text(yaml.safe_dump(content))
    return Bench(folder, steps, torch.get_num_threads())


def _student_batches(batch_size: int) -> dict[str, int]:
    """Return batches of a step: about a third of its images is labelled."""
    labelled = max(1, round(batch_size / 3))
    return {"batch_size": labelled, "unlabelled_batch_size": batch_size - labelled}


def make_ways(bench: Bench, batch_size: int) -> dict[tuple[str, str, int], Way]:
    """Return all kinds of training, by what is trained, how, and with how many loading processes."""
    results = f"predict.results={bench.folder / 'results.json'}"
    for stage in ("split", "distill"):
        bench.run(stage)
    for stage in ("predict", "refine", "augment"):
        refined = bench.run(stage, results)
        if stage == "refine":
            export_dataset(LabelStore.open(refined / LABELS), bench.folder / "refined.json")

    labels_only = ("augment.mode=none", "student.batch_size=0", f"student.unlabelled_batch_size={batch_size}")
    ways = {}
    for workers in WORKERS:
        loading = f"compute.loader_workers={workers}"
        for weight in (0.0, 1.0):
            ways["teacher", f"{weight:g}", workers] = _way(
                bench, "train-teacher", loading, f"teacher.distillation_weight={weight}"
            )
        for precision in PRECISIONS:
            ways["student", precision, workers] = _way(
                bench, "train-student", loading, results, f"compute.precision={precision}"
            )
        for mode in MODES:
            ways["student", mode, workers] = _way(bench, "train-student", loading, results, f"augment.mode={mode}")
        ways["pseudo-labels", "ours", workers] = _way(
            bench, "train-student", loading, results, *labels_only, *PLAIN_COLOURS, "compute.precision=fp32"
        )
        ways["pseudo-labels", "MMDetection's", workers] = Way(lambda: train_mmdetection(bench))
    return ways


def _way(bench: Bench, stage: str, *overrides: str) -> Way:
    return Way(lambda: bench.train(stage, *overrides))


def train_mmdetection(bench: Bench) -> list[LoggedStep]:
    """Repeat the training before this one with MMDetection's own model, dataset, loading and packing."""
    config = Config.fromfile(str(bench.folder / CONFIG_RECORD)).to_dict()
    folder = bench.folder / "mmdetection"
    config |= {
        "model": _mmdetections_model(config["model"]),
        "train_dataloader": _mmdetections_loader(bench, config["train_dataloader"]),
        "work_dir": str(folder / "scratch"),
        "experiment_name": f"mmdetection-{id(config):x}",
        "visualizer": {"type": "Visualizer", "vis_backends": []},
        # Neither its log nor its weights are used.
        "default_hooks": dict.fromkeys(("logger", "checkpoint")),
        "log_level": "WARNING",
        "load_from": None,
    }
    torch.set_num_threads(bench.threads)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    runner = Runner.from_cfg(Config(config))
    runner.register_hook(StepLog(TrainingFolder(folder), bench.steps, lambda step, recent: None))
    runner.train()
    return bench.logged(folder)


def _mmdetections_model(model: Mapping[str, Any]) -> dict[str, Any]:
    ours = r'"s4m\.(MaskRCNN|RPNHead|StandardRoIHead)"'
    theirs: dict[str, Any] = json.loads(re.sub(ours, r'"mmdet.\1"', json.dumps(model)))
    for own in ("structural_weight", "pseudo_weight", "features_in"):
        del theirs[own]
    return theirs


def _mmdetections_loader(bench: Bench, loader: Mapping[str, Any]) -> dict[str, Any]:
    experiment = bench.experiment()
    labels = bench.folder / "refined.json"
    dataset = {
        "type": "CocoDataset",
        "ann_file": str(labels),
        "data_prefix": {"img": str(experiment.data.unlabelled_source.images)},
        "metainfo": {"classes": [category.name for category in read_coco(labels).categories]},
        "pipeline": [
            {"type": "LoadImageFromFile"},
            {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True},
            *read_detector(experiment.teacher.detector, {}).train_transforms(None),
            {"type": "PackDetInputs"},
        ],
    }
    kept = {key: loader[key] for key in ("batch_size", "num_workers", "persistent_workers")}
    return kept | {"sampler": {"type": "InfiniteSampler", "shuffle": True}, "dataset": dataset}


def _ratio(way: Way, base: Way) -> float:
    """Return how many times longer a step takes: the median of the ratios of all rounds."""
    pairs = zip(way.step_seconds(), base.step_seconds(), strict=True)
    return statistics.median(one / other for one, other in pairs)


def _table(title: str, head: str, rows: Sequence[str]) -> str:
    lines = [f"### {title}", "", f"| {head} |", "|" + "---|" * (head.count("|") + 1)]
    return "\n".join([*lines, *(f"| {row} |" for row in rows), ""])


def report(ways: Mapping[tuple[str, str, int], Way], batch_size: int) -> str:
    """Return all tables."""

    def milliseconds(*key: str, workers: int) -> str:
        return f"{statistics.median(ways[key[0], key[1], workers].step_seconds()) * 1e3:.0f}"

    waiting, distillation, composites, precisions, mmdetection = [], [], [], [], []
    for workers in WORKERS:
        for what, how in (("teacher", "1"), ("student", "materialised")):
            share = ways[what, how, workers].waiting_share()
            waiting.append(f"{what} | {workers} | {milliseconds(what, how, workers=workers)} | {share:.1%}")
        more = _ratio(ways["teacher", "1", workers], ways["teacher", "0", workers]) - 1
        times = " | ".join(milliseconds("teacher", weight, workers=workers) for weight in ("0", "1"))
        distillation.append(f"{workers} | {times} | {more:+.1%}")
        more = _ratio(ways["student", "on-the-fly", workers], ways["student", "materialised", workers]) - 1
        times = " | ".join(milliseconds("student", mode, workers=workers) for mode in MODES)
        composites.append(f"{workers} | {times} | {more:+.1%}")
        times = " | ".join(milliseconds("student", each, workers=workers) for each in PRECISIONS)
        faster = _ratio(ways["student", "fp32", workers], ways["student", "bf16", workers])
        precisions.append(f"{workers} | {times} | {faster:.2f}")
        theirs, ours = ways["pseudo-labels", "MMDetection's", workers], ways["pseudo-labels", "ours", workers]
        rates = [batch_size / statistics.median(way.step_seconds()) for way in (theirs, ours)]
        mmdetection.append(f"{workers} | {rates[0]:.1f} | {rates[1]:.1f} | {_ratio(theirs, ours):.2f}")
    return "\n".join(
        (
            _table("Waiting for samples", "training | loader_workers | ms/step | waiting", waiting),
            _table("Distillation", "loader_workers | ms/step without | with | more", distillation),
            _table(
                "Composites",
                "loader_workers | ms/step without | materialised | on the fly | on the fly over materialised",
                composites,
            ),
            _table("Precision of a student", "loader_workers | ms/step in fp32 | in bf16 | times", precisions),
            _table(
                "Training on the same images and labels",
                "loader_workers | CocoDataset, samples/s | StoredLabels, samples/s | times",
                mmdetection,
            ),
        )
    )


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("work/bench-train"), help="folder for temporary files")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--steps", type=int, default=25, help="iterations of each training")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name).absolute()
        os.environ["S4M_WORK"] = str(folder / "work")
        bench = make_bench(folder, options.images, options.steps, options.batch_size)
        ways = make_ways(bench, options.batch_size)
        for _ in range(options.rounds):
            for way in ways.values():
                way.rounds.append(way.run())
    print(
        f"{options.images} images of 128 px, batches of {options.batch_size}, medians of {options.rounds} trainings "
        f"of {options.steps} steps, {bench.threads} threads of torch\n"
    )
    print(report(ways, options.batch_size))


if __name__ == "__main__":
    main()
