"""launch/gpu_slurm.sh: restarts within the job, requeues at the time limit, stops at a configuration error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.launch_stand_ins import ARGUMENTS, ROOT, Clone, clone, files, one_line, paste

from cl2cm_jax.runtime.preemption import exit_stopped

__all__ = ["clone"]

SUBMIT = "gpu_slurm.sh"
SRUN = "srun: error: node1: "
# What main prints after it has saved on SIGTERM.
STOPPED = 'echo "stopped and saved; resume with: python -m cl2cm_jax.main"; exit 143'


@pytest.fixture
def job(clone: Clone) -> Clone:
    """A clone within a Slurm job."""
    clone.variables |= {"SLURM_JOB_ID": "4711", "SLURM_SUBMIT_DIR": str(clone.folder)}
    return clone


def test_one_step_with_the_arguments(job: Clone) -> None:
    job.program('echo "of $SLURM_NTASKS"')
    done = job.launch(SUBMIT)
    assert done.returncode == 0, done.stderr
    (step,) = job.calls("srun")
    assert step[1:4] == ["--label", "--kill-on-bad-exit=1", "--gpu-bind=none"]
    assert step[4:] == [".venv/bin/python", "-m", "cl2cm_jax.main", *ARGUMENTS]  # Slurm signals this process only
    assert job.runs() == [ARGUMENTS] * 2
    assert sorted(done.stdout.splitlines()) == ["0: of 2", "1: of 2"]


def test_it_restarts_after_a_failure(job: Clone) -> None:
    job.program("[[ $WORKER_NUMBER-$START != 1-1 ]] || exit 3")
    done = job.launch(SUBMIT)
    assert done.returncode == 0 and len(job.calls("srun")) == 2
    assert "srun: error: node1: task 1: Exited with exit code 3" in done.stdout
    assert "the program failed with exit code 3; starts again in 0 s (1 of 3)" in done.stderr


def test_it_gives_up_after_the_last_restart(job: Clone) -> None:
    job.program("exit $((6 + WORKER_NUMBER))")
    done = job.launch(SUBMIT, RESTARTS="2")
    assert done.returncode == 7 and len(job.calls("srun")) == 3
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: the program failed 3 times, the last with exit code 7")


def test_a_configuration_error_is_not_retried(job: Clone) -> None:
    """Slurm kills the other tasks, so its exit code need not be that of the task with the error."""
    job.program('[[ $WORKER_NUMBER == 1 ]] || kill -KILL $$; echo "error: config.x is not a field" >&2; exit 2')
    done = job.launch(SUBMIT)
    assert done.returncode == 2 and len(job.calls("srun")) == 1 and not job.calls("scontrol")
    assert "1: error: config.x is not a field" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("error: the program stopped at a mistake")


@pytest.mark.parametrize(
    ("variables", "queued"),
    [
        ({}, True),
        ({"SLURM_RESTART_COUNT": "19"}, True),
        ({"SLURM_RESTART_COUNT": "20"}, False),
        ({"REQUEUES": "0"}, False),
    ],
)
def test_at_the_time_limit_the_job_is_requeued(job: Clone, variables: dict[str, str], queued: bool) -> None:
    job.program(STOPPED)
    done = job.launch(SUBMIT, **variables)
    assert done.returncode == (0 if queued else 143) and len(job.calls("srun")) == 1
    assert job.calls("scontrol") == ([["scontrol", "requeue", "4711"]] if queued else [])
    assert "stopped and saved" in done.stderr


def test_a_time_limit_before_the_first_step_is_no_failure(job: Clone) -> None:
    job.program("kill -TERM $$; sleep 5")
    assert job.launch(SUBMIT).returncode == 0
    assert job.calls("scontrol") == [["scontrol", "requeue", "4711"]]


def test_tasks_ended_by_slurm_do_not_hide_the_failed_one(job: Clone) -> None:
    job.program("[[ $START == 2 ]] || { [[ $WORKER_NUMBER == 1 ]] && exit 1; kill -TERM $$; sleep 5; }")
    done = job.launch(SUBMIT)
    assert done.returncode == 0 and len(job.calls("srun")) == 2 and not job.calls("scontrol")


def test_a_failed_requeue_says_what_to_do(job: Clone) -> None:
    job.program(STOPPED)
    (job.fake / "bin" / "scontrol").write_text("#!/bin/sh\nexit 1\n")
    done = job.launch(SUBMIT)
    assert done.returncode == 2 and "submit the same line to go on" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_the_tasks_find_each_other_through_slurm(job: Clone) -> None:
    """The real jax.distributed reads the job's number and nodes from Slurm's variables."""
    look = "from cl2cm_jax.parallel import hosts; hosts.start(); import jax; print(hosts.collect(jax.numpy.ones(1)))"
    tiny = f"{look}; print(jax.process_index(), 'of', jax.process_count())"
    job.program(f'PYTHONPATH="{ROOT}" exec "{sys.executable}" -c "{tiny}"')
    done = job.launch(SUBMIT, JAX_PLATFORMS="cpu")
    assert done.returncode == 0, done.stdout
    for number in (0, 1):
        assert f"{number}: [1. 1.]" in done.stdout and f"{number}: {number} of 2" in done.stdout


def test_dry_run_needs_no_slurm_and_touches_nothing(clone: Clone) -> None:
    before = files(clone.folder.parent)
    done = clone.launch(SUBMIT, DRY_RUN="1")
    assert done.returncode == 0 and done.stderr == "" and files(clone.folder.parent) == before
    paste(clone, done.stdout)
    pasted = clone.calls()
    (clone.fake / "record").unlink()
    clone.launch(SUBMIT, SLURM_JOB_ID="1")
    assert sorted(clone.calls()) == sorted(pasted) and clone.runs() == [ARGUMENTS] * 2


def test_an_unusable_setup_is_refused_in_one_line(clone: Clone) -> None:
    assert "this is no Slurm job; submit it: sbatch launch/gpu_slurm.sh" in one_line(clone.launch(SUBMIT))
    clone.variables["SLURM_JOB_ID"] = "4711"
    assert "RESTARTS='often'" in one_line(clone.launch(SUBMIT, RESTARTS="often"))
    assert "--workdir is missing" in one_line(clone.launch(SUBMIT, "--config=x"))
    for workdir in ("/tmp/run", "gs://bucket/run"):
        assert f"--workdir={workdir} is " in one_line(clone.launch(SUBMIT, "--workdir", workdir))
    elsewhere = one_line(clone.launch(SUBMIT, SLURM_SUBMIT_DIR=str(clone.fake)))
    assert "is not the folder of the clone; submit from there" in elsewhere
    (clone.fake / "bin" / "srun").unlink()
    assert "srun was not found; Slurm is not on this machine" in one_line(clone.launch(SUBMIT))
    assert clone.calls() == []


@pytest.mark.parametrize(
    ("code", "lines", "outcome"),
    [
        (0, "[w] through", "finished"),
        (0, "3: stopped and saved; resume with: python -m cl2cm_jax.main", "stopped"),
        (143, f"0: stopped and saved; resume with: x\n{SRUN}task 1: Terminated\n{SRUN}task 0: Killed", "stopped"),
        (143, "[w] ended with exit code 143", "stopped"),
        (143, f"{SRUN}tasks 0-3,5: Terminated", "stopped"),
        (143, f"{SRUN}task 1: Terminated\n{SRUN}task 0: Exited with exit code 1", "failed"),
        (137, f"{SRUN}task 1: Killed", "failed"),
        (1, f"{SRUN}tasks 0-7: Exited with exit code 1", "failed"),
        (255, "no word of any worker", "failed"),
        (137, f"srun: error: node[1-2]: tasks 0-7: Exited with exit code 2\n{SRUN}task 9: Killed", "mistake"),
        (134, "[w 0] ended with exit code 134\n[w 1] ended with exit code 2", "mistake"),
        (1, "3: the child ended with exit code 2\n[w] ended with exit code 22", "failed"),
    ],
)
def test_the_outcome_of_a_run_follows_from_exit_code_and_log(
    tmp_path: Path, code: int, lines: str, outcome: str
) -> None:
    (tmp_path / "log").write_text(f"3: step 7\n{lines}\n")
    script = f'source "{ROOT}/launch/commands.sh"; outcome {code} "{tmp_path}/log"'
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"{outcome}\n"


def test_the_program_prints_the_line_that_the_scripts_look_for(capsys: pytest.CaptureFixture[str]) -> None:
    said = "stopped and saved; resume with:"
    with pytest.raises(SystemExit):
        exit_stopped("x")
    assert said in (ROOT / "launch" / "commands.sh").read_text() and capsys.readouterr().out == f"{said} x\n"
