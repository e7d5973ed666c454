"""Trains a detector with MMEngine's runner, in this process or in one process per GPU."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError

import msgspec
import torch
from mmengine import Config
from mmengine.dataset import Compose
from mmengine.dist import get_rank
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import nn

import pipeline.detection.registered  # noqa: F401  the classes that configs name
from pipeline.compute.devices import allow_tf32, require_gpus, usable_device
from pipeline.compute.gpu_memory import told_if_gpu_is_full
from pipeline.compute.settings import ComputeSettings
from pipeline.compute.worker_check import program_digest
from pipeline.detection.config import BUILD_FAILURES
from pipeline.detection.gpu_operators import require_gpu_operators
from pipeline.detection.hooks import ExactResume, Report, StepLog, TrainingFolder, published_weights
from pipeline.detection.launching import Group, run_together
from pipeline.detection.loader_workers import choose_loaders
from pipeline.detection.meeting import Machines
from pipeline.detection.published import CARD, ModelCard, publish
from pipeline.detection.stopping import StopSignals
from pipeline.detection.weights import load_weights, read_weights, start_from
from pipeline.errors import StageError
from pipeline.files.leftovers import remove_folder

CONFIG_RECORD: Final = "training.py"
"""The training as a config for MMDetection's own train and test entry points; this program never reads it."""
SCRATCH: Final = "scratch"
"""The folder, below the training's, for files that only MMEngine writes."""
_GPU_READS_EVERY: Final = 10
"""Iterations after which a training on a GPU waits for its losses."""
_LOADER_DIED: Final = (
    "a process that loads images for the training was ended, as when memory runs out: give the same command to "
    "continue from the last checkpoint, with a smaller compute.loader_workers if it happens again"
)


@dataclass(frozen=True)
class Start:
    """A weight file that a training begins with. whole: its tensors must be exactly those of the detector."""

    weights: Path
    whole: bool


@dataclass(frozen=True)
class TrainingJob:
    """Everything that a training depends on.

    detector: file of the detector's config. config: MMEngine's. record: the config of the same training for
    MMDetection's entry points. published: the config that is published with the weights.
    """

    folder: Path
    detector: Path
    config: dict[str, Any]
    record: dict[str, Any]
    published: dict[str, Any]
    card: ModelCard
    seed: int
    compute: ComputeSettings
    start: Start | None = None


def home_of(folder: Path) -> Path:
    """Return where the result of a training lies after the result store has sealed it."""
    return folder.with_name(folder.name.removesuffix(".partial"))


def train(job: TrainingJob, report: Report, note: Callable[[str], None]) -> None:
    """Train, or resume training, and publish the detector in the job's folder. Do nothing if it is published.

    Call this in the main thread: SIGINT and SIGTERM are delayed to the end of an iteration, which is saved. A machine
    that only helps writes nothing, and returns when all have trained, or when another machine has published already.
    report: called with every iteration, in the process that trains. note: called with messages for the user.
    """
    folder = job.folder
    if not (folder / CARD).exists():
        if not job.compute.is_helper:
            folder.mkdir(parents=True, exist_ok=True)
            _config(job.record).dump(folder / CONFIG_RECORD)
        if job.compute.training_processes == 1:
            _train_here(job, report, note)
        else:
            _train_in_processes(job, report, note)
    if job.compute.is_helper:
        return
    remove_folder(folder / SCRATCH)
    remove_folder(TrainingFolder(folder).checkpoints)


def _train_here(job: TrainingJob, report: Report, note: Callable[[str], None]) -> None:
    folder = TrainingFolder(job.folder)

    def begin(model: nn.Module) -> None:
        if job.start is None:
            return
        path = job.start.weights
        if job.start.whole:
            load_weights(model, read_weights(path), str(path))
        else:
            left = start_from(model, read_weights(path), str(path))
            note(f"{len(left)} tensors of the detector are not in {path} and start at random")

    runner = _built(job)
    stop = StopSignals(note if job.compute.training_processes == 1 else lambda _: None)
    device = usable_device(job.compute.device)
    on_gpu = device.type == "cuda"
    log = StepLog(folder, job.compute.checkpoint_every, report, read_every=_GPU_READS_EVERY if on_gpu else 1)
    resume = ExactResume(folder, job.compute.checkpoint_every, job.seed, begin, stop, note)
    runner.register_hook(log)
    runner.register_hook(resume)
    allow_tf32(device, job.compute.precision)
    with stop.caught(), _logs_closed_after(runner), told_if_gpu_is_full(job.card.stage, _in_more_parts(job)):
        try:
            if on_gpu:
                require_gpu_operators()
            choose_loaders(runner, job.compute, on_gpu=on_gpu)
            _run(runner, log)
            if get_rank() == 0:
                card = msgspec.structs.replace(job.card, losses=log.recent.means())
                publish(folder.path, published_weights(runner), Config(job.published), card)
        except URLError as error:
            raise StageError(
                f"the weights that the detector's backbone starts from cannot be fetched ({error.reason}): set "
                "teacher.init_weights to a file, such as torchvision's own of this backbone, or "
                "model.backbone.init_cfg to null by teacher.overrides"
            ) from error
        except KeyboardInterrupt:
            log.read(runner, flush=True)
            resume.keep(runner)
            raise
        except (RuntimeError, ConnectionError, EOFError) as error:
            if "without overflow" in str(error):
                raise StageError(
                    f"{job.detector}: a number of its optimizer or schedule, or of the overrides, is too large to "
                    f"train with ({error})"
                ) from error
            if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
                raise
            with suppress(RuntimeError):
                time.sleep(1)  # torch's handler of SIGCHLD raises too, a moment later
            raise StageError(_LOADER_DIED) from error
        except StageError as error:
            if (told := of_loader(error)) is error:
                raise
            raise told from error


