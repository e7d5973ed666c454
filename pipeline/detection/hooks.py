"""What happens around every training step, as MMEngine hooks: exact resuming, a log, stops asked for or not."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseAveragedModel, is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from pipeline.detection.checkpoints import checkpoints, load_checkpoint, save_checkpoint
from pipeline.detection.loss_watch import LossWatch
from pipeline.detection.stopping import StopSignals
from pipeline.detection.training_log import LOG
from pipeline.errors import StageError, some_of

CURVES_EVERY: Final = 10
"""Iterations between two points of the curves of TensorBoard and W&B; the log has every one."""
_SECONDS_BETWEEN_FLUSHES: Final = 5.0


class LoggedStep(msgspec.Struct, frozen=True):
    """One line of the log. seconds: of the whole step; data_seconds: of it, waiting for samples."""

    iteration: int
    lr: float
    seconds: float
    data_seconds: float
    losses: dict[str, float]


@dataclass(frozen=True)
class TrainingFolder:
    """Where a training keeps what it needs to go on, and its log."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """The checkpoints' folder."""
        return self.path / "checkpoints"

    @property
    def log(self) -> Path:
        """One JSON object an iteration."""
        return self.path / LOG

    def failure(self, iteration: int, problem: str) -> StageError:
        """What stops a training that went wrong, and what is left of it."""
        found = checkpoints(self.checkpoints)
        last_good = f"The last good checkpoint is {found[-1]}." if found else "No checkpoint had been written."
        return StageError(
            f"iteration {iteration}: {problem}. {last_good} "
            f"A lower learning_rate usually helps; {LOG} beside the checkpoints has every loss"
        )


