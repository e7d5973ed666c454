"""`s4m weights` and `s4m refine-coco`: SAM's weights, and refinement without an experiment."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from stages.console import err, out

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
    """Refine the masks of a COCO file, without an experiment."""
    from pipeline.coco.reading import read_coco
    from pipeline.experiment.loading import experiment_without_data
    from pipeline.labels.sealing import write_store
    from pipeline.labels.store import LabelStore
    from pipeline.refinement.coco_file import read_scores, rows_to_refine, write_refined
    from pipeline.refinement.gate import make_gate
    from stages.refine import refine_store, refine_work

    asked = [f"sam.model={sam}", f"refine.preset={preset}", f"compute.workers={workers}", f"compute.device={device}"]
    if checkpoint is not None:
        asked.append(f"sam.checkpoint={checkpoint}")
    wanted = experiment_without_data([*asked, *(settings or ())])
    if output.exists():
        raise typer.BadParameter(f"{output} is already there and was left alone", param_hint="OUT.json")
    dataset = read_coco(annotations)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
        teacher, refined = Path(scratch) / "teacher.zarr", Path(scratch) / "refined.zarr"
        write_store(teacher, rows_to_refine(dataset, read_scores(annotations)), dataset.categories, {})
        work = refine_work(wanted, teacher, images, refined, make_gate(wanted.refine))
        refine_store(work, refined, wanted.compute, {})
        result = write_refined(annotations, dataset, LabelStore.open(refined), output)
    counts = ", ".join(f"{name} {count}" for name, count in sorted(result.decisions.items()))
    out.print(f"{output}: {counts}")
    if result.failures:
        out.print(f"{len(result.failures)} images could not be used; their annotations are unchanged")
