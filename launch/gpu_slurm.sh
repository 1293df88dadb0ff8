#!/usr/bin/env bash
# Trains on GPUs under Slurm, one process per GPU. Submit it from the folder of the clone:
#
#   sbatch --nodes=2 launch/gpu_slurm.sh --config=configs/captions.py --workdir=/shared/runs/mine [--config.x=y ...]
#
# Two minutes before the time limit every process gets SIGTERM: the run saves and ends. Submit the same line again to go on.
#SBATCH --job-name=cl2cm
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gres=gpu:8
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"

make .venv/.installed
.venv/bin/python -m pip install --quiet --constraint requirements.txt --editable ".[cuda]" --no-build-isolation

# Every process sees all GPUs of its node and takes the one of its local rank: bind none, or rank 1 looks for a second GPU among one.
exec srun --kill-on-bad-exit=1 --gpu-bind=none .venv/bin/python -m cl2cm_jax.main "$@"
