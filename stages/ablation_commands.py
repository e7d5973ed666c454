"""`s4m ablation`: run parts of the method over several seeds, and write tables of the figures."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from pipeline.ablation.cells import MEASURED, Unit
from pipeline.ablation.running import make_units, run_units, settings_with_effect, with_measured
from pipeline.errors import StageError
from pipeline.workflow.graph import Node
from pipeline.workflow.workspace import Workspace, ablation_folder, work_root
from stages.console import err, out
from stages.options import ExperimentOption, SetOption, load, workspace
from stages.stopping import INTERRUPTED, TERMINATED, Terminated, sigterm_as_interrupt, stopped

STOPPED = (INTERRUPTED, TERMINATED, -signal.SIGINT, -signal.SIGTERM)
"""Exit statuses of a stage that was stopped."""

GRACE_SECONDS = 60.0
"""Time that a stage has to stop before it is killed."""


def ablation(
    exp: ExperimentOption,
    seeds: Annotated[int, typer.Option(help="Number of seeds: 0, 1, 2 and so on.")] = 3,
    cells: Annotated[
        str | None, typer.Option(metavar="CELL,CELL", help="Only these, as supervised,sd,all. Default: all cells.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where the tables go. Default: ablation, in the work folder; with --set, ablation-… beside it.",
        ),
    ] = None,
    overrides: SetOption = None,
) -> None:
    """Run the method with its parts switched on one by one, with several seeds; write tables of the figures.

    The tables have all measured cells, those of earlier runs too.
    """
    given = overrides or []
    settings = settings_with_effect(given)
    chosen = _names(cells)

    def open_workspace(each: Sequence[str], trust_images: bool) -> Workspace:
        return workspace(load(exp, list(each)), trust_images=trust_images)

    name = load(exp, given).name
    units = make_units(open_workspace, given, seeds, chosen)
    all_units = make_units(open_workspace, given, seeds) if chosen else units
    folder = output or ablation_folder(work_root(), name, settings)

    def write() -> None:
        from pipeline.ablation.figures import collect
        from pipeline.ablation.writing import write_ablation

        write_ablation(folder, collect(name, settings, with_measured(units, all_units)))

    status = 0
    try:
        with sigterm_as_interrupt():
            failures = run_units(units, StageProcess(exp), write, err.print)
        if failures:
            err.print("\n".join(["Not measured because of failures:", *(f"  {each}" for each in failures)]))
            status = 1
    except KeyboardInterrupt as stop:
        status = stopped("ablation", stop)
    write()
    measured = sum(unit.is_made(MEASURED) for unit in units)
    out.print(f"{folder}: {measured} of {len(units)} measured, each a cell with a seed")
    if status:
        sys.exit(status)


def _names(cells: str | None) -> tuple[str, ...]:
    """Return the names in `a,b` or `a b`; empty means all."""
    names = tuple((cells or "").replace(",", " ").split())
    if cells is not None and not names:
        raise StageError("--cells names no cell: leave it out to run all")
    return names


_PROGRAM: Final = (
    "from pipeline.compute.children import end_with_parent; end_with_parent({signal}, {parent}); "
    "from stages.cli import main; main()"
)


class StageProcess:
    """Runs each stage as the command `s4m` in its own process, so that a crash ends that stage only."""

    def __init__(self, exp: str) -> None:
        self._exp = exp

    def __call__(self, unit: Unit, node: Node) -> str:
        """Run one node; return why it failed, or an empty text."""
        settings = [word for override in unit.overrides for word in ("--set", override)]
        # With -c, not a script: processes that the stage starts would run a script again.
        program = [sys.executable, "-c", _PROGRAM.format(signal=int(signal.SIGTERM), parent=os.getpid())]
        command = [*program, node.stage, "--exp", self._exp, *settings]
        if node.round > 1:
            command += ["--round", str(node.round)]
        status = _wait(command)
        if status in STOPPED:
            raise KeyboardInterrupt
        if status < 0:
            return f"was ended by signal {-status}"
        return "failed (its message is above)" if status else ""


def _wait(command: Sequence[str]) -> int:
    """Run a command and return its exit status; if this process is stopped, stop the command too."""
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except KeyboardInterrupt as stop:
            # Ctrl-C reaches both processes, SIGTERM only this one.
            if isinstance(stop, Terminated):
                process.terminate()
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
