"""MMEngine hooks around every training step: exact resuming, stopping, and the log."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import torch
from mmengine.dist import broadcast_object_list, get_rank, get_world_size
from mmengine.hooks import EMAHook, Hook, RuntimeInfoHook
from mmengine.model import BaseAveragedModel, is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from pipeline.detection.checkpoints import checkpoints, load_checkpoint, newest_sound, save_checkpoint
from pipeline.detection.loss_watch import LossWatch
from pipeline.detection.registry import HOOKS
from pipeline.detection.stopping import StopSignals
from pipeline.detection.training_log import LAST, LOG, RecentLosses
from pipeline.errors import StageError, some_of

CURVES_EVERY: Final = 10
"""Iterations between two points of the curves of TensorBoard and W&B; the log has every iteration."""
_SECONDS_BETWEEN_FLUSHES: Final = 5.0


class LoggedStep(msgspec.Struct, frozen=True):
    """One line of the log. seconds: duration of the step; data_seconds: the part of it spent waiting for samples."""

    iteration: int
    lr: float
    seconds: float
    data_seconds: float
    losses: dict[str, float]


@dataclass(frozen=True)
class _UnreadStep:
    """An iteration whose losses have not been read from the device yet."""

    iteration: int
    lr: float
    data_seconds: float
    names: tuple[str, ...]

    def logged(self, seconds: float, losses: Sequence[float]) -> LoggedStep:
        """Return the line of the log."""
        named = dict(zip(self.names, losses, strict=True))
        return LoggedStep(self.iteration, self.lr, round(seconds, 4), round(self.data_seconds, 4), named)


Report = Callable[[LoggedStep, Mapping[str, float]], None]
"""Called with every iteration and the mean losses of the last ones."""


@dataclass(frozen=True)
class TrainingFolder:
    """The folder with the checkpoints and the log of a training."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Return the folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def log(self) -> Path:
        """Return the file of the log: one JSON object per iteration."""
        return self.path / LOG

    def failure(self, iteration: int, problem: str) -> StageError:
        """Return the error that stops a training, which says what was wrong and which checkpoint is good."""
        found = checkpoints(self.checkpoints)
        last_good = f"The last good checkpoint is {found[-1]}." if found else "No checkpoint had been written."
        return StageError(
            f"iteration {iteration}: {problem}. {last_good} "
            f"A lower learning_rate usually helps; {LOG} next to the checkpoints has every loss"
        )


