"""A cell of an ablation with one seed, as an experiment of its own. Needs nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pipeline.ablation.cells import Cell
from pipeline.workflow.workspace import Workspace

MEASURED: Final = "evaluate"
"""The node whose result a cell is read from: the last one that it needs."""


@dataclass(frozen=True)
class Unit:
    """A cell with a seed, as an experiment of its own. overrides: all that makes it of the experiment's file."""

    cell: Cell
    seed: int
    overrides: tuple[str, ...]
    space: Workspace

    def __str__(self) -> str:
        return f"{self.cell.key}, seed {self.seed}"

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes that it needs, in the order in which they can run."""
        return tuple(key for key in self.space.fingerprints if self.space.nodes[key].stage != "report")

    def is_made(self, key: str) -> bool:
        """Whether a node's result is in the store, whoever made it."""
        return self.space.is_made(key)
