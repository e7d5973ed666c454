"""Run stages that process images on workers that are jobs of a SLURM cluster. Needs `make setup EXTRAS=slurm`.

    .venv/bin/python docs/slurm/refine.py EXPERIMENT [--target refine] [--jobs 16] [--queue gpu] [--time 04:00:00]

Run it where SLURM's commands are, in the checkout, which all machines must see under the same path as the data and the
store. It submits jobs of one worker and one GPU each, runs `make TARGET` with them, and cancels them at the end. Jobs
may start late, end early or be cancelled: the others continue. Trainings of stages before TARGET would run here: train
first, with docs/slurm/train.sh.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys

from dask_jobqueue import SLURMCluster

signal.signal(signal.SIGINT, signal.default_int_handler)  # dask_jobqueue's own would end this with status 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", help="name or file of the experiment")
    parser.add_argument(
        "--target", default="refine", help="target of make: distill, predict, refine, augment, evaluate"
    )
    parser.add_argument("--jobs", type=int, default=16, help="jobs, each with one worker")
    parser.add_argument("--gpus", type=int, default=1, choices=(0, 1), help="GPUs of a job")
    parser.add_argument("--memory", default="16GB", help="memory of a job")
    parser.add_argument("--queue", help="SLURM's partition")
    parser.add_argument("--account", help="SLURM's account")
    parser.add_argument("--time", default="04:00:00", help="time limit of a job")
    options = parser.parse_args()
    with SLURMCluster(
        cores=1,  # threads of a worker: a worker computes on one core, or on its GPU
        processes=1,
        memory=options.memory,
        queue=options.queue,
        account=options.account,
        walltime=options.time,
        job_extra_directives=["--gpus=1"] if options.gpus else [],
        worker_extra_args=["--resources", "GPU=1"] if options.gpus else [],
        job_script_prologue=["export OMP_NUM_THREADS=1"],
        python=sys.executable,
        scheduler_options={"dashboard": False, "dashboard_address": ":0"},
    ) as cluster:
        cluster.scale(jobs=options.jobs)
        setting = f"SET=compute.scheduler={cluster.scheduler_address}"
        try:
            return subprocess.run(["make", options.target, f"EXP={options.experiment}", setting]).returncode
        except KeyboardInterrupt:
            return 130


if __name__ == "__main__":
    sys.exit(main())
