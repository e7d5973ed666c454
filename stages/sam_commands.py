"""`s4m weights`, `s4m sam` and `s4m refine-coco`: SAM's weights, and what it does without an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.compute.settings import Device
from pipeline.files.writing import refuse_existing
from pipeline.presentation import words
from pipeline.refinement.settings import RefinePreset
from pipeline.sam.files import HF, MODELS, PUBLISHED, hf_name, hub_folder
from stages.console import err, out
from stages.options import as_overrides, complete_settings
from stages.stopping import stoppable

if TYPE_CHECKING:
    from pipeline.evaluation.results import PseudoLabelResult

sam_app = typer.Typer(help="SAM for labels of your own.", no_args_is_help=True)
weights_app = typer.Typer(help="SAM's published weights.", no_args_is_help=True)


def complete_models(incomplete: str) -> list[str]:
    """Return the models that begin with the typed text."""
    return [model for model in (*MODELS, HF) if model.startswith(incomplete)]


ModelArgument = Annotated[
    str,
    typer.Argument(metavar="MODEL", help=f"{', '.join(PUBLISHED)}, or hf:NAME.", autocompletion=complete_models),
]


@weights_app.command()
def get(
    model: ModelArgument,
    folder: Annotated[Path | None, typer.Option(help="Default: S4M_WEIGHTS, else weights/; in it hf/NAME.")] = None,
    revision: Annotated[str | None, typer.Option(help="Of hf:NAME: a commit, branch or tag. Default: newest.")] = None,
) -> None:
    """Fetch a model's weights from their publisher. An interrupted download is continued."""
    if model.startswith(HF):
        _get_hf(model, folder, revision)
        return
    if revision is not None:
        raise typer.BadParameter(f"{model} has one revision only", param_hint="--revision")
    from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

    from pipeline.sam.files import weights_folder
    from pipeline.sam.weights import download_weights

    with Progress(*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn(), console=err) as bar:
        task = bar.add_task(words.visible(model), total=None)
        found = download_weights(
            model, folder or weights_folder(), lambda done, total: bar.update(task, completed=done, total=total)
        )
    out.print(f"{found.path}: the published weights of {model}")


def _get_hf(model: str, folder: Path | None, revision: str | None) -> None:
    from pipeline.sam.hf.download import download_model

    name = hf_name(model)
    if name is None:
        raise typer.BadParameter(f"{model}: expected a name as hf:facebook/sam2.1-hiera-tiny", param_hint="MODEL")
    target = hub_folder(name) if folder is None else folder
    origin = download_model(name, target, revision)
    usage = model if folder is None else f"{HF}{folder}"
    out.print(f"{target}: {origin.name}, revision {origin.revision}. Use it as sam.model: {usage}")


@weights_app.command()
def check(
    model: ModelArgument,
    file: Annotated[Path | None, typer.Argument(help="Default: the model's own file.")] = None,
) -> None:
    """Identify weights by their content."""
    from pipeline.sam.hf.download import origin_of
    from pipeline.sam.weights import identify_weights

    if file is not None and model.startswith(HF):
        raise typer.BadParameter(f"{model} is a folder, not a file: leave it out", param_hint="FILE")
    found = identify_weights(model, file)
    kind = "published" if found.published else "custom"
    origin = origin_of(found.path)
    came = "" if origin is None else f", revision {origin.revision} of {origin.name}"
    out.print(f"{found.path}: {kind} weights of {model}, SHA-256 {found.sha256}{came}")


