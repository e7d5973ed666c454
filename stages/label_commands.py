"""`s4m labels`: take labels out, bring them in, compare and look at them, have people correct them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import StageError, StoreError
from pipeline.files.writing import open_atomically, refuse_existing
from stages.console import out
from stages.options import SetOption, experiment_path, load, workspace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.labels.label_store import LabelStore
    from pipeline.labels.rows import ImageLabels
    from pipeline.review.accepting import KnownImages, Labelled
    from pipeline.workflow.experiment import Experiment

app = typer.Typer(help="Export, import, compare, look at and correct label stores.", no_args_is_help=True)

STORE_HELP = "A label store: its folder, the result it lies in, or EXPERIMENT:predict, EXPERIMENT:refine."
StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help=STORE_HELP)]


@app.command()
def export(
    store: StoreArgument,
    output: Annotated[Path, typer.Argument(help="Where to write.")],
    results: Annotated[bool, typer.Option("--results", help="A results list instead of a dataset.")] = False,
    dropped: Annotated[bool, typer.Option("--dropped", help="Dropped instances too, as crowds.")] = False,
    overrides: SetOption = None,
) -> None:
    """Write a label store as COCO JSON."""
    from pipeline.labels.coco_export import export_dataset, export_results

    if results and dropped:
        raise typer.BadParameter("a results list has no crowds: leave out --results", param_hint="--dropped")
    refuse_existing([output])
    opened = find_store(store, overrides)
    written = export_results(opened, output) if results else export_dataset(opened, output, include_dropped=dropped)
    out.print(f"{output}: {written.images} images, {written.instances} instances")
    left_out = {
        "dropped instances": opened.attributes.instances - written.instances,
        "images that failed": opened.attributes.statuses["failed"],
    }
    if any(left_out.values()):
        out.print(f"  left out: {', '.join(f'{count} {what}' for what, count in left_out.items() if count)}")


@app.command("import")
def import_(
    detections: Annotated[Path, typer.Argument(help="COCO results list or dataset of any detector.")],
    images: Annotated[Path, typer.Argument(help="COCO JSON with the images and categories that they are for.")],
    output: Annotated[Path, typer.Argument(help="The label store to write.")],
) -> None:
    """Turn anybody's detections into a label store."""
    from pipeline.coco.reading import read_coco
    from pipeline.labels.coco_import import read_detections
    from pipeline.labels.label_writing import write_label_store

    dataset = read_coco(images, annotations_required=False)
    found = read_detections(detections, dataset.images, dataset.categories)
    written = write_label_store(output, found, dataset.categories, {"imported_from": detections.name})
    out.print(f"{output}: {written.images} images, {written.instances} instances, digest {written.digest}")
    if found.repeated:
        out.print(f"  {found.repeated} repeated instances left out: their mask and category are there already")


@app.command("diff")
def diff_(first: StoreArgument, second: StoreArgument, overrides: SetOption = None) -> None:
    """Say what changed from one store to another."""
    from pipeline.labels.diff import diff, diff_table

    out.print(diff_table(diff(find_store(first, overrides), find_store(second, overrides))))


@app.command()
def show(
    stores: Annotated[list[str], typer.Argument(metavar="STORE...", help=STORE_HELP)],
    images: Annotated[Path, typer.Option(help="The folder that file names start from.")],
    output: Annotated[Path, typer.Option(help="The picture to write (PNG).")],
    ids: Annotated[list[int], typer.Option("--id", help="Image id. Repeatable: one below the other.")],
    overrides: SetOption = None,
) -> None:
    """Draw the labels of images, stores side by side."""
    import numpy as np
    from PIL import Image

    from pipeline.labels.drawing import category_colours
    from pipeline.labels.drawing import show as draw

    if output.suffix.lower() != ".png":
        raise typer.BadParameter(f"{output}: the picture is a PNG, its name must end in .png", param_hint="--output")
    refuse_existing([output])
    opened = {name: find_store(name, overrides) for name in stores}
    first = next(iter(opened.values()))
    shown = (instance for each in opened.values() for image_id in ids for instance in each.by_id(image_id).instances)
    colours = category_colours(instance.category_id for instance in shown)
    drawn = [draw(opened, image_id, _pixels(images, first.by_id(image_id)), colours) for image_id in ids]
    width = max(picture.shape[1] for picture in drawn)
    padded = [np.pad(each, ((0, 0), (0, width - each.shape[1]), (0, 0))) for each in drawn]
    with open_atomically(output) as file:
        Image.fromarray(np.vstack(padded)).save(file, format="PNG")
    out.print(f"{output}: {len(ids)} images")


