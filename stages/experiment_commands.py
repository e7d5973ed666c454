"""`s4m config`, `s4m new`, `s4m status`, and `s4m graph`, which make calls."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import StageError
from pipeline.files.shipped import EXPERIMENTS
from pipeline.presentation import words
from pipeline.workflow.describe import schema_text
from pipeline.workflow.loading import to_yaml
from pipeline.workflow.starter import starter_text
from pipeline.workflow.workspace import NodeStatus, State
from stages.console import out
from stages.options import ExperimentOption, SetOption, load, workspace

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
    app.command("config", help="Print the experiment as it is resolved: presets, defaults and overrides filled in.")(
        config
    )
    app.command("schema", help="Print the JSON schema of experiment files, for editors.")(schema)
    app.command("new", help="Write a commented experiment file to start from.")(new)
    app.command("status", help="Show every stage of an experiment: done, stale and why, or to do.")(status)
    app.command("graph", hidden=True)(graph)


def config(exp: ExperimentOption, overrides: SetOption = None) -> None:
    """Print the resolved experiment."""
    out.print(to_yaml(load(exp, overrides)), end="")


def schema() -> None:
    """Print the JSON schema of experiment files."""
    out.print(schema_text(), end="")


def new(
    name: Annotated[str, typer.Argument(help="The experiment's name; its file is configs/experiments/NAME.yaml.")],
    folder: Annotated[Path, typer.Option(help="Where to write the file.")] = EXPERIMENTS,
) -> None:
    """Write a starter experiment. An existing file is left alone."""
    path = folder / f"{name}.yaml"
    text = starter_text(name, folder)
    if path.exists():
        raise StageError(f"{path} is already there and was left alone; choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    out.print(f"{path} is written. Set the paths under `data:`, then: make report EXP={name}")


def graph(exp: ExperimentOption, overrides: SetOption = None) -> None:
    """Bring fingerprints and records up to date and print the file of edges that make includes."""
    if any(character.isspace() for character in exp):
        raise StageError(f"EXP={exp}: make cannot work with spaces in names")
    space = workspace(load(exp, overrides))
    if any(character.isspace() for character in str(space.folder)):
        raise StageError(f"{space.folder}: make cannot work with spaces in names; set S4M_WORK to another folder")
    out.print(str(space.refresh()))


def status(
    exp: ExperimentOption,
    overrides: SetOption = None,
    look: Annotated[bool, typer.Option("--look", help="Look at every image again, as make does.")] = False,
) -> None:
    """Show how every stage stands. Images are taken to be as they were when make last looked."""
    experiment = load(exp, overrides)
    space = workspace(experiment, trust_images=not look)
    out.print(f"{experiment.name}: records in {space.folder}, results in {space.store.root}")
    for key in space.nodes:
        standing = space.status(key)
        out.print("\n".join(_lines(standing)), style=STYLES[standing.state])


def _lines(status: NodeStatus) -> list[str]:
    seal = status.seal
    about = list(status.reasons)
    if seal is not None:
        about += [f"{name} {value}" for name, value in seal.summary.items()]
    made = f"{seal.made_at}  {words.size(seal.size_bytes):>8}  " if seal else ""
    lines = [f"{status.node.key:<18}{status.state.value:<13}{made}{'; '.join(about)}".rstrip()]
    if status.path is not None:
        lines.append(f"{'':<18}{status.path}")
    return lines
