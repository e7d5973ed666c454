"""Trains a detector with MMEngine's runner, in this process or in one for each GPU."""

from __future__ import annotations

import os
import shutil
import signal
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError

import msgspec
import torch
from mmengine import Config
from mmengine.dataset import Compose
from mmengine.dist import get_rank
from mmengine.runner import Runner
from torch import nn

import pipeline.detection.registered  # noqa: F401  the classes that configs name
from pipeline.detection.hooks import ExactResume, LoggedStep, StepLog, TrainingFolder, published_weights
from pipeline.detection.published import CARD, ModelCard, publish
from pipeline.detection.stopping import StopSignals, handlers_restored
from pipeline.detection.weights import load_weights, read_weights, start_from
from pipeline.errors import S4MError, StageError
from pipeline.files.writing import write_atomically

CONFIG_RECORD: Final = "training.py"
"""What is trained, as a config for MMDetection's own train and test entry points; we never read it."""
SCRATCH: Final = "scratch"
"""Where MMEngine writes what nobody reads, below the training's folder."""
_FAILURE: Final = "failure.txt"

Report = Callable[[LoggedStep], None]


@dataclass(frozen=True)
class TrainingJob:
    """All that a training depends on.

    detector: the file that its detector came from. config: MMEngine's. record: the same training as MMDetection's
    entry points run it, by themselves. published: the config that goes with the weights. start: a weight file to
    begin with; start_whole: it must be exactly this detector's.
    """

    folder: Path
    detector: Path
    config: dict[str, Any]
    record: dict[str, Any]
    published: dict[str, Any]
    card: ModelCard
    seed: int
    checkpoint_every: int
    processes: int
    device: str
    start: Path | None = None
    start_whole: bool = False


def train(job: TrainingJob, report: Report, note: Callable[[str], None]) -> None:
    """Train, or go on training, and publish the detector in the job's folder. Does nothing where that is done.

    Runs in the main thread: SIGINT and SIGTERM are put off to the end of an iteration, which is saved.
    `report` is told of every iteration, `note` of what a person should know.
    """
    folder = job.folder
    if not (folder / CARD).exists():
        folder.mkdir(parents=True, exist_ok=True)
        _config(job.record).dump(folder / CONFIG_RECORD)
        if job.processes == 1:
            _train_here(job, report, note)
        else:
            _train_in_processes(job, report, note)
    shutil.rmtree(folder / SCRATCH, ignore_errors=True)
    shutil.rmtree(TrainingFolder(folder).checkpoints, ignore_errors=True)


def _train_here(job: TrainingJob, report: Report, note: Callable[[str], None]) -> None:
    folder = TrainingFolder(job.folder)

    def begin(model: nn.Module) -> None:
        if job.start is None:
            return
        weights = read_weights(job.start)
        if job.start_whole:
            load_weights(model, weights, str(job.start))
        else:
            left = start_from(model, weights, str(job.start))
            note(f"{len(left)} tensors of the detector are not in {job.start} and start at random")

    runner = _built(job)
    stop = StopSignals(note if job.processes == 1 else lambda _: None)
    log = StepLog(folder, job.checkpoint_every, report)
    resume = ExactResume(folder, job.checkpoint_every, job.seed, begin, stop)
    runner.register_hook(log)
    runner.register_hook(resume)
    with stop.caught():
        try:
            runner.train()
            if get_rank() == 0:
                card = msgspec.structs.replace(job.card, losses=_last_losses(folder))
                publish(folder.path, published_weights(runner), Config(job.published), card)
        except URLError as error:
            raise StageError(
                f"the detector's backbone starts from weights that cannot be fetched ({error.reason}): set "
                "teacher.init_weights to a file, such as torchvision's own of this backbone, or "
                "model.backbone.init_cfg to null by teacher.overrides"
            ) from error
        except KeyboardInterrupt:
            log.flush()
            resume.keep(runner)
            raise


def _built(job: TrainingJob) -> Runner:
    """MMEngine's runner, and whatever else a detector's file describes built once; StageError where it cannot be."""
    try:
        runner = Runner.from_cfg(_config(job.config))
        # Parameters that are frozen are so on purpose; MMEngine warns of each.
        runner.logger.addFilter(lambda record: "requires_grad=False" not in record.getMessage())
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        for source in job.config["train_dataloader"]["dataset"]["datasets"]:
            Compose(source["pipeline"])
        Compose(job.published["test_transforms"])
    except (TypeError, ValueError, LookupError, AttributeError, AssertionError, ImportError) as error:
        raise StageError(
            f"{job.detector}: no detector can be built from it and the overrides ({type(error).__name__}: {error})"
        ) from error
    return runner


def _config(content: dict[str, Any]) -> Config:
    """Return a config whose text is not formatted by yapf: MMEngine writes it five times, a second or more each."""
    return Config(content, format_python_code=False)


def _last_losses(folder: TrainingFolder) -> dict[str, float]:
    """Mean losses of the last iterations."""
    lines = folder.log.read_bytes().splitlines()[-20:]
    steps = [msgspec.json.decode(line, type=LoggedStep) for line in lines]
    found: dict[str, list[float]] = defaultdict(list)  # a batch without pseudo-labels has no losses of theirs
    for step in steps:
        for name, value in step.losses.items():
            found[name].append(value)
    return {name: round(sum(values) / len(values), 5) for name, values in found.items()}


def _train_in_processes(job: TrainingJob, report: Report, note: Callable[[str], None]) -> None:
    """One process a GPU, as torchrun starts them; the first one reports."""
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    failure = job.folder / _FAILURE
    failure.unlink(missing_ok=True)
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=job.processes,
        run_id=job.folder.name,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(
            log_dir=str(job.folder / SCRATCH)
        ),  # else a folder is left where temporary files are
    )
    try:
        with handlers_restored():
            elastic_launch(launch, _train_as_one_of_several)(job, report, note)
    except SignalException as stop:
        raise KeyboardInterrupt from stop
    except ChildFailedError as error:
        if failure.exists():
            raise StageError(failure.read_text()) from error
        raise StageError(f"a training process died: {error.get_first_failure()[1].message}") from error


def _train_as_one_of_several(job: TrainingJob, report: Report, note: Callable[[str], None]) -> None:
    # As MMEngine does it; where it has to, it warns, in every process.
    torch.multiprocessing.set_start_method("fork", force=True)
    for threads in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(threads, "1")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to be put off as Ctrl-C is
    on_gpus = job.device != "cpu" and torch.cuda.is_available()
    if on_gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("nccl" if on_gpus else "gloo")
    try:
        _train_here(job, report, note)
    except S4MError as error:
        write_atomically(job.folder / _FAILURE, str(error))
        raise
    finally:
        torch.distributed.destroy_process_group()
