"""The folder of an experiment: the fingerprint of every node, and a record that points at its result.

<work>/<experiment>/<node>.fingerprint   changes only if something that affects the node changes
<work>/<experiment>/<node>.done          the result in use; make compares the times of the two
<work>/<experiment>/edges.mk             the stage graph, as make reads it
<work>/<experiment>/experiment.json      the experiment's file: another file of the same name is refused
<work>/<experiment>/ablation/            the tables of `s4m ablation`
<work>/<experiment>/report.html          a link to the newest report
<work>/<experiment>/student              a link to the folder of the newest student, of the last round
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

from pipeline.errors import StageError, StoreError
from pipeline.files.identity import IdentityCache, Progress, hash_text
from pipeline.files.leftovers import remove_leftovers_of_ended
from pipeline.files.links import drop_if_broken, lead_to
from pipeline.files.writing import write_atomically
from pipeline.workflow.experiment import Experiment
from pipeline.workflow.fingerprint import Fingerprint, differences
from pipeline.workflow.graph import ABLATION, STAGES, Node, fingerprints, node_key, plan
from pipeline.workflow.inputs import read_contents
from pipeline.workflow.references import IDENTITIES
from pipeline.workflow.result_files import REPORT
from pipeline.workflow.result_locks import now
from pipeline.workflow.result_store import StoreRoot
from pipeline.workflow.seals import Seal


class State(Enum):
    """The state of a node."""

    DONE = "done"
    READY = "in the store"
    STALE = "stale"
    MISSING = "to do"
    RUNNING = "running"
    SKIPPED = "left out"


@dataclass(frozen=True)
class NodeStatus:
    """A node with its state and the reasons for it."""

    node: Node
    state: State
    reasons: tuple[str, ...] = ()
    seal: Seal | None = None
    path: Path | None = None


@dataclass(frozen=True)
class _Link:
    """A link to a result: to a file in it, or to its folder."""

    what: str
    name: str
    file: str = ""


def work_root(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder with the folders of experiments."""
    return Path(environment.get("S4M_WORK") or "work").expanduser()


def ablation_folder(root: Path, experiment: str, settings: Sequence[str] = ()) -> Path:
    """Return the folder of the tables of an experiment's ablation; different overrides have different folders."""
    name = f"ablation-{settings_digest(settings)}" if settings else "ablation"
    return root / experiment / name


def settings_digest(settings: Sequence[str]) -> str:
    """Return a short name of overrides."""
    return hash_text("\n".join(settings))[:8]


_OWNER: Final = "experiment.json"
ABLATION_FIGURES: Final = "ablation.json"


def identity_file(root: Path) -> Path:
    """Return the file that remembers the digests of files, for all experiments."""
    return root / IDENTITIES


