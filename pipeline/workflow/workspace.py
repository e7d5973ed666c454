"""An experiment's own folder: the fingerprint of every node, and a record that points at its result.

<work>/<experiment>/<node>.fingerprint   changes only when something that matters to the node does
<work>/<experiment>/<node>.done          the result in use; make compares the times of the two
<work>/<experiment>/edges.mk             the stage graph, as make reads it
<work>/<experiment>/ablation/            what `s4m ablation` wrote of the experiment
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

from pipeline.files.identity import IdentityCache, Progress, hash_text
from pipeline.files.writing import write_atomically
from pipeline.workflow.experiment import Experiment
from pipeline.workflow.fingerprint import Fingerprint, differences
from pipeline.workflow.graph import ABLATION, STAGES, Node, fingerprints, plan
from pipeline.workflow.inputs import read_contents
from pipeline.workflow.result_store import Holder, Seal, StoreRoot, now


class State(Enum):
    """How a node stands."""

    DONE = "done"
    READY = "in the store"
    STALE = "stale"
    MISSING = "to do"
    RUNNING = "running"
    SKIPPED = "left out"


@dataclass(frozen=True)
class NodeStatus:
    """A node as it stands, and why."""

    node: Node
    state: State
    reasons: tuple[str, ...] = ()
    seal: Seal | None = None
    path: Path | None = None
    holder: Holder | None = None


def work_root(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the folders of experiments lie."""
    return Path(environment.get("S4M_WORK", "work")).expanduser()


def ablation_folder(root: Path, experiment: str, settings: Sequence[str] = ()) -> Path:
    """Where the tables of an experiment's ablation lie; each choice of settings over the experiment has its own."""
    name = f"ablation-{hash_text(chr(10).join(settings))[:8]}" if settings else "ablation"
    return root / experiment / name


ABLATION_FIGURES: Final = "ablation.json"


def identity_file(root: Path) -> Path:
    """Where the contents of files are remembered, for all experiments."""
    return root / ".identity.sqlite"


