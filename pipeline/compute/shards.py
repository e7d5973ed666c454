"""Run shards: in this process, in processes of this machine, or on a running Dask cluster.

A shard is some images of a stage, which the stage's own plain code processes. This module decides where a shard is
processed, handles workers that die, and reports progress.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pipeline.compute.settings import ComputeSettings
from pipeline.compute.worker_check import WorkerCheck, WorkPaths, refusal, require_checked, worker_check
from pipeline.errors import OutageError, StageError

if TYPE_CHECKING:
    from distributed import Client, Future, LocalCluster

Row = TypeVar("Row")
Report = TypeVar("Report")
Answer = TypeVar("Answer")
Report_co = TypeVar("Report_co", covariant=True)
DEATHS = 3
"""A shard that was on a worker as it died this often is taken apart, image by image."""
SUBMITTED = 2000
"""Shards that a cluster has at a time, more than it has workers: the scheduler keeps some 30 kB of each."""
SUBMITTED_TOGETHER = 200
"""Shards that a cluster is given in one message, which costs it about as much as a shard does."""
CONNECT_SECONDS = 30
WORKERS_SECONDS = 60
"""How long a cluster that is there already may have no worker."""


@dataclass(frozen=True)
class Shard:
    """Some images of a stage, by id; `index` is its place among all shards."""

    index: int
    image_ids: tuple[int, ...]


@dataclass(frozen=True)
class ShardReport:
    """What became of a shard: its images, its instances by decision, and failures as reasons by file name."""

    images: int
    decisions: Mapping[str, int]
    failures: Mapping[str, str]


class ShardWork(Protocol[Row, Report_co]):
    """What a stage does with a shard: a small frozen value that travels to the workers."""

    def compute(self, shard: Shard) -> list[Row]:
        """The rows of a shard's images, in their order."""
        ...

    def publish(self, shard: Shard, rows: Sequence[Row]) -> Report_co:
        """Make a shard's rows part of the result, atomically; gives a small record of them."""
        ...

    @property
    def paths(self) -> WorkPaths:
        """The paths that every worker must see."""
        ...

    def given_up(self, image_id: int, reason: str) -> Row:
        """The row of an image that cannot be worked on."""
        ...


def run_shards(
    work: ShardWork[Row, Report],
    shards: Sequence[Shard],
    compute: ComputeSettings,
    done: Callable[[Report], None],
) -> None:
    """Compute and publish all shards, in any order; call `done` after each one is published."""
    if compute.scheduler is None and compute.processes == 1:
        for shard in shards:
            done(work.publish(shard, work.compute(shard)))
    elif shards:
        with _client(compute, len(shards)) as client, worker_check(work.paths) as check:
            _require_workers(client, check)
            _run_on(client, work, shards, check, done)


def _require_workers(client: Client, check: WorkerCheck) -> None:
    """Raise OutageError unless every worker that is there now can do the work."""
    answers = client.run(check.problems, on_error="return")
    problems = [
        f"{worker}: {problem}"
        for worker, answer in answers.items()
        for problem in ([f"cannot load this program: {answer}"] if isinstance(answer, BaseException) else answer)
    ]
    if problems:
        raise OutageError(refusal(problems))


def _compute_and_publish(shard: Shard, work: ShardWork[Row, Report], check: WorkerCheck) -> Report:
    require_checked(check)  # a worker that came later
    return work.publish(shard, work.compute(shard))


def _run_on(
    client: Client,
    work: ShardWork[Row, Report],
    shards: Sequence[Shard],
    check: WorkerCheck,
    done: Callable[[Report], None],
) -> None:
    from distributed import KilledWorker, as_completed

    resources = _resources(client)  # a question to the scheduler: once, not for every shard
    by_future: dict[Future[Any], Shard] = {}
    waiting, killers = iter(shards), list[Shard]()
    running = as_completed()
    together = min(SUBMITTED_TOGETHER, SUBMITTED)

    def submit() -> None:
        """Give more shards to the cluster, once there is room for a whole message of them."""
        while len(by_future) + together <= SUBMITTED and (some := list(islice(waiting, together))):
            keys = [f"shard-{shard.index}-{id(work)}" for shard in some]
            futures = client.map(
                _compute_and_publish, some, key=keys, work=work, check=check, pure=False, resources=resources
            )
            by_future.update(zip(futures, some, strict=True))
            running.update(futures)

    submit()
    for batch in running.batches():
        # All reports at once: to ask for each alone costs milliseconds.
        for report in _gathered(client, [future for future in batch if future.status == "finished"]):
            done(report)
        for future in batch:
            shard = by_future.pop(future)
            if future.status != "finished":
                if not isinstance(future.exception(), KilledWorker):
                    future.result()  # raises what the worker raised
                killers.append(shard)
            future.release()
        submit()
    for shard in killers:
        done(
            work.publish(shard, [row for image_id in shard.image_ids for row in _alone(client, work, shard, image_id)])
        )


