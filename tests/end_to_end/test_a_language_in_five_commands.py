"""The five commands of docs/languages.md add a language to a small set, with fewer steps."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from support.command import Outcome, call
from support.documented import ROOT, SMALL, commands

pytest.importorskip("tensorflow")

import cl2cm_jax
from cl2cm_jax import __main__, main
from cl2cm_jax.data.readers.caption_file import read_caption_file

FIVE = commands("docs/languages.md", "cl2cm translate", "cl2cm export")
SPLITS = ["train"] * 32 + ["validation"] * 8 + ["test"] * 8
WORDS = {"en": "a picture of number", "de": "ein Bild von Nummer", "fr": "une image du nombre", "es": "una foto del"}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Their working folder: photos/, captions.csv with Spanish in validation and test alone, configs/, runs/mine."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "photos").mkdir()
    with (tmp_path / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "language", "caption", "split"])
        for number, split in enumerate(SPLITS):
            Image.new("RGB", (40, 30), (5 * number, 255 - 5 * number, 100)).save(tmp_path / f"photos/{number}.jpg")
            languages = [language for language in WORDS if language != "es" or split != "train"]
            writer.writerows([f"{number}.jpg", name, f"{WORDS[name]} {number}", split] for name in languages)
    monkeypatch.chdir(tmp_path)
    before = dict(commands("README.md", "--workdir=runs/mine \\"))["train"]
    assert call(main.main, *before, *SMALL).code == 0
    return tmp_path


def typed(verb: str, arguments: list[str]) -> Outcome:
    """Runs one command; without Apertium, with translations from a file."""
    if verb == "translate" and not shutil.which("apertium"):
        texts = [f"{WORDS['es']} {number}" for number in range(len(SPLITS))]
        Path("es.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
        arguments = [word for word in arguments if not word.startswith("--engine")]
        arguments += ["--engine=file", "--translations=es.txt"]
    if any(word.startswith("--config=") for word in arguments):
        arguments = [*arguments, *SMALL]
    return call(__main__.main, verb, *arguments)


def test_the_page_shows_five_commands() -> None:
    assert [verb for verb, _ in FIVE] == ["translate", "train", "train", "compare", "export"]
    assert "--mode=evaluate" in FIVE[2][1] and "--mode=evaluate" not in FIVE[1][1]


@pytest.mark.slow
def test_the_five_commands_add_a_language(place: Path) -> None:
    outcomes = []
    for verb, arguments in FIVE:
        outcomes.append(typed(verb, arguments))
        assert outcomes[-1].code == 0, f"{verb}: {outcomes[-1].err}"
    translated, trained, evaluated, compared, _ = outcomes
    rows = read_caption_file("captions.es.csv", image_is_path=True).rows
    assert {(row.split, row.origin) for row in rows if row.language == "es"} == {
        ("train", "machine"),
        ("validation", "human"),
        ("test", "human"),
    }
    assert "note" not in translated.out  # Spanish is trained on and evaluated with human captions
    for outcome in (trained, evaluated):
        assert "weakest of 3 targets: " in outcome.out and "8 images, 32 captions in 4 languages" in outcome.out
    assert compared.out.count("runs/mine") == 6 and compared.out.count("runs/es") == 8  # es: after alone
    assert set(json.loads((place / "bundle" / "results.json").read_text())["test"]) == {"en", "de", "fr", "es"}
    model = cl2cm_jax.from_pretrained(place / "bundle")
    assert model.encode_text(["una foto"], language="es").shape == (1, 16)