class Workspace:
    """The folder of one experiment and what it says."""

    def __init__(
        self,
        experiment: Experiment,
        root: Path,
        *,
        progress: Progress | None = None,
        trust_images: bool = False,
    ) -> None:
        """Reads what the experiment's inputs hold; `trust_images` takes images as they last were."""
        self.experiment = experiment
        self.folder = root / experiment.name
        self.store = StoreRoot(experiment.store)
        self.nodes = plan(experiment)
        cache = IdentityCache(identity_file(root), progress)
        contents = read_contents(experiment, cache, trust=trust_images)
        figures = ablation_folder(root, experiment.name) / ABLATION_FIGURES
        self.ablation = figures if figures.is_file() else None
        if self.ablation is not None:
            contents[ABLATION] = cache.file(self.ablation)
        self.fingerprints = fingerprints(self.nodes, contents)

    def refresh(self) -> Path:
        """Bring fingerprints, records and edges on disk up to date; gives the file that make includes.

        A result that the store already holds is taken into use at once, whoever made it, and a record
        whose result is gone from the store is withdrawn: what make then finds missing is what must run.
        """
        for key, fingerprint in self.fingerprints.items():
            _write_if_changed(self.folder / f"{key}.fingerprint", fingerprint.text)
            record = self.record(key)
            if self.is_made(key):
                if record is None or record["id"] != fingerprint.id or self._looks_older(key):
                    self.point(key)
            elif record is not None and not self.store.is_sealed(fingerprint.stage, record["id"]):
                self.record_path(key).unlink(missing_ok=True)
        for leftover in (*self.folder.glob("*.done"), *self.folder.glob("*.fingerprint")):
            if leftover.stem not in self.fingerprints:
                leftover.unlink(missing_ok=True)
        edges = self.folder / "edges.mk"
        _write_if_changed(edges, self._edges())
        return edges

    def _looks_older(self, key: str) -> bool:
        """Whether make would take a record for older than its fingerprint, as after copying a folder."""
        fingerprint = self.folder / f"{key}.fingerprint"
        return self.record_path(key).stat().st_mtime_ns < fingerprint.stat().st_mtime_ns

    def point(self, key: str) -> None:
        """Record that the node's result is there and in use."""
        fingerprint = self.fingerprints[key]
        content = {"id": fingerprint.id, "at": now(), "fingerprint": fingerprint.to_dict()}
        self.store.refer(fingerprint.stage, fingerprint.id, self.record_path(key), self.experiment.name)
        write_atomically(self.record_path(key), json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def record_path(self, key: str) -> Path:
        """The file that points at a node's result."""
        return self.folder / f"{key}.done"

    def record(self, key: str) -> dict[str, Any] | None:
        """What a node's record says; None where there is none that can be read."""
        try:
            content = json.loads(self.record_path(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        valid = isinstance(content, dict) and isinstance(content.get("id"), str) and "fingerprint" in content
        return content if valid else None

    def result(self, key: str) -> Path:
        """The folder of a node's sealed result."""
        fingerprint = self.fingerprints[key]
        return self.store.path(fingerprint.stage, fingerprint.id)

    def is_made(self, key: str) -> bool:
        """Return whether a node's result is in the store, whoever made it."""
        fingerprint = self.fingerprints.get(key)
        return fingerprint is not None and self.store.is_sealed(fingerprint.stage, fingerprint.id)

    def is_done(self, key: str) -> bool:
        """Return whether a node's result is in the store, and this experiment's record points at it."""
        record = self.record(key)
        return record is not None and self.is_made(key) and record["id"] == self.fingerprints[key].id

    def why(self, key: str) -> tuple[str, ...]:
        """Why a node must run: what changed since its record, down to the setting."""
        record = self.record(key)
        if record is None:
            return ("not run before",)
        fingerprint = self.fingerprints[key]
        if record["id"] == fingerprint.id:
            return ("result no longer in the store",)
        return tuple(self._explained(record["fingerprint"], fingerprint))

    def status(self, key: str) -> NodeStatus:
        """How a node stands."""
        node = self.nodes[key]
        if node.skipped:
            return NodeStatus(node, State.SKIPPED, (node.skipped,))
        fingerprint = self.fingerprints[key]
        seal = self.store.seal_of(fingerprint.stage, fingerprint.id)
        if seal is not None:
            state = State.DONE if self.is_done(key) else State.READY
            made_by = () if state is State.DONE else (f"made by {seal.made_by.get('experiment', '?')}",)
            return NodeStatus(node, state, made_by, seal, self.result(key))
        holder = self.store.holder(fingerprint.stage, fingerprint.id)
        if holder is not None:
            path = self.store.partial(fingerprint.stage, fingerprint.id)
            return NodeStatus(node, State.RUNNING, (f"made by {holder}",), path=path, holder=holder)
        partial = self.store.partial(fingerprint.stage, fingerprint.id)
        left = (f"interrupted, to continue: {self.command(key)}",) if partial.exists() else ()
        if self.record(key) is None:
            return NodeStatus(node, State.MISSING, left)
        return NodeStatus(node, State.STALE, (*self.why(key), *left))

    def command(self, key: str) -> str:
        """What to type to bring a node up to date."""
        return f"make {self.nodes[key].stage} EXP={self.experiment.name}"

    def forget_empty(self, key: str) -> None:
        """Remove a result that was begun, where nothing was written."""
        fingerprint = self.fingerprints[key]
        with suppress(OSError):  # it holds something, or it is gone
            self.store.partial(fingerprint.stage, fingerprint.id).rmdir()

    def _explained(self, old: Mapping[str, Any], new: Fingerprint) -> list[str]:
        """Differences; where a result upstream changed, what changed there, as far as that is known."""
        causes: list[str] = []
        upstream_before = old.get("upstream", {})
        for change in differences(old, new):
            node = change.upstream
            deeper: list[str] = []
            if node in upstream_before and node in self.fingerprints:
                current = self.fingerprints[node]
                seal = self.store.seal_of(current.stage, upstream_before[node])
                deeper = self._explained(seal.fingerprint, current) if seal else []
            causes += deeper or [change.text]
        return list(dict.fromkeys(causes))

    def _edges(self) -> str:
        """The graph for make: which records each stage stands for, and what each record waits for."""
        lines = [f"# Written by `s4m graph` for {self.experiment.name}; the Makefile includes it."]
        for stage in STAGES:
            keys = [key for key, node in self.nodes.items() if node.stage == stage and not node.skipped]
            if keys:
                lines.append(f"{stage}: {' '.join(str(self.record_path(key)) for key in keys)}")
            else:
                skipped = (node.skipped for node in self.nodes.values() if node.stage == stage)
                reason = next(skipped, "student.rounds is 0")
                lines.append(f"{stage}: ; @echo '{stage}: left out, {reason}'")
        for key, node in self.nodes.items():
            if not node.skipped:
                before = " ".join(str(self.record_path(name)) for name in node.reads)
                lines.append(f"{self.record_path(key)}: {self.folder / key}.fingerprint | {before}".rstrip(" |"))
                lines.append(f"\t@$(S4M) {node.stage} $(ARGUMENTS)" + (f" --round {node.round}" * (node.round > 1)))
        return "\n".join(lines) + "\n"


def _write_if_changed(path: Path, text: str) -> None:
    try:
        if path.read_text(encoding="utf-8") == text:
            return
    except (OSError, UnicodeDecodeError):
        pass
    write_atomically(path, text)


def register_references(root: Path, store: StoreRoot) -> None:
    """Note in the store what the records below a work root point at.

    A checkout that was moved or copied is known again by this, before anything is pruned.
    """
    for path in root.glob("*/*.done"):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            stage, result_id = record["fingerprint"]["stage"], record["id"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if store.is_sealed(stage, result_id):
            store.refer(stage, result_id, path, path.parent.name)