class Workspace:
    """The folder of one experiment, with the state of its nodes."""

    def __init__(
        self, experiment: Experiment, root: Path, *, progress: Progress | None = None, trust_images: bool = False
    ) -> None:
        """Read the experiment's inputs. trust_images: count images as unchanged since they were last read."""
        self.experiment = experiment
        self.folder = root / experiment.name
        self._require_own_folder()
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
        """Bring fingerprints, records and edges on disk up to date; return the file that make includes.

        Write a record for every result that is in the store, whoever made it, and delete the records of results that
        are not: a node without a record is one that make must run.
        """
        if self.experiment.source is not None:
            owner = {"file": str(self.experiment.source.absolute())}
            _write_if_changed(self.folder / _OWNER, json.dumps(owner, ensure_ascii=False) + "\n")
        remove_leftovers_of_ended(self.folder)
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
        for key in self._links:
            self._lead_to(key)
        edges = self.folder / "edges.mk"
        _write_if_changed(edges, self._edges())
        return edges

    def _require_own_folder(self) -> None:
        """Raise StageError if another experiment file, which still exists, has the same name and so this folder."""
        path, own = self.folder / _OWNER, self.experiment.source
        try:
            owner = Path(json.loads(path.read_text(encoding="utf-8"))["file"])
            if own is None or not owner.is_file() or owner.samefile(own):
                return
        except (OSError, ValueError, LookupError, TypeError):
            return
        raise StageError(
            f"{self.folder} belongs to {owner}, and {own} has the same name, {self.experiment.name}. Give one of them "
            f"another: set `name: …` in it. If {owner} is no longer used, delete {path}"
        )

    def _looks_older(self, key: str) -> bool:
        """Return whether a record is older than its fingerprint, which can happen when a folder is copied."""
        fingerprint = self.folder / f"{key}.fingerprint"
        return self.record_path(key).stat().st_mtime_ns < fingerprint.stat().st_mtime_ns

    def point(self, key: str) -> None:
        """Record that this experiment uses the node's result, unless it was removed meanwhile."""
        fingerprint = self.fingerprints[key]
        content = {"id": fingerprint.id, "at": now(), "fingerprint": fingerprint.to_dict()}
        with self.reading(key):
            if self.is_made(key):
                self.store.references.add(
                    fingerprint.stage, fingerprint.id, self.record_path(key), self.experiment.name
                )
                write_atomically(self.record_path(key), json.dumps(content, indent=1, ensure_ascii=False) + "\n")
                if key in self._links:
                    self._lead_to(key)

    def reading(self, key: str) -> AbstractContextManager[None]:
        """Keep a node's result from being removed, inside the context."""
        fingerprint = self.fingerprints[key]
        return self.store.locks.reading(fingerprint.stage, fingerprint.id)

    @property
    def _links(self) -> dict[str, _Link]:
        """Return the folder's links by node: to the report and to the last round's student."""
        rounds = self.experiment.student.rounds
        student = {node_key("train-student", rounds): _Link("student", "student")} if rounds else {}
        return {"report": _Link("report", REPORT, REPORT), **student}

    def _lead_to(self, key: str) -> None:
        """Make the link of a node lead to its result; without a result, to the earlier one, if that still exists."""
        link = self._links[key]
        if self.is_made(key):
            lead_to(self.folder / link.name, self.result(key) / link.file)
        drop_if_broken(self.folder / link.name)

    def where(self, key: str) -> Path:
        """Return where people find a node's result: the link to it, if the folder has one, else its folder."""
        link = self._links.get(key)
        if link is None:
            return self.result(key)
        path, target = self.folder / link.name, self.result(key) / link.file
        return path if path.resolve() == target.resolve() else target

    def record_path(self, key: str) -> Path:
        """Return the file that points at a node's result."""
        return self.folder / f"{key}.done"

    def record(self, key: str) -> dict[str, Any] | None:
        """Return the content of a node's record; None without a valid record."""
        try:
            content = json.loads(self.record_path(key).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        valid = isinstance(content, dict) and isinstance(content.get("id"), str) and "fingerprint" in content
        return content if valid else None

    def result(self, key: str) -> Path:
        """Return the folder of a node's sealed result."""
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
        """Return why a node must run: what changed since its record, down to the setting."""
        record = self.record(key)
        if record is None:
            return ("not run before",)
        fingerprint = self.fingerprints[key]
        if record["id"] == fingerprint.id:
            return ("result no longer in the store",)
        return tuple(self._explained(record["fingerprint"], fingerprint))

    def status(self, key: str) -> NodeStatus:
        """Return the state of a node."""
        node = self.nodes[key]
        if node.skipped:
            return NodeStatus(node, State.SKIPPED, (node.skipped,))
        fingerprint = self.fingerprints[key]
        try:
            seal = self.store.seal_of(fingerprint.stage, fingerprint.id)
        except StoreError as error:
            return NodeStatus(node, State.MISSING, (str(error),))
        if seal is not None:
            state = State.DONE if self.is_done(key) else State.READY
            made_by = () if state is State.DONE else (f"made by {seal.made_by.get('experiment', '?')}",)
            reasons = (*made_by, *self.store.made_from_others(seal))
            return NodeStatus(node, state, reasons, seal, self.where(key))
        holder = self.store.locks.holder(fingerprint.stage, fingerprint.id)
        path = self.store.partial(fingerprint.stage, fingerprint.id)
        if holder is not None:
            return NodeStatus(node, State.RUNNING, (f"made by {holder}",), path=path)
        left = (f"interrupted, to continue: {self.command(key)}",) if path.exists() else ()
        if self.record(key) is None:
            return NodeStatus(node, State.MISSING, left)
        return NodeStatus(node, State.STALE, (*self.why(key), *left))

    def command(self, key: str) -> str:
        """Return the command that brings a node up to date."""
        return make_command(self.nodes[key].stage, self.experiment.name)

    def forget_empty(self, key: str) -> None:
        """Remove the folder of an unfinished result if nothing was written into it."""
        fingerprint = self.fingerprints[key]
        with suppress(OSError):  # it is not empty, or missing
            self.store.partial(fingerprint.stage, fingerprint.id).rmdir()

    def _explained(self, old: Mapping[str, Any], new: Fingerprint) -> list[str]:
        """Return the differences; for a changed result upstream, those of its own fingerprint if they are known."""
        causes: list[str] = []
        upstream_before = old.get("upstream", {})
        for text, node in differences(old, new):
            deeper: list[str] = []
            if node in upstream_before and node in self.fingerprints:
                current = self.fingerprints[node]
                with suppress(StoreError):  # a damaged record explains nothing
                    seal = self.store.seal_of(current.stage, upstream_before[node])
                    deeper = self._explained(seal.fingerprint, current) if seal else []
            causes += deeper or [text]
        return list(dict.fromkeys(causes))

    def _edges(self) -> str:
        """Return the graph for make: the records of each stage, and the records that each needs first."""
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
        told = [f"\t@echo '{link.what}: {self.folder / link.name}'" for link in self._links.values()]
        lines += ["ifdef TELL_WHERE", "report:", *told, "endif"]
        return "\n".join(lines) + "\n"


def make_command(stage: str, experiment: str, overrides: Sequence[str] = ()) -> str:
    """Return the command that brings a stage up to date."""
    settings = f' SET="{" ".join(overrides)}"' if overrides else ""
    return f"make {stage} EXP={experiment}{settings}"


def _write_if_changed(path: Path, text: str) -> None:
    try:
        if path.read_text(encoding="utf-8") == text:
            return
    except (OSError, UnicodeDecodeError):
        pass
    write_atomically(path, text)


def register_references(root: Path, store: StoreRoot) -> None:
    """Note in the store which results the records below a work root point at.

    Call it before pruning: the store does not know the records of a checkout that was moved or copied.
    """
    for path in root.glob("*/*.done"):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            stage, result_id = record["fingerprint"]["stage"], record["id"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if store.is_sealed(stage, result_id):
            store.references.add(stage, result_id, path, path.parent.name)