def _pixels(images: Path, labels: ImageLabels) -> NDArray[np.uint8]:
    """The image of some labels, uint8 (height, width, 3), RGB."""
    from pipeline.coco.paths import resolve_image_path
    from pipeline.errors import ImageError
    from pipeline.files.images import read_image

    try:
        size = (labels.width, labels.height) if labels.width else None
        return read_image(resolve_image_path(images, labels.file_name), size)
    except ImageError as error:
        failed = f"; it failed when it was to be labelled, too: {labels.message}" if labels.message else ""
        raise StageError(f"{images / labels.file_name}, image {labels.image_id}: {error}{failed}") from error


@app.command()
def verify(store: StoreArgument, overrides: SetOption = None) -> None:
    """Read a store again and name the columns that are not as they were sealed."""
    from pipeline.labels.label_columns import LABEL_FORMAT
    from pipeline.tables.verifying import verify as verify_columns

    opened = find_store(store, overrides)
    problems = verify_columns(opened.path, LABEL_FORMAT)
    if problems:
        raise StoreError("\n".join(problems))
    out.print(f"{opened.path} is whole: {opened.attributes.images} images, digest {opened.attributes.digest}")


@app.command()
def review(
    store: StoreArgument,
    images: Annotated[Path, typer.Option(help="The folder that file names start from.")],
    output: Annotated[Path, typer.Option(help="The folder to write; must be new or empty.")],
    format_: Annotated[str, typer.Option("--format", help="Whose files: coco, cvat or label-studio.")] = "coco",
    top: Annotated[int, typer.Option(min=1, help="Instances to look at.")] = 100,
    per_image: Annotated[int, typer.Option(min=1, help="At most this many of one image.")] = 3,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the images into OUTPUT/images too.")] = False,
    overrides: SetOption = None,
) -> None:
    """Write the images with the most doubtful instances, for people to correct."""
    from pipeline.review.choosing import choose
    from pipeline.review.writing import FAILED, ReviewFormat, ReviewTarget, write_review

    if format_ not in list(ReviewFormat):
        raise typer.BadParameter(f"{format_!r}: expected one of {', '.join(ReviewFormat)}", param_hint="--format")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise typer.BadParameter(f"{output} is already there and was left alone", param_hint="--output")
    chosen = choose(find_store(store, overrides), top, per_image)
    target = ReviewTarget(ReviewFormat(format_), images, output, copy)
    write_review(chosen, target)
    out.print(f"{output}: {chosen.ranked} instances to look at, in {len(chosen.images)} images to correct whole")
    if chosen.failed:
        out.print(f"{output / FAILED}: {len(chosen.failed)} images that failed, with their reasons")
    if target.format is ReviewFormat.LABEL_STUDIO:
        served = target.served
        out.print(f"Label Studio needs LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true, the root {served.document_root}")
        out.print(f"  as LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT, and a local storage at its folder {served.folder}")


