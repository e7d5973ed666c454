"""`s4m config`, `new`, `status`, `preview`, `compare`, and `s4m graph`, which make calls."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import StageError
from pipeline.files.shipped import EXPERIMENTS
from pipeline.presentation import words
from pipeline.workflow.describe import schema_text
from pipeline.workflow.loading import to_yaml
from pipeline.workflow.starter import starter_text
from pipeline.workflow.workspace import NodeStatus, State, make_command
from stages.console import out
from stages.options import ExperimentOption, RoundOption, SetOption, complete_experiments, load, workspace

MAKE_READS = frozenset(" \t\n:#$%;|&=\\*?[]()~")
"""Characters that make reads as more than a part of a file's name."""

STYLES = {
    State.DONE: "green",
    State.READY: "green",
    State.STALE: "yellow",
    State.MISSING: "",
    State.RUNNING: "cyan",
    State.SKIPPED: "dim",
}


def add_to(app: typer.Typer) -> None:
    """Add the commands to the main one."""
    for command in (config, schema, new, status, preview, compare):
        app.command()(command)
    app.command(hidden=True)(graph)


def config(exp: ExperimentOption, overrides: SetOption = None) -> None:
    """Print the resolved experiment, with presets, defaults and overrides."""
    out.print(to_yaml(load(exp, overrides)), end="")


def schema() -> None:
    """Print the JSON schema of experiment files, for editors."""
    out.print(schema_text(), end="")


def new(
    name: Annotated[str, typer.Argument(help="The experiment's name; its file is configs/experiments/NAME.yaml.")],
    folder: Annotated[Path, typer.Option(help="Where to write the file.")] = EXPERIMENTS,
) -> None:
    """Write a commented experiment file to start from. An existing file is left alone."""
    path = folder / f"{name}.yaml"
    text = starter_text(name, folder)
    if path.exists():
        raise StageError(f"{path} is already there and was left alone; choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    out.print(f"{path} written. Set the paths under `data:`, then: make report EXP={name}")


def graph(exp: ExperimentOption, overrides: SetOption = None) -> None:
    """Bring fingerprints and records up to date and print the file of edges that make includes."""
    if any(character.isspace() for character in exp):
        raise StageError(f"EXP={exp}: make cannot work with spaces in names")
    space = workspace(load(exp, overrides))
    unusable = sorted({each for each in str(space.folder) if each in MAKE_READS or not each.isprintable()})
    if any(each.isspace() for each in unusable):
        raise StageError(f"{space.folder}: make cannot work with spaces in names; set S4M_WORK to another folder")
    if unusable:
        raise StageError(
            f"{space.folder}: make cannot work with {' '.join(unusable)} in names; set S4M_WORK to another folder"
        )
    out.print(str(space.refresh()))


def status(
    exp: ExperimentOption,
    overrides: SetOption = None,
    look: Annotated[bool, typer.Option("--look", help="Check every image for changes, as make does.")] = False,
) -> None:
    """Show every stage of an experiment: done, stale and why, or to do.

    Images count as unchanged since make last checked them.
    """
    experiment = load(exp, overrides)
    space = workspace(experiment, trust_images=not look)
    out.print(f"{experiment.name}: records in {space.folder}, results in {space.store.root}")
    for key in space.nodes:
        standing = space.status(key)
        out.print("\n".join(_lines(standing)), style=STYLES[standing.state])


def preview(
    exp: ExperimentOption,
    output: Annotated[Path, typer.Option(help="The image to write (PNG).")],
    count: Annotated[int, typer.Option("--n", min=1, help="Composites to show.")] = 12,
    number: RoundOption = 1,
    overrides: SetOption = None,
) -> None:
    """Draw composites before they are made: base, donor and result, with their labels."""
    from PIL import Image

    from pipeline.augment.making import composite_sources
    from pipeline.augment.sheet import draw_sheet
    from pipeline.augment.sources import LabelledFolder
    from pipeline.datasets.split import LABELLED
    from pipeline.workflow.graph import node_key
    from pipeline.workflow.result_files import LABELS

    experiment = load(exp, overrides)
    space = workspace(experiment, trust_images=True)
    refine = node_key("refine", number)
    for needed in ("split", refine):
        if not space.is_done(needed):
            raise StageError(
                f"the preview needs {needed} first: {make_command(needed.partition('-')[0], experiment.name)}"
            )
    data, labelled = experiment.data, space.result("split") / LABELLED
    refined = LabelledFolder.of(space.result(refine) / LABELS, data.unlabelled_source.images)
    with tempfile.TemporaryDirectory() as scratch:
        sources = composite_sources(
            refined,
            labelled,
            data.labelled_source.images,
            experiment.augment,
            Path(scratch),
            experiment.student.doubt,
        )
        names = sources.refined_store.attributes.names
        sheet, shown = draw_sheet(sources, count, names)
    output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(output)
    out.print(f"{output}: {shown} of {len(sources.pairs):,} composites")
    if experiment.augment.views:
        out.print(
            "augment.views is true: while training, both images are scaled and cropped first; here they are whole"
        )


def compare(
    experiments: Annotated[
        list[str],
        typer.Argument(metavar="EXP", help="Experiments: files or names.", autocompletion=complete_experiments),
    ],
    output: Annotated[Path, typer.Option(help="The page to write (HTML).")] = Path("comparison.html"),
) -> None:
    """Write a page that compares experiments: settings, accuracy, masks and time."""
    from pipeline.files.writing import write_atomically
    from pipeline.report.compare import compared_of, render_comparison, require_comparable

    compared = [compared_of(workspace(load(text, None), trust_images=True)) for text in experiments]
    require_comparable(compared)
    write_atomically(output, render_comparison(compared))
    out.print(f"{output}: {len(compared)} experiments")


def _lines(status: NodeStatus) -> list[str]:
    seal = status.seal
    summary = [words.figures(seal.summary, seal.stage)] if seal is not None and seal.summary else []
    about = "; ".join([*status.reasons, *summary])
    made = f"{seal.made_at}  {words.size(seal.size_bytes):>8}  " if seal else ""
    lines = [f"{status.node.key:<18}{status.state.value:<13}{made}{about}".rstrip()]
    if status.path is not None:
        lines.append(f"{'':<18}{status.path}")
    return lines
