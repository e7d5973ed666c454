"""Which trained detector a worker runs, and how. Needs neither torch nor MMDetection."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.compute.settings import ComputeSettings


@dataclass(frozen=True)
class DetectorChoice:
    """Which trained detector, where it runs, in which arithmetic; flip: on mirror images too."""

    folder: Path
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "fp32", "bf16"]
    batch_images: int
    flip: bool = False

    @classmethod
    def of(cls, folder: Path, compute: ComputeSettings, *, flip: bool = False) -> DetectorChoice:
        """A detector's folder, run as an experiment says; made absolute, for workers that stand elsewhere."""
        return cls(folder.absolute(), compute.device, compute.precision, compute.batch_images, flip)
