"""`s4m report`: the stage's page of one experiment, and `s4m report compare`, the page of several."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import StageError
from stages.console import out
from stages.options import stage_commands

if TYPE_CHECKING:
    from pipeline.report.compare import Compared

app = stage_commands("report", "Write the HTML report; `compare` lays experiments side by side.")


@app.command()
def compare(
    experiments: Annotated[list[str], typer.Argument(metavar="EXP", help="Experiments: files or names.")],
    output: Annotated[Path, typer.Option(help="The page to write (HTML).")] = Path("comparison.html"),
) -> None:
    """Write a page with experiments side by side: what differs in settings, accuracy, masks and time."""
    from pipeline.files.writing import write_atomically
    from pipeline.report.compare import render_comparison

    if len(experiments) < 2:
        raise StageError("s4m report compare needs two experiments or more")
    compared = [_compared(text) for text in experiments]
    twice = [name for name, count in Counter(each.run.name for each in compared).items() if count > 1]
    if twice:
        raise StageError(f"{', '.join(twice)}: the name of more than one experiment; set `name` in their files")
    write_atomically(output, render_comparison(compared))
    out.print(f"{output}: {len(compared)} experiments")


def _compared(text: str) -> Compared:
    """An experiment with those of its results that the store has."""
    from pipeline.report.compare import Compared, settings_of
    from pipeline.report.gather import gather
    from stages.options import load, workspace

    experiment = load(text, None)
    space = workspace(experiment, trust_images=True)
    results = {
        key: space.result(key)
        for key, fingerprint in space.fingerprints.items()
        if space.store.is_sealed(fingerprint.stage, fingerprint.id)
    }
    return Compared(gather(experiment.name, space.nodes, results), settings_of(experiment))
