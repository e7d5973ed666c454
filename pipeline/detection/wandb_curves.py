"""The curves of a training in Weights & Biases."""

from __future__ import annotations

from typing import Any, Final

from mmengine import Config
from mmengine.visualization import WandbVisBackend

from pipeline.detection.registry import VISBACKENDS

STEP: Final = "iteration"
"""The horizontal axis of curves. W&B's own step counts calls, also those that a resumed training repeats."""


@VISBACKENDS.register_module()
class WandbCurves(WandbVisBackend):  # type: ignore[misc]
    """MMEngine's curves over iterations; source code is not uploaded, and a run ends with its training."""

    def __init__(self, save_dir: str, init_kwargs: dict[str, Any]) -> None:
        super().__init__(save_dir, init_kwargs, define_metric_cfg=[{"name": STEP}, {"name": "*", "step_metric": STEP}])

    def add_config(self, config: Config, **_others: object) -> None:
        """Record the config, which may have changed since the training was interrupted."""
        self.experiment.config.update(config.to_dict(), allow_val_change=True)

    def add_scalars(
        self, scalar_dict: dict[str, float], step: int = 0, file_path: str | None = None, **_others: object
    ) -> None:
        """Record the losses of an iteration."""
        super().add_scalars({**scalar_dict, STEP: step}, step, file_path)

    def close(self) -> None:
        """End the run, if it was started. MMEngine's method calls a function that W&B has removed."""
        if hasattr(self, "_wandb"):
            self._wandb.finish()
