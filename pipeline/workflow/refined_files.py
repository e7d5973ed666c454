"""Refining a COCO file without an experiment; an interrupted refinement goes on where it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pipeline.coco.model import CocoDataset
from pipeline.coco.reading import read_coco
from pipeline.compute.execution import Execution, ShardProgress, ignore
from pipeline.compute.settings import ComputeSettings
from pipeline.errors import StageError
from pipeline.files.identity import hash_file, hash_text, stamps_of
from pipeline.files.locks import exclusive_lock
from pipeline.files.writing import refuse_existing
from pipeline.labels.label_store import LabelStore
from pipeline.labels.label_writing import write_label_store
from pipeline.refinement.coco_file import RefinedFile, read_scores, rows_to_refine, write_refined
from pipeline.refinement.gate import make_gate
from pipeline.refinement.refining import Refinement, refine_store
from pipeline.refinement.settings import RefineSettings
from pipeline.sam.settings import SamSettings
from pipeline.sam.weights import identify_weights
from pipeline.workflow.fingerprint import Fingerprint
from pipeline.workflow.graph import STAGES, refinement_settings


def refine_coco_file(
    annotations: Path,
    images: Path,
    output: Path,
    sam: SamSettings,
    refine: RefineSettings,
    compute: ComputeSettings,
    progress: Callable[[ShardProgress], None] = ignore,
) -> RefinedFile:
    """Write a COCO file with its masks refined; return what became of its annotations.

    images: the folder that file names start from. Finished work lies in a folder beside `output` until that is
    written: the same call goes on with it. Raises StageError where `output` exists, another process makes it, or
    no image can be used.
    """
    refuse_existing([output])
    gate = make_gate(refine)
    dataset, scores = read_coco(annotations), read_scores(annotations)
    with _kept_until_done(output, refinement_id(annotations, dataset, images, sam, refine)) as scratch:
        teacher, refined = scratch / "teacher.zarr", scratch / "refined.zarr"
        if not teacher.exists():
            write_label_store(teacher, rows_to_refine(dataset, scores), dataset.categories, {})
        refine_store(Refinement(teacher, images, sam, refine), gate, refined, {}, Execution(compute, progress))
        try:
            return write_refined(annotations, dataset, LabelStore.open(refined), output)
        except StageError:  # no image could be used: the next run reads them again
            shutil.rmtree(scratch)
            raise


def refinement_id(
    source: Path, dataset: CocoDataset, image_root: Path, sam: SamSettings, refine: RefineSettings
) -> str:
    """Return a name for the refinement of a file: the same for the same file, images, weights and settings.

    Images are known by their size and time of change. Raises S4MError where SAM's weights cannot be used.
    """
    names = [image.file_name for image in dataset.images]
    stamps = "\n".join(map("\t".join, zip(names, stamps_of(image_root, names), strict=True)))
    return Fingerprint(
        stage="refine",
        version=STAGES["refine"].version,
        settings={**refinement_settings(refine, sam), "images": str(image_root.absolute())},
        inputs={
            "annotations": hash_file(source),
            "images": hash_text(stamps),
            "sam.checkpoint": identify_weights(sam.model, sam.checkpoint).sha256,
        },
        upstream={},
    ).id


@contextmanager
def _kept_until_done(output: Path, name: str) -> Iterator[Path]:
    """Give a folder beside a file for unfinished work: it stays after an interruption, and goes at the end.

    The file's other such folders, of other names, go with it.
    """
    folder = output.with_name(f".{output.name}.refining")
    with ExitStack() as held:
        try:
            held.enter_context(exclusive_lock(folder / "lock"))
        except BlockingIOError as error:
            raise StageError(
                f"{output} is being made by another process: wait for it, or choose another name"
            ) from error
        refuse_existing([output])  # another process may just have made it
        yield folder / name
    shutil.rmtree(folder, ignore_errors=True)
