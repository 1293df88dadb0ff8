"""No name, caption or query of a stranger controls the terminal, whatever prints it."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from cl2cm_jax.errors import UserError, exit_cleanly, one_line
from cl2cm_jax.evaluation.table import Table
from cl2cm_jax.runtime.progress import CountReport
from cl2cm_jax.search.query import Answer, Result, print_answers
from cl2cm_jax.text.terminal import json_text, log_to_stderr, printable, printable_lines

ROOT = Path(__file__).resolve().parents[1]
CONTROL = [chr(code) for code in (*range(32), *range(0x7F, 0xA0), *range(0x2028, 0x202F), *range(0x2066, 0x206A))]
HOSTILE = "a" + "".join(CONTROL) + "\x1b]52;c;cHduZWQ=\x07\nerror: b"
USUAL = "naïve 犬 \u064a\u200d\u200c\U0001f600\u200e \u05d0\u200f é"


def is_harmless(text: str) -> bool:
    """Whether only line ends control the terminal."""
    return not set(text) & (set(CONTROL) - {"\n"})


@pytest.fixture
def logging_restored() -> Iterator[None]:
    root, shown = logging.getLogger(), warnings.showwarning
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], warnings.showwarning = handlers, shown
    root.setLevel(level)


def test_control_characters_are_escaped_and_others_stay() -> None:
    assert is_harmless(printable(HOSTILE)) and "\n" not in printable(HOSTILE)
    assert printable("\x1b[2J\x9b\u202e\u2066\udce4\n") == "\\x1b[2J\\x9b\\u202e\\u2066\\udce4\\n"
    assert printable(USUAL) == USUAL and printable(printable(HOSTILE)) == printable(HOSTILE)
    assert printable_lines("a\x1b\nb\r\n") == "a\\x1b\nb\\r\n"


@pytest.mark.parametrize("value", [HOSTILE, USUAL, "\udce4", {HOSTILE: [HOSTILE]}])
def test_json_is_escaped_and_keeps_its_value(value: object) -> None:
    text = json_text(value)
    assert json.loads(text) == value and is_harmless(text) and "\n" not in text
    text.encode()
    assert json.loads(json_text(value, indent=1)) == value


def test_json_keeps_characters_of_all_languages() -> None:
    assert json_text(USUAL) == f'"{USUAL}"'


def test_a_log_record_is_one_line(logging_restored: None, capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr()
    logging.warning("skipped: %s: %s (%d of %.1f)", Path(HOSTILE.replace("\0", "")), ValueError(HOSTILE), 3, 4.0)
    logging.warning("skipped: %r", [HOSTILE])
    logging.warning("of %(name)s", {"name": HOSTILE})
    warnings.warn(f"odd: {HOSTILE}", stacklevel=1)
    logging.warning("two lines of ours:\nthe second")
    err = capsys.readouterr().err
    assert is_harmless(err) and err.count("\n") == 6, err
    assert "error: b (3 of 4.0)\n" in err and "WARNING: UserWarning: odd: a" in err and "ours:\nthe second\n" in err


def test_a_logged_traceback_is_escaped(logging_restored: None, capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr()
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logging.exception("failed")
    err = capsys.readouterr().err
    assert is_harmless(err) and "Traceback" in err and "\n  File " in err


@pytest.mark.parametrize("as_json", [False, True])
def test_answers_are_escaped(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    answer = Answer(HOSTILE, (Result(1, HOSTILE, 0.5, HOSTILE, HOSTILE), Result(2, USUAL, 0.4, USUAL, USUAL)))
    exit_cleanly(lambda: print_answers([answer], as_json=as_json, pictures=2, seconds=0.1))
    out = capsys.readouterr().out
    assert is_harmless(out) and USUAL in out and "\nerror: b" not in out
    if as_json:
        assert json.loads(out)[0]["results"][0]["caption"] == HOSTILE


def test_tables_of_results_are_escaped() -> None:
    table = Table(HOSTILE, ("run", HOSTILE), ((HOSTILE, "1"),), (HOSTILE,))
    assert is_harmless(table.text()) and is_harmless(table.markdown())
    assert "\nerror: b" not in table.text() + table.markdown()
    widths = {len(line) for line in table.text().splitlines()[2:3] + table.text().splitlines()[4:5]}
    assert len(widths) == 1, "columns are aligned"


def test_notes_between_progress_are_escaped() -> None:
    stream = io.StringIO()
    with CountReport("embedded", stream=stream) as report:
        report.note(HOSTILE)
    assert is_harmless(stream.getvalue())


def test_all_that_a_command_prints_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    exit_cleanly(lambda: print("skipped", HOSTILE, sep="\x1b"))
    assert is_harmless(capsys.readouterr().out)
    with pytest.raises(SystemExit):
        exit_cleanly(lambda: (_ for _ in ()).throw(UserError(HOSTILE)))
    with pytest.raises(SystemExit):
        exit_cleanly(lambda: (_ for _ in ()).throw(PermissionError(13, "Permission denied", HOSTILE)))
    err = capsys.readouterr().err
    assert is_harmless(err) and err.count("\n") == 2
    assert is_harmless(one_line(ValueError(HOSTILE))) and "\n" not in one_line(ValueError(HOSTILE))


def test_the_traceback_of_a_bug_is_escaped() -> None:
    code = "from cl2cm_jax.errors import exit_cleanly as e\ndef bug(): raise ValueError('a\\x1b[31m\\u202e')\ne(bug)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "ValueError: a\\x1b[31m\\u202e\n" in done.stderr and is_harmless(done.stderr)
