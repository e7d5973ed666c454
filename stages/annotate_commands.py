"""`s4m annotate`: the labels of a trained detector on a folder of images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.compute.settings import Device
from pipeline.presentation import words
from pipeline.refinement.settings import RefinePreset
from pipeline.workflow.finding import ModelRole, detector_folder
from stages.console import err, out
from stages.options import as_overrides, complete_experiments, complete_settings, report_reading
from stages.progress import ProgressDisplay
from stages.sam_commands import asked_sam, complete_models
from stages.stopping import stoppable

if TYPE_CHECKING:
    from pipeline.workflow.annotating import Annotated as AnnotatedFolder

FAILURES_SHOWN = 20


def annotate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="EXP|FOLDER",
            help="An experiment, or the folder of a trained detector, wherever it was copied.",
            autocompletion=complete_experiments,
        ),
    ],
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="The folder of images, with its subfolders.")],
    output: Annotated[
        Path, typer.Option(help="The file to write: COCO JSON, or a label store if its name ends in .zarr.")
    ],
    role: Annotated[ModelRole, typer.Option("--model", help="Which detector of an experiment.")] = "student",
    score: Annotated[float, typer.Option(min=0, max=1, help="Leave out instances with a lower class score.")] = 0.5,
    refine: Annotated[bool, typer.Option("--refine", help="Let SAM sharpen the masks.")] = False,
    sam: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="With --refine: the SAM, as for refine-coco.  [default: sam_tiny]",
            autocompletion=complete_models,
        ),
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="With --refine: weights other than the model's own.")] = None,
    preset: Annotated[
        RefinePreset | None, typer.Option(help="With --refine: the recipe, as refine.preset.  [default: best]")
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Draw the labels of every image into this folder.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="As predict.max_instances=20, refine.passes=3, compute.scheduler=ADDRESS. Repeatable.",
            autocompletion=complete_settings,
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with a core or a GPU of its own.")] = 1,
    device: Annotated[Device, typer.Option(help="Where models run.")] = "auto",
) -> None:
    """Label a folder of new images with a trained detector. The same command continues a stopped run."""
    from pipeline.workflow.annotating import AnnotateRequest
    from pipeline.workflow.annotating import annotate as annotate_images
    from pipeline.workflow.loading import annotate_only

    for_sam = {**asked_sam(sam, checkpoint), "refine.preset": preset}
    given = [key for key, value in for_sam.items() if value is not None]
    if given and not refine:
        raise typer.BadParameter(f"changes nothing without --refine ({', '.join(given)})", param_hint="--sam, --preset")
    asked = {"predict.score_threshold": score, "compute.workers": workers, "compute.device": device}
    wanted = annotate_only([*as_overrides(asked), *as_overrides(for_sam), *(settings or ())])
    folder = detector_folder(model, role, progress=report_reading)
    request = AnnotateRequest(folder, images, output, refine, pictures)
    with stoppable(f"{output}"), ProgressDisplay() as progress:
        done = annotate_images(request, wanted, progress)
    _print(done, output, pictures)


def _print(done: AnnotatedFolder, output: Path, pictures: Path | None) -> None:
    """Print what was annotated, warnings of harm, and the images that could not be used."""
    from pipeline.workflow.annotating import STORE_ENDING

    out.print(f"{output}: {_counts(done.counts)}")
    if done.effect is not None:
        out.print(f"  {words.figures(done.effect.figures())}")
    if pictures is not None:
        out.print(f"{pictures}: drawings of these images")
    for line in done.effect.warning_lines() if done.effect is not None else ():
        err.print(line)
    if done.failures:
        where = "are rows without instances" if output.suffix == STORE_ENDING else "are left out of the file"
        err.print(f"{words.count(len(done.failures), 'image')} could not be used and {where}:")
        for name, reason in list(done.failures.items())[:FAILURES_SHOWN]:
            err.print(f"  {name}: {reason}")
        if len(done.failures) > FAILURES_SHOWN:
            err.print(f"  … and {len(done.failures) - FAILURES_SHOWN} more")


def _counts(counts: Mapping[str, int]) -> str:
    """Return the figures of a label store, whose masks are the detector's and SAM's."""
    names = {"teacher": "the detector's own masks"}
    return words.figures({names.get(name, name): count for name, count in counts.items()})
