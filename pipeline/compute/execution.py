"""Run sharded work on the machines that an experiment names, and report its progress to the caller."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipeline.compute.gpu_memory import told_if_gpu_is_full
from pipeline.compute.settings import ComputeSettings
from pipeline.compute.shards import Shard, ShardReport, ShardWork, ask_workers, run_shards
from pipeline.errors import StageError


class TooManyFailedError(StageError):
    """So many images cannot be used that the result would not be what was asked for."""

    def __init__(self, what: str, failed: int, images: int, share: float) -> None:
        super().__init__(
            f"{what}: {failed:,} of {images:,} images cannot be used so far, more than compute.failed_share = "
            f"{share:g} allows; the reasons are above. Mend their cause and give the same command: shards without "
            f"such images are kept. To have a result without these images, set compute.failed_share=1"
        )


@dataclass(frozen=True)
class ShardProgress:
    """Progress of sharded work.

    what: its name, such as `refine`. images: all of the work; done: the finished ones; done_before: those that an
    earlier run finished. report: of the shard finished just now; None when the work begins.
    """

    what: str
    images: int
    done: int
    done_before: int
    report: ShardReport | None = None


def ignore(_: object) -> None:
    """Do nothing, for callers that need neither progress nor messages."""


@dataclass(frozen=True)
class Execution:
    """Where shards run, and what is called meanwhile.

    progress: called when work begins and after each shard. say: called with messages for a person.
    """

    compute: ComputeSettings
    progress: Callable[[ShardProgress], None] = ignore
    say: Callable[[str], None] = ignore

    @cached_property
    def settled(self) -> ComputeSettings:
        """Return the settings for models. A precision of `auto` is decided now, once for all workers of the run.

        On a cluster it is bf16 if all its workers are faster with it.
        """
        compute = self.compute
        if compute.precision != "auto":
            return compute
        from pipeline.compute.devices import fastest_format  # imports torch

        if compute.scheduler is None:
            return compute.model_copy(update={"precision": fastest_format(compute.device)})
        formats = set(ask_workers(compute.scheduler, fastest_format, compute.device))
        return compute.model_copy(update={"precision": "bf16" if formats == {"bf16"} else "fp32"})

    @property
    def made_with(self) -> dict[str, str]:
        """Return what was decided for this run, for the completion record; empty if no model was needed."""
        return {"precision": self.settled.precision} if "settled" in vars(self) else {}


def run_missing(
    what: str,
    work: ShardWork[Any, ShardReport],
    plan: Sequence[Sequence[int]],
    complete: frozenset[int],
    execution: Execution,
    failed_before: int = 0,
) -> Counter[str]:
    """Run the shards of a plan that are not complete yet; return their counts, failed images included.

    plan: the image ids of every shard. complete: indices into the plan. failed_before: failed images in the complete
    shards. Raise TooManyFailedError as soon as more images failed than the settings allow.
    """
    images = sum(map(len, plan))
    done = done_before = sum(len(plan[index]) for index in complete)
    counts: Counter[str] = Counter()
    execution.progress(ShardProgress(what, images, done, done_before))

    def require_few_failed() -> None:
        failed = failed_before + counts["failed"]
        if failed > execution.compute.may_fail(images):
            raise TooManyFailedError(what, failed, images, execution.compute.failed_share)

    def finished(report: ShardReport) -> None:
        nonlocal done
        done += report.images
        counts.update(report.decisions)
        counts.update({"failed": len(report.failures)} if report.failures else {})
        execution.progress(ShardProgress(what, images, done, done_before, report))
        require_few_failed()

    require_few_failed()
    missing = [Shard(index, tuple(ids)) for index, ids in enumerate(plan) if index not in complete]
    remedy = f"give the same command with a smaller compute.batch_images (it is {execution.compute.batch_images})"
    with told_if_gpu_is_full(what, remedy):
        run_shards(work, missing, execution.compute, finished)
    return counts
