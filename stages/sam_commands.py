"""`s4m weights` and `s4m refine-coco`: SAM's weights, and refinement without an experiment."""

from __future__ import annotations

import fcntl
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import StageError
from pipeline.files.writing import refuse_existing
from stages.console import err, out

if TYPE_CHECKING:
    from pipeline.refinement.coco_file import RefinedFile
    from pipeline.workflow.experiment import RefineOnly

weights_app = typer.Typer(help="SAM's published weights.", no_args_is_help=True)


@weights_app.command()
def get(
    model: Annotated[str, typer.Argument(help="vit_b, vit_l or vit_h.")],
    folder: Annotated[Path | None, typer.Option(help="Default: S4M_WEIGHTS, else weights/.")] = None,
) -> None:
    """Fetch a model's weights from their publisher; goes on where an earlier try stopped."""
    from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

    from pipeline.sam.files import weights_folder
    from pipeline.sam.weights import download_weights

    with Progress(*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn(), console=err) as bar:
        task = bar.add_task(model, total=None)
        found = download_weights(
            model, folder or weights_folder(), lambda done, total: bar.update(task, completed=done, total=total)
        )
    out.print(f"{found.path}: the published weights of {model}")


@weights_app.command()
def check(
    model: Annotated[str, typer.Argument(help="sam_tiny, vit_b, vit_l or vit_h.")],
    file: Annotated[Path | None, typer.Argument(help="Default: the model's own file.")] = None,
) -> None:
    """Say what a weight file is, by its content."""
    from pipeline.sam.weights import identify_weights

    found = identify_weights(model, file)
    out.print(
        f"{found.path}: {'published' if found.published else 'custom'} weights of {model}, SHA-256 {found.sha256}"
    )


def refine_coco(
    annotations: Annotated[Path, typer.Argument(metavar="IN.json", help="COCO annotations with masks.")],
    images: Annotated[Path, typer.Argument(metavar="IMAGE_DIR", help="The folder that file names start from.")],
    output: Annotated[Path, typer.Argument(metavar="OUT.json", help="Where to write the refined annotations.")],
    sam: Annotated[str, typer.Option(help="sam_tiny, vit_b, vit_l or vit_h.")] = "sam_tiny",
    checkpoint: Annotated[Path | None, typer.Option(help="Weights other than the model's own.")] = None,
    preset: Annotated[str, typer.Option(help="best, s4m or samrefiner.")] = "best",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="As refine.passes=3. Repeatable.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Refine the masks of a COCO file, without an experiment. Stopped, it goes on when the same command is given."""
    from pipeline.workflow.loading import refine_only
    from stages.runner import Terminated, sigterm_as_interrupt

    asked: dict[str, str | int] = {
        "sam.model": sam,
        "refine.preset": preset,
        "compute.workers": workers,
        "compute.device": device,
    }
    if checkpoint is not None:
        asked["sam.checkpoint"] = str(checkpoint)
    # Values are YAML there, and JSON is YAML in which a path stays what it is.
    overrides = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in asked.items()]
    wanted = refine_only([*overrides, *(settings or ())])
    refuse_existing([output])
    if not images.is_dir():
        raise typer.BadParameter(f"no such folder: {images}", param_hint="IMAGE_DIR")
    try:
        with sigterm_as_interrupt():
            result = _refine_file(annotations, images, output, wanted)
    except KeyboardInterrupt as stop:
        err.print(f"\n{output} is not written yet; what is done is kept. To go on, give the same command.")
        sys.exit(143 if isinstance(stop, Terminated) else 130)
    counts = ", ".join(f"{name} {count}" for name, count in sorted(result.decisions.items()))
    out.print(f"{output}: {counts}")
    if result.failures:
        out.print(f"{len(result.failures)} images could not be used; their annotations are unchanged")


def _refine_file(annotations: Path, images: Path, output: Path, wanted: RefineOnly) -> RefinedFile:
    from pipeline.coco.reading import read_coco
    from pipeline.labels.label_store import LabelStore
    from pipeline.labels.label_writing import write_label_store
    from pipeline.refinement.coco_file import read_scores, rows_to_refine, write_refined
    from pipeline.refinement.gate import make_gate
    from pipeline.workflow.refined_files import refinement_id
    from stages.refine import refine_store, refine_work

    gate = make_gate(wanted.refine)
    dataset, scores = read_coco(annotations), read_scores(annotations)
    with _kept_until_done(output, refinement_id(annotations, dataset, images, wanted)) as scratch:
        teacher, refined = scratch / "teacher.zarr", scratch / "refined.zarr"
        if not teacher.exists():
            write_label_store(teacher, rows_to_refine(dataset, scores), dataset.categories, {})
        refine_store(refine_work(wanted, teacher, images, refined, gate), refined, wanted.compute, {})
        try:
            return write_refined(annotations, dataset, LabelStore.open(refined), output)
        except StageError:  # no image could be used: the next run is to look at them again
            shutil.rmtree(scratch)
            raise


@contextmanager
def _kept_until_done(output: Path, name: str) -> Iterator[Path]:
    """A folder beside a file for what is made on the way to it: it stays if we are stopped, and goes at the end.

    The file's other such folders, of other names, go with it. StageError where another process makes the file.
    """
    folder = output.with_name(f".{output.name}.refining")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StageError(
                f"{output} is being made by another process: wait for it, or choose another name"
            ) from error
        refuse_existing([output])  # another process may just have made it
        yield folder / name
    shutil.rmtree(folder, ignore_errors=True)
