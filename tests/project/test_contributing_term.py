"""The loss term of CONTRIBUTING.md trains with the tiny set, and only where a configuration of the user's names it."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from support.command import call
from support.documented import example

pytest.importorskip("tensorflow")

from cl2cm_jax import config as configuration
from cl2cm_jax import main
from cl2cm_jax.errors import UserError


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    example("A loss term", tmp_path / "mine")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("mine", "mine.uniformity"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_the_documented_term_is_trained_and_logged(home: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    fields = ("terms=mine.uniformity", "weights.uniformity=0.5", "teacher.head=none", "train.steps=2")
    flags = [f"--config.{field}" for field in (*fields, "train.log_every=1", "train.evaluate_every=2")]
    outcome = call(main.main, f"--config={home / 'config.py'}", f"--workdir={workdir}", *flags)
    assert outcome.code == 0, outcome.err
    with (workdir / "metrics.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["train/uniformity"]]
    assert len(rows) == 2
    for row in rows:
        value = {name: float(row[f"train/{name}"]) for name in ("total", "source", "target", "transfer", "uniformity")}
        assert -4 <= value["uniformity"] < 0
        parts = value["source"] + value["target"] + value["transfer"] + 0.5 * value["uniformity"]
        np.testing.assert_allclose(value["total"], parts, rtol=1e-5)
    again = json.loads((workdir / "config.json").read_text(encoding="utf-8"))
    assert again["terms"] == ["mine.uniformity"] and again["weights.uniformity"] == "0.5"


def test_a_stored_configuration_imports_no_module(tmp_path: Path) -> None:
    (tmp_path / "mine" / "hostile.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    config = configuration.from_flat({"weights.hostile": "2.0", "terms": ["mine.hostile"]})
    assert config.terms == ("mine.hostile",) and config.weights.hostile == "2.0"
    assert "mine" not in sys.modules


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"terms": "mine.unknown"}, "config.terms='mine.unknown' is unknown"),
        ({"terms": "mine.source"}, "two loss terms are named 'source'; rename"),
        ({"terms": "mine.empty"}, "config.terms='mine.empty': the module mine.empty does not define term"),
        ({"terms": "mine.uniformity", "weights.uniformity": "much"}, "config.weights.uniformity='much'"),
        ({"weights.uniformity": "1"}, "config.weights.uniformity is not a field"),
    ],
    ids=["unknown", "name taken", "no term", "no weight", "weight of no term"],
)
def test_a_term_that_cannot_be_used_is_one_line(
    home: Path, tmp_path: Path, fields: dict[str, str], message: str
) -> None:
    (tmp_path / "mine" / "empty.py").touch()
    with pytest.raises(UserError, match=message):
        configuration.read(str(home / "config.py"), fields)


def test_the_baseline_has_no_added_terms(home: Path) -> None:
    config = configuration.read(str(home / "config.py"), {"terms": "mine.uniformity", "method": "baseline"})
    assert configuration.effective(config).terms == ()
