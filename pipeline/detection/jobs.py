"""Makes the job of a training from the settings of an experiment, with the whole MMEngine config."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from pipeline.coco.model import CocoCategory
from pipeline.compute.devices import resolve_precision, usable_device
from pipeline.compute.settings import ComputeSettings
from pipeline.detection.config import (
    Detector,
    model_config,
    optimizer_config,
    published_config,
    schedule_config,
    without_pretrained,
)
from pipeline.detection.finetuning import FineTuning
from pipeline.detection.for_mmdetection import image_pipeline
from pipeline.detection.hooks import CURVES_EVERY
from pipeline.detection.published import FORMAT, FORMAT_VERSION, ModelCard
from pipeline.detection.registry import IMPORTS
from pipeline.detection.settings import TrainSettings
from pipeline.detection.training import SCRATCH, Start, TrainingJob, home_of
from pipeline.errors import StageError

_EMA_GAMMA: Final = 10
"""The moving average covers more steps as training goes on: at step s about the last s / 10."""

_NEVER: Final = 10**9  # validation is a stage of its own


@dataclass(frozen=True)
class Source:
    """One kind of training images: the config of its dataset, and its share of the batch that it belongs to."""

    dataset: dict[str, Any]
    amount: float


@dataclass(frozen=True)
class StepBatch:
    """One batch of every step: the setting that says its size over all GPUs, that size, and where images come from."""

    setting: str
    size: int
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class Subject:
    """The node that is trained. `validation`: COCO file and image folder for MMDetection's own test entry point."""

    experiment: str
    node: str
    categories: tuple[CocoCategory, ...]
    made_from: dict[str, Any]
    validation: tuple[Path, Path] | None = None


@dataclass(frozen=True)
class Training:
    """A detector and the settings it is trained with. ema_momentum: of the average of the weights (0: no average).

    batches: those of every step, each with at least one image. finetuning: the steps after these, if there are some, in
    which all images are those of the first batch.
    """

    detector: Detector
    settings: TrainSettings
    batches: tuple[StepBatch, ...]
    start: Start | None
    structural_weight: float = 0.0
    pseudo_weight: float = 1.0
    ema_momentum: float = 0.0
    finetuning: FineTuning | None = None

    @property
    def iterations(self) -> int:
        """Return the number of all steps."""
        return self.settings.iterations + (self.finetuning.iterations if self.finetuning else 0)


def training_job(subject: Subject, training: Training, compute: ComputeSettings, folder: Path) -> TrainingJob:
    """Return the job of a training whose result lies in `folder`."""
    settings = training.settings
    for batch in training.batches:
        if batch.size % (compute.training_processes * compute.batch_parts):
            factors = {"gpus": compute.gpus, "nodes": compute.nodes, "batch_parts": compute.batch_parts}
            named = {f"compute.{name}": str(value) for name, value in factors.items() if value > 1}
            by = f"{' x '.join(named)} = {' x '.join(named.values())}"
            raise StageError(f"{batch.setting} is {batch.size}: not divisible by {by}; change one of them")
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
            iterations=training.iterations,
            categories=subject.categories,
            losses={},
            made_from=subject.made_from,
        ),
        seed=settings.seed,
        compute=compute,
        start=training.start,
    )


def _shared_config(subject: Subject, training: Training, compute: ComputeSettings) -> dict[str, Any]:
    """Return what the configs of this project and of MMDetection's entry points have in common."""
    settings = training.settings
    device = usable_device(compute.device)
    on_gpu = device.type == "cuda"
    model = model_config(training.detector, len(subject.categories))
    if training.start is not None:
        model = without_pretrained(model)
    if on_gpu and "data_preprocessor" in model:
        model["data_preprocessor"] = {**model["data_preprocessor"], "non_blocking": True}
    model |= {
        "structural_weight": training.structural_weight,
        "pseudo_weight": training.pseudo_weight,
        "features_in": resolve_precision(compute.precision, device),
        "batch_parts": compute.batch_parts,
    }
    average = {"type": "EMAHook", "ema_type": "MomentumAnnealingEMA", "gamma": _EMA_GAMMA}
    hooks = [average | {"momentum": training.ema_momentum}] if training.ema_momentum else []
    last_schedule = []
    if training.finetuning is not None:
        hooks.append(training.finetuning.hook(settings.iterations))
        last_schedule.append(training.finetuning.schedule(settings.iterations))
    return {
        "default_scope": "mmdet",
        "custom_imports": {"imports": list(IMPORTS)},
        "model": model,
        "train_dataloader": _loader_config(training, compute) | {"pin_memory": on_gpu},
        "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": training.iterations, "val_interval": _NEVER},
        "optim_wrapper": optimizer_config(training.detector, settings),
        "param_scheduler": schedule_config(training.detector, settings.iterations) + last_schedule,
        "custom_hooks": hooks,
        "model_wrapper_cfg": {"type": "s4m.DistributedDetector", "broadcast_buffers": False, "device_ids": None},
        "randomness": {"seed": settings.seed},
        **_test_config(subject, training),
    }


