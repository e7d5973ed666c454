"""Runs one stage of an experiment: prints why, locks the result, makes and seals it, and records it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.compute.execution import Execution, ShardProgress
from pipeline.errors import S4MError, StageError
from pipeline.files.disk import is_full
from pipeline.presentation import words
from pipeline.workflow.experiment import Experiment
from pipeline.workflow.graph import STAGES, downstream, node_key
from pipeline.workflow.spent_time import SpentTime
from pipeline.workflow.workspace import Workspace
from stages.console import err, out
from stages.context import StageContext, Summary
from stages.options import workspace
from stages.progress import ProgressDisplay
from stages.stopping import stoppable
from stages.versions import library_versions

MODULES = {stage: f"stages.{stage.replace('-', '_')}" for stage in STAGES}
"""The module of each stage; its `run(context)` writes the result into `context.folder` and returns a Summary."""

SAY_FROM_BYTES = 2 * 10**9
"""Inputs of a stage below this size are checked without a message: that takes a second or two."""


def run_stage(experiment: Experiment, stage: str, number: int) -> None:
    """Bring one stage up to date for a command, which exits if it is stopped. Raise StageError if it cannot run."""
    space = workspace(experiment)
    key = node_key(stage, number)
    if key not in space.nodes:
        raise StageError(f"{key}: student.rounds is {experiment.student.rounds}, there is no round {number}")
    with stoppable(key):
        run_node(space, key)


def run_node(space: Workspace, key: str) -> None:
    """Bring one node up to date, and print what it does. Raise StageError if it cannot run."""
    node = space.nodes[key]
    if node.skipped:
        err.print(f"{key}: left out, {node.skipped}")
        return
    because = space.why(key)
    space.refresh()
    if space.is_done(key):
        err.print(f"{key}: up to date, {space.where(key)}")
        return
    with _explained(space, key), ExitStack() as inputs:
        for upstream in node.reads:
            inputs.enter_context(space.reading(upstream))
            if not space.is_done(upstream):
                raise StageError(f"{key} needs {upstream} first: {space.command(upstream)}")
        if space.experiment.compute.is_helper:
            _help(space, key)
            return
        err.print(f"{key}: running, {'; '.join(because)}")
        fingerprint, name = space.fingerprints[key], space.experiment.name
        with space.store.lock_when_free(fingerprint, key, name, err.print) as mine:
            if mine:
                space.store.require_absent(fingerprint.stage, fingerprint.id)
                _run(space, key, _checked_inputs(space, key))
            else:
                space.point(key)


def _help(space: Workspace, key: str) -> None:
    """Train with the machine that makes a node's result, if it is a training; then wait for that result."""
    fingerprint = space.fingerprints[key]
    if STAGES[fingerprint.stage].trains and not space.store.is_sealed(fingerprint.stage, fingerprint.id):
        err.print(f"{key}: training with the first machine")
        execution = Execution(space.experiment.compute, say=err.print)
        _module(fingerprint.stage).run(
            _context(space, key, space.store.partial(fingerprint.stage, fingerprint.id), execution)
        )
    space.store.wait_until_sealed(fingerprint, key, err.print)
    space.point(key)


def run_up_to(space: Workspace, until: str) -> None:
    """Bring a stage, in all its rounds, or one node as `refine-2` up to date, with all that it reads."""
    wanted = {key for key, node in space.nodes.items() if until in (key, node.stage)}
    if not wanted:
        raise StageError(f"{until}: there is no such stage; there are: {', '.join(space.nodes)}")
    for key, node in reversed(space.nodes.items()):
        if key in wanted:
            wanted.update(node.reads)
    for key in space.nodes:
        if key in wanted:
            run_node(space, key)


@contextmanager
def _explained(space: Workspace, key: str) -> Iterator[None]:
    """Add to an error the stages that it blocks, and how to continue after a full disk."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise StageError(
            f"{key}: the disk is full ({error.filename or space.store.root}). Finished work is kept: "
            f"make room, then give the same command.{_blocked(space, key)}"
        ) from error
    except S4MError as error:
        space.forget_empty(key)
        raise StageError(f"{error}{_blocked(space, key)}") from error


def _blocked(space: Workspace, key: str) -> str:
    blocked = [name for name in downstream(space.nodes, key) if not space.is_done(name)]
    return f"\nblocked by this: {', '.join(blocked)}" if blocked else ""


def _checked_inputs(space: Workspace, key: str) -> dict[str, str]:
    """Return the digests of the results that a node reads, by `stage/id`, after reading all of them again.

    Raise StoreError for one that is damaged: what was made from it would look like a result of the whole one.
    """
    inputs = [space.fingerprints[name] for name in space.nodes[key].reads]
    seals = [space.store.seal_of(each.stage, each.id) for each in inputs]
    if (size_bytes := sum(seal.size_bytes for seal in seals if seal)) >= SAY_FROM_BYTES:
        err.print(f"{key}: checking {words.size(size_bytes)} of results that it reads")
    digests = {}
    for each in inputs:
        seal = space.store.require_unchanged(each.stage, each.id)
        for line in space.store.made_from_others(seal):
            err.print(f"{key}: {each.stage} was {line}")
        digests[f"{each.stage}/{each.id}"] = seal.digest
    return digests


@contextmanager
def _kept_if_interrupted(spent: SpentTime) -> Iterator[None]:
    """Write down the time of a run that does not end well, for the one that continues it."""
    try:
        yield
    except BaseException:
        spent.interrupted()
        raise


def _run(space: Workspace, key: str, consumed: Mapping[str, str]) -> None:
    node, fingerprint = space.nodes[key], space.fingerprints[key]
    folder = space.store.partial(fingerprint.stage, fingerprint.id)
    folder.mkdir(parents=True, exist_ok=True)
    spent = SpentTime(folder)

    def show(progress: ShardProgress) -> None:
        display(progress)
        spent.note()

    with ProgressDisplay() as display, _kept_if_interrupted(spent):
        execution = Execution(space.experiment.compute, show, err.print)
        context = replace(_context(space, key, folder, execution), note_time=spent.note)
        summary: Summary = _module(node.stage).run(context)
    seconds = spent.finish()
    made_with = library_versions() | execution.made_with
    seal = space.store.seal(fingerprint, space.experiment.name, seconds, summary, made_with, consumed)
    out.print(
        f"{key}: done in {words.duration(seal.seconds)}{', ' if summary else ''}{words.figures(summary, node.stage)}"
    )
    space.point(key)  # before the lock is free: else the result could be pruned as unused
    out.print(f"  {space.where(key)} ({words.size(seal.size_bytes)})")


def _module(stage: str) -> Any:
    return importlib.import_module(MODULES[stage])


def _context(space: Workspace, key: str, folder: Path, execution: Execution) -> StageContext:
    node = space.nodes[key]
    return StageContext(
        experiment=space.experiment,
        node=node,
        fingerprint=space.fingerprints[key].to_dict(),
        folder=folder,
        results={name: space.result(name) for name in node.reads if name != "split"},
        split_folder=space.result("split") if "split" in node.reads else None,
        execution=execution,
        ablation=space.ablation,
    )
