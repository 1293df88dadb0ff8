"""The translation engine of CONTRIBUTING.md translates a caption file."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from support.command import call
from support.documented import ROOT, example

from cl2cm_jax import __main__ as cl2cm
from cl2cm_jax.translation.provenance import provenance_path


def command() -> list[str]:
    """The arguments of the documented command."""
    _, _, section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("\n### A translation engine\n")
    (line,) = [line for line in section.partition("\n### ")[0].splitlines() if line.startswith("cl2cm ")]
    return line.split()[1:]


def test_the_documented_engine_translates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    example("A translation engine", tmp_path / "mine")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("words.json").write_text(json.dumps({"a": "ein", "dog": "Hund"}), encoding="utf-8")
    Path("captions.csv").write_text("image,language,caption\na.png,en,a dog\nb.png,en,a cat\n", encoding="utf-8")
    done = call(cl2cm.main, *command())
    assert done.code == 0, done.err
    with open("with_german.csv", encoding="utf-8", newline="") as file:
        german = [row["caption"] for row in csv.DictReader(file) if row["language"] == "de"]
    assert german == ["ein Hund", "ein cat"]
    line = provenance_path(Path("with_german.csv")).read_text(encoding="utf-8").splitlines()[0]
    assert {name: json.loads(line)[name] for name in ("engine", "model")} == {
        "engine": "glossary",
        "model": "words.json",
    }

    missing = call(cl2cm.main, *(word for word in command() if not word.startswith("--glossary")))
    assert missing.code == 2 and "--engine=mine.glossary needs --glossary" in missing.err
