"""`s4m data`: check annotation files, generate the shapes dataset, convert public ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.coco.foreign import SourceFormat
from pipeline.datasets.settings import ShapesDifficulty
from pipeline.presentation import words
from stages.console import err, out

if TYPE_CHECKING:
    from pipeline.coco.checking import CocoReport

app = typer.Typer(help="Check annotations, generate shapes, convert public datasets.", no_args_is_help=True)

SHOWN = 20
WorkersOption = Annotated[int, typer.Option(min=1, help="Processes.")]


@app.command()
def check(
    annotations: Annotated[Path, typer.Argument(help="COCO instance annotations (JSON).")],
    images: Annotated[Path | None, typer.Argument(help="The folder of the images, to check their files too.")] = None,
    pixels: Annotated[bool, typer.Option("--pixels", help="Decode every image in full, not its header alone.")] = False,
    unlabelled: Annotated[bool, typer.Option("--unlabelled", help="The file lists images only.")] = False,
    repair: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write a copy with the boxes and areas that are missing.")
    ] = None,
) -> None:
    """Count and check an annotation file; exit status 1 where something is wrong."""
    from pipeline.coco.checking import check_coco
    from pipeline.coco.repairing import repair_coco

    if images is not None and not images.is_dir():
        raise typer.BadParameter(f"no such folder: {images}", param_hint="IMAGES")
    how = {"annotations_required": not unlabelled, "decode_pixels": pixels}
    repaired = None if repair is None else repair_coco(annotations, repair, images, **how)
    report = check_coco(annotations, images, **how) if repaired is None else repaired.report
    for line in _report_lines(report):
        out.print(line)
    if repaired is not None:
        computed = f"missing boxes: {repaired.boxes:,}, missing areas: {repaired.areas:,}"
        done = f"{repair}: computed" if not report.errors else f"{repair} is not written, as errors are left: computed"
        out.print(f"{done} {computed}")
    elif any(problem.where.endswith("bbox") and problem.message == "is missing" for problem in report.errors):
        out.print(f"to compute missing boxes and areas: s4m data check {annotations} --repair OUT.json")
    if not report.ok:
        raise typer.Exit(1)


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="The file or the folder to read.")],
    output: Annotated[Path, typer.Argument(help="The COCO file to write.")],
    from_: Annotated[SourceFormat, typer.Option("--from", help="Its format; docs/formats.md describes each.")],
    images: Annotated[
        Path | None, typer.Option(help="The folder that file names start from. Default: the usual one of the format.")
    ] = None,
    category: Annotated[str, typer.Option(help="The class of instances that have none.")] = "object",
    attribute: Annotated[str | None, typer.Option(help="The region attribute that holds the class (via).")] = None,
    split: Annotated[str | None, typer.Option(help="Only this part, as train or val (yolo-seg, voc).")] = None,
    boxes: Annotated[bool, typer.Option("--boxes", help="Make rectangles of boxes that have no outline.")] = False,
    categories: Annotated[
        Path | None, typer.Option(help="A COCO file whose category ids to use. Default: numbered from 1.")
    ] = None,
    workers: WorkersOption = 1,
) -> None:
    """Turn annotations of another format into a COCO file, and check it."""
    from pipeline.coco.reading import read_coco
    from pipeline.datasets.importing.reading import import_annotations
    from pipeline.datasets.importing.source import ImportSettings

    known = None if categories is None else read_coco(categories, annotations_required=False).categories
    settings = ImportSettings(images, category, attribute, split, boxes, known)
    made = import_annotations(from_, source, output, settings, workers=workers, progress=_progress("images"))
    for line in _report_lines(made.report):
        out.print(line)
    if made.notes:
        out.print("notes:")
    for what, number in made.notes.items():
        out.print(f"  {number:,} {what}")
    out.print(f"file names start from {made.image_root}")


@app.command()
def shapes(
    folder: Annotated[Path, typer.Argument(help="The folder to write; made if it is missing.")],
    images: Annotated[int, typer.Option(min=1, help="Images to train on.")] = 400,
    validation: Annotated[int, typer.Option(min=0, help="Images to measure on.")] = 100,
    difficulty: Annotated[ShapesDifficulty, typer.Option(help="How hard the shapes are to tell apart.")] = "medium",
    size: Annotated[int, typer.Option(help="Width and height in pixels.")] = 128,
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives other images.")] = 0,
    classes: Annotated[int, typer.Option(min=1, max=5, help="How many kinds of objects.")] = 5,
    workers: WorkersOption = 1,
    sheet: Annotated[Path | None, typer.Option(help="Also write a sheet of samples with outlines (PNG).")] = None,
) -> None:
    """Generate textured shapes with exact outlines. Images that the same settings made before are left alone."""
    from pipeline.datasets.shapes import ShapesSettings, contact_sheet, make_shapes

    settings = ShapesSettings(images, validation, difficulty, size, seed, classes)
    made = make_shapes(folder, settings, workers=workers, progress=_progress("images"))
    out.print(f"{folder}: {'made' if made else 'up to date'}, {images} + {validation} images")
    if sheet is not None:
        from PIL import Image

        Image.fromarray(contact_sheet(folder, 12)).save(sheet)
        out.print(f"{sheet}: a sheet of samples")


@app.command()
def cityscapes(
    root: Annotated[Path, typer.Argument(help="The Cityscapes folder, with gtFine and leftImg8bit.")],
    output: Annotated[Path, typer.Argument(help="Where to write train.json and val.json.")],
    cities: Annotated[list[str] | None, typer.Option("--city", help="Only this city. Repeatable.")] = None,
    workers: WorkersOption = 1,
) -> None:
    """Turn Cityscapes' fine annotations into COCO instances."""
    from pipeline.datasets.cityscapes import CityscapesSettings, convert_cityscapes

    settings = CityscapesSettings(cities=tuple(cities or ()))
    for made in convert_cityscapes(root, output, settings, workers=workers, progress=_progress("images")):
        out.print(f"{made.path}: {made.images} images, {made.instances} instances, {made.crowds} crowds")


