"""How sharded work is run: on which machines, and who hears of its progress. The library itself shows nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.compute.settings import ComputeSettings
from pipeline.compute.shards import Shard, ShardReport, ShardWork, run_shards


@dataclass(frozen=True)
class ShardProgress:
    """How far a piece of sharded work is.

    what: its name, as `refine`. images: all that it has; done: those that are finished; done_before: those that an
    earlier run finished. report: of the shard finished just now; None when the work begins.
    """

    what: str
    images: int
    done: int
    done_before: int
    report: ShardReport | None = None


def ignore(_: object) -> None:
    """Do nothing: for callers that need no progress and no messages."""


@dataclass(frozen=True)
class Execution:
    """Where shards run, and who hears of it.

    progress: called as work begins and after each shard. say: called with messages for a person.
    """

    compute: ComputeSettings
    progress: Callable[[ShardProgress], None] = ignore
    say: Callable[[str], None] = ignore


def run_missing(
    what: str,
    work: ShardWork[Any, ShardReport],
    plan: Sequence[Sequence[int]],
    complete: frozenset[int],
    execution: Execution,
) -> Counter[str]:
    """Run the shards of a plan that are not complete yet; return what they counted, failed images included.

    plan: the image ids of every shard. complete: indices into the plan.
    """
    images = sum(map(len, plan))
    done = done_before = sum(len(plan[index]) for index in complete)
    counts: Counter[str] = Counter()
    execution.progress(ShardProgress(what, images, done, done_before))

    def finished(report: ShardReport) -> None:
        nonlocal done
        done += report.images
        counts.update(report.decisions)
        counts.update({"failed": len(report.failures)} if report.failures else {})
        execution.progress(ShardProgress(what, images, done, done_before, report))

    missing = [Shard(index, tuple(ids)) for index, ids in enumerate(plan) if index not in complete]
    run_shards(work, missing, execution.compute, finished)
    return counts
