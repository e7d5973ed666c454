"""The scripts for SLURM, run with commands that do on this machine what SLURM's do on a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from pipeline.labels.label_store import LabelStore
from tests.test_makefile import ROOT
from tests.tiny_experiment import environment
from tests.tiny_refinement import box_mask, make_refinement, many_images, result
from tests.tiny_training import training_experiment

BIN = Path(sys.executable).parent

MAKE = """#!/bin/bash
exec {make} -C {root} BIN={bin} SETUP= "$@"
"""
"""make, in the checkout, with the programs of these tests."""

SBATCH = """#!/bin/bash
cp "$1" {folder}/submitted-$$.sh
setsid bash {folder}/submitted-$$.sh > {folder}/job-$$.txt 2>&1 &
echo $! >> {folder}/jobs
echo "Submitted batch job $!"
"""

SCANCEL = """#!/bin/bash
echo "$@" >> {folder}/cancelled
for job in "$@"; do kill -- -$job; done
"""

SRUN = """#!/bin/bash
echo "$@" > {folder}/srun-arguments
shift
for node in 0 1; do SLURM_NODEID=$node "$@" > {folder}/node$node.txt 2>&1 & jobs+=($!); done
status=0
for job in "${{jobs[@]}}"; do wait $job || status=$?; done
exit $status
"""

SCONTROL = """#!/bin/bash
[ "$*" = "show hostnames two[1-2]" ] && printf '127.0.0.1\\n127.0.0.2\\n'
"""


@pytest.fixture
def slurm(tmp_path):
    """SLURM's commands in a folder, and the environment with them."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    make = subprocess.run(["which", "make"], capture_output=True, text=True, check=True).stdout.strip()
    for name, text in (
        ("make", MAKE),
        ("sbatch", SBATCH),
        ("scancel", SCANCEL),
        ("srun", SRUN),
        ("scontrol", SCONTROL),
    ):
        command = folder / name
        command.write_text(text.format(folder=folder, make=make, root=ROOT, bin=BIN))
        command.chmod(0o755)
    inherited = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    found = {key: value for key, value in environment(tmp_path).items() if key not in inherited}
    yield folder, {**found, "PATH": f"{folder}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    if (folder / "jobs").exists():
        for job in (folder / "jobs").read_text().split():
            subprocess.run(["kill", "--", f"-{job}"], capture_output=True)


@pytest.mark.slow
def test_refining_with_workers_that_are_jobs(tmp_path, slurm):
    if find_spec("dask_jobqueue") is None:  # importing it would change this process's signal handlers
        pytest.skip("dask-jobqueue is not installed")
    folder, given = slurm
    path = make_refinement(tmp_path, [result(1, box_mask(5, 5, 40, 30))], many_images(2))
    command = [sys.executable, ROOT / "docs/slurm/refine.py", path, "--jobs", "1", "--queue", "gpu", "--memory", "2GB"]
    done = subprocess.run(command, env=given, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr + "".join(each.read_text() for each in folder.glob("job-*.txt"))
    (store,) = tmp_path.glob("stores/refine/*/labels.zarr")
    assert len(LabelStore.open(store)) == 2
    (script,) = (each.read_text() for each in folder.glob("submitted-*.sh"))
    for line in ("#SBATCH -p gpu", "#SBATCH --gpus=1", "--resources GPU=1", "export OMP_NUM_THREADS=1", "#SBATCH -n 1"):
        assert line in script
    assert "--nthreads 1" in script
    assert (folder / "cancelled").exists()  # no worker is left behind


@pytest.mark.slow
def test_training_on_two_machines(tmp_path, slurm):
    folder, given = slurm
    training_experiment(tmp_path, None)
    allocation = {"SLURM_JOB_NODELIST": "two[1-2]", "SLURM_JOB_ID": str(os.getpid()), "SLURM_NNODES": "2"}
    command = ["bash", ROOT / "docs/slurm/train.sh", tmp_path / "tiny.yaml"]
    done = subprocess.run(command, env=given | allocation, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr + "".join(each.read_text() for each in folder.glob("node*.txt"))
    told = [(folder / f"node{node}.txt").read_text() for node in (0, 1)]
    assert (folder / "srun-arguments").read_text().startswith("--kill-on-bad-exit=1 bash -c")
    assert "train-teacher: done in" in told[0]
    assert "train-teacher: training with the first machine" in told[1]
    assert len(list(tmp_path.glob("stores/train-teacher/*/seal.json"))) == 1
    assert len(list(tmp_path.glob("work-machine1/*/train-teacher.done"))) == 1


def test_an_experiment_must_be_named(tmp_path):
    done = subprocess.run(["bash", ROOT / "docs/slurm/train.sh"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode != 0
    assert "which experiment? sbatch docs/slurm/train.sh EXPERIMENT" in done.stderr
