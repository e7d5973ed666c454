"""`s4m ablation`: an experiment's cells over several seeds, and the tables of what they reached."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from pipeline.ablation.cells import cells_of, overrides_of
from pipeline.ablation.units import MEASURED, Unit
from pipeline.errors import StageError
from pipeline.workflow.experiment import WITHOUT_EFFECT
from pipeline.workflow.graph import Node
from pipeline.workflow.workspace import ablation_folder, work_root
from stages.console import err, out
from stages.options import ExperimentOption, SetOption, load, workspace

STOPPED = (130, 143, -signal.SIGINT, -signal.SIGTERM)
"""Exit statuses of a stage that was told to stop."""

GRACE_SECONDS = 60.0
"""How long a stage that is told to stop may take for it."""

RunNode = Callable[[Unit, Node], str]
"""Runs a node of a unit; gives why it failed, or nothing. KeyboardInterrupt where it was told to stop."""


def ablation(
    exp: ExperimentOption,
    seeds: Annotated[int, typer.Option(help="How many seeds: 0, 1, 2 and so on.")] = 3,
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
    """Run the parts of the method switched on one by one, with several seeds; write tables of what they reached.

    The tables have all cells that are measured, those of earlier runs too.
    """
    from stages.runner import Terminated, sigterm_as_interrupt

    given = overrides or []
    settings = [each for each in given if re.split(r"[.=]", each)[0] not in WITHOUT_EFFECT]
    name = load(exp, given).name
    units = make_units(exp, given, seeds, cells)
    all_units = units if cells is None else make_units(exp, given, seeds, None)
    folder = output or ablation_folder(work_root(), name, settings)

    def write() -> None:
        from pipeline.ablation.figures import collect
        from pipeline.ablation.writing import write_ablation

        write_ablation(folder, collect(name, settings, with_measured(units, all_units)))

    status = 0
    try:
        with sigterm_as_interrupt():
            failures = run_units(units, StageProcess(exp), write)
        if failures:
            err.print("\n".join(["Not everything could be measured:", *(f"  {each}" for each in failures)]))
            status = 1
    except KeyboardInterrupt as stop:
        err.print("\nThe ablation was stopped; what is done is kept. To go on, give the same command.")
        status = 143 if isinstance(stop, Terminated) else 130
    write()
    measured = sum(unit.is_made(MEASURED) for unit in units)
    out.print(f"{folder}: {measured} of {len(units)} measured, a cell with a seed each")
    if status:
        sys.exit(status)


def make_units(exp: str, overrides: Sequence[str], seeds: int, cells: str | None) -> list[Unit]:
    """Every cell with every seed, seed by seed, so that a whole table is there early.

    Raises StageError or ExperimentError for whatever would stop one of them from the start.
    """
    if seeds < 1:
        raise StageError(f"--seeds {seeds}: an ablation needs one seed or more")
    experiment = load(exp, list(overrides))
    chosen = cells_of(experiment, _names(cells))
    units: list[Unit] = []
    for seed in range(seeds):
        for cell in chosen:
            settings = (*overrides, *overrides_of(cell, experiment, seed))
            units.append(Unit(cell, seed, settings, workspace(load(exp, list(settings)), trust_images=bool(units))))
    return units


def with_measured(units: Sequence[Unit], all_units: Sequence[Unit]) -> list[Unit]:
    """Besides `units`, those of all cells of which a seed is measured already, in the order of `all_units`."""
    shown = {unit.cell.key for unit in units} | {unit.cell.key for unit in all_units if unit.is_made(MEASURED)}
    return [unit for unit in all_units if unit.cell.key in shown]


def _names(cells: str | None) -> tuple[str, ...]:
    """The names in `a,b` or `a b`; none means all."""
    if cells is None:
        return ()
    names = tuple(cells.replace(",", " ").split())
    if not names:
        raise StageError("--cells names no cell: leave it out for all")
    return names


def run_units(units: Sequence[Unit], run_node: RunNode, after_each: Callable[[], None]) -> list[str]:
    """Make whatever the units need and the store has not; gives what failed. A failure stops its own unit only."""
    failures: list[str] = []
    failed: dict[str, str] = {}
    for place, unit in enumerate(units, start=1):
        failure = _run_unit(unit, f"[{place}/{len(units)}] {unit}", run_node, failed)
        if failure:
            failures.append(f"{unit}: {failure}")
        # Points at what is made, so that nobody prunes it.
        unit.space.refresh()
        after_each()
    return failures


def _run_unit(unit: Unit, label: str, run_node: RunNode, failed: dict[str, str]) -> str:
    """Why the unit could not be measured, if so. `failed`: by result, what to say to the next that needs it."""
    missing = [key for key in unit.nodes if not unit.is_made(key)]
    if not missing:
        err.print(f"{label}: all is there")
        return ""
    err.print(f"{label}: {', '.join(missing)} to be made, {len(unit.nodes) - len(missing)} results are there")
    for key in missing:
        result = unit.space.fingerprints[key].id
        reason = failed.get(result) or run_node(unit, unit.space.nodes[key])
        if not reason and not unit.is_made(key):
            reason = "its inputs changed while the ablation ran; give the same command again"
        if reason:
            failed.setdefault(result, f"{reason}, with {unit}")
            return f"{key} {reason}"
    return ""


class StageProcess:
    """Runs each stage as the command `s4m` in a process of its own: one that dies takes no other along."""

    def __init__(self, exp: str) -> None:
        self._exp = exp

    def __call__(self, unit: Unit, node: Node) -> str:
        """Run one node; its own words go where ours go."""
        settings = [word for override in unit.overrides for word in ("--set", override)]
        # -c and not a script: processes that it starts must not run the command again.
        command = [
            sys.executable,
            "-c",
            "from stages.cli import main; main()",
            node.stage,
            "--exp",
            self._exp,
            *settings,
        ]
        if node.round > 1:
            command += ["--round", str(node.round)]
        status = _wait(command)
        if status in STOPPED:
            raise KeyboardInterrupt
        if status == 0:
            return ""
        how = f"was ended by signal {-status}" if status < 0 else "failed"
        return f"{how} (its message is above)" if status > 0 else how


def _wait(command: Sequence[str]) -> int:
    """Run a command to its end. Where we are told to stop, it is told too, and may put its things in order."""
    from stages.runner import Terminated

    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except KeyboardInterrupt as stop:
            # Ctrl-C reaches both processes by itself, SIGTERM only this one.
            if isinstance(stop, Terminated):
                process.terminate()
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
