"""A clone with the launch scripts, and stand-ins for gcloud, ssh, srun and make that record their arguments.

The stand-in of gcloud runs the commands of `tpu-vm ssh` on two "workers", folders of this machine, through that of ssh;
srun runs two tasks. What the program does there is the text `program`, a piece of bash with WORKER_NUMBER and START,
the number of the start from 1.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 600  # seconds until a script that hangs is a failure, far more than a busy machine needs
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
# Spaces, both kinds of quotes, and shell expansions.
ARGUMENTS = [
    "--config=configs/captions.py",
    '--workdir=/mnt/a folder/it\'s "one"',
    "--config.data.targets=('de','fr')",
    "--config.data.dir=$HOME/`id`;  *\\ &",
]
RECORDED = '#!/usr/bin/env bash\nprintf "%s\\0" "$(basename "$0")" "$@" $\'\\1\' >> "$FAKE/record"\n'

PROGRAM = """
[[ $2 == cl2cm_jax.main ]] || exit 0
export WORKER_NUMBER=${SLURM_PROCID:-${WORKER_NUMBER:-${JAX_PROCESS_ID:-0}}}
echo start >> "$FAKE/starts-$WORKER_NUMBER"
export START=$(grep -c . "$FAKE/starts-$WORKER_NUMBER")
exec bash "$FAKE/program" "$@"
"""
MAKE = 'mkdir -p .venv/bin && cp "$FAKE/bin/python" .venv/bin/python\n'
GCLOUD = """
state=$(head -n 1 "$FAKE/states")
[[ $4 != describe || $(grep -c . "$FAKE/states") == 1 ]] || sed -i 1d "$FAKE/states"
case $4-$state in
  describe-ABSENT) echo "ERROR: (gcloud.compute.tpus.tpu-vm.describe) NOT_FOUND: Resource is not here" >&2; exit 1 ;;
  describe-DENIED) echo "ERROR: (gcloud.compute.tpus.tpu-vm.describe) no active account" >&2; exit 1 ;;
  describe-*) echo "$state" ;;
  create-*) [[ " $* " != *" --nonsense "* ]] || exit 2 ;;
  scp-*) for worker in 0 1; do cp "$5" "$FAKE/home-$worker/${6#*:}"; done ;;
  ssh-*)
    for word in "$@"; do [[ $word != --command=* ]] || command=${word#--command=}; done
    for worker in 0 1; do ssh -T "user@10.0.0.$worker" -- "$command" & ids[worker]=$!; done
    for worker in 0 1; do wait "${ids[worker]}" || code=${code:-$?}; done
    exit "${code:-0}" ;;
esac
"""
SSH = """
export WORKER_NUMBER=${2##*.} HOME="$FAKE/home-${2##*.}"
cd "$HOME" && shift 3 && exec bash -c "$*"
"""
HOSTNAME = '#!/bin/sh\necho "t1v-n-0a1b-w-$WORKER_NUMBER"\n'
# /mnt is a mounted disk, which is not there in the tests.
MKDIR = '#!/bin/sh\nfor last; do :; done\ncase $last in /mnt/*) ;; *) command -p mkdir "$@" ;; esac\n'
DF = '#!/bin/sh\necho "Type Mounted on"; cat "$FAKE/df"\n'
SRUN = """
while [[ $1 == --* ]]; do shift; done
worst=0
for task in 0 1; do
  (SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NTASKS=2 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NUM_NODES=1 \\
    SLURM_STEP_NODELIST=localhost "$@" 2>&1 | sed "s/^/$task: /"; exit "${PIPESTATUS[0]}") & ids[task]=$!
done
for task in 0 1; do
  code=0; wait "${ids[task]}" || code=$?
  ((code <= worst)) || worst=$code
  case $code in
    0) continue ;; 143) said=Terminated ;; 137) said=Killed ;; 134) said="Aborted (core dumped)" ;;
    *) said="Exited with exit code $code" ;;
  esac
  echo "srun: error: node1: task $task: $said" >&2