class ExactResume(Hook):  # type: ignore[misc]
    """Saves checkpoints, resumes exactly from the last one, and stops after an iteration.

    Random numbers are not saved: the seed, the iteration and the rank decide them, and those of each sample (see
    `pipeline.detection.sampler`).
    """

    priority = "VERY_LOW"

    def __init__(
        self,
        folder: TrainingFolder,
        every: int,
        seed: int,
        begin: Callable[[nn.Module], None],
        stop: StopSignals,
        say: Callable[[str], None],
    ) -> None:
        self._folder, self._every, self._seed, self._begin, self._stop = folder, every, seed, begin, stop
        self._say = say
        self._done: int | None = None  # iterations done; None while one is running
        self._saved = 0

    def before_train(self, runner: Runner) -> None:
        """Resume from the last checkpoint that is whole, or begin."""
        found = self._newest_sound()
        if found is None:
            self._begin(bare_model(runner))
            return
        path, state = found
        try:
            self._resume(runner, state)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, LookupError, TypeError) as error:
            raise StageError(f"{path}: not of this training: remove it to continue without it") from error

    def _newest_sound(self) -> tuple[Path, dict[str, Any]] | None:
        """Return the newest checkpoint that is whole, and its state; the first process chooses it for all."""
        found = newest_sound(self._folder.checkpoints, self._say) if get_rank() == 0 else None
        chosen: list[Path | None] = [None if found is None else found[0]]
        broadcast_object_list(chosen)
        if found is None and chosen[0] is not None:
            return chosen[0], load_checkpoint(chosen[0])
        return found

    def _resume(self, runner: Runner, state: Mapping[str, Any]) -> None:
        bare_model(runner).load_state_dict(state["model"])
        runner.optim_wrapper.load_state_dict(state["optimizer"])
        for scheduler, saved in zip(runner.param_schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(saved)
        average = averaged_model(runner)
        if average is not None:
            average.load_state_dict(state["average"])
        self._saved = state["iteration"]
        runner.train_loop._iter = self._saved  # MMEngine then moves the sampler forward

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed the random numbers of the iteration."""
        self._stop.hold()
        self._done = None
        numbers = np.random.SeedSequence((self._seed, batch_idx, get_rank())).generate_state(2)
        torch.manual_seed(int(numbers[0]))
        np.random.seed(int(numbers[1]))  # MMDetection draws from the global state

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Save a checkpoint if one is due, and stop if a signal came.

        Raise StageError if the weights to save or to publish are not finite.
        """
        done = self._done = batch_idx + 1
        if done == runner.max_iters:
            self._require_numbers(runner, done)
        elif done % self._every == 0:
            self._save(runner, done)
        if get_world_size() == 1:
            self._stop.release()
        elif self._stop.waits_in_any_process():  # all stop here: in the next iteration some would wait for others
            raise KeyboardInterrupt

    def keep(self, runner: Runner) -> None:
        """Save a checkpoint when training was stopped, unless in the middle of an iteration."""
        if self._done is not None and self._done > self._saved:
            self._save(runner, self._done)

    def _save(self, runner: Runner, done: int) -> None:
        self._require_numbers(runner, done)
        if get_rank() == 0:
            average = averaged_model(runner)
            state = {
                "model": bare_model(runner).state_dict(),
                "optimizer": runner.optim_wrapper.state_dict(),
                "schedulers": [scheduler.state_dict() for scheduler in runner.param_schedulers],
                "average": average.state_dict() if average is not None else None,
            }
            save_checkpoint(self._folder.checkpoints, done, state)
        self._saved = done

    def _require_numbers(self, runner: Runner, done: int) -> None:
        """Raise StageError if a step made weights infinite or NaN, which its loss, computed before, does not show."""
        bad = [
            name
            for name, tensor in bare_model(runner).state_dict().items()
            if tensor.is_floating_point() and not tensor.isfinite().all()
        ]
        if bad:
            raise self._folder.failure(done, f"weights are not finite numbers ({some_of(bad)})")


@HOOKS.register_module()
class RuntimeInfo(RuntimeInfoHook):  # type: ignore[misc]
    """MMEngine's, without the losses, which it would read from the device one by one: `StepLog` logs them."""

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Do nothing."""


class StepLog(Hook):  # type: ignore[misc]
    """Writes the losses of every iteration to the log and the curves, reports them, and stops at bad ones.

    Reading a loss waits until the device has computed it. So a GPU's losses are read for several iterations at once,
    which share the time that they took.

    recent: the mean losses of the last iterations, those before an interruption included.
    """

    priority = "LOW"  # before ExactResume: nothing is saved after a bad loss

    def __init__(self, folder: TrainingFolder, every: int, report: Report, read_every: int = 1) -> None:
        """every: iterations between checkpoints. read_every: iterations between two readings of losses."""
        self._folder, self._every, self._report, self._read_every = folder, every, report, read_every
        self._watch, self.recent = LossWatch(), RecentLosses()
        self._unread: list[tuple[_UnreadStep, Tensor]] = []
        self._lines: list[bytes] = []
        self._flushed = self._began = self._step_began = self._data_came = time.monotonic()

    def before_train_epoch(self, runner: Runner) -> None:
        """Remove from the log the iterations after the checkpoint, which are repeated."""
        if get_rank() == 0 and self._folder.log.exists():
            lines = self._folder.log.read_bytes().splitlines(keepends=True)
            kept = [line for line in lines[: runner.iter] if line.endswith(b"\n")]
            self._folder.log.write_bytes(b"".join(kept))
            for line in kept[-LAST:]:
                self.recent.add(msgspec.json.decode(line, type=LoggedStep).losses)
        self._began = self._step_began = time.monotonic()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Record when the batch was ready."""
        self._data_came = time.monotonic()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Note the iteration, and log what is unread where that is due. Raise StageError if losses are bad."""
        losses = {name: value.detach() for name, value in outputs.items() if "loss" in name}
        step = _UnreadStep(
            iteration=batch_idx + 1,
            lr=float(max(group["lr"] for group in runner.optim_wrapper.optimizer.param_groups)),
            data_seconds=self._data_came - self._step_began,
            names=tuple(losses),
        )
        self._unread.append((step, torch.stack([value.float() for value in losses.values()])))
        # A checkpoint is written next, and its log must be complete.
        is_saved_next = step.iteration % self._every == 0 or step.iteration == runner.max_iters
        if is_saved_next or len(self._unread) >= self._read_every:
            self.read(runner, flush=is_saved_next)
        self._step_began = time.monotonic()

    def read(self, runner: Runner, *, flush: bool = False) -> None:
        """Log the iterations that are unread. Raise StageError if losses are bad. flush: write the log to its file."""
        unread, self._unread = self._unread, []
        values = [numbers.tolist() for _, numbers in unread]  # waits for the device
        now = time.monotonic()
        seconds, self._began = (now - self._began) / max(len(unread), 1), now
        for (step, _), numbers in zip(unread, values, strict=True):
            self._log(runner, step.logged(seconds, numbers))
        if flush or now - self._flushed > _SECONDS_BETWEEN_FLUSHES:
            self._flush()

    def after_train(self, runner: Runner) -> None:
        """Close the curves: nothing may be written into a sealed result."""
        runner.visualizer.close()

    def _log(self, runner: Runner, step: LoggedStep) -> None:
        if get_rank() == 0:
            self._lines.append(msgspec.json.encode(step) + b"\n")
            if step.iteration % CURVES_EVERY == 0:
                runner.visualizer.add_scalars({**step.losses, "lr": step.lr}, step=step.iteration)
            self.recent.add(step.losses)
            self._report(step, self.recent.means())
        problem = self._watch.problem(step.losses)
        if problem:
            self._flush()
            raise self._folder.failure(step.iteration, problem)

    def _flush(self) -> None:
        if self._lines:
            with self._folder.log.open("ab") as file:
                file.write(b"".join(self._lines))
        self._lines.clear()
        self._flushed = time.monotonic()


def bare_model(runner: Runner) -> nn.Module:
    """Return the detector without the wrapper for several processes."""
    model: nn.Module = runner.model.module if is_model_wrapper(runner.model) else runner.model
    return model


def averaged_model(runner: Runner) -> BaseAveragedModel | None:
    """Return the moving average of the weights, with its count of steps; None without one."""
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            average: BaseAveragedModel = hook.ema_model
            return average
    return None


def published_weights(runner: Runner) -> Mapping[str, torch.Tensor]:
    """Return the weights to publish: the average if there is one."""
    average = averaged_model(runner)
    weights: Mapping[str, torch.Tensor] = (bare_model(runner) if average is None else average.module).state_dict()
    return weights
