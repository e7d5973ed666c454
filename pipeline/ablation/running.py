"""Runs an ablation: every cell with every seed, each result made once."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from pipeline.ablation.cells import MEASURED, Unit, cells_of, overrides_of
from pipeline.compute.execution import ignore
from pipeline.errors import StageError
from pipeline.workflow.experiment import WITHOUT_EFFECT
from pipeline.workflow.graph import Node
from pipeline.workflow.workspace import Workspace

OpenWorkspace = Callable[[Sequence[str], bool], Workspace]
"""Opens the workspace of the experiment with overrides; True: trust that images have not changed."""

RunNode = Callable[[Unit, Node], str]
"""Runs a node of a unit; returns why it failed, or an empty text. Raises KeyboardInterrupt if it was stopped."""


def settings_with_effect(overrides: Sequence[str]) -> list[str]:
    """Return the overrides, as `key=value`, that can change a result."""
    return [each for each in overrides if re.split(r"[.=]", each)[0] not in WITHOUT_EFFECT]


def make_units(
    open_workspace: OpenWorkspace, overrides: Sequence[str], seeds: int, cells: Sequence[str] = ()
) -> list[Unit]:
    """Return every cell with every seed, seed by seed, so that a whole table exists early.

    cells: their names; empty means all. Raises StageError or ExperimentError for settings with which a cell cannot run.
    """
    if seeds < 1:
        raise StageError(f"--seeds {seeds}: an ablation needs one seed or more")
    experiment = open_workspace(overrides, False).experiment
    chosen = cells_of(experiment, cells)
    given = settings_with_effect(overrides)
    units: list[Unit] = []
    for seed in range(seeds):
        for cell in chosen:
            settings = (*overrides, *overrides_of(cell, experiment, seed, given))
            units.append(Unit(cell, seed, settings, open_workspace(settings, True)))
    return units


def with_measured(units: Sequence[Unit], all_units: Sequence[Unit]) -> list[Unit]:
    """Return `units` and all units of cells with a measured seed, in the order of `all_units`."""
    shown = {unit.cell.key for unit in units} | {unit.cell.key for unit in all_units if unit.is_made(MEASURED)}
    return [unit for unit in all_units if unit.cell.key in shown]


def run_units(
    units: Sequence[Unit], run_node: RunNode, after_each: Callable[[], None], say: Callable[[str], None] = ignore
) -> list[str]:
    """Make the results that the store lacks; return the failures. A failure stops its own unit only."""
    failures: list[str] = []
    failed: dict[str, str] = {}
    for number, unit in enumerate(units, start=1):
        failure = _run_unit(unit, f"[{number}/{len(units)}] {unit}", run_node, failed, say)
        if failure:
            failures.append(f"{unit}: {failure}")
        # Protects its results from being pruned.
        unit.space.refresh()
        after_each()
    return failures


def _run_unit(unit: Unit, name: str, run_node: RunNode, failed: dict[str, str], say: Callable[[str], None]) -> str:
    """Return why the unit could not be measured, or an empty text. failed: reasons by result, for later units."""
    missing = [key for key in unit.nodes if not unit.is_made(key)]
    if not missing:
        say(f"{name}: up to date")
        return ""
    say(f"{name}: to make: {', '.join(missing)}; results that exist: {len(unit.nodes) - len(missing)}")
    for key in missing:
        result = unit.space.fingerprints[key].id
        reason = failed.get(result) or run_node(unit, unit.space.nodes[key])
        if not reason and not unit.is_made(key):
            reason = "its inputs changed while the ablation ran; give the same command again"
        if reason:
            failed.setdefault(result, f"{reason}, with {unit}")
            return f"{key} {reason}"
    return ""
