from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cl2cm_jax.runtime.preemption import Preemption

_ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_sets_the_flag_and_handlers_are_restored(number):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Preemption() as preemption:
        assert not preemption.requested
        signal.raise_signal(number)
        assert preemption.requested
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_handlers_are_restored_after_an_exception():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), Preemption():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_interrupt_is_a_keyboard_interrupt():
    with Preemption():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_second_sigterm_ends_the_process():
    code = (
        "import signal; from cl2cm_jax.runtime.preemption import Preemption\n"
        "with Preemption() as preemption:\n"
        "    signal.raise_signal(signal.SIGTERM); print(preemption.requested, flush=True)\n"
        "    signal.raise_signal(signal.SIGTERM); print('alive', flush=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=_ROOT)
    assert done.returncode == -signal.SIGTERM and done.stdout == "True\n"


def test_no_handlers_are_installed_outside_the_main_thread():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work():
        with Preemption() as preemption:
            seen.append((signal.getsignal(signal.SIGTERM), preemption.requested))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_command_is_no_finished_one(number: int) -> None:
    code = (
        "import signal; from cl2cm_jax.runtime.preemption import Preemption, exit_stopped\n"
        f"with Preemption() as preemption: signal.raise_signal({int(number)})\n"
        "if preemption.requested: exit_stopped('cl2cm train')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=_ROOT)
    assert done.returncode == 128 + number and done.stdout == "stopped and saved; resume with: cl2cm train\n"


def test_a_process_that_another_one_stopped_prints_nothing() -> None:
    code = "from cl2cm_jax.runtime.preemption import exit_stopped; exit_stopped('')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=_ROOT)
    assert (done.returncode, done.stdout) == (143, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_an_import_is_not_swallowed_with_its_exception(number: int, tmp_path: Path) -> None:
    lines = "import signal", f"try: signal.raise_signal({int(number)})", "except BaseException: pass"
    (tmp_path / "swallows.py").write_text("\n".join(lines))
    code = (
        "import signal, sys; from cl2cm_jax.runtime.preemption import interrupt\n"
        f"signal.signal({int(number)}, interrupt); sys.path.insert(0, {str(tmp_path)!r})\n"
        "import swallows; print('goes on')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=_ROOT)
    assert (done.returncode, done.stdout) == (-number, "")