@app.command()
def nuclei(
    root: Annotated[Path, typer.Argument(help="The folder of stage1_train.zip, with a folder for each image.")],
    output: Annotated[Path, typer.Argument(help="Where to write train.json and val.json.")],
    validation: Annotated[int, typer.Option(min=1, help="Images to measure on; the others train.")] = 50,
    side: Annotated[int | None, typer.Option(min=1, help="Only images of this width and height. Default: all.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives other images to measure on.")] = 0,
    workers: WorkersOption = 1,
) -> None:
    """Turn the nuclei of the 2018 Data Science Bowl into COCO instances."""
    from pipeline.datasets.nuclei import NucleiSettings, convert_nuclei

    settings = NucleiSettings(validation, side, seed)
    for made in convert_nuclei(root, output, settings, workers=workers, progress=_progress("images")):
        out.print(f"{made.path}: {made.images} images, {made.instances} nuclei")


@app.command("coco-split")
def coco_split(
    annotations: Annotated[Path, typer.Argument(help="instances_train2017.json, or any COCO file.")],
    output: Annotated[Path, typer.Argument(help="Where to write the list of labelled images (JSON).")],
    percent: Annotated[float, typer.Option(help="How much is labelled.")],
    fold: Annotated[int, typer.Option(min=0, help="Which of the draws of this percentage.")] = 1,
    published: Annotated[Path | None, typer.Option(help="A published list to take it from. Default: draw it.")] = None,
) -> None:
    """Write the list of labelled images of a percentage, for `data.labelled_list`."""
    from pipeline.datasets.coco_splits import CocoSplitSettings, make_coco_split

    made = make_coco_split(annotations, output, CocoSplitSettings(percent, fold, published))
    out.print(f"{output}: {len(made.labelled_ids)} of {made.images} images are labelled")


@app.command("split-off")
def split_off_(
    annotations: Annotated[Path, typer.Argument(help="COCO instance annotations (JSON) of all images.")],
    output: Annotated[Path, typer.Argument(help="The folder to write the files of the parts to.")],
    labelled: Annotated[str, typer.Option(help="How many images are labelled: 20 or 20%.")],
    validation: Annotated[str, typer.Option(help="How many images are to measure on: 20 or 20%.")] = "20%",
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives other images.")] = 0,
) -> None:
    """Divide one annotated set into labelled, validation and unlabelled images, stratified by class."""
    from pipeline.coco.reading import read_coco
    from pipeline.datasets.split_off import PARTS, Amount, split_off, write_split_off

    dataset = read_coco(annotations)
    parts = (Amount.parse("labelled", labelled), Amount.parse("validation", validation))
    split = split_off(dataset, *parts, seed=seed)
    write_split_off(dataset, split, output)
    by_class = split.images_by_class(dataset)
    width = max(map(len, ("images", *by_class)))
    out.print(f"{'':{width}}  " + "".join(f"{part:>12}" for part in PARTS))
    sizes = (len(split.labelled), len(split.validation), len(split.unlabelled))
    for name, counts in {"images": sizes, **by_class}.items():
        out.print(f"{name:{width}}  " + "".join(f"{count:>12,}" for count in counts))
    out.print(f"written to {output}; the annotations of unlabelled images are apart, for measuring only")


def _report_lines(report: CocoReport) -> list[str]:
    lines = [f"{report.path}"]
    if report.images:
        small, medium, large = report.areas
        sizes = list(report.image_sizes.items())[:5]
        lines += [
            f"  images      {report.images:,}, {report.images_without_instances:,} of them without instances",
            f"  instances   {report.instances:,}, {report.crowds:,} of them crowds",
            f"  areas       {small:,} small, {medium:,} medium, {large:,} large",
            "  sizes       " + ", ".join(f"{width}x{height}: {count:,}" for (width, height), count in sizes),
        ]
        lines += [
            f"  category    {category.id} {category.name}: {category.instances:,} in {category.images:,} images"
            for category in report.categories[:SHOWN]
        ]
        if len(report.categories) > SHOWN:
            lines.append(f"  … and {len(report.categories) - SHOWN} more categories")
    for title, problems in (
        ("error", report.errors),
        ("bad image", report.bad_images),
        ("warning", report.warnings),
    ):
        lines.append(words.count(len(problems), title) + (":" if problems else ""))
        lines += [f"  {problem}" for problem in problems[:SHOWN]]
        if len(problems) > SHOWN:
            lines.append(f"  … and {len(problems) - SHOWN:,} more")
    return lines


def _progress(what: str) -> Callable[[int, int], None]:
    """Says every tenth of the way how far it is."""

    def report(done: int, total: int) -> None:
        step = max(1, total // 10)
        if done % step == 0 or done == total:
            err.print(f"{done:,} of {total:,} {what}")

    return report
