#!/bin/bash
# Trains an experiment on the GPUs of several machines of a SLURM cluster, one command on each machine:
#
#     sbatch --nodes=2 --gpus-per-node=8 docs/slurm/train.sh EXPERIMENT [TARGET]
#
# TARGET is a target of make, train-teacher unless it is given. The stages before it run on the first machine. When the
# time is nearly over the training saves a checkpoint and ends; the same sbatch command continues it.
# The checkout, the data and the store must be on a disk that all machines see, under the same path.
#SBATCH --job-name=s4m-train
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
set -euo pipefail
export EXPERIMENT=${1:?which experiment? sbatch docs/slurm/train.sh EXPERIMENT [TARGET]} TARGET=${2:-train-teacher}
cd "${SLURM_SUBMIT_DIR:-.}"
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
MASTER=${hosts%%$'\n'*}:$((20000 + SLURM_JOB_ID % 20000))
export MASTER

# Every machine has records of its own: only the store is shared.
srun --kill-on-bad-exit=1 bash -c '
    if [ "$SLURM_NODEID" != 0 ]; then export S4M_WORK=${S4M_WORK:-work}-machine$SLURM_NODEID; fi
    exec make "$TARGET" EXP="$EXPERIMENT" GPUS="${SLURM_GPUS_ON_NODE:-1}" \
        NODES="$SLURM_NNODES" NODE_RANK="$SLURM_NODEID" MASTER="$MASTER"
'
