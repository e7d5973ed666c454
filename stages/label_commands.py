"""`s4m labels`: export, import, compare and draw labels, and have people correct them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import StoreError, some_of
from pipeline.files.writing import open_atomically, refuse_existing
from pipeline.labels.exporting.export_format import TOLERANCE_PX, DataPart, ExportFormat
from pipeline.presentation import words
from pipeline.review.review_format import ReviewFormat
from pipeline.workflow.finding import label_store_path
from pipeline.workflow.workspace import make_command
from stages.console import out
from stages.options import SetOption, complete_experiments, load, report_reading, workspace

if TYPE_CHECKING:
    from pipeline.labels.label_source import LabelSource
    from pipeline.labels.label_store import LabelStore

app = typer.Typer(help="Export, import, compare, draw and correct label stores.", no_args_is_help=True)

STORE_HELP = "A label store: its folder, the result it lies in, or EXPERIMENT:predict, EXPERIMENT:refine."
StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help=STORE_HELP)]
LABELS_HELP = "A label store: its folder, its result or EXPERIMENT:predict, EXPERIMENT:refine; or a COCO file."
LabelsArgument = Annotated[str, typer.Argument(metavar="LABELS", help=LABELS_HELP)]


@app.command()
def export(
    labels: LabelsArgument,
    output: Annotated[Path, typer.Argument(help="The file or the folder to write; docs/formats.md says which.")],
    format_: Annotated[
        ExportFormat, typer.Option("--format", help="The format; docs/formats.md describes each.")
    ] = ExportFormat.COCO,
    results: Annotated[bool, typer.Option("--results", help="Write a results list, not a dataset (coco).")] = False,
    dropped: Annotated[bool, typer.Option("--dropped", help="Write dropped instances too, in COCO as crowds.")] = False,
    images: Annotated[
        Path | None, typer.Option(help="The folder of the images: makes a trainer's folder of them and the labels.")
    ] = None,
    part: Annotated[DataPart, typer.Option(help="Which part of the trainer's folder to write.")] = DataPart.TRAIN,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the images into the trainer's folder.")] = False,
    tolerance: Annotated[
        float, typer.Option(min=0, help="By how many pixels polygons may miss points of the outline; 0: exact.")
    ] = TOLERANCE_PX,
    overrides: SetOption = None,
) -> None:
    """Write labels in the format of another tool."""
    from pipeline.labels.coco_export import export_results
    from pipeline.labels.exporting.export import Exported, ExportRequest, export_labels

    if results and (dropped or format_ is not ExportFormat.COCO or images is not None):
        message = "a results list has no crowds and no images, and is COCO: leave out --results"
        raise typer.BadParameter(message, param_hint="--results")
    opened = open_labels(labels, overrides)
    if results:
        refuse_existing([output])
        exported = Exported(*export_results(opened, output), None)
    else:
        request = ExportRequest(format_, output, images, part, copy, dropped, tolerance)
        exported = export_labels(opened, request)
    out.print(f"{output}: {exported.images} images, {exported.instances} instances")
    if exported.loss is not None and exported.loss.polygons:
        loss = exported.loss
        worst = f", the worst {loss.worst:.4f} ({loss.worst_at})" if loss.worst_at else ""
        out.print(f"  IoU of the polygons with the masks: {loss.mean:.4f} on average{worst}")
    left_out = {
        "dropped instances": opened.instances - exported.instances,
        "images that failed": len(opened) - len(opened.usable_images()),
    }
    if any(left_out.values()):
        out.print(f"  left out: {', '.join(f'{count} {what}' for what, count in left_out.items() if count)}")


@app.command("import")
def import_(
    detections: Annotated[Path, typer.Argument(help="COCO results list or dataset of any detector.")],
    images: Annotated[Path, typer.Argument(help="COCO JSON with their images and categories.")],
    output: Annotated[Path, typer.Argument(help="The label store to write.")],
) -> None:
    """Turn the detections of any detector into a label store."""
    from pipeline.coco.reading import read_coco
    from pipeline.labels.coco_import import read_detections
    from pipeline.labels.label_writing import write_label_store

    dataset = read_coco(images, annotations_required=False)
    found = read_detections(detections, dataset.images, dataset.categories, keep_decisions=True)
    written = write_label_store(output, found, dataset.categories, {"imported_from": detections.name})
    out.print(f"{output}: {written.images} images, {written.instances} instances, digest {written.digest}")
    if found.repeated:
        out.print(
            f"  {found.repeated} repeated instances left out: the file has their mask and category more than once"
        )


@app.command("diff")
def diff_(first: LabelsArgument, second: LabelsArgument, overrides: SetOption = None) -> None:
    """Print what changed from one set of labels to another."""
    from pipeline.labels.diff import diff, diff_table

    out.print(diff_table(diff(open_labels(first, overrides), open_labels(second, overrides))))


@app.command()
def show(
    labels: Annotated[list[str], typer.Argument(metavar="LABELS...", help=LABELS_HELP)],
    images: Annotated[Path, typer.Option(help="The folder that file names start from.")],
    output: Annotated[Path, typer.Option(help="The image to write (PNG).")],
    ids: Annotated[list[int] | None, typer.Option("--id", help="Image id. Repeatable.")] = None,
    names: Annotated[
        list[str] | None, typer.Option("--name", help="File name of an image, or its end. Repeatable.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="How many images to draw, without --id and --name.")] = 4,
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Leave out instances with lower scores.")] = 0.0,
    overrides: SetOption = None,
) -> None:
    """Draw the labels of images below each other, several sets of labels side by side."""
    from PIL import Image

    from pipeline.review.sheet import ShownImages, label_sheet

    if output.suffix.lower() != ".png":
        raise typer.BadParameter(f"{output}: the name must end in .png, since a PNG is written", param_hint="--output")
    refuse_existing([output])
    shown = ShownImages(tuple(ids or ()), tuple(names or ()), count, min_score)
    drawn = label_sheet({name: open_labels(name, overrides) for name in labels}, shown, images)
    with open_atomically(output) as file:
        Image.fromarray(drawn.pixels).save(file, format="PNG")
    out.print(f"{output}: {words.count(len(drawn.names), 'image')}: {some_of(drawn.names)}")


@app.command()
def verify(store: StoreArgument, overrides: SetOption = None) -> None:
    """Read a store and print the columns that changed since it was sealed."""
    from pipeline.labels.label_columns import LABEL_FORMAT
    from pipeline.tables.verifying import verify as verify_columns

    opened = open_store(store, overrides)
    problems = verify_columns(opened.path, LABEL_FORMAT)
    if problems:
        raise StoreError("\n".join(problems))
    out.print(f"{opened.path} is whole: {opened.attributes.images} images, digest {opened.attributes.digest}")


@app.command()
def review(
    store: StoreArgument,
    images: Annotated[Path, typer.Option(help="The folder that file names start from.")],
    output: Annotated[Path, typer.Option(help="The folder to write, new or empty.")],
    format_: Annotated[
        ReviewFormat, typer.Option("--format", help="The annotation tool to write for.")
    ] = ReviewFormat.COCO,
    top: Annotated[int, typer.Option(min=1, help="Instances to check.")] = 100,
    per_image: Annotated[int, typer.Option(min=1, help="Most instances of one image.")] = 3,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the images into OUTPUT/images too.")] = False,
    overrides: SetOption = None,
) -> None:
    """Write the images with the most doubtful instances, for people to correct."""
    from pipeline.review.choosing import choose
    from pipeline.review.writing import FAILED, ReviewTarget, write_review

    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise typer.BadParameter(f"{output} is already there and was left alone", param_hint="--output")
    chosen = choose(open_store(store, overrides), top, per_image)
    target = ReviewTarget(format_, images, output, copy)
    write_review(chosen, target)
    out.print(f"{output}: {chosen.ranked} instances to check, in {len(chosen.images)} images to correct whole")
    if chosen.failed:
        out.print(f"{output / FAILED}: {len(chosen.failed)} images that failed, with their reasons")
    if target.format is ReviewFormat.LABEL_STUDIO:
        served = target.served
        out.print(f"Label Studio needs LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true, the root {served.document_root}")
        out.print(f"  as LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT, and a local storage at its folder {served.folder}")


@app.command()
def accept(
    corrected: Annotated[Path, typer.Argument(help="COCO JSON of corrected images, from any tool.")],
    experiment: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="FILE|NAME",
            help="The experiment that they belong to.",
            autocompletion=complete_experiments,
        ),
    ],
    output: Annotated[Path, typer.Option(help="Where to write the labelled data (COCO JSON).")],
    keep_crowds: Annotated[bool, typer.Option("--keep-crowds", help="Crowds stay crowds.")] = False,
    overrides: SetOption = None,
) -> None:
    """Join corrected images to an experiment's labelled ones, for a new experiment."""
    from pipeline.review.accepting import accept as join
    from pipeline.review.experiment_data import data_section, known_images

    refuse_existing([output])
    space = workspace(load(experiment, overrides), trust_images=True)
    if not space.is_done("split"):
        how = make_command("split", experiment, overrides or ())
        raise StoreError(f"{experiment} has no split that is up to date: {how}")
    data = space.experiment.data
    labelled = join(corrected, known_images(data, space.result("split")), keep_crowds=keep_crowds)
    labelled.write(output)
    out.print(f"{output}: {len(labelled.images)} labelled images, {len(labelled.annotations)} instances")
    taken = f"  corrected: {labelled.added} images that were unlabelled, {labelled.replaced} that were labelled, "
    out.print(f"{taken}{labelled.instances} instances ({labelled.empty} images have none)")
    if labelled.crowds:
        kept = "stay crowds" if keep_crowds else "count as instances, as CVAT writes masks (--keep-crowds: they do not)"
        out.print(f"  {labelled.crowds} annotations are crowds in {corrected}: they {kept}")
    out.print(f"  left unlabelled: {labelled.left} images")
    out.print(f"Data of a new experiment that uses them:\n\n{data_section(data, labelled, output)}")


def open_labels(text: str, overrides: list[str] | None) -> LabelSource:
    """Open the label store or the COCO file that a command names."""
    from pipeline.labels.label_source import CocoLabels

    path = Path(text)
    return CocoLabels.open(path) if path.is_file() else open_store(text, overrides)


def open_store(text: str, overrides: list[str] | None) -> LabelStore:
    """Open the label store that a command names."""
    from pipeline.labels.label_store import LabelStore

    return LabelStore.open(label_store_path(text, overrides or (), report_reading))
