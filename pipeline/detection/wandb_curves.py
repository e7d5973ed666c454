"""The curves of a training in Weights & Biases."""

from __future__ import annotations

from typing import Any, Final

from mmengine import Config
from mmengine.visualization import WandbVisBackend

from pipeline.detection.registry import VISBACKENDS

STEP: Final = "iteration"
"""What curves are drawn over. W&B's own step counts calls: it would go on counting where a training does not."""


@VISBACKENDS.register_module()
class WandbCurves(WandbVisBackend):  # type: ignore[misc]
    """MMEngine's, over iterations; the source code stays here, and a run ends when its training does."""

    def __init__(self, save_dir: str, init_kwargs: dict[str, Any]) -> None:
        super().__init__(save_dir, init_kwargs, define_metric_cfg=[{"name": STEP}, {"name": "*", "step_metric": STEP}])

    def add_config(self, config: Config, **_others: object) -> None:
        """Record the config; of a training that goes on it may have changed."""
        self.experiment.config.update(config.to_dict(), allow_val_change=True)

    def add_scalars(
        self, scalar_dict: dict[str, float], step: int = 0, file_path: str | None = None, **_others: object
    ) -> None:
        """Record an iteration's losses."""
        super().add_scalars({**scalar_dict, STEP: step}, step, file_path)

    def close(self) -> None:
        """End the run, if there is one. MMEngine calls what W&B no longer has."""
        if hasattr(self, "_wandb"):
            self._wandb.finish()
