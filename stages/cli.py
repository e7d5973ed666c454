"""The `s4m` command. Nothing heavy is imported here: a stage imports what it needs when it runs."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from pipeline.errors import S4MError
from pipeline.graph import STAGES
from stages import (
    ablation_commands,
    augment_commands,
    data_commands,
    experiment_commands,
    label_commands,
    report_commands,
    sam_commands,
    store_commands,
)
from stages.console import err
from stages.options import ExperimentOption, SetOption, load

app = typer.Typer(
    help="Semi-supervised instance segmentation with SAM, stage by stage.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RoundOption = Annotated[int, typer.Option("--round", min=1, help="The round, where student.rounds is above 1.")]


def _add_stage(stage: str, purpose: str) -> None:
    def command(exp: ExperimentOption, overrides: SetOption = None, number: RoundOption = 1) -> None:
        from stages.runner import run_stage

        run_stage(load(exp, overrides), stage, number)

    app.command(stage, help=f"{purpose[0].upper()}{purpose[1:]}.")(command)


for _stage in STAGES.values():
    if _stage.name != "report":  # a group of commands, of which the stage is one
        _add_stage(_stage.name, _stage.purpose)
app.add_typer(report_commands.app, name="report")
experiment_commands.add_to(app)
app.add_typer(store_commands.app, name="stores")
app.add_typer(data_commands.app, name="data")
app.add_typer(label_commands.app, name="labels")
app.add_typer(sam_commands.weights_app, name="weights")
app.command("ablation")(ablation_commands.ablation)
app.command("refine-coco")(sam_commands.refine_coco)
app.command("augment-preview")(augment_commands.preview)


def main() -> None:
    """Run the command line. A user's mistake ends in its message and exit status 1, never in a traceback."""
    # NumPy's matrix products are small here: threads cost more than they gain, and round differently.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        app()
    except S4MError as error:
        err.print(str(error))
        sys.exit(1)
