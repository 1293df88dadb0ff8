"""How a command ends."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from cl2cm_jax.errors import EXIT_CLOSED_PIPE, MAX_LENGTH, UserError, exit_cleanly, no_room, not_installed, one_line
from cl2cm_jax.runtime.atomic import replacing

ROOT = Path(__file__).resolve().parents[1]


def test_a_user_error_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise UserError("config.x=1 is wrong; use 2")

    with pytest.raises(SystemExit) as end:
        exit_cleanly(fail)
    assert end.value.code == 2 and capsys.readouterr().err == "error: config.x=1 is wrong; use 2\n"


@pytest.mark.parametrize("char", ["x", "\0"])
def test_a_very_long_message_keeps_its_beginning_and_end(char: str) -> None:
    text = str(UserError(f"config.x={char * 3_000_000} is wrong; use 2"))
    assert (
        len(text) == MAX_LENGTH and text.startswith("config.x=") and "..." in text and text.endswith("is wrong; use 2")
    )
    assert str(UserError("x" * MAX_LENGTH)) == "x" * MAX_LENGTH


def test_a_full_disk_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "runs/x")

    with pytest.raises(SystemExit) as end:
        exit_cleanly(fail)
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: No space left on device: runs/x; free disk space\n"


def test_a_full_disk_that_a_library_reports_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        try:
            raise ValueError("writing d/1 [OS error 28: No space left on device]")
        except ValueError as error:
            raise RuntimeError("the split\ncannot be written") from error

    with pytest.raises(SystemExit) as end:
        exit_cleanly(fail)
    expected = "error: No space left on device: the split cannot be written; free disk space\n"
    assert end.value.code == 2 and capsys.readouterr().err == expected
    with pytest.raises(RuntimeError, match="a bug"):
        exit_cleanly(lambda: (_ for _ in ()).throw(RuntimeError("a bug")))


def test_a_file_that_a_library_reports_as_too_large_is_not_a_full_disk(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise RuntimeError("part 1 cannot be written") from OSError(errno.EFBIG, "writing")

    with pytest.raises(SystemExit):
        exit_cleanly(fail)
    assert "allow larger files (ulimit -f)" in capsys.readouterr().err


def test_errors_that_are_causes_of_each_other_are_read_once() -> None:
    first, second = ValueError("a bug"), ValueError("another")
    first.__cause__, second.__cause__ = second, first
    assert no_room(first) == ""


def test_a_line_of_an_error_has_its_length_after_escapes() -> None:
    assert len(one_line(ValueError("\x1b" * 300))) == 200


def test_a_symlink_loop_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(SystemExit) as end:
        exit_cleanly(lambda: print((tmp_path / "loop").read_text()))
    err = capsys.readouterr().err
    assert end.value.code == 2 and f"{tmp_path}/loop; name another place" in err and err.count("\n") == 1


def test_other_system_errors_keep_their_traceback() -> None:
    def fail() -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        exit_cleanly(fail)


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        exit_cleanly(lambda: print(1 / 0))


def test_a_closed_pipe_is_silent() -> None:
    code = "from cl2cm_jax.errors import exit_cleanly as e; e(lambda: [print('line') for _ in range(100000)])"
    running = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert running.stdout and running.stdout.readline() == "line\n"
    running.stdout.close()
    assert running.wait(timeout=600) == EXIT_CLOSED_PIPE
    assert running.stderr and running.stderr.read() == ""


def test_no_line_end_or_escape_sequence_reaches_the_terminal() -> None:
    error = UserError("config.a\nb\r\x1b[2J\u2028\udce4 is not a field; \u064a\u200d\U0001f600 stays")
    assert str(error) == "config.a\\nb\\r\\x1b[2J\\u2028\\udce4 is not a field; \u064a\u200d\U0001f600 stays"
    assert str(UserError(str(error))) == str(error)


def test_a_missing_package_is_named_with_the_command() -> None:
    assert str(not_installed("a-b")) == "package a-b is not installed; run: pip install a-b"
    error = not_installed("a", run="pip install b", needed_for="--onnx")
    assert str(error) == "--onnx: package a is not installed; run: pip install b"


def test_an_error_of_a_full_disk_names_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with replacing(tmp_path / "results.json"):
            raise OSError(errno.ENOSPC, "No space left on device")  # as write() raises it, without a file name

    with pytest.raises(SystemExit):
        exit_cleanly(fail)
    assert f"No space left on device: {tmp_path / 'results.json'}; free disk space" in capsys.readouterr().err
