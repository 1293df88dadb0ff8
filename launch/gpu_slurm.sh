#!/usr/bin/env bash
# Trains on GPUs under Slurm, one process per GPU. Submit it from the folder of the clone, which all nodes see:
#
#   sbatch --nodes=2 launch/gpu_slurm.sh --config=configs/captions.py --workdir=/shared/runs/mine [--config.x=y ...]
#
# Two minutes before the time limit every process gets SIGTERM: the run saves and ends, and the job is put into the queue again.
# So is a job whose node has failed. Submitting the same line by hand resumes, too.
#
#   REQUEUES=20      how often the job goes back into the queue at its time limit (0: never)
#   RESTARTS=3       how often the program is started again within the job after it has failed
#   PAUSE=30         seconds before that
#   DRY_RUN=1        prints the commands and runs nothing: DRY_RUN=1 launch/gpu_slurm.sh ...
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
# Slurm runs a copy of this file; the others are where it was submitted from.
[[ -f launch/commands.sh ]] || {
  echo "error: $PWD is not the folder of the clone; submit from there: cd clone && sbatch launch/gpu_slurm.sh ..." >&2
  exit 2
}
# shellcheck source=launch/commands.sh
source launch/commands.sh

REQUEUES=${REQUEUES:-20} RESTARTS=${RESTARTS:-3} PAUSE=${PAUSE:-30}
for name in REQUEUES RESTARTS PAUSE; do whole "$name" 0; done
workdir=$(workdir_of "$@")
case $workdir in
  *://*) mistake "--workdir=$workdir is not a folder; name one that all nodes see" ;;
  /tmp/* | /dev/shm/* | /var/tmp/*) mistake "--workdir=$workdir is on each node's own disk; name a folder that all nodes see" ;;
esac
needs srun "Slurm is not on this machine; submit on a login node of the cluster"
[[ -n ${SLURM_JOB_ID:-} ]] || dry || mistake "this is no Slurm job; submit it: $(quoted sbatch launch/gpu_slurm.sh "$@")"
needs make "load or install it on the nodes (apt install make on Debian and Ubuntu)"

run make .venv/.installed
run .venv/bin/python -m pip install --quiet --constraint .venv/constraints.txt --editable ".[cuda]"

# Every process sees all GPUs of its node and takes the one of its local rank: bind none, or rank 1 looks for a second GPU among one.
# Python itself is the task: Slurm signals no other process. --label puts the number of the task before each line.
step=(srun --label --kill-on-bad-exit=1 --gpu-bind=none .venv/bin/python -m cl2cm_jax.main "$@")
if dry; then
  quoted "${step[@]}"
  exit
fi

log=$(mktemp) # what this start says; Slurm's own file keeps all
trap 'rm -f "$log"' EXIT
for ((start = 0; ; start++)); do
  code=0
  "${step[@]}" 2>&1 | tee "$log" || code=$?
  case $(outcome "$code" "$log") in
    finished) exit 0 ;;
    mistake) mistake "the program stopped at a mistake that a restart does not fix; a line above says which" ;;
    stopped) break ;;
  esac
  if ((start >= RESTARTS)); then
    echo "error: the program failed $((start + 1)) times, the last with exit code $code; fix what the lines above say, then submit" \
      "the same line again (it resumes), or allow more with RESTARTS=..." >&2
    exit "$code"
  fi
  say "the program failed with exit code $code; starts again in $PAUSE s ($((start + 1)) of $RESTARTS)"
  sleep "$PAUSE"
done

requeued=${SLURM_RESTART_COUNT:-0}
if ((requeued >= REQUEUES)); then
  say "stopped and saved; submit the same line again to go on (queued again $requeued times; REQUEUES=... allows more)"
  exit 143 # not finished
fi
say "stopped and saved; goes back into the queue ($((requeued + 1)) of $REQUEUES)"
scontrol requeue "$SLURM_JOB_ID" || mistake "Slurm would not queue the job again; submit the same line to go on"
