"""The options that commands share, and how an experiment is found and loaded for them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import StageError
from pipeline.files.shipped import EXPERIMENTS, config_path
from pipeline.workflow.experiment import Experiment
from pipeline.workflow.loading import load_experiment
from pipeline.workflow.workspace import Workspace, work_root
from stages.console import err

SAY_FROM = 1000  # images to read before it is worth saying

_EXPERIMENT = typer.Option(
    "--exp", metavar="FILE|NAME", help="The experiment: a file, or a name in configs/experiments."
)
ExperimentOption = Annotated[str, _EXPERIMENT]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A value to set over the file, as refine.points=5. Repeatable."),
]


RoundOption = Annotated[int, typer.Option("--round", min=1, help="The round, where student.rounds is above 1.")]


def stage_commands(stage: str, help_text: str) -> typer.Typer:
    """A group of commands around a stage, which is what runs where none of them is named."""
    app = typer.Typer(help=help_text, invoke_without_command=True)

    @app.callback()
    def run(
        context: typer.Context,
        exp: Annotated[str | None, _EXPERIMENT] = None,
        overrides: SetOption = None,
        number: RoundOption = 1,
    ) -> None:
        from stages.runner import run_stage

        if context.invoked_subcommand is not None:
            return
        if exp is None:
            raise StageError(f"s4m {stage} needs --exp: the experiment to run it for")
        run_stage(load(exp, overrides), stage, number)

    return app


def experiment_path(text: str) -> Path:
    """The file of an experiment that is given by path or by name."""
    path = Path(text)
    if path.suffix in (".yaml", ".yml") or path.exists():
        return config_path(path)
    return config_path(EXPERIMENTS / f"{text}.yaml")


def load(text: str, overrides: list[str] | None, *, check_files: bool = True) -> Experiment:
    """The experiment that the options name."""
    return load_experiment(experiment_path(text), overrides or (), check_files=check_files)


def workspace(experiment: Experiment, *, trust_images: bool = False) -> Workspace:
    """The experiment's workspace; says so when there is much to read first."""
    return Workspace(experiment, work_root(), progress=_report_reading, trust_images=trust_images)


def _report_reading(done: int, total: int) -> None:
    if total >= SAY_FROM and (done == total or done % 5000 == 0):
        err.print(f"reading images once, to know them by content: {done:,} of {total:,}")
