"""The documented commands that train on a user's own pictures run, with fewer and smaller steps."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image
from support import paper_trees
from support.command import call
from support.documented import ROOT, SMALL, commands

pytest.importorskip("tensorflow")
pytest.importorskip("tokenizers")

from cl2cm_jax import main
from cl2cm_jax.search import __main__ as search

pytestmark = pytest.mark.slow

LANGUAGES = ("en", "de", "fr", "cs")


def example(document: str, workdir: str) -> tuple[list[str], list[str]]:
    """The arguments of `main` and of `search` in the block that trains into the workdir."""
    typed = dict(commands(document, f"--workdir={workdir} \\", "cl2cm search"))
    return typed["train"], typed["search"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder for the examples: configs/, photos/ with 48 pictures, captions.csv, a small BERT in mbert/."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "photos").mkdir()
    with (tmp_path / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "language", "caption"])
        for number in range(48):
            Image.new("RGB", (40, 30), (5 * number, 255 - 5 * number, 100)).save(tmp_path / f"photos/{number}.jpg")
            writer.writerows([f"{number}.jpg", language, f"a {language} # {number}"] for language in LANGUAGES)
    paper_trees.write_bert(tmp_path / "mbert")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("document", "workdir", "changes", "targets"),
    [
        ("README.md", "runs/mine", (), {"de", "fr"}),
        (
            "docs/data.md",
            "runs/mine-bert",
            ("text.max_tokens=16", "student.text.trainable=layers 1-2"),
            {"de", "fr", "cs"},
        ),
    ],
)
def test_the_documented_commands_train_evaluate_and_search(
    place: Path, document: str, workdir: str, changes: tuple[str, ...], targets: set[str]
) -> None:
    training, searching = example(document, workdir)
    outcome = call(main.main, *training, *SMALL, *(f"--config.{field}" for field in changes))
    assert outcome.code == 0, outcome.err
    results = json.loads((place / workdir / "results.json").read_text())
    assert set(results["test"]) == {"en", *targets}
    found = call(search.main, *searching, "--json", "--top=3")
    assert found.code == 0, found.err
    assert [Path(result["path"]).parent.name for result in json.loads(found.out)[0]["results"]] == ["photos"] * 3
