"""Several GPUs of one machine, shared out among the worker processes on it. Needs Dask."""

from __future__ import annotations

import os
from collections.abc import Sequence

from distributed import Worker, WorkerPlugin


class OneGpuEach(WorkerPlugin):
    """Lets every worker see one GPU, in turns by their numbers, before it has looked for any; restarted ones too."""

    def __init__(self, gpus: Sequence[str]) -> None:
        self.gpus = tuple(gpus)

    def setup(self, worker: Worker) -> None:
        """Called by each worker as it starts."""
        os.environ["CUDA_VISIBLE_DEVICES"] = self.gpus[int(worker.name) % len(self.gpus)]


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if given := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return given.split(",")
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
