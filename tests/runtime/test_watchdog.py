from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from cl2cm_jax.runtime.watchdog import Watchdog


def _dumps(path):
    return path.read_text().count("watchdog: no step for") if path.exists() else 0


def _wait_for(path, count):
    deadline = time.monotonic() + 300
    while _dumps(path) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    return _dumps(path)


def test_a_stall_is_dumped_once_and_the_next_one_again(tmp_path):
    path = tmp_path / "run" / "stacks.txt"
    with Watchdog(seconds=0.2, path=path) as watchdog:
        assert _wait_for(path, 1) == 1
        time.sleep(0.6)
        assert _dumps(path) == 1, "once a stall"
        watchdog.beat()
        assert _wait_for(path, 2) == 2
    text = path.read_text()
    assert "test_a_stall_is_dumped_once" in text and text.count("Thread") >= 2
    time.sleep(0.4)
    assert _dumps(path) == 2, "nothing after the end"


def test_stacks_go_to_stderr_too(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from cl2cm_jax.runtime.watchdog import Watchdog\n"
        "def stuck(path):\n"
        "    while not path.exists(): time.sleep(0.02)  # stderr comes first\n"
        "with Watchdog(seconds=0.2, path=Path(sys.argv[1])): stuck(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "stacks.txt")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0 and done.stderr.count("watchdog: no step for") == 1 and "in stuck" in done.stderr


def test_no_dump_while_steps_complete(tmp_path):
    path = tmp_path / "stacks.txt"
    with Watchdog(seconds=3600, path=path) as watchdog:
        for _ in range(5):
            time.sleep(0.02)
            watchdog.beat()
    assert not path.exists()


def test_zero_seconds_disable_the_watchdog(tmp_path):
    with Watchdog(seconds=0, path=tmp_path / "stacks.txt") as watchdog:
        watchdog.beat()
    assert not (tmp_path / "stacks.txt").exists()