def _gathered(client: Client, finished: list[Future[Any]]) -> list[Any]:
    """Return the results of futures; CommClosedError wherever the scheduler is gone."""
    from distributed.comm.core import CommClosedError

    try:
        results: list[Any] = client.gather(finished)
    except OSError as error:  # also that no new connection could be made
        raise CommClosedError(str(error)) from error
    return results


def _alone(client: Client, work: ShardWork[Row, Any], shard: Shard, image_id: int) -> list[Row]:
    """One image of a shard that killed its workers; given up if it is the one that does so."""
    from distributed import KilledWorker

    future = client.submit(work.compute, Shard(shard.index, (image_id,)), pure=False, resources=_resources(client))
    try:
        rows: list[Row] = future.result()
    except KilledWorker:
        return [work.given_up(image_id, f"its worker died {DEATHS} times, as when memory runs out")]
    return rows


def _resources(client: Client) -> dict[str, int] | None:
    """Where workers offer a GPU each, ask for one, so that no worker loads two models."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return {"GPU": 1} if workers and all("GPU" in each["resources"] for each in workers) else None


@contextmanager
def _client(compute: ComputeSettings, shards: int) -> Iterator[Client]:
    import dask
    from distributed import Client

    settings = {
        "distributed.scheduler.allowed-failures": DEATHS - 1,
        "distributed.comm.timeouts.connect": CONNECT_SECONDS,
    }
    with dask.config.set(settings):
        if compute.scheduler is not None:
            with cluster_client(compute.scheduler) as client:
                yield client
            return
        if compute.device != "cpu":
            from pipeline.compute.devices import require_gpus

            require_gpus(compute.gpus)
        with local_cluster(min(compute.processes, shards)) as cluster, Client(cluster) as client:
            if compute.device != "cpu":
                from pipeline.compute.gpus import OneGpuEach, visible_gpus

                if len(gpus := visible_gpus()) > 1:
                    client.register_plugin(OneGpuEach(gpus))
            yield client


def ask_workers(scheduler: str, function: Callable[..., Answer], *arguments: Any) -> list[Answer]:
    """Return the answers of a cluster's workers; of those that can load this program, as no other gets work."""
    with cluster_client(scheduler) as client:
        answers = client.run(function, *arguments, on_error="return")
    return [answer for answer in answers.values() if not isinstance(answer, BaseException)]


@contextmanager
def cluster_client(scheduler: str) -> Iterator[Client]:
    """A client of a cluster that is there already; StageError where it cannot be used, or is lost on the way."""
    from distributed import Client
    from distributed.comm.core import CommClosedError
    from distributed.utils import silence_logging_cmgr

    try:
        client = Client(scheduler, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise StageError(
            f"compute.scheduler: no Dask scheduler answers at {scheduler} ({error}); "
            f"start one, or leave it out to use this machine"
        ) from error
    with silence_logging_cmgr("CRITICAL"), client:  # its tracebacks would bury what we say
        try:
            client.wait_for_workers(1, timeout=WORKERS_SECONDS)
        except TimeoutError as error:
            raise StageError(
                f"compute.scheduler: the Dask scheduler at {scheduler} has no workers after {WORKERS_SECONDS} s; "
                f"start some: dask worker {scheduler} --nthreads 1"
            ) from error
        try:
            yield client
        except (CancelledError, CommClosedError) as error:
            # Nobody but Dask cancels shards, all of them when its scheduler is gone.
            raise StageError(
                f"compute.scheduler: the Dask scheduler at {scheduler} is gone. What is done is kept: "
                f"start it again with its workers, then the same command"
            ) from error


@contextmanager
def local_cluster(workers: int) -> Iterator[LocalCluster]:
    """Worker processes of this machine, of one core each."""
    import dask
    from distributed import LocalCluster

    settings = {
        "distributed.admin.log-format": "%(message)s",
        # After 15 s Dask looks whether a worker that died is back, and else starts none in its place ever again:
        # also where the machine is busy, or where the same worker has just died another time.
        "distributed.deploy.lost-worker-timeout": "365 days",
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},  # None: port 8787, or a warning
            silence_logs="CRITICAL",
            env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        ) as cluster,
    ):
        yield cluster