class ExactResume(Hook):  # type: ignore[misc]
    """Saves all that the next iterations depend on, and starts from there. A stop waits for the end of an iteration.

    Random numbers need no saving: each iteration has its own, from the seed, its number and the rank; so has
    each sample (see `pipeline.detection.sampler`).
    """

    priority = "VERY_LOW"

    def __init__(
        self,
        folder: TrainingFolder,
        every: int,
        seed: int,
        begin: Callable[[nn.Module], None],
        stop: StopSignals,
    ) -> None:
        self._folder, self._every, self._seed, self._begin, self._stop = folder, every, seed, begin, stop
        self._done: int | None = None  # iterations, where none is under way
        self._saved = 0

    def before_train(self, runner: Runner) -> None:
        """Go on from the last checkpoint, or begin."""
        found = checkpoints(self._folder.checkpoints)
        if not found:
            self._begin(bare_model(runner))
            return
        state = load_checkpoint(found[-1])
        bare_model(runner).load_state_dict(state["model"])
        runner.optim_wrapper.load_state_dict(state["optimizer"])
        for scheduler, saved in zip(runner.param_schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(saved)
        average = averaged_model(runner)
        if average is not None:
            average.load_state_dict(state["average"])
        self._saved = state["iteration"]
        runner.train_loop._iter = self._saved  # MMEngine then moves the sampler on

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Give the iteration its random numbers."""
        self._stop.hold()
        self._done = None
        numbers = np.random.SeedSequence((self._seed, batch_idx, get_rank())).generate_state(2)
        torch.manual_seed(int(numbers[0]))
        np.random.seed(int(numbers[1]))  # MMDetection draws from the global state

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Save a checkpoint where it is time for one, and stop where that was asked for.

        StageError where the weights that would be saved, or published, are bad.
        """
        done = self._done = batch_idx + 1
        if done == runner.max_iters:
            self._require_numbers(runner, done)
        elif done % self._every == 0:
            self._save(runner, done)
        if get_world_size() == 1:
            self._stop.release()
        elif self._stop.waits_in_any_process():  # all stop here, or some would wait for others in the next iteration
            raise KeyboardInterrupt

    def keep(self, runner: Runner) -> None:
        """Save what is done where training was stopped, unless that was in the middle of an iteration."""
        if self._done is not None and self._done > self._saved:
            self._save(runner, self._done)

    def _save(self, runner: Runner, done: int) -> None:
        self._require_numbers(runner, done)
        if get_rank() == 0:
            average = averaged_model(runner)
            save_checkpoint(
                self._folder.checkpoints,
                done,
                {
                    "model": bare_model(runner).state_dict(),
                    "optimizer": runner.optim_wrapper.state_dict(),
                    "schedulers": [scheduler.state_dict() for scheduler in runner.param_schedulers],
                    "average": average.state_dict() if average is not None else None,
                },
            )
        self._saved = done

    def _require_numbers(self, runner: Runner, done: int) -> None:
        """StageError where a step spoiled the weights: its loss, which was computed before, does not show that."""
        bad = [
            name
            for name, tensor in bare_model(runner).state_dict().items()
            if tensor.is_floating_point() and not tensor.isfinite().all()
        ]
        if bad:
            raise self._folder.failure(done, f"weights are not numbers any more ({some_of(bad)})")


class StepLog(Hook):  # type: ignore[misc]
    """Writes every iteration's losses to the log, the curves, and to whoever listens; stops at bad ones."""

    priority = "LOW"  # ahead of ExactResume: nothing is saved after a bad loss

    def __init__(self, folder: TrainingFolder, every: int, report: Callable[[LoggedStep], None]) -> None:
        self._folder, self._every, self._report = folder, every, report
        self._watch = LossWatch()
        self._lines: list[bytes] = []
        self._flushed = self._step_began = self._data_came = time.monotonic()

    def before_train_epoch(self, runner: Runner) -> None:
        """Forget the log of iterations that were done after the checkpoint and are done again."""
        if get_rank() == 0 and self._folder.log.exists():
            lines = self._folder.log.read_bytes().splitlines(keepends=True)
            kept = [line for line in lines[: runner.iter] if line.endswith(b"\n")]
            self._folder.log.write_bytes(b"".join(kept))
        self._step_began = time.monotonic()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Note when the batch was there."""
        self._data_came = time.monotonic()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Log the iteration; StageError where its losses are bad."""
        now = time.monotonic()
        losses = {name: float(value.detach()) for name, value in outputs.items() if "loss" in name}
        step = LoggedStep(
            iteration=batch_idx + 1,
            lr=_largest_rate(runner),
            seconds=round(now - self._step_began, 4),
            data_seconds=round(self._data_came - self._step_began, 4),
            losses=losses,
        )
        self._step_began = now
        if get_rank() == 0:
            self._write(step, last=step.iteration == runner.max_iters)
            if step.iteration % CURVES_EVERY == 0:
                runner.visualizer.add_scalars({**losses, "lr": step.lr}, step=step.iteration)
            self._report(step)
        problem = self._watch.problem(losses)
        if problem:
            self.flush()
            raise self._folder.failure(step.iteration, problem)

    def after_train(self, runner: Runner) -> None:
        """End the curves: nothing is written into a result once it is sealed."""
        runner.visualizer.close()

    def _write(self, step: LoggedStep, *, last: bool) -> None:
        self._lines.append(msgspec.json.encode(step) + b"\n")
        has_checkpoint = step.iteration % self._every == 0  # that is about to be written: its past must be there too
        if last or has_checkpoint or time.monotonic() - self._flushed > _SECONDS_BETWEEN_FLUSHES:
            self.flush()

    def flush(self) -> None:
        """Write the lines that wait."""
        with self._folder.log.open("ab") as file:
            file.write(b"".join(self._lines))
        self._lines.clear()
        self._flushed = time.monotonic()


def bare_model(runner: Runner) -> nn.Module:
    """The detector, out of what wraps it for several processes."""
    model: nn.Module = runner.model.module if is_model_wrapper(runner.model) else runner.model
    return model


def averaged_model(runner: Runner) -> BaseAveragedModel | None:
    """The moving average of the weights, with its count of steps, where there is one."""
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            average: BaseAveragedModel = hook.ema_model
            return average
    return None


def published_weights(runner: Runner) -> Mapping[str, torch.Tensor]:
    """The weights that count in the end: the average where there is one."""
    average = averaged_model(runner)
    weights: Mapping[str, torch.Tensor] = (bare_model(runner) if average is None else average.module).state_dict()
    return weights


def _largest_rate(runner: Runner) -> float:
    return float(max(group["lr"] for group in runner.optim_wrapper.optimizer.param_groups))
