#!/usr/bin/env bash
# Trains on every worker of a Cloud TPU slice. Run it on a machine that stays on, from a clone whose changes are committed:
#
#   TPU=my-v5e-64 ZONE=us-west4-a launch/tpu_pod.sh --config=configs/captions.py --workdir=/mnt/shared/runs/mine [--config.x=y ...]
#
# The same line again ends a run that is still there and resumes from the newest checkpoint. Ctrl-C lets the run save and end.
#
#   CREATE='--accelerator-type=v5litepod-64 --version=v2-alpha-tpuv5-lite --spot'
#                    flags of `gcloud compute tpus tpu-vm create`: the TPU is created where it is missing, and deleted and
#                    created again after it was preempted
#   MOUNT='...'      what every worker runs before the workdir is looked for, such as the command that mounts it
#   RESTARTS=10      how often the program is started again after it has failed on a TPU that is well
#   CREATIONS=100    how often the TPU is created or waited for
#   PAUSE=60         seconds before each of these
#   LOGS=runs/logs   where the lines of all workers are kept, a file for each start; each line begins with its worker's name
#   PROJECT=...      another project than gcloud's own
#   LOCAL_WORKDIR=1  the workdir may be on the worker's own disk: one worker, which is not a spot machine
#   DRY_RUN=1        prints the commands and runs nothing
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/commands.sh
source launch/commands.sh

