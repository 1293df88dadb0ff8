"""Ctrl-C: one line, exit code 130, no traceback, in whatever the process does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from cl2cm_jax.errors import exit_cleanly

ROOT = Path(__file__).resolve().parents[1]
SELF = "os.kill(os.getpid(), signal.SIGINT)"
COMMAND = "import os, signal, threading, time\nfrom cl2cm_jax.errors import exit_cleanly\n{}\nexit_cleanly(command)\n"

LOST = {  # where libraries or Python itself swallow a KeyboardInterrupt
    "finalizer": f"class A:\n def __del__(self): {SELF}\ndef command():\n A(); time.sleep(60)",
    "weak reference": f"import weakref\nclass A: pass\ndef command():\n a = A()\n"
    f" r = weakref.ref(a, lambda _: {SELF}); del a; time.sleep(60)",
    "import": "def command():\n try: import interrupted_import\n except BaseException: pass\n time.sleep(60)",
}
PLAIN = {
    "code": f"def command(): {SELF}; time.sleep(60)",
    "waiting thread": "def command():\n threading.Thread(target=time.sleep, args=(60,)).start(); " + SELF,
    "output": f"def command(): print('before'); {SELF}; time.sleep(60)",
}


def python(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(ROOT), str(folder)])
    variables = os.environ | {"PYTHONPATH": paths}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=50, env=variables)


def command(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs `command()` of the code as the console script runs a verb."""
    (folder / "cl2cm").write_text(COMMAND.format(code))
    return python(str(folder / "cl2cm"), folder=folder)


@pytest.mark.parametrize("where", [*LOST, *PLAIN])
def test_an_interrupt_is_one_line_and_130(where: str, tmp_path: Path) -> None:
    (tmp_path / "interrupted_import.py").write_text(f"import os, signal\n{SELF}\n")
    done = command({**LOST, **PLAIN}[where], tmp_path)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    assert done.stdout == ("before\n" if where == "output" else "")


def test_within_another_program_an_interrupt_is_an_exit(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT), sys.unraisablehook
    with pytest.raises(SystemExit) as end:
        exit_cleanly(lambda: signal.raise_signal(signal.SIGINT))
    assert end.value.code == 130 and capsys.readouterr().err == "interrupted\n"
    assert (signal.getsignal(signal.SIGINT), sys.unraisablehook) == before


def test_a_second_interrupt_ends_a_command_that_does_not_end(tmp_path: Path) -> None:
    code = f"def command():\n try: {SELF}; time.sleep(60)\n finally: {SELF}; time.sleep(60)"
    done = command(code, tmp_path)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_an_interrupt_during_the_imports_of_a_command(tmp_path: Path) -> None:
    """A stand-in of numpy gets the signal, and swallows the exception, when the command imports it."""
    (tmp_path / "numpy.py").write_text(
        f"import os, signal, time\ntry: {SELF}\nexcept BaseException: pass\ntime.sleep(60)"
    )
    variables = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    for module in ("cl2cm_jax.search", "cl2cm_jax.main", "cl2cm_jax.index"):
        command = [sys.executable, "-m", module, "--help"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=50, env=variables)
        assert (done.returncode, done.stderr, done.stdout) == (130, "interrupted\n", "")


def test_an_interrupt_during_the_imports_of_the_console_script(tmp_path: Path) -> None:
    (tmp_path / "ml_collections.py").write_text(f"import os, signal, time\ntry: {SELF}\nfinally: time.sleep(60)")
    (tmp_path / "cl2cm").write_text("from cl2cm_jax.__main__ import run\nrun()")
    variables = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, str(tmp_path / "cl2cm"), "search"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, env=variables)
    assert (done.returncode, done.stderr, done.stdout) == (130, "interrupted\n", "")


def test_the_package_leaves_the_signals_of_other_programs_alone(tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text(
        "import signal, cl2cm_jax; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    )
    for arguments in (["-m", "other"], ["-m", "other", "-m", "cl2cm_jax.x"], [str(tmp_path / "other.py")]):
        assert python(*arguments, folder=tmp_path).stdout == "True\n", arguments


@pytest.mark.parametrize("handler", ["signal.SIG_IGN", "print"])
def test_a_handler_of_the_caller_and_an_ignored_signal_stay(handler: str, tmp_path: Path) -> None:
    code = f"def command(): print(signal.getsignal(2) is {handler})"
    (tmp_path / "cl2cm").write_text(f"import signal\nsignal.signal(2, {handler})\n" + COMMAND.format(code))
    assert python(str(tmp_path / "cl2cm")).stdout == "True\n"


def test_other_exceptions_of_finalizers_are_printed_as_before(tmp_path: Path) -> None:
    late = "class B:\n def __del__(self): raise RuntimeError('Event loop is closed')\n"  # as writers of a failed save
    done = command(late + "class A:\n def __del__(self): 1 / 0\ndef command(): B(), A()", tmp_path)
    assert done.returncode == 0 and "Exception ignored in" in done.stderr and "ZeroDivisionError" in done.stderr
    assert "Event loop" not in done.stderr and done.stderr.count("Traceback") == 1


def interrupted(arguments: Sequence[str], *, seconds: float, folder: Path) -> tuple[int, str]:
    """Starts a command, interrupts its process group as a terminal does, and returns its end."""
    variables = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        cwd=folder,
        env=variables,
    ) as running:
        time.sleep(seconds)
        os.killpg(running.pid, signal.SIGINT)
        out = running.communicate(timeout=300)[0]
    return running.returncode, out


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.5, 1, 2, 4, 6, 9])
def test_a_training_is_interrupted_in_its_first_phases(seconds: float, tmp_path: Path) -> None:
    config = ROOT / "configs/emoji.py"
    code, out = interrupted(
        ["cl2cm_jax.main", f"--config={config}", "--workdir=run", "--config.data.dir=data"],
        seconds=seconds,
        folder=tmp_path,
    )
    assert code == 130 and "Traceback" not in out and "Exception ignored" not in out, out
    assert out.splitlines()[-1].startswith(("interrupted", "stopped and saved; resume with: ")), out
