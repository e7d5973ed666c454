"""The end of a student's training: the averaged weights are trained a little further on labelled images alone."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi
from typing import Any, Final

from mmengine.hooks import Hook
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from mmengine.runner import Runner

from pipeline.detection.hooks import averaged_model, bare_model
from pipeline.detection.registry import HOOKS, PARAM_SCHEDULERS, SCOPE

_LAST_SHARE: Final = 0.01
"""The share of its first learning rate that a fine-tuning ends at."""


@dataclass(frozen=True)
class FineTuning:
    """A fine-tuning after a training: its steps, and the share of the learning rate that it begins with."""

    iterations: int
    rate: float

    def hook(self, begin: int) -> dict[str, Any]:
        """Return the config of the hook that begins it after `begin` steps."""
        return {"type": f"{SCOPE}.{BeginFineTuning.__name__}", "begin": begin}

    def schedule(self, begin: int) -> dict[str, Any]:
        """Return the config of its learning rate."""
        of = {"rate": self.rate, "by_epoch": False, "begin": begin, "end": begin + self.iterations}
        return {"type": f"{SCOPE}.{FineTuningLR.__name__}", **of}


@HOOKS.register_module()
class BeginFineTuning(Hook):  # type: ignore[misc]
    """Before step `begin`: continue from the moving average, with a new average and a new state of the optimizer.

    A training that continues from the checkpoint of this step does the same; one from a later checkpoint has it done.
    """

    def __init__(self, begin: int) -> None:
        self._begin = begin

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Begin the fine-tuning if it is due."""
        if batch_idx != self._begin:
            return
        runner.optim_wrapper.optimizer.state.clear()
        average = averaged_model(runner)
        if average is not None:
            bare_model(runner).load_state_dict(average.module.state_dict())
            average.steps.zero_()  # so that the next update is a copy


@PARAM_SCHEDULERS.register_module()
class FineTuningLR(_ParamScheduler):  # type: ignore[misc]
    """A learning rate that falls along a cosine, from `rate` of the optimizer's own, whatever it was before `begin`."""

    def __init__(self, optimizer: Any, rate: float, begin: int, end: int, by_epoch: bool) -> None:
        self._rate = rate
        super().__init__(optimizer, "lr", begin=begin, end=end, by_epoch=by_epoch)

    def _get_value(self) -> list[float]:
        """Return the learning rate of each group of parameters."""
        fallen = (1 - cos(pi * self.last_step / (self.end - self.begin))) / 2
        share = self._rate * (1 - (1 - _LAST_SHARE) * fallen)
        return [base * share for base in self.base_values]
