"""Training in two processes equals training in one, also after a signal to one process and the death of the other."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.command import call

from cl2cm_jax import main

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STEPS = 120  # of the student, after 4 of the teacher
FLAGS = (f"--config.train.steps={STEPS}", "--config.train.checkpoint_every=10", "--config.train.evaluate_every=60")
PATIENCE = 600.0  # seconds until processes that hang are a failure


def start(home: Path, workdir: Path, *flags: str) -> list[subprocess.Popen[bytes]]:
    """Starts two processes with two devices each; they log to 0.log and 1.log beside the workdir."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    xla = re.sub(r"device_count=\d+", "device_count=2", os.environ["XLA_FLAGS"])
    common = {**os.environ, "XLA_FLAGS": xla, "PYTHONPATH": str(ROOT), "JAX_NUM_PROCESSES": "2"}
    common |= {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}"}
    command = [sys.executable, "-m", "cl2cm_jax.main", f"--config={home}/config.py", f"--workdir={workdir}", *flags]
    started = []
    for process in range(2):
        with (workdir.parent / f"{process}.log").open("wb") as log:
            environment = {**common, "JAX_PROCESS_ID": str(process)}
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=home))
    return started


def log(workdir: Path, process: int) -> str:
    return (workdir.parent / f"{process}.log").read_text(errors="replace")


def until(holds: Callable[[], Any], workdir: Path) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, f"nothing for {PATIENCE:.0f} s\n{log(workdir, 0)}\n{log(workdir, 1)}"
        time.sleep(0.05)


def saved(workdir: Path) -> int:
    """The step of the newest checkpoint, 0 without one."""
    return max((int(path.name) for path in workdir.glob("checkpoints/[0-9]*") if path.name.isdecimal()), default=0)


def rows(workdir: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    left_out = ("time", "examples_per_second", "data_wait")
    return [{name: value for name, value in line.items() if name not in left_out} for line in lines]


def ended(running: list[subprocess.Popen[bytes]], workdir: Path) -> list[int]:
    for process in running:
        until(lambda process=process: process.poll() is not None, workdir)
    return [process.returncode for process in running]


def test_two_processes_stopped_and_killed_train_as_one_process(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    alone = tmp_path / "alone" / "run"
    outcome = call(main.main, f"--config={home}/config.py", f"--workdir={alone}", *FLAGS)
    assert outcome.code == 0, outcome.err

    workdir = tmp_path / "two" / "run"
    workdir.parent.mkdir()
    running = start(home, workdir, *FLAGS)
    try:
        # a signal to one of them stops both at the same step
        until(lambda: saved(workdir) >= 10, workdir)
        running[1].send_signal(signal.SIGTERM)
        assert ended(running, workdir) == [143, 143], log(workdir, 0) + log(workdir, 1)
        stopped = saved(workdir)
        assert "stopped and saved" in log(workdir, 0) and 10 <= stopped < STEPS
        assert "stopped and saved" not in log(workdir, 1), "only process 0 prints"

        # when the first is killed, the other ends by itself with the reason
        running = start(home, workdir, *FLAGS)
        until(lambda: saved(workdir) > stopped, workdir)
        running[0].kill()
        assert ended(running, workdir)[1] != 0
        assert saved(workdir) < STEPS + 4
        assert re.search("another process of this run ended|coordination service|leader", log(workdir, 1))

        running = start(home, workdir, *FLAGS)
        assert ended(running, workdir) == [0, 0], log(workdir, 0) + log(workdir, 1)
    finally:
        for process in running:
            process.kill()

    actual, expected = (json.loads((folder / "results.json").read_text()) for folder in (workdir, alone))
    assert actual["test"] == expected["test"] and actual["validation"] == expected["validation"]
    assert [row["step"] for row in rows(workdir)] == [row["step"] for row in rows(alone)]
    for one, other in zip(rows(workdir), rows(alone), strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-4)
    assert not list(workdir.glob("stalls*.txt"))


def test_a_user_error_ends_both_processes_with_its_message(home: Path, tmp_path: Path) -> None:
    """Only the first process looks at the workdir, which is another configuration's."""
    workdir = tmp_path / "two" / "run"
    workdir.mkdir(parents=True)
    (workdir / "checkpoints" / "4").mkdir(parents=True)
    (workdir / "config.json").write_text("{}")
    running = start(home, workdir, *FLAGS)
    try:
        assert ended(running, workdir) == [2, 2]
    finally:
        for process in running:
            process.kill()
    assert all("--workdir" in log(workdir, process) for process in range(2))