def _in_more_parts(job: TrainingJob) -> str:
    """Return what a user can do whose GPU is too small for the training."""
    sizes = job.config["train_dataloader"]["sampler"]["batch_sizes"]
    more = [parts for parts in range(job.compute.batch_parts + 1, min(sizes) + 1) if not any(n % parts for n in sizes)]
    if not more:
        return "give the same command with more GPUs (compute.gpus), or train on smaller crops (crop_px)"
    return f"give the same command with compute.batch_parts={more[0]}, which takes longer, or with more GPUs"


def _run(runner: Runner, log: StepLog) -> None:
    """Train. A bad loss that was not read yet is the reason why anything after it fails."""
    try:
        runner.train()
    except Exception:
        log.read(runner, flush=True)
        raise


@contextmanager
def _logs_closed_after(runner: Runner) -> Iterator[None]:
    """Close MMEngine's log files afterwards: NFS does not remove the folder of an open file."""
    try:
        yield
    finally:
        for handler in runner.logger.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.close()


def of_loader(error: StageError) -> StageError:
    """Return an error of a loading process with its own message: torch writes that process's traceback before it."""
    message = str(error)
    if not message.startswith("Caught "):
        return error
    return type(error)(message.rpartition(f"{type(error).__name__}: ")[2].strip())


def _built(job: TrainingJob) -> Runner:
    """Build MMEngine's runner, and all transforms to check them. Raise StageError if anything cannot be built."""
    try:
        runner = Runner.from_cfg(_config(job.config))
        # MMEngine warns of each frozen parameter, which is frozen on purpose.
        runner.logger.addFilter(lambda record: "requires_grad=False" not in record.getMessage())
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        _keep_norms_on_device(runner.optim_wrapper)
        for source in job.config["train_dataloader"]["dataset"]["datasets"]:
            Compose(source["pipeline"])
        Compose(job.published["test_transforms"])
    except (*BUILD_FAILURES, ArithmeticError, RuntimeError) as error:
        raise StageError(
            f"{job.detector}: no detector can be built from it and the overrides ({type(error).__name__}: {error})"
        ) from error
    return runner


def _keep_norms_on_device(optimizer: OptimWrapper) -> None:
    """Let the optimizer clip gradients without reading their norm, which MMEngine only logs, from the device."""
    clip = getattr(optimizer, "clip_func", None)
    if clip is not None:

        def clip_unread(*arguments: Any, **settings: Any) -> None:
            clip(*arguments, **settings)

        optimizer.clip_func = clip_unread


def _config(content: dict[str, Any]) -> Config:
    """Return a config whose text is not formatted by yapf: MMEngine writes it five times, a second or more each."""
    return Config(content, format_python_code=False)


def _train_in_processes(job: TrainingJob, report: Report, note: Callable[[str], None]) -> None:
    """Train in one process per GPU, on all machines; the first one reports."""
    on_gpus = usable_device(job.compute.device).type == "cuda"
    if on_gpus:
        require_gpus(job.compute.gpus)
    group = Group(job.compute.gpus, on_gpus, _machines(job), note, lambda: (home_of(job.folder) / CARD).exists())
    run_together(_train_as_one_of_several, (job, report, note), group)


def _machines(job: TrainingJob) -> Machines | None:
    """Return the machines that train together; they must train the same result, with the same program."""
    compute = job.compute
    if compute.nodes == 1 or compute.master is None:
        return None
    host, _, port = compute.master.rpartition(":")
    agreement = f"result {job.folder.name}, program {program_digest()[:12]}"
    return Machines(compute.nodes, compute.node_rank, host, int(port), agreement)


def _train_as_one_of_several(job: TrainingJob, report: Report, note: Callable[[str], None]) -> None:
    # As MMEngine does, which would warn in every process.
    torch.multiprocessing.set_start_method("fork", force=True)
    for threads in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(threads, "1")
    _train_here(job, report, note)
