#!/usr/bin/env bash
# Trains on this machine, with every device that it has, in one process.
#
#   launch/local.sh --config=configs/emoji.py --workdir=runs/emoji
#   DEVICES=8 launch/local.sh ... --config.mesh.data=4 --config.mesh.fsdp=2   # 8 pretended CPU devices, to try a mesh
#   PROCESSES=2 DEVICES=4 launch/local.sh ...                                 # 2 processes of 4 such devices, to try a cluster
#
# The processes find each other on a free port of the loopback interface (PORT=... takes another one). If one fails, the others
# are ended within seconds. Ctrl-C lets them save and end; a second one ends them at once. DRY_RUN=1 prints the commands.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/commands.sh
source launch/commands.sh

PROCESSES=${PROCESSES:-1}
whole PROCESSES 1
((PROCESSES == 1)) || DEVICES=${DEVICES:-1}
environment=(env)
if [[ -n ${DEVICES:-} ]]; then
  whole DEVICES 1
  # they wait long for each other on few cores; XLA would end the process after 40 seconds
  flags="${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$DEVICES"
  flags+=" --xla_cpu_collective_call_terminate_timeout_seconds=600"
  # collectives that do not depend on each other must come in one order on all devices, or they wait for ever;
  # and one thread a device, XLA's choice, is too few to wait in
  flags+=" --xla_cpu_enable_concurrency_optimized_scheduler=false"
  environment+=(JAX_PLATFORMS=cpu "XLA_FLAGS=$flags" "NPROC=$((8 * 10#$DEVICES))")
fi
program=(.venv/bin/python -m cl2cm_jax.main "$@")

needs make "install it (apt install make on Debian and Ubuntu)"
run make .venv/.installed
if ((PROCESSES == 1)); then
  dry || exec "${environment[@]}" "${program[@]}"
  quoted "${environment[@]}" "${program[@]}"
  exit
fi

# Below the ports that systems give away by themselves, so that nobody takes it between now and the start.
free_port() {
  local port try
  for try in {1..50}; do
    port=$((20000 + RANDOM % 12000))
    (: < "/dev/tcp/127.0.0.1/$port") 2> /dev/null || break
  done
  ((try < 50)) || mistake "no free port was found between 20000 and 32000; name one with PORT=..."
  echo "$port"
}
PORT=${PORT:-$(free_port)}
whole PORT 1 65535
GRACE=${GRACE:-5} # seconds between asking the others to end and ending them
whole GRACE 0

running=() # by number of the process: its id, or nothing once it has ended
set -m     # each in a process group of its own: a Ctrl-C of the terminal comes to this script alone, which passes it on once
for ((number = 0; number < PROCESSES; number++)); do
  member=("JAX_COORDINATOR_ADDRESS=127.0.0.1:$PORT" "JAX_NUM_PROCESSES=$PROCESSES" "JAX_PROCESS_ID=$number")
  command=("${environment[@]}" "${member[@]}" "WORKER=process-$number" bash launch/worker.sh "${program[@]}")
  if dry; then
    echo "$(quoted "${command[@]}") &"
  else
    "${command[@]}" &
    running[number]=$!
  fi
done
set +m
if dry; then
  echo wait
  exit
fi

signal_all() {
  local id
  for id in "${running[@]}" "$failed_group"; do
    [[ -z $id ]] || kill "-$1" -- "-$id" 2> /dev/null || :
  done
}
failed_group="" # of the first that failed: what is left of it, where its worker.sh alone was killed
asked=0 # how often a signal asked to end
# shellcheck disable=SC2329 # the trap calls it
ask() {
  asked=$((asked + 1))
  if ((asked == 1)); then
    signal_all TERM
    say "asked the processes to save and end; once more ends them at once" 2>&3
  else
    signal_all KILL
  fi
}
trap ask INT TERM HUP

exec 3>&2 2> /dev/null # bash would tell of a killed process in its own words
failed="" code=0 patience="" left=$PROCESSES
while ((left > 0)); do
  for ((number = 0; number < PROCESSES; number++)); do
    id=${running[number]}
    if [[ -z $id ]] || kill -0 "$id" 2> /dev/null; then continue; fi
    running[number]="" left=$((left - 1)) ended=0
    wait "$id" || ended=$?
    if ((ended != 0)) && [[ -z $failed ]]; then
      failed=$number failed_group=$id code=$ended patience=$((SECONDS + GRACE))
      signal_all TERM
    fi
  done
  if [[ -n $patience ]] && ((SECONDS >= patience)); then signal_all KILL; fi
  sleep 0.2 || : # a signal may end it
done
while [[ -n $failed_group ]] && kill -0 -- "-$failed_group" 2> /dev/null; do
  if ((SECONDS >= patience)); then signal_all KILL; fi
  sleep 0.2 || :
done
exec 2>&3

((asked == 0)) || exit 130
if ((code == 143)); then
  say "SIGTERM stopped process $failed, and the others with it; the same line again resumes"
elif [[ -n $failed ]]; then
  hint=""
  ((code != 137)) || hint=" (killed: is there enough memory?)"
  echo "error: process $failed ended with exit code $code$hint and the others were ended;" \
    "fix what its lines, marked [process-$failed], say" >&2
fi
exit "$code"
