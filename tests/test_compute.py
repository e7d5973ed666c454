"""Shards are computed once, wherever, and whoever dies on the way."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.compute.gpus import OneGpuEach, visible_gpus
from pipeline.compute.settings import ComputeSettings
from pipeline.compute.shards import DEATHS, Shard, local_cluster, run_shards
from pipeline.errors import DatasetError, StageError
from pipeline.labels.label_store import LabelStore
from pipeline.labels.label_writing import seal_labels
from pipeline.labels.rows import Status
from pipeline.tables.shard_files import completed_shards, divide
from tests.processes import kill, start
from tests.shard_work import CountingWork, noted

PLAN = divide(range(1, 41), 4)
QUIET = {"silence_logs": "CRITICAL", "scheduler_kwargs": {"dashboard": False, "dashboard_address": "127.0.0.1:0"}}
ONE, TWO = ComputeSettings(), ComputeSettings(workers=2)


def shards(folder: Path) -> list[Shard]:
    """Those that are not there yet."""
    complete = completed_shards(folder / "shards", PLAN)
    return [Shard(index, ids) for index, ids in enumerate(PLAN) if index not in complete]


def run(work: CountingWork, compute: ComputeSettings) -> int:
    counted: list[int] = []
    run_shards(work, shards(work.folder), compute, counted.append)
    return sum(counted)


def sealed(folder: Path) -> LabelStore:
    path = folder / "labels.zarr"
    seal_labels(folder / "shards", PLAN, path, [], {})
    return LabelStore.open(path)


@pytest.fixture(scope="module")
def digest(tmp_path_factory):
    """Of the store that an undisturbed run in one process makes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run(CountingWork(folder), ONE) == 40
    return sealed(folder).attributes.digest


@pytest.mark.slow
def test_two_processes_make_the_same_store(tmp_path, digest):
    assert run(CountingWork(tmp_path), TWO) == 40
    assert sealed(tmp_path).attributes.digest == digest
    assert sorted(map(int, noted(tmp_path / "published"))) == list(range(10))


def test_workers_of_a_machine_with_several_gpus_see_one_each(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert visible_gpus() == ["4", "6"]
    seen = []
    for name in (0, 1, 2):
        OneGpuEach(visible_gpus()).setup(SimpleNamespace(name=name))
        seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert seen == ["4", "6", "4"]


@pytest.mark.parametrize(("given", "processes"), [({}, 1), ({"gpus": 4}, 4), ({"gpus": 4, "workers": 2}, 2)])
def test_every_gpu_gets_a_worker_unless_their_number_is_given(given, processes):
    assert ComputeSettings(**given).processes == processes


@pytest.mark.slow
def test_several_gpus_start_several_workers(tmp_path, monkeypatch, digest):
    asked: list[int] = []

    def cluster(workers: int):
        asked.append(workers)
        return local_cluster(workers)

    monkeypatch.setattr("pipeline.compute.shards.local_cluster", cluster)
    assert run(CountingWork(tmp_path), ComputeSettings(gpus=2)) == 40
    assert asked == [2]
    assert sealed(tmp_path).attributes.digest == digest


@pytest.mark.slow
def test_the_plugin_reaches_the_workers(tmp_path, monkeypatch, digest):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert run(CountingWork(tmp_path), TWO) == 40
    assert sealed(tmp_path).attributes.digest == digest


@pytest.mark.slow
def test_a_cluster_that_is_there_makes_the_same_store(tmp_path, digest):
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, **QUIET) as cluster:
        assert run(CountingWork(tmp_path), ComputeSettings(scheduler=cluster.scheduler_address)) == 40
    assert sealed(tmp_path).attributes.digest == digest


@pytest.mark.slow
def test_a_scheduler_that_does_not_answer_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.compute.shards.CONNECT_SECONDS", 1)
    with pytest.raises(StageError, match="no Dask scheduler answers at tcp://127.0.0.1:9"):
        run(CountingWork(tmp_path), ComputeSettings(scheduler="tcp://127.0.0.1:9"))


def cluster_in_threads(workers: int):
    """A cluster within this process, as one that somebody else has started."""
    from distributed import LocalCluster

    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=False,
        protocol="tcp",
        **QUIET,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("most", "together"), [(3, 1), (4, 2), (3, 200)])
def test_a_scheduler_has_some_shards_at_a_time_and_is_asked_for_its_workers_once(
    tmp_path, monkeypatch, digest, most, together
):
    from distributed import Client

    held, given, asked = [], [], []
    give, info = Client.map, Client.scheduler_info

    def submitted(client, function, shards, **options):
        held.append(sum(future.status == "pending" for future in client.futures.values()))
        given.append(len(shards))
        return give(client, function, shards, **options)

    monkeypatch.setattr(Client, "map", submitted)
    monkeypatch.setattr(Client, "scheduler_info", lambda client, **given: asked.append(1) or info(client, **given))
    monkeypatch.setattr("pipeline.compute.shards.SUBMITTED", most)
    monkeypatch.setattr("pipeline.compute.shards.SUBMITTED_TOGETHER", together)
    with cluster_in_threads(2) as cluster:
        asked.clear()
        work = CountingWork(tmp_path, seconds=0.01)
        assert run(work, ComputeSettings(scheduler=cluster.scheduler_address)) == 40
    assert sealed(tmp_path).attributes.digest == digest
    assert sorted(map(int, noted(tmp_path / "published"))) == list(range(len(PLAN)))
    assert sum(given) == len(PLAN)
    assert set(given[:-1]) <= {min(together, most)}
    assert max(map(sum, zip(held, given, strict=True))) <= most
    assert len(asked) <= 2  # with the one that waits for a first worker


