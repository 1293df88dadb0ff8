"""launch/tpu_pod.sh with stand-ins for gcloud and ssh; the two workers are local folders."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from support.launch_stand_ins import ARGUMENTS, PATIENCE, Clone, clone, commit, files, one_line, paste, wait_for

__all__ = ["clone"]

POD = "tpu_pod.sh"
CREATE = "--accelerator-type=v5litepod-16 --version=v2-alpha-tpuv5-lite --spot"
STOPPED = 'echo "stopped and saved; resume with: python -m cl2cm_jax.main"; exit 143'


@pytest.fixture
def pod(clone: Clone) -> Clone:
    """A git clone with TPU and ZONE set."""
    commit(clone)
    clone.variables |= {"TPU": "slice", "ZONE": "us-west4-a"}
    return clone


def verbs(pod: Clone) -> list[str]:
    return [call[4] for call in pod.calls("gcloud")]


def test_every_worker_gets_the_tree_and_the_arguments(pod: Clone) -> None:
    pod.program('echo "$JAX_COORDINATOR_ADDRESS"')
    done = pod.launch(POD, PROJECT="mine")
    assert done.returncode == 0, done.stderr
    assert pod.runs() == [ARGUMENTS] * 2
    assert sorted(line for line in done.stdout.splitlines() if line[0] == "[") == ["[worker-0] auto", "[worker-1] auto"]
    assert verbs(pod) == ["describe", "scp", *["ssh"] * 6]
    for call in pod.calls("gcloud"):
        assert call[1:4] == ["compute", "tpus", "tpu-vm"] and "--zone=us-west4-a" in call and "--project=mine" in call
        assert call[4] == "describe" or "--worker=all" in call
    for number in (0, 1):
        assert (pod.fake / f"home-{number}" / "cl2cm" / "launch" / "commands.sh").exists()
    installed = [call for call in pod.calls("python") if call[1:4] == ["-m", "pip", "install"]]
    assert len(installed) == 2 and "--constraint .venv/constraints.txt --editable .[tpu]" in " ".join(installed[0])
    (log,) = (pod.folder / "runs" / "logs").glob("slice-*-1.log")
    assert sorted(log.read_text().splitlines()) == ["[worker-0] auto", "[worker-1] auto"]


def test_it_restarts_after_a_failure(pod: Clone) -> None:
    pod.program("[[ $WORKER_NUMBER-$START != 1-1 ]] || exit 134")
    done = pod.launch(POD)
    assert done.returncode == 0 and len(pod.runs()) == 4
    assert "[worker-1] ended with exit code 134" in done.stdout
    assert "the program failed with exit code 134; starts again in 0 s (1 of 10)" in done.stderr
    assert verbs(pod).count("scp") == 1  # the workers were ready
    assert len(list((pod.folder / "runs" / "logs").iterdir())) == 2


def test_it_gives_up_after_the_last_restart(pod: Clone) -> None:
    pod.program("exit 9")
    done = pod.launch(POD, RESTARTS="1")
    assert done.returncode == 9 and len(pod.runs()) == 4
    assert done.stderr.splitlines()[-1].startswith(
        "error: the program failed, 2 times in all, the last with exit code 9;"
    )


def test_a_configuration_error_is_not_retried(pod: Clone) -> None:
    """gcloud returns the exit code of the first worker that failed, which need not be the one with the error."""
    pod.program('[[ $WORKER_NUMBER == 1 ]] || exit 134; echo "error: config.x is not a field" >&2; exit 2')
    done = pod.launch(POD, CREATE=CREATE)
    assert done.returncode == 2 and len(pod.runs()) == 2
    assert "[worker-1] error: config.x is not a field" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("error: the program stopped at a mistake")


@pytest.mark.parametrize("end", [STOPPED, "kill -TERM $$; sleep 5", "exit 255"])
def test_a_preempted_tpu_is_created_again(pod: Clone, end: str) -> None:
    """Whether it could save, was killed or lost its connection; its disk is empty afterwards."""
    pod.program(f"[[ $START != 1 ]] || {{ rm -rf ../cl2cm; {end}; }}")
    pod.states("READY", "PREEMPTED", "CREATING", "READY")
    done = pod.launch(POD, CREATE=CREATE, RESTARTS="0", MOUNT="echo mounted")
    assert done.returncode == 0, done.stderr
    once = ["scp", *["ssh"] * 7]
    again = ["describe", "delete", "create", "describe", "describe"]
    assert verbs(pod) == ["describe", *once, *again, *once]
    (created,) = [call for call in pod.calls("gcloud") if call[4] == "create"]
    assert created[5:] == ["slice", "--zone=us-west4-a", *CREATE.split()]
    assert done.stdout.count("mounted\n") == 4 and len(pod.runs()) == 4


def test_a_tpu_that_is_not_there_is_created_until_there_is_room(pod: Clone) -> None:
    pod.states("ABSENT", "ABSENT", "READY")
    assert pod.launch(POD, CREATE=CREATE).returncode == 0
    assert verbs(pod)[:5] == ["describe", "create", "describe", "create", "describe"]
    pod.states("ABSENT")
    assert "does not take the flags in CREATE" in pod.launch(POD, CREATE=f"{CREATE} --nonsense").stderr.splitlines()[-1]
    done = pod.launch(POD, CREATE=CREATE, CREATIONS="3")
    assert done.returncode == 2
    assert "is ABSENT after 3 times of creating and waiting for it" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ("ABSENT", "to have it created, set CREATE to the flags of gcloud compute tpus tpu-vm create"),
        ("PREEMPTED", "to have it created, set CREATE to the flags of gcloud compute tpus tpu-vm create"),
        ("STOPPED", "start it: gcloud compute tpus tpu-vm start slice --zone=us-west4-a"),
        ("HIDDEN", "is in state 'HIDDEN'; look at it: gcloud compute tpus tpu-vm describe slice --zone=us-west4-a"),
        ("DENIED", "no active account; check TPU, ZONE and PROJECT, or: gcloud auth login"),
    ],
)
def test_a_tpu_state_that_needs_the_user_is_one_line(pod: Clone, state: str, says: str) -> None:
    pod.states(state)
    assert says in one_line(pod.launch(POD))
    assert verbs(pod) == ["describe"]


def test_a_lost_connection_is_waited_for(pod: Clone) -> None:
    pod.program("[[ $START != 1 ]] || exit 255")
    pod.states("READY", "DENIED", "READY")
    done = pod.launch(POD)
    assert done.returncode == 0 and len(pod.runs()) == 4 and "delete" not in verbs(pod)


def test_a_run_stopped_by_a_user_is_not_restarted(pod: Clone) -> None:
    pod.program(STOPPED)
    done = pod.launch(POD)
    assert done.returncode == 1 and len(pod.runs()) == 2
    assert done.stderr.splitlines()[-1].startswith("error: somebody asked the run to stop, and the TPU is well")


def test_a_workdir_on_the_workers_own_disk_is_refused(pod: Clone) -> None:
    for workdir in ("runs/mine", "/var/mine", "~/run", "gs://bucket/run"):
        assert f"--workdir={workdir} is " in one_line(pod.launch(POD, f"--workdir={workdir}"))
    assert pod.calls() == []
    for mounted in ("ext4 /\n", "tmpfs /mnt/shared\n"):
        (pod.fake / "df").write_text(mounted)
        done = pod.launch(POD)
        assert done.returncode == 2 and pod.runs() == []
        assert done.stderr.count("is on the disk of the worker itself; mount a shared disk") == 2
    assert pod.launch(POD, "--workdir=runs/mine", LOCAL_WORKDIR="1").returncode == 0
    assert pod.runs() == [["--workdir=runs/mine"]] * 2


def test_a_failed_installation_is_retried(pod: Clone) -> None:
    """make exits with 2 at any failure, which here is not a configuration error."""
    make = pod.fake / "bin" / "make"
    flaky = (
        f'[[ -e "$FAKE/tried" ]] || {{ [[ $WORKER_NUMBER == 0 ]] || touch "$FAKE/tried"; exit 2; }}\n{make.read_text()}'
    )
    make.write_text(f"#!/usr/bin/env bash\n{flaky}")
    done = pod.launch(POD)
    assert done.returncode == 0 and len(pod.runs()) == 2
    assert "making the workers ready failed with exit code 1; starts again in 0 s" in done.stderr


def test_an_earlier_run_on_the_worker_saves_and_ends_first(pod: Clone) -> None:
    saved = pod.fake / "saved"
    text = f'trap \'touch "{saved}"; exit\' TERM; touch "{saved}.up"; while :; do sleep 0.1; done'
    before = subprocess.Popen(["bash", "-c", text, "cl2cm_jax.main"])
    try:
        (pod.fake / "home-1" / "cl2cm.pid").write_text(f"{before.pid}\n")
        wait_for(Path(f"{saved}.up").exists)
        # a zombie until its parent waits
        threading.Thread(target=before.wait, daemon=True).start()
        pod.program('[[ -e "$FAKE/saved" ]]')
        # ps must not cut the command line in a narrow terminal
        assert pod.launch(POD, RESTARTS="0", COLUMNS="80").returncode == 0
        assert before.wait(timeout=PATIENCE) == 0
    finally:
        before.kill()  # after a failure above
    other = subprocess.Popen(["sleep", str(PATIENCE)])  # the process id may have been reused
    try:
        (pod.fake / "home-1" / "cl2cm.pid").write_text(f"{other.pid}\n")
        (pod.fake / "starts-1").unlink()
        done = pod.launch(POD, RESTARTS="0")
        assert other.poll() is None
    finally:
        other.kill()
    assert done.returncode == 0, done.stdout


def test_a_signal_is_passed_on_and_the_workers_save(pod: Clone) -> None:
    pod.program("""
        trap 'echo saving; sleep 0.5; echo saved; exit' TERM
        touch "$FAKE/up-$WORKER_NUMBER"; while :; do sleep 0.1; done""")
    running = pod.start(POD, *ARGUMENTS)
    wait_for(lambda: all((pod.fake / f"up-{number}").exists() for number in (0, 1)))
    running.send_signal(signal.SIGTERM)
    out, err = running.communicate(timeout=PATIENCE)
    assert running.returncode == 130 and "asks the workers to save and end" in err
    for number in (0, 1):
        assert out.count(f"[worker-{number}] saving") == out.count(f"[worker-{number}] saved") == 1


def test_dry_run_prints_what_can_be_pasted_and_touches_nothing(pod: Clone) -> None:
    before = files(pod.folder.parent)
    done = pod.launch(POD, DRY_RUN="1", CREATE=CREATE)
    assert done.returncode == 0 and done.stderr == "" and files(pod.folder.parent) == before
    assert (
        f"# and then, or where there is none: gcloud compute tpus tpu-vm create slice --zone=us-west4-a {CREATE}"
        in done.stdout
    )
    paste(pod, done.stdout)
    pasted = pod.calls("gcloud")
    assert pod.runs() == [ARGUMENTS] * 2
    (pod.fake / "record").unlink()
    pod.launch(POD)
    archive = re.compile(r"^.*cl2cm\.tgz$")
    for ran, printed in zip(pod.calls("gcloud"), pasted, strict=True):
        assert [archive.sub("", word) for word in ran] == [archive.sub("", word) for word in printed]


def test_a_missing_setting_is_named(pod: Clone) -> None:
    assert "set TPU to the name of the TPU" in one_line(pod.launch(POD, TPU=""))
    assert "set ZONE to the zone" in one_line(pod.launch(POD, ZONE=""))
    assert "--workdir is missing" in one_line(pod.launch(POD, "--config=x"))
    assert "PAUSE='1m'" in one_line(pod.launch(POD, PAUSE="1m"))
    (pod.folder / ".git").rename(pod.folder / "git")
    assert "is not a git clone with a commit" in one_line(
        pod.launch(POD, GIT_CEILING_DIRECTORIES=str(pod.folder.parent))
    )
    assert pod.calls() == []


def test_uncommitted_changes_give_a_warning(pod: Clone) -> None:
    (pod.folder / "launch" / "worker.sh").open("a").write("# changed\n")
    done = pod.launch(POD)
    assert done.returncode == 0 and "uncommitted changes stay here" in done.stderr
