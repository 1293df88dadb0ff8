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
  # collectives that do not depend on each other must come in one order on all devices, or they wait for ever;
  # and one thread a device, XLA's choice, is too few to wait in
  XLA_FLAGS+=" --xla_cpu_enable_concurrency_optimized_scheduler=false"
  export NPROC=$((8 * DEVICES))
fi
exec .venv/bin/python -m cl2cm_jax.main "$@"
