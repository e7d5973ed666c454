"""`s4m labels`: take labels out, bring them in, compare and look at them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import StoreError
from stages.console import out

if TYPE_CHECKING:
    from pipeline.labels.store import LabelStore

app = typer.Typer(help="Export, import, compare and look at label stores.", no_args_is_help=True)

STORE_HELP = "A label store: its folder, the result it lies in, or EXPERIMENT:predict, EXPERIMENT:refine."
StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help=STORE_HELP)]


@app.command()
def export(
    store: StoreArgument,
    output: Annotated[Path, typer.Argument(help="Where to write.")],
    results: Annotated[bool, typer.Option("--results", help="A results list instead of a dataset.")] = False,
    dropped: Annotated[bool, typer.Option("--dropped", help="Dropped instances too, as crowds.")] = False,
) -> None:
    """Write a label store as COCO JSON."""
    from pipeline.labels.coco_export import export_dataset, export_results

    opened = find_store(store)
    if results:
        export_results(opened, output)
    else:
        export_dataset(opened, output, include_dropped=dropped)
    out.print(f"{output}: {opened.attributes.images} images, {opened.attributes.instances} instances")


@app.command("import")
def import_(
    detections: Annotated[Path, typer.Argument(help="COCO results list or dataset of any detector.")],
    images: Annotated[Path, typer.Argument(help="COCO JSON with the images and categories that they are for.")],
    output: Annotated[Path, typer.Argument(help="The label store to write.")],
) -> None:
    """Turn anybody's detections into a label store."""
    from pipeline.coco.reading import read_coco
    from pipeline.labels.coco_import import read_detections
    from pipeline.labels.sealing import write_store

    dataset = read_coco(images, annotations_required=False)
    found = read_detections(detections, dataset.images, dataset.categories)
    written = write_store(output, found, dataset.categories, {"imported_from": detections.name})
    out.print(f"{output}: {written.images} images, {written.instances} instances, digest {written.digest}")


@app.command("diff")
def diff_(first: StoreArgument, second: StoreArgument) -> None:
    """Say what changed from one store to another."""
    from pipeline.labels.diff import diff, diff_table

    out.print(diff_table(diff(find_store(first), find_store(second))))


@app.command()
def show(
    stores: Annotated[list[str], typer.Argument(metavar="STORE...", help=STORE_HELP)],
    images: Annotated[Path, typer.Option(help="The folder that file names start from.")],
    output: Annotated[Path, typer.Option(help="The picture to write (PNG).")],
    ids: Annotated[list[int], typer.Option("--id", help="Image id. Repeatable: one below the other.")],
) -> None:
    """Draw the labels of images, stores side by side."""
    import numpy as np
    from PIL import Image

    from pipeline.coco.paths import resolve_image_path
    from pipeline.images import read_image
    from pipeline.labels.picture import show as draw

    opened = {name: find_store(name) for name in stores}
    first = next(iter(opened.values()))
    drawn = []
    for image_id in ids:
        labels = first.by_id(image_id)
        size = (labels.width, labels.height) if labels.width else None
        drawn.append(draw(opened, image_id, read_image(resolve_image_path(images, labels.file_name), size)))
    width = max(picture.shape[1] for picture in drawn)
    padded = [np.pad(each, ((0, 0), (0, width - each.shape[1]), (0, 0))) for each in drawn]
    Image.fromarray(np.vstack(padded)).save(output)
    out.print(f"{output}: {len(ids)} images")


@app.command()
def verify(store: StoreArgument) -> None:
    """Read a store again and name the columns that are not as they were sealed."""
    from pipeline.labels.store import verify as verify_columns

    opened = find_store(store)
    problems = verify_columns(opened.path)
    if problems:
        raise StoreError("\n".join(problems))
    out.print(f"{opened.path} is whole: {opened.attributes.images} images, digest {opened.attributes.digest}")


def find_store(text: str) -> LabelStore:
    """The label store that a command line names."""
    from pipeline.labels.store import LabelStore
    from stages.context import LABELS

    path = Path(text)
    if not path.exists() and ":" in text:
        path = _result_of(*text.rsplit(":", 1))
    inside = path / LABELS
    return LabelStore.open(inside if inside.is_dir() else path)


def _result_of(experiment: str, node: str) -> Path:
    from stages.options import load, workspace

    space = workspace(load(experiment, None), trust_images=True)
    if node not in space.fingerprints or not space.is_done(node):
        raise StoreError(f"{experiment} has no labels of {node} that are up to date: make {node} EXP={experiment}")
    return space.result(node)