@app.command()
def accept(
    corrected: Annotated[Path, typer.Argument(help="COCO JSON of corrected images, from any tool.")],
    experiment: Annotated[str, typer.Option("--from", metavar="FILE|NAME", help="The experiment they are of.")],
    output: Annotated[Path, typer.Option(help="Where to write the labelled data (COCO JSON).")],
    keep_crowds: Annotated[bool, typer.Option("--keep-crowds", help="Crowds stay crowds.")] = False,
    overrides: SetOption = None,
) -> None:
    """Join corrected images to an experiment's labelled ones, for a new experiment."""
    from pipeline.review.accepting import accept as join

    refuse_existing([output])
    settings, known = _known_images(experiment, overrides)
    labelled = join(corrected, known, keep_crowds=keep_crowds)
    labelled.write(output)
    out.print(f"{output}: {len(labelled.images)} labelled images, {len(labelled.annotations)} instances")
    taken = f"  corrected: {labelled.added} images that were unlabelled, {labelled.replaced} that were labelled, "
    out.print(f"{taken}{labelled.instances} instances ({labelled.empty} images have none)")
    if labelled.crowds:
        kept = "stay crowds" if keep_crowds else "count as instances, as CVAT writes masks (--keep-crowds: they do not)"
        out.print(f"  {labelled.crowds} annotations are crowds in {corrected}: they {kept}")
    out.print(f"  left unlabelled: {labelled.left} images")
    out.print(f"A new experiment uses it by this in place of its data:\n\n{_data_section(settings, labelled, output)}")


def _known_images(text: str, overrides: list[str] | None) -> tuple[Experiment, KnownImages]:
    """An experiment with the images of its split."""
    from pipeline.coco.reading import read_coco
    from pipeline.datasets.split import LABELLED, UNLABELLED
    from pipeline.review.accepting import KnownImages

    space = workspace(load(text, overrides), trust_images=True)
    if not space.is_done("split"):
        raise StoreError(f"{text} has no split that is up to date: {_make('split', text, overrides)}")
    data, folder = space.experiment.data, space.result("split")
    return space.experiment, KnownImages(
        labelled=read_coco(folder / LABELLED),
        labelled_root=data.labelled_source.images,
        unlabelled=read_coco(folder / UNLABELLED, annotations_required=False),
        unlabelled_root=data.unlabelled_source.images,
    )


def _data_section(experiment: Experiment, labelled: Labelled, output: Path) -> str:
    """The data of a new experiment, as YAML. Its split leaves the labelled images out of the unlabelled set."""
    import yaml

    sets = {"unlabelled": experiment.data.unlabelled_source, "validation": experiment.data.validation}
    kept = {name: each.model_dump(mode="json", exclude_none=True) for name, each in sets.items() if each is not None}
    data = {"labelled": {"annotations": str(output), "images": str(labelled.image_root)}} | kept
    text: str = yaml.safe_dump({"data": data}, sort_keys=False, allow_unicode=True)
    return text


def find_store(text: str, overrides: list[str] | None = None) -> LabelStore:
    """The label store that a command line names; `overrides` are values set over the experiment's file."""
    from pipeline.labels.label_store import LabelStore
    from stages.context import LABELS

    path = Path(text)
    if not path.exists() and ":" in text:
        experiment, _, node = text.rpartition(":")
        path = _result_of(experiment, node, overrides)
    elif not path.is_dir() and experiment_path(text).is_file():
        raise StoreError(f"{text}: an experiment has several label stores: {text}:predict, {text}:refine or another")
    inside = path / LABELS
    return LabelStore.open(inside if inside.is_dir() else path)


def _result_of(experiment: str, node: str, overrides: list[str] | None) -> Path:
    """The result of a node under these settings, also where others were used since."""
    space = workspace(load(experiment, overrides), trust_images=True)
    with_labels = [key for key, each in space.nodes.items() if each.stage in ("predict", "refine", "augment")]
    if node not in with_labels:
        raise StoreError(f"{experiment}:{node}: there are labels of {', '.join(with_labels)}")
    fingerprint = space.fingerprints.get(node)
    if fingerprint is None or not space.store.is_sealed(fingerprint.stage, fingerprint.id):
        how = _make(space.nodes[node].stage, experiment, overrides)
        raise StoreError(f"{experiment} has no labels of {node} that are up to date with these settings: {how}")
    return space.result(node)


def _make(stage: str, experiment: str, overrides: list[str] | None) -> str:
    """What to type to bring a stage up to date."""
    settings = f' SET="{" ".join(overrides)}"' if overrides else ""
    return f"make {stage} EXP={experiment}{settings}"