def refine_coco(
    annotations: Annotated[Path, typer.Argument(metavar="IN.json", help="COCO annotations with masks.")],
    images: Annotated[Path, typer.Argument(metavar="IMAGE_DIR", help="The folder that file names start from.")],
    output: Annotated[Path, typer.Argument(metavar="OUT.json", help="Where to write the refined annotations.")],
    sam: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="The SAM, as sam.model of an experiment, or a folder that `s4m sam adapt` wrote.",
            autocompletion=complete_models,
        ),
    ] = "sam_tiny",
    checkpoint: Annotated[Path | None, typer.Option(help="Weights other than the model's own.")] = None,
    preset: Annotated[RefinePreset, typer.Option(help="The recipe, as refine.preset of an experiment.")] = "best",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="As refine.passes=3. Repeatable.", autocompletion=complete_settings
        ),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="True annotations (COCO) of all images or some, to measure the masks."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    device: Annotated[Device, typer.Option(help="Where SAM runs.")] = "auto",
) -> None:
    """Refine the masks of a COCO file, without an experiment. The same command continues a stopped refinement."""
    from pipeline.workflow.loading import refine_only
    from pipeline.workflow.refined_files import refine_coco_file
    from stages.progress import ProgressDisplay

    asked = {
        **asked_sam(sam, checkpoint),
        "refine.preset": preset,
        "compute.workers": workers,
        "compute.device": device,
    }
    wanted = refine_only([*as_overrides(asked), *(settings or ())])
    refuse_existing([output])
    if not images.is_dir():
        raise typer.BadParameter(f"no such folder: {images}", param_hint="IMAGE_DIR")
    with stoppable(f"{output}"), ProgressDisplay() as progress:
        result = refine_coco_file(annotations, images, output, wanted, progress, truth)
    out.print(f"{output}: {words.figures(dict(sorted(result.file.decisions.items())))}")
    out.print(f"  {words.figures(result.effect.figures())}")
    if result.file.failures:
        out.print(f"{len(result.file.failures)} images could not be used; their annotations are unchanged")
    if result.quality is not None:
        out.print("\n".join(_quality_lines(result.quality)))
    for line in result.effect.warning_lines():
        err.print(line)


def asked_sam(sam: str | None, checkpoint: Path | None) -> dict[str, str | int | Path | None]:
    """Return the settings of a SAM by dotted key: of a model's name, or of a folder that `s4m sam adapt` wrote."""
    from pipeline.sam.adapted import is_adapted_sam, settings_of

    folder = Path(sam or "").expanduser()
    if sam is None or not is_adapted_sam(folder):
        return {"sam.model": sam, "sam.checkpoint": checkpoint}
    if checkpoint is not None:
        raise typer.BadParameter(f"{sam} has weights of its own: leave this out", param_hint="--checkpoint")
    found = settings_of(folder)
    return {"sam.model": found.model, "sam.checkpoint": found.checkpoint, "sam.input_side": found.input_side}


@sam_app.command()
def adapt(
    annotations: Annotated[Path, typer.Argument(metavar="LABELLED.json", help="COCO annotations with masks.")],
    images: Annotated[Path, typer.Argument(metavar="IMAGE_DIR", help="The folder that file names start from.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    sam: Annotated[
        str,
        typer.Option(metavar="MODEL", help="The SAM, as sam.model of an experiment.", autocompletion=complete_models),
    ] = "sam_tiny",
    checkpoint: Annotated[Path | None, typer.Option(help="Weights other than the model's own.")] = None,
    preset: Annotated[RefinePreset, typer.Option(help="The recipe that it will refine with.")] = "best",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="As adapt.iterations=100. Repeatable.", autocompletion=complete_settings
        ),
    ] = None,
    device: Annotated[Device, typer.Option(help="Where SAM is trained.")] = "auto",
) -> None:
    """Fit SAM to labelled images, and keep the weights that do best on held-out ones. Continues a stopped run."""
    from pipeline.adaptation.card import report_lines
    from pipeline.compute.execution import Execution
    from pipeline.workflow.adapted_folders import adapt_into_folder
    from pipeline.workflow.loading import adapt_only

    asked = {"sam.model": sam, "sam.checkpoint": checkpoint, "refine.preset": preset, "compute.device": device}
    wanted = adapt_only([*as_overrides(asked), *(settings or ())])
    if not images.is_dir():
        raise typer.BadParameter(f"no such folder: {images}", param_hint="IMAGE_DIR")
    with stoppable(f"{output}"):
        done = adapt_into_folder(annotations, images, output, wanted, Execution(wanted.compute, say=err.print))
    out.print("\n".join(report_lines(done)))
    out.print(f"{output}: {words.figures(done.summary)}. Use it as --sam {output}")


def _quality_lines(quality: PseudoLabelResult) -> list[str]:
    """Return the quality of the masks before and after refinement, by their truth."""
    before, after = quality.before.paired, quality.after.paired
    where = f"{words.count(quality.paired, 'instance')} of {words.count(quality.images, 'image')} with a truth"
    lines = [f"  measured on {where}:"]
    for name, first, second in (
        ("mask IoU", before.mean_iou, after.mean_iou),
        ("boundary IoU", before.mean_boundary_iou, after.mean_boundary_iou),
    ):
        change = words.signed(words.difference(first, second), 3)
        lines.append(f"    mean {name}: {words.share(first)} before, {words.share(second)} after ({change})")
    return lines
