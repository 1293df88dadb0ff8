#!/usr/bin/env bash
# Runs the command of one worker: each line of its output gets the worker's name in front, a last line tells an exit code
# that is not 0, and the exit code is that of the command. The launch scripts call it.
#
#   WORKER=name launch/worker.sh command [argument ...]
#
# Without WORKER the name is the host's. WORKER_PID=file gets the number of the command's process, and while that one runs no
# second one is started. Not for Slurm, which signals only the process that it has started itself: this one.
set -uo pipefail

if [[ -n ${WORKER:-} ]]; then
  name=$WORKER
else
  name=$(hostname)
  [[ $name != *-w-* ]] || name=worker-${name##*-w-} # the hosts of a TPU slice: t1v-n-...-w-3
fi
if [[ -n ${WORKER_PID:-} ]]; then
  if [[ -s $WORKER_PID ]] && kill -0 "$(cat "$WORKER_PID")" 2> /dev/null; then
    echo "[$name] error: process $(cat "$WORKER_PID") of an earlier start still runs here; type the same line again, which ends it first"
    exit 1
  fi
  # shellcheck disable=SC2016 # the inner shell expands them
  set -- sh -c 'echo $$ > "$0" && exec "$@"' "$WORKER_PID" "$@"
fi

# Whoever reads the names may be gone, as when a connection breaks: the command then goes on, it is not ended by a write.
named() {
  trap '' TERM INT HUP PIPE
  local line
  while IFS= read -r line || [[ -n $line ]]; do
    printf '[%s] %s\n' "$name" "$line" 2> /dev/null || :
  done
}

# A signal for the whole group reaches the command itself, once; this shell and the reader wait for what it then does.
trap : TERM INT HUP
exec 2> /dev/null # bash would tell of a killed command in its own words
"$@" 2>&1 < /dev/null | named
code=${PIPESTATUS[0]}
if ((code == 134)); then # jax aborts where it loses process 0, and its own words are a stack trace
  echo "[$name] error: the process was aborted, as jax does where the first process of a run has ended; look for the first" \
    "error among the workers' lines, then start all of them again: they go on from the newest checkpoint"
fi
((code == 0)) || echo "[$name] ended with exit code $code"
exit "$code"