done
exit "$worst"
"""
STAND_INS = {"python": PROGRAM, "make": MAKE, "gcloud": GCLOUD, "ssh": SSH, "srun": SRUN, "scontrol": "", "sudo": ""}


def _heed_interrupts() -> None:
    """A shell cannot trap a signal that was ignored when it started, as SIGINT is in background jobs."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass
class Clone:
    """Where the scripts are run.

    Attributes:
      folder: the clone; what the stand-ins need is beside it.
      variables: the environment of the scripts.
    """

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def fake(self) -> Path:
        return self.folder.parent / "fake"

    def program(self, text: str) -> None:
        """Sets the program that every worker runs."""
        (self.fake / "program").write_text(text)

    def states(self, *names: str) -> None:
        """Sets the TPU states that gcloud returns, one for each call; the last one repeats."""
        (self.fake / "states").write_text("".join(f"{name}\n" for name in names))

    def environment(self, **variables: str) -> dict[str, str]:
        return self.variables | variables

    def start(self, script: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.folder / "launch" / script), *arguments],
            env=self.environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_heed_interrupts,
        )

    def launch(self, script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        running = self.start(script, *(arguments or ARGUMENTS), **variables)
        try:
            out, err = running.communicate(timeout=PATIENCE)
        finally:
            running.terminate()
        return subprocess.CompletedProcess(running.args, running.returncode, out, err)

    def calls(self, name: str = "") -> list[list[str]]:
        """The recorded calls in order, of all stand-ins or of one."""
        record = self.fake / "record"
        text = record.read_text() if record.exists() else ""
        found = [call.split("\0")[:-1] for call in text.split("\1\0") if call]
        return [call for call in found if name in ("", call[0])]

    def runs(self) -> list[list[str]]:
        """The arguments of each start of the program."""
        return [call[3:] for call in self.calls("python") if call[1:3] == ["-m", "cl2cm_jax.main"]]


def make_clone(tmp_path: Path) -> Clone:
    """A clone in a folder whose name has a space."""
    clone = Clone(tmp_path / "my clone")
    shutil.copytree(ROOT / "launch", clone.folder / "launch")
    (clone.fake / "bin").mkdir(parents=True)
    for number in (0, 1):
        (clone.fake / f"home-{number}").mkdir()
    for name, text in STAND_INS.items():
        (clone.fake / "bin" / name).write_text(RECORDED + text)
    for name, text in {"hostname": HOSTNAME, "mkdir": MKDIR, "df": DF, "python3.11": "#!/bin/sh\n"}.items():
        (clone.fake / "bin" / name).write_text(text)
    for path in (clone.fake / "bin").iterdir():
        path.chmod(0o755)
    clone.program("exit 0\n")
    clone.states("READY")
    (clone.fake / "df").write_text("nfs4 /mnt/shared\n")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "JAX_", "XLA_"))}
    path = f"{clone.fake / 'bin'}{os.pathsep}{os.environ['PATH']}"
    clone.variables = kept | {"PATH": path, "FAKE": str(clone.fake), "PAUSE": "0", "GIT_CONFIG_GLOBAL": os.devnull}
    for name in ("TPU", "ZONE", "CREATE", "MOUNT", "PROJECT", "PROCESSES", "DEVICES", "PORT", "DRY_RUN", "NPROC"):
        clone.variables.pop(name, None)
    return clone


def commit(clone: Clone) -> None:
    """Makes the clone a git repository with one commit."""
    who = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]
    for arguments in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", *arguments], cwd=clone.folder, check=True, env=clone.variables)


def paste(clone: Clone, printed: str) -> None:
    """Runs the output of DRY_RUN=1 in a shell."""
    subprocess.run(["bash", "-euc", printed], cwd=clone.folder, env=clone.variables, check=True, timeout=PATIENCE)


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def catches(process: subprocess.Popen[str], number: signal.Signals) -> bool:
    """Whether a handler for the signal is installed in a process."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    (mask,) = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt:")]
    return bool(mask >> (number - 1) & 1)


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one-line error of a refused start."""
    assert done.returncode == 2 and done.stdout == "", (done.stdout, done.stderr)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return make_clone(tmp_path)
