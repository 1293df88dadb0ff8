#!/usr/bin/env bash
# Trains on this machine, with every device that it has, in one process.
#
#   launch/local.sh --config=configs/emoji.py --workdir=runs/emoji
#   DEVICES=8 launch/local.sh ... --config.mesh.data=4 --config.mesh.fsdp=2   # 8 pretended CPU devices, to try a mesh
set -euo pipefail
cd "$(dirname "$0")/.."
make .venv/.installed

if [[ -n "${DEVICES:-}" ]]; then
  export JAX_PLATFORMS=cpu
  # they wait long for each other on few cores; XLA would end the process after 40 seconds
  export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$DEVICES"
  XLA_FLAGS+=" --xla_cpu_collective_call_terminate_timeout_seconds=600"
  # one thread a device is too few: independent collectives would wait for each other's threads for ever
  export NPROC=$((32 * DEVICES))
fi
exec .venv/bin/python -m cl2cm_jax.main "$@"
