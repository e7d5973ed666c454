"""Runs one stage of an experiment: says why, keeps others off, seals the result, points at it."""

from __future__ import annotations

import importlib
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from types import FrameType
from typing import Protocol

from pipeline.errors import S4MError, StageError
from pipeline.files.disk import is_full
from pipeline.presentation import words
from pipeline.workflow.experiment import Experiment
from pipeline.workflow.graph import STAGES, downstream, node_key
from pipeline.workflow.workspace import Workspace
from stages.console import err, out
from stages.context import StageContext, Summary
from stages.options import workspace
from stages.waiting import held

MODULES = {stage: f"stages.{stage.replace('-', '_')}" for stage in STAGES}
"""The module of each stage; each has a `run(context) -> Summary`."""

LIBRARIES = ("s4m", "torch", "onedl-mmdetection", "segment-anything", "zarr", "numpy")


class StageModule(Protocol):
    """What the module of a stage offers."""

    def run(self, context: StageContext) -> Summary:
        """Write the stage's result into `context.folder`."""
        ...


class Terminated(KeyboardInterrupt):
    """SIGTERM came: stop as at Ctrl-C."""


def run_stage(experiment: Experiment, stage: str, number: int) -> None:
    """Bring one stage up to date. Raises StageError where it cannot run."""
    space = workspace(experiment)
    key = node_key(stage, number)
    if key not in space.nodes:
        raise StageError(f"{key}: student.rounds is {experiment.student.rounds}, there is no round {number}")
    node = space.nodes[key]
    if node.skipped:
        err.print(f"{key} is left out: {node.skipped}")
        return
    because = space.why(key)
    space.refresh()
    if space.is_done(key):
        err.print(f"{key} is up to date: {space.result(key)}")
        return
    with _told_what_waits(space, key):
        for upstream in node.reads:
            if not space.is_done(upstream):
                raise StageError(f"{key} needs {upstream} first: {space.command(upstream)}")
        err.print(f"{key} runs: {'; '.join(because)}")
        fingerprint, name = space.fingerprints[key], space.experiment.name
        with held(space.store, fingerprint, key, name, err.print) as mine:
            if mine:
                _run(space, key)
    space.point(key)


@contextmanager
def _told_what_waits(space: Workspace, key: str) -> Iterator[None]:
    """Whatever stops a stage, say what it holds back, and how to go on."""
    try:
        with sigterm_as_interrupt():
            yield
    except KeyboardInterrupt as stop:
        err.print(f"\n{key} was stopped; what is done is kept. To go on, give the same command.")
        sys.exit(143 if isinstance(stop, Terminated) else 130)
    except OSError as error:
        if not is_full(error):
            raise
        raise StageError(
            f"{key}: the disk is full ({error.filename or space.store.root}). What is done is kept: "
            f"make room, then give the same command.{_held_back(space, key)}"
        ) from error
    except S4MError as error:
        space.forget_empty(key)
        raise StageError(f"{error}{_held_back(space, key)}") from error


def _held_back(space: Workspace, key: str) -> str:
    waiting = [name for name in downstream(space.nodes, key) if not space.is_done(name)]
    return f"\n{key} holds back: {', '.join(waiting)}" if waiting else ""


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """While this is entered, SIGTERM stops the program as Ctrl-C does, in order."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(space: Workspace, key: str) -> None:
    node, fingerprint = space.nodes[key], space.fingerprints[key]
    folder = space.store.partial(fingerprint.stage, fingerprint.id)
    folder.mkdir(parents=True, exist_ok=True)
    context = StageContext(
        experiment=space.experiment,
        node=node,
        fingerprint=fingerprint.to_dict(),
        folder=folder,
        results={name: space.result(name) for name in node.reads if name != "split"},
        split_folder=space.result("split") if "split" in node.reads else None,
        say=err.print,
        ablation=space.ablation,
    )
    module: StageModule = importlib.import_module(MODULES[node.stage])
    begun = time.monotonic()
    summary = module.run(context)
    seal = space.store.seal(fingerprint, space.experiment.name, time.monotonic() - begun, summary, _versions())
    figures = ", ".join(f"{name} {value}" for name, value in summary.items())
    out.print(f"{key} is done in {seal.seconds:.1f} s: {figures}")
    out.print(f"  {space.result(key)} ({words.size(seal.size_bytes)})")


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found
