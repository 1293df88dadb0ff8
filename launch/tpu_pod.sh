#!/usr/bin/env bash
# Trains on every worker of a Cloud TPU slice. Run it on your own machine, from a clone whose changes are committed:
#
#   TPU=my-v5e-64 ZONE=us-west4-a launch/tpu_pod.sh --config=configs/captions.py --workdir=/mnt/shared/runs/mine [--config.x=y ...]
#
# The workdir must be a folder that all workers share (a Filestore mount). The same line again resumes from the newest checkpoint.
# PROJECT=... names another project than gcloud's own; DRY_RUN=1 prints the commands and runs nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${TPU:?set TPU to the name of the TPU}" "${ZONE:?set ZONE to its zone}"

where=("$TPU" "--zone=$ZONE" --worker=all ${PROJECT:+"--project=$PROJECT"})
run() {
  if [[ -n "${DRY_RUN:-}" ]]; then printf '%q ' "$@" && echo; else "$@"; fi
}
on_workers() {
  run gcloud compute tpus tpu-vm ssh "${where[@]}" --command="$1"
}

# 1. The committed tree, and nothing else, to every worker.
archive="$(mktemp -d)/cl2cm.tgz"
trap 'rm -rf "$(dirname "$archive")"' EXIT
git archive --format=tgz --output="$archive" HEAD
run gcloud compute tpus tpu-vm scp "$archive" "$TPU:cl2cm.tgz" "${where[@]:1}"
on_workers 'mkdir -p cl2cm && tar -xzf cl2cm.tgz -C cl2cm'

# 2. Python 3.11 (the TPU images bring 3.10), the pinned packages, and jax for TPUs.
on_workers 'python3.11 -c "import ensurepip" 2> /dev/null || { sudo apt-get -qq update && sudo apt-get -qq install -y python3.11-venv make; }'
on_workers 'cd cl2cm && make .venv/.installed PYTHON=python3.11 \
  && .venv/bin/python -m pip install --quiet --constraint requirements.txt --editable ".[tpu]" --no-build-isolation'

# 3. One process a worker; they find each other. A process left over from a lost connection would hold the chips.
printf -v arguments '%q ' "$@"
on_workers "pkill -TERM -f '[c]l2cm_jax.main' && sleep 60; \
  cd cl2cm && JAX_COORDINATOR_ADDRESS=auto .venv/bin/python -m cl2cm_jax.main $arguments"