[[ -n ${TPU:-} ]] || mistake "TPU is not set; set TPU to the name of the TPU: TPU=name ZONE=zone launch/tpu_pod.sh ..."
[[ -n ${ZONE:-} ]] || mistake "ZONE is not set; set ZONE to the zone of the TPU: TPU=name ZONE=zone launch/tpu_pod.sh ..."
RESTARTS=${RESTARTS:-10} CREATIONS=${CREATIONS:-100} PAUSE=${PAUSE:-60} LOGS=${LOGS:-runs/logs}
for name in RESTARTS CREATIONS PAUSE; do whole "$name" 0; done
workdir=$(workdir_of "$@")
case $workdir in
  *://*) mistake "--workdir=$workdir is not a folder; mount the bucket on every worker (MOUNT='gcsfuse ...') and name the folder" ;;
  /tmp/* | /dev/shm/* | /home/* | /root/* | /var/* | "~"* | [!/]*)
    [[ -n ${LOCAL_WORKDIR:-} ]] || mistake "--workdir=$workdir is on each worker's own disk, which ends with the TPU;" \
      "name a mounted folder that all workers share, such as /mnt/shared/runs/mine (or LOCAL_WORKDIR=1 for one lasting worker)"
    ;;
esac
read -ra create <<< "${CREATE:-}" || :
needs gcloud "install the Google Cloud CLI (cloud.google.com/sdk/docs/install), then: gcloud auth login"
needs git "install it (apt install git on Debian and Ubuntu)"
dry || git rev-parse --verify --quiet HEAD > /dev/null 2>&1 || mistake "$PWD is not a git clone with a commit; workers get the last commit: git commit"
dry || git diff --quiet HEAD || say "uncommitted changes stay here; the workers get the last commit"

where=("--zone=$ZONE")
[[ -z ${PROJECT:-} ]] || where+=("--project=$PROJECT")
tpu() { # tpu VERB [argument ...]
  local verb=$1
  shift
  run gcloud compute tpus tpu-vm "$verb" "$TPU" "${where[@]}" "$@"
}
on_workers() {
  # A TPU that vanishes says no goodbye: without these, ssh would wait for it for hours.
  tpu ssh --worker=all --ssh-flag=-oServerAliveInterval=30 --ssh-flag=-oConnectTimeout=30 "--command=$1"
}

own=""
dry || own=$(mktemp -d)
trap '[[ -z $own ]] || rm -rf "$own"' EXIT

# Prints the state of the TPU: READY, PREEMPTED, ...; ABSENT where there is none, UNKNOWN where gcloud does not say.
state() {
  if gcloud compute tpus tpu-vm describe "$TPU" "${where[@]}" "--format=value(state)" 2> "$own/describe"; then
    return
  elif grep -q ' NOT_FOUND:' "$own/describe"; then
    echo ABSENT
  else
    echo UNKNOWN
  fi
}

# Waits until the TPU is READY; creates it where it is not there. `fresh` says whether it was created.
creations=0 seen="" fresh=""
be_ready() {
  local now looks=0
  while :; do
    now=$(state)
    case $now in
      READY)
        seen=1
        return
        ;;
      ABSENT | PREEMPTED | TERMINATED)
        ((${#create[@]})) || mistake "TPU '$TPU' in $ZONE is $now; to have it created, set CREATE to the flags of" \
          "gcloud compute tpus tpu-vm create, such as CREATE='--accelerator-type=v5litepod-64 --version=v2-alpha-tpuv5-lite --spot'"
        ;;
      UNKNOWN) # of no worry later: the connection may be gone for a while
        [[ -n $seen ]] || mistake "gcloud cannot look at TPU '$TPU' in $ZONE: $(grep . "$own/describe" | tail -n 1);" \
          "check TPU, ZONE and PROJECT, or: gcloud auth login"
        ;;
      STOPPED) mistake "TPU '$TPU' is STOPPED; start it: $(quoted gcloud compute tpus tpu-vm start "$TPU" "${where[@]}")" ;;
      CREATING | STARTING | RESTARTING | REIMAGING | REPAIRING | DELETING | STOPPING) ;;
      *) mistake "TPU '$TPU' is in state '$now'; look at it: $(quoted gcloud compute tpus tpu-vm describe "$TPU" "${where[@]}")" ;;
    esac
    ((creations < CREATIONS)) || mistake "TPU '$TPU' is $now after $CREATIONS times of creating and waiting for it;" \
      "try another zone or type, or later, or allow more with CREATIONS=..."
    creations=$((creations + 1)) looks=$((looks + 1))
    say "TPU '$TPU' is $now ($creations of $CREATIONS)"
    case $looks-$now in
      1-ABSENT | 1-PREEMPTED | 1-TERMINATED) ;; # nothing has been tried yet
      *) sleep "$PAUSE" ;;
    esac
    case $now in
      PREEMPTED | TERMINATED) # its disk is gone, only the name is still taken
        if tpu delete --quiet; then create_it; fi
        ;;
      ABSENT) create_it ;;
    esac
  done
}
create_it() {
  local code=0
  fresh=1
  tpu create "${create[@]}" || code=$?
  ((code != 2)) || mistake "gcloud does not take the flags in CREATE, as it says above; see gcloud compute tpus tpu-vm create --help"
  ((code == 0)) || say "it could not be created, as gcloud says above; tries again in $PAUSE s"
}

# The committed tree and nothing else, Python 3.11 (the TPU images bring 3.10), the pinned packages, jax for TPUs.
# After a failure of a step here exit code 1 says that it may go better the next time, 2 that it will not.
unpack='mkdir -p cl2cm && tar -xzf cl2cm.tgz -C cl2cm || exit 1'
python='python3.11 -c "import ensurepip" 2> /dev/null || { sudo apt-get -qq -o DPkg::Lock::Timeout=300 update && sudo apt-get -qq -o DPkg::Lock::Timeout=300 install -y python3.11-venv make; } || exit 1'
install='cd cl2cm && make .venv/.installed PYTHON=python3.11 && .venv/bin/python -m pip install --quiet --constraint .venv/constraints.txt --editable ".[tpu]" || exit 1'
# The folder must be on something that is mounted: the root disk of a worker belongs to it alone and ends with the TPU.
# shellcheck disable=SC2016 # the workers expand it
mounted="workdir=$(quoted "$workdir")"'
mkdir -p "$workdir" || { echo "error: the worker cannot make $workdir; mount its disk or bucket with MOUNT=..., writable" >&2; exit 2; }
case $(df --output=fstype,target "$workdir" | tail -n 1) in
  tmpfs* | *" /") echo "error: $workdir is on the disk of the worker itself; mount a shared disk or bucket there with MOUNT=..." >&2; exit 2 ;;
esac'
prepare() {
  local archive=cl2cm.tgz
  dry || archive=$own/cl2cm.tgz
  run git archive --format=tgz "--output=$archive" HEAD &&
    run gcloud compute tpus tpu-vm scp "$archive" "$TPU:cl2cm.tgz" "${where[@]}" --worker=all &&
    on_workers "$unpack" && on_workers "$python" && on_workers "$install" || return
  if [[ -n ${MOUNT:-} ]]; then on_workers "$MOUNT" || return 1; fi
  if [[ -z ${LOCAL_WORKDIR:-} ]]; then on_workers "$mounted" || return; fi
}

# A run that is still there, as after a lost connection, would hold the chips: it saves and ends first.
# shellcheck disable=SC2016 # the workers expand it
end_old='pid=$(cat cl2cm.pid 2> /dev/null) || exit 0
case $(ps -ww -p "$pid" -o args= 2> /dev/null) in *cl2cm_jax.main*)
  kill -TERM "$pid"
  for second in $(seq 120); do kill -0 "$pid" 2> /dev/null || break; sleep 1; done
  kill -KILL "$pid" 2> /dev/null ;;
esac
rm -f cl2cm.pid'
# One process a worker; they find each other. `exec`: when the TPU is taken away everything gets SIGTERM, and
# the shell that ssh starts would end before the program has saved; worker.sh waits for it.
train="cd cl2cm && exec env JAX_COORDINATOR_ADDRESS=auto WORKER_PID=../cl2cm.pid bash launch/worker.sh"
train+=" .venv/bin/python -m cl2cm_jax.main $(quoted "$@")"

if dry; then
  tpu describe "--format=value(state)"
  if ((${#create[@]})); then
    echo "# PREEMPTED or TERMINATED: $(tpu delete --quiet)"
    echo "# and then, or where there is none: $(tpu create "${create[@]}")"
  fi
  prepare
  on_workers "$end_old"
  on_workers "$train"
  exit
fi

# shellcheck disable=SC2329 # the trap calls it
interrupted() {
  trap '' INT TERM HUP
  say "asks the workers to save and end (up to two minutes)"
  if on_workers "$end_old" < /dev/null; then
    wait # for their last lines
  else
    say "they did not answer; the same line again ends them first"
  fi
  exit 130
}

# Runs the program on all workers; its lines are shown and kept in $log. In the background, so that a signal is acted on at once,
# and in a process group of its own, so that a Ctrl-C does not cut the connections before the workers have saved.
start() {
  local code=0
  set -m
  (on_workers "$train" 2>&1 < /dev/null | tee "$log") &
  set +m
  wait "$!" || code=$?
  return "$code"
}

mkdir -p "$LOGS"
failures=0 starts=0 prepared=""
again() { # again CODE WHAT: counts a failure, and pauses before the next start
  ((failures < RESTARTS)) || {
    echo "error: $2, $((failures + 1)) times in all, the last with exit code $1; fix what $LOGS says, then type the same line" \
      "again (it resumes), or allow more with RESTARTS=..." >&2
    exit "$1"
  }
  failures=$((failures + 1))
  say "$2 with exit code $1; starts again in $PAUSE s ($failures of $RESTARTS)"
}
trap interrupted INT TERM HUP
code=0 what=""
while :; do
  be_ready
  if [[ -n $fresh ]]; then
    prepared="" fresh="" # a preempted TPU is no failure of the program
  elif [[ $what == stopped ]]; then
    echo "error: somebody asked the run to stop, and the TPU is well; it has saved: the same line again resumes" >&2
    exit 1
  elif [[ -n $what ]]; then
    again "$code" "$what"
  fi
  what="" code=0
  if [[ -z $prepared ]]; then
    prepare || code=$?
    ((code != 2)) || mistake "the workers could not be made ready; the lines above say why"
    if ((code)); then
      what="making the workers ready failed"
      sleep "$PAUSE"
      continue
    fi
    prepared=1
  fi
  on_workers "$end_old" || :
  starts=$((starts + 1))
  log=$LOGS/$TPU-$(date +%Y%m%d-%H%M%S)-$starts.log
  start || code=$?
  case $(outcome "$code" "$log") in
    finished) exit 0 ;;
    mistake) mistake "the program stopped at a mistake that a restart does not fix; the line above, and in $log, says which" ;;
    stopped) what=stopped ;;
    failed) what="the program failed" ;;
  esac
  sleep "$PAUSE" # a preemption shows in the state of the TPU a moment later
done
