"""The options that commands share, with their completion by the shell, and the loading of experiments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from pipeline.files.shipped import EXPERIMENTS, experiment_names
from pipeline.workflow.describe import keys_of, properties_of
from pipeline.workflow.experiment import Experiment
from pipeline.workflow.finding import experiment_path
from pipeline.workflow.loading import load_experiment
from pipeline.workflow.workspace import Workspace, work_root
from stages.console import err

SAY_FROM = 1000  # fewer images to read are not reported


def complete_experiments(incomplete: str) -> list[str]:
    """Return the names of experiments that begin with the typed text."""
    return [name for name in experiment_names(EXPERIMENTS) if name.startswith(incomplete)]


def complete_settings(incomplete: str) -> list[str]:
    """Return the dotted keys that begin with the typed text, each with `=`."""
    keys = (key for key, schema in keys_of(Experiment).items() if not properties_of(schema))
    return [f"{key}=" for key in keys if key.startswith(incomplete)]


ExperimentOption = Annotated[
    str,
    typer.Option(
        "--exp",
        metavar="FILE|NAME",
        help="The experiment: a file, or a name in configs/experiments.",
        autocompletion=complete_experiments,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A value to set over the file, as refine.points=5. Repeatable.",
        autocompletion=complete_settings,
    ),
]
RoundOption = Annotated[int, typer.Option("--round", min=1, help="The round, where student.rounds is above 1.")]


def as_overrides(values: Mapping[str, str | int | float | Path | None]) -> list[str]:
    """Return values by dotted key as overrides; those that are None are left out."""
    # Overrides are YAML; in JSON, which is YAML too, a path stays text.
    given = {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in given.items() if value is not None]


def load(text: str, overrides: list[str] | None) -> Experiment:
    """Load the experiment that the options name."""
    return load_experiment(experiment_path(text), overrides or ())


def workspace(experiment: Experiment, *, trust_images: bool = False) -> Workspace:
    """Open the experiment's workspace; report progress if there is much to read first."""
    return Workspace(experiment, work_root(), progress=report_reading, trust_images=trust_images)


def report_reading(done: int, total: int) -> None:
    """Print how many images have been read."""
    if total >= SAY_FROM and (done == total or done % 5000 == 0):
        err.print(f"reading images once, for a digest of their content: {done:,} of {total:,}")
