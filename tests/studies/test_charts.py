"""Charts need matplotlib: without it a study stops before it trains, and texts find fonts for their scripts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.command import call

from cl2cm_jax.errors import UserError
from cl2cm_jax.studies import charts, noise_curve
from cl2cm_jax.studies.word_alignment import __main__ as align_words


@pytest.mark.parametrize(
    ("command", "arguments"), [(noise_curve, ["--config=x"]), (align_words, ["--text=x", "--config=x"])]
)
def test_a_study_stops_without_matplotlib(command, arguments, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    outcome = call(command.main, *arguments)
    assert outcome.code == 2 and outcome.err.count("\n") == 1
    assert "package matplotlib is not installed; run: pip install matplotlib" in outcome.err


def test_an_interrupted_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = charts.figure(1, 1)

    def fail(*_: object, **__: object) -> None:
        raise UserError("stopped")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(UserError, match="stopped"):
        charts.save(figure, tmp_path / "chart.png")
    assert list(tmp_path.iterdir()) == []


def test_text_of_any_script_has_a_width() -> None:
    assert charts.text_width("mmmm", size=10) > charts.text_width("m", size=10) > charts.text_width(" ", size=10) == 0
    assert charts.text_width("女孩", size=10) > 0