def _own_config(subject: Subject, training: Training, compute: ComputeSettings, folder: Path) -> dict[str, Any]:
    """Return how this project runs the training: with its own checkpoints and log."""
    return {
        "work_dir": str(folder / SCRATCH),
        "experiment_name": f"{subject.experiment}-{subject.node}-{id(training):x}",
        "default_hooks": {
            **dict.fromkeys(("timer", "logger", "sampler_seed", "checkpoint")),
            "runtime_info": {"type": "s4m.RuntimeInfo"},
        },
        "launcher": "pytorch" if compute.training_processes > 1 else "none",
        "log_level": "WARNING",
        "visualizer": {"type": "Visualizer", "vis_backends": [_curves_config(subject, compute, folder)]},
    }


def _record_config(training: Training, compute: ComputeSettings) -> dict[str, Any]:
    """Return how MMDetection's entry points run the training: with MMEngine's log and checkpoints."""
    return {
        "default_hooks": {
            "logger": {"type": "LoggerHook", "interval": CURVES_EVERY},
            "checkpoint": {"type": "CheckpointHook", "by_epoch": False, "interval": compute.checkpoint_every},
        },
        "log_processor": {"by_epoch": False},
        "load_from": None if training.start is None else str(training.start.weights),
    }


def _at_home(value: Any, folder: Path) -> Any:
    """Return a config whose paths in `folder` are replaced by those after the result store has sealed it."""
    if isinstance(value, dict):
        return {key: _at_home(each, folder) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_at_home(each, folder) for each in value)
    if isinstance(value, str) and Path(value).is_relative_to(folder):
        return str(home_of(folder) / Path(value).relative_to(folder))
    return value


def _curves_config(subject: Subject, compute: ComputeSettings, folder: Path) -> dict[str, Any]:
    """Return the config of the curves. W&B's run is named after the result: a resumed training continues it."""
    if compute.logger == "tensorboard":
        return {"type": "TensorboardVisBackend", "save_dir": str(folder / "tensorboard")}
    if find_spec("wandb") is None:
        raise StageError("compute.logger is wandb, which is not installed: .venv/bin/pip install wandb")
    return {
        "type": "s4m.WandbCurves",
        # W&B's own variable: without a network, curves that are sent later must outlive the scratch folder.
        "save_dir": os.environ.get("WANDB_DIR", str(folder / SCRATCH)),
        "init_kwargs": {
            "project": "s4m",
            "name": f"{subject.experiment}-{subject.node}",
            "id": home_of(folder).name,
            "resume": "allow",
        },
    }


def _loader_config(training: Training, compute: ComputeSettings) -> dict[str, Any]:
    """Return the config of the loader: the batches of a step, one after the other, are one batch to MMEngine."""
    used = [[source for source in batch.sources if source.amount > 0] for batch in training.batches]
    sizes = [batch.size // compute.training_processes for batch in training.batches]
    loaders = 1 if compute.loader_workers is None else compute.loader_workers
    return {
        "batch_size": sum(sizes),
        "num_workers": loaders,
        "persistent_workers": loaders > 0,
        "worker_init_fn": {"type": "s4m.begin_loader"},
        "dataset": {"type": "s4m.Mixture", "datasets": [source.dataset for sources in used for source in sources]},
        "sampler": {
            "type": "s4m.MixtureSampler",
            "batch_sizes": sizes,
            "amounts": [[source.amount for source in sources] for sources in used],
            "seed": training.settings.seed,
            **({} if training.finetuning is None else {"first_alone_from": training.settings.iterations}),
        },
    }


def _test_config(subject: Subject, training: Training) -> dict[str, Any]:
    """Return what MMDetection's own test entry point needs; nothing without validation images."""
    if subject.validation is None:
        return {}
    annotations, images = subject.validation
    dataset = {
        "type": "CocoDataset",
        "ann_file": str(annotations),
        "data_prefix": {"img": str(images)},
        "metainfo": {"classes": [category.name for category in subject.categories]},
        "test_mode": True,
        "pipeline": image_pipeline(training.detector.test_transforms, annotated=True),
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
