"""Build the one SAM of a worker process."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pipeline.compute.devices import prepare_worker, usable_device
from pipeline.compute.settings import Compiling, ComputeSettings, Precision
from pipeline.files.identity import stamp_of
from pipeline.sam.build import build_sam
from pipeline.sam.engine import SamEngine
from pipeline.sam.files import HF, hf_folder, sam_files
from pipeline.sam.interface import Engine
from pipeline.sam.settings import SamSettings


@dataclass(frozen=True)
class SamChoice:
    """Which SAM, where it runs, and in which precision. input_side: None is the model's own.

    weights: size and time of change of its files, so that no worker continues with weights that were replaced since.
    """

    model: str
    checkpoint: Path | None
    device: str
    precision: Precision
    batch_images: int
    input_side: int | None = None
    compiled: Compiling = "never"
    weights: str = ""

    @classmethod
    def of(cls, sam: SamSettings, compute: ComputeSettings, images: int = 0) -> SamChoice:
        """Return the choice of an experiment, with absolute paths, for workers in another working directory.

        images: the number that is to be encoded, as far as it is known to be large.
        """
        checkpoint, folder = sam.checkpoint, hf_folder(sam.model)
        return cls(
            model=sam.model if folder is None else f"{HF}{folder.absolute()}",
            checkpoint=checkpoint.absolute() if checkpoint else None,
            device=compute.device,
            precision=compute.precision,
            batch_images=compute.batch_images,
            input_side=sam.input_side,
            compiled=compute.compiling(images),
            weights=" ".join(map(stamp_of, sam_files(sam.model, checkpoint))),
        )

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the files that a worker must see; those that come with the program are not among them."""
        return () if self.checkpoint is None else (self.checkpoint,)


@lru_cache(maxsize=1)
def build_engine(sam: SamChoice) -> Engine:
    """Return the one model of a worker process, built again for another choice."""
    device = usable_device(sam.device)
    prepare_worker(device, sam.precision)
    folder = hf_folder(sam.model)
    if folder is not None:
        from pipeline.sam.hf.engine import HfEngine
        from pipeline.sam.hf.loading import load_hf_sam

        loaded = load_hf_sam(folder)
        return HfEngine(loaded, device, sam.precision, batch_images=sam.batch_images, compiled=sam.compiled)
    model = build_sam(sam.model, sam.checkpoint, input_side=sam.input_side)
    return SamEngine(model, device, sam.precision, batch_images=sam.batch_images, compiled=sam.compiled)