def test_a_scheduler_without_workers_is_told_and_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.compute.shards.WORKERS_SECONDS", 0.3)
    with cluster_in_threads(0) as cluster:
        address = cluster.scheduler_address
        with pytest.raises(StageError, match=rf"{address} has no workers .* start some: dask worker {address}"):
            run(CountingWork(tmp_path), ComputeSettings(scheduler=address))


@pytest.mark.slow
def test_a_scheduler_that_dies_on_the_way_is_told_and_what_is_done_is_kept(tmp_path, monkeypatch, digest):
    import dask

    monkeypatch.setattr("pipeline.compute.shards.CONNECT_SECONDS", 1)
    with dask.config.set({"distributed.comm.timeouts.connect": 1}), cluster_in_threads(1) as cluster:

        def end_the_scheduler() -> None:
            wait_for_shards(tmp_path, 1)
            cluster.loop.add_callback(cluster.scheduler.close)

        threading.Thread(target=end_the_scheduler, daemon=True).start()
        with pytest.raises(StageError, match=f"scheduler at {cluster.scheduler_address} is gone. What is done is kept"):
            run(CountingWork(tmp_path, seconds=0.05), ComputeSettings(scheduler=cluster.scheduler_address))
    before = noted(tmp_path / "published")
    assert 2 <= len(before) < len(PLAN)
    run(CountingWork(tmp_path), ONE)
    assert sealed(tmp_path).attributes.digest == digest


@pytest.mark.slow
def test_a_scheduler_that_takes_no_new_connection_is_told(tmp_path, monkeypatch):
    from distributed import Client

    def gather(client: Client, futures: list) -> list:
        raise OSError("Timed out trying to connect to tcp://127.0.0.1:1 after 1 s")

    with cluster_in_threads(1) as cluster:
        monkeypatch.setattr(Client, "gather", gather)
        with pytest.raises(StageError, match=f"scheduler at {cluster.scheduler_address} is gone. What is done is kept"):
            run(CountingWork(tmp_path), ComputeSettings(scheduler=cluster.scheduler_address))


@pytest.mark.slow
def test_an_image_that_kills_its_workers_is_given_up_and_no_other(tmp_path):
    work = CountingWork(tmp_path, killer=6)
    assert run(work, TWO) == 40
    store = sealed(tmp_path)
    failed = [row for row in store if row.status is Status.FAILED]
    assert [(row.image_id, row.message) for row in failed] == [
        (6, f"its worker died {DEATHS} times, as when memory runs out")
    ]
    assert len(noted(tmp_path / "killed")) == 2 * DEATHS  # with its shard, then alone


@pytest.mark.slow
def test_a_worker_that_takes_long_to_come_back_is_waited_for():
    import dask
    from distributed import Client

    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "10 ms"}),
        local_cluster(1) as cluster,
        Client(cluster) as client,
    ):
        killed = client.submit(os.getpid).result(timeout=60)
        os.kill(killed, signal.SIGKILL)
        assert client.submit(os.getpid, pure=False).result(timeout=60) != killed


@pytest.mark.slow
def test_an_error_of_a_worker_arrives_whole(tmp_path):
    with pytest.raises(DatasetError, match="30: is wrong"):
        run(CountingWork(tmp_path, wrong=30), TWO)
    with pytest.raises(DatasetError, match="30: is wrong"):
        run(CountingWork(tmp_path, wrong=30), ONE)


def started(folder: Path, workers: int, seconds: float) -> ForkServerProcess:
    """A run in a session of its own, so that all of its processes can be killed at once."""
    return start(run, CountingWork(folder, seconds=seconds), ComputeSettings(workers=workers, device="cpu"))


def wait_for_shards(folder: Path, more_than: int) -> None:
    deadline = time.monotonic() + 60
    while len(noted(folder / "published")) <= more_than and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.mark.slow
def test_a_run_killed_again_and_again_computes_no_shard_twice(tmp_path, digest):
    random_ = random.Random(3)
    kills = 0
    while shards(tmp_path) and kills < 12:
        process = started(tmp_path, 1, 0.02)
        wait_for_shards(tmp_path, len(noted(tmp_path / "published")) - (kills % 3 == 0))
        time.sleep(random_.uniform(0, 0.12))
        kills += kill(process)
    assert kills >= 4
    run(CountingWork(tmp_path), ONE)
    assert sealed(tmp_path).attributes.digest == digest
    published = noted(tmp_path / "published")
    # A kill can fall between a shard's publication and its note, never the other way round.
    assert len(published) == len(set(published))


def worker_processes(process: ForkServerProcess) -> list[int]:
    """The Dask workers below a run; not the run itself, which is of a fork server too."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.getsid(int(entry.name)) == process.pid != int(entry.name):
                command = (entry / "cmdline").read_bytes()
                if b"multiprocessing.spawn" in command:
                    found.append(int(entry.name))
        except (OSError, ProcessLookupError):
            continue
    return found


@pytest.mark.slow
def test_workers_killed_at_random_change_nothing(tmp_path, digest):
    random_ = random.Random(5)
    process = started(tmp_path, 2, 0.1)
    wait_for_shards(tmp_path, 0)
    kills = 0
    while process.is_alive() and kills < 6:
        time.sleep(random_.uniform(0.1, 0.5))
        workers = worker_processes(process)
        if workers:
            os.kill(random_.choice(workers), signal.SIGKILL)
            kills += 1
    assert kills >= 3
    process.join(120)
    assert process.exitcode == 0
    assert sealed(tmp_path).attributes.digest == digest
    published = noted(tmp_path / "published")
    assert len(set(published)) == len(PLAN)
    # Again only where the worker died after it had published and before it could say so.
    assert len(published) <= len(PLAN) + kills
