"""From an experiment's settings to the jobs of training: the whole MMEngine config, and what goes with it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch

from pipeline.coco.model import CocoCategory
from pipeline.compute.settings import ComputeSettings
from pipeline.detection.config import (
    Detector,
    model_config,
    optimizer_config,
    published_config,
    schedule_config,
    without_pretrained,
)
from pipeline.detection.hooks import CURVES_EVERY
from pipeline.detection.published import FORMAT, FORMAT_VERSION, ModelCard
from pipeline.detection.registry import IMPORTS
from pipeline.detection.settings import TrainSettings
from pipeline.detection.training import SCRATCH, TrainingJob
from pipeline.errors import StageError

_EMA_GAMMA: Final = 10
"""The average begins short and grows with training: at step s it reaches back about s / 10 steps."""


@dataclass(frozen=True)
class Source:
    """One kind of training images: the config of its dataset, and its share of every batch."""

    dataset: dict[str, Any]
    amount: float


@dataclass(frozen=True)
class Start:
    """A weight file that a training begins with. `whole`: it must be exactly this detector's."""

    weights: Path
    whole: bool


@dataclass(frozen=True)
class Subject:
    """What is trained, for whom. `validation`: COCO file and image folder for MMDetection's own test entry point."""

    experiment: str
    node: str
    categories: tuple[CocoCategory, ...]
    made_from: dict[str, Any]
    validation: tuple[Path, Path] | None = None


@dataclass(frozen=True)
class Losses:
    """How losses are weighed, and the momentum of the average of the weights (0: none)."""

    structural_weight: float = 0.0
    pseudo_weight: float = 1.0
    ema_momentum: float = 0.0


@dataclass(frozen=True)
class Training:
    """A detector and the settings it is trained with."""

    detector: Detector
    settings: TrainSettings
    losses: Losses
    sources: tuple[Source, ...]
    start: Start | None


def training_job(subject: Subject, training: Training, compute: ComputeSettings, folder: Path) -> TrainingJob:
    """Return the job of a training whose result lies in `folder`."""
    settings, start = training.settings, training.start
    if settings.batch_size % compute.gpus:
        raise StageError(f"batch_size is {settings.batch_size}: not to be shared by compute.gpus = {compute.gpus}")
    shared = _shared_config(subject, training, compute)
    return TrainingJob(
        folder=folder,
        detector=training.detector.path,
        config=shared | _own_config(subject, training, compute, folder),
        record=_at_home(shared | _record_config(training, compute), folder),
        published=published_config(training.detector, subject.categories).to_dict(),
        card=ModelCard(
            format=FORMAT,
            version=FORMAT_VERSION,
            experiment=subject.experiment,
            stage=subject.node,
            iterations=settings.iterations,
            categories=subject.categories,
            losses={},
            made_from=subject.made_from,
        ),
        seed=settings.seed,
        checkpoint_every=compute.checkpoint_every,
        processes=compute.gpus,
        device=compute.device,
        start=None if start is None else start.weights,
        start_whole=start is not None and start.whole,
    )


def _shared_config(subject: Subject, training: Training, compute: ComputeSettings) -> dict[str, Any]:
    """Return what is trained, whoever runs it."""
    settings = training.settings
    model = model_config(training.detector, len(subject.categories))
    if training.start is not None:
        model = without_pretrained(model)
    model |= {"structural_weight": training.losses.structural_weight, "pseudo_weight": training.losses.pseudo_weight}
    return {
        "default_scope": "mmdet",
        "custom_imports": {"imports": list(IMPORTS)},
        "model": model,
        "train_dataloader": _loader_config(training.sources, settings, compute),
        "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": settings.iterations, "val_interval": _NEVER},
        "optim_wrapper": optimizer_config(training.detector, settings, bf16=_wants_bf16(compute)),
        "param_scheduler": schedule_config(training.detector, settings.iterations),
        "custom_hooks": _hooks(training.losses.ema_momentum),
        "model_wrapper_cfg": {"type": "MMDistributedDataParallel", "broadcast_buffers": False, "device_ids": None},
        "randomness": {"seed": settings.seed},
        **_test_config(subject, training),
    }


def _own_config(subject: Subject, training: Training, compute: ComputeSettings, folder: Path) -> dict[str, Any]:
    """Return how this project runs it: checkpoints and the log are ours."""
    return {
        "work_dir": str(folder / SCRATCH),
        "experiment_name": f"{subject.experiment}-{subject.node}-{id(training):x}",
        "default_hooks": dict.fromkeys(("timer", "logger", "sampler_seed", "checkpoint")),
        "launcher": "pytorch" if compute.gpus > 1 else "none",
        "log_level": "WARNING",
        "visualizer": {"type": "Visualizer", "vis_backends": [_curves_config(subject, compute, folder)]},
    }


def _record_config(training: Training, compute: ComputeSettings) -> dict[str, Any]:
    """Return how MMDetection's entry points run it: with MMEngine's log and checkpoints, in a folder of their own."""
    return {
        "default_hooks": {
            "logger": {"type": "LoggerHook", "interval": CURVES_EVERY},
            "checkpoint": {"type": "CheckpointHook", "by_epoch": False, "interval": compute.checkpoint_every},
        },
        "log_processor": {"by_epoch": False},
        "load_from": None if training.start is None else str(training.start.weights),
    }


def _at_home(value: Any, folder: Path) -> Any:
    """Return the same config with the paths that what lies in `folder` will have when the store has sealed it."""
    if isinstance(value, dict):
        return {key: _at_home(each, folder) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_at_home(each, folder) for each in value)
    if isinstance(value, str) and Path(value).is_relative_to(folder):
        return str(_home(folder) / Path(value).relative_to(folder))
    return value


def _home(folder: Path) -> Path:
    return folder.with_name(folder.name.removesuffix(".partial"))


def _curves_config(subject: Subject, compute: ComputeSettings, folder: Path) -> dict[str, Any]:
    """Return where curves are drawn. W&B's run has the result's name: a training that resumes goes on in it."""
    if compute.logger == "tensorboard":
        return {"type": "TensorboardVisBackend", "save_dir": str(folder / "tensorboard")}
    if find_spec("wandb") is None:
        raise StageError("compute.logger is wandb, which is not installed: .venv/bin/pip install wandb")
    return {
        "type": "s4m.WandbCurves",
        # What is to be sent later, without a network now, has to outlive the scratch folder: W&B's own variable.
        "save_dir": os.environ.get("WANDB_DIR", str(folder / SCRATCH)),
        "init_kwargs": {
            "project": "s4m",
            "name": f"{subject.experiment}-{subject.node}",
            "id": _home(folder).name,
            "resume": "allow",
        },
    }


_NEVER: Final = 10**9  # validation is a stage of its own


def _hooks(ema_momentum: float) -> list[dict[str, Any]]:
    if ema_momentum == 0:
        return []
    return [{"type": "EMAHook", "ema_type": "MomentumAnnealingEMA", "momentum": ema_momentum, "gamma": _EMA_GAMMA}]


def _loader_config(sources: Sequence[Source], settings: TrainSettings, compute: ComputeSettings) -> dict[str, Any]:
    used = [source for source in sources if source.amount > 0]
    return {
        "batch_size": settings.batch_size // compute.gpus,
        "num_workers": compute.loader_workers,
        "persistent_workers": compute.loader_workers > 0,
        "dataset": {"type": "s4m.Mixture", "datasets": [source.dataset for source in used]},
        "sampler": {
            "type": "s4m.MixtureSampler",
            "batch_size": settings.batch_size // compute.gpus,
            "amounts": [source.amount for source in used],
            "seed": settings.seed,
        },
    }


def _test_config(subject: Subject, training: Training) -> dict[str, Any]:
    """Return what MMDetection's own test entry point needs, where there are validation images."""
    if subject.validation is None:
        return {}
    annotations, images = subject.validation
    pipeline = [
        {"type": "LoadImageFromFile"},
        # MMDetection wants a scale factor even where nothing is resized.
        *(training.detector.test_transforms or [{"type": "Resize", "scale_factor": 1.0, "keep_ratio": True}]),
        {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True},
        {
            "type": "PackDetInputs",
            "meta_keys": ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
        },
    ]
    dataset = {
        "type": "CocoDataset",
        "ann_file": str(annotations),
        "data_prefix": {"img": str(images)},
        "metainfo": {"classes": [category.name for category in subject.categories]},
        "test_mode": True,
        "pipeline": pipeline,
    }
    return {
        "test_dataloader": {
            "batch_size": 1,
            "num_workers": 0,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "dataset": dataset,
        },
        "test_evaluator": {"type": "CocoMetric", "ann_file": str(annotations), "metric": ["bbox", "segm"]},
        "test_cfg": {"type": "TestLoop"},
    }


def _wants_bf16(compute: ComputeSettings) -> bool:
    """Say whether to train in bf16, which pays on GPUs alone."""
    return compute.precision != "fp32" and compute.device != "cpu" and torch.cuda.is_available()
