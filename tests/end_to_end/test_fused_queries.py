"""Evaluation with queries fused with their translations, reported with and without fusion."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from support.command import Outcome, call
from support.tiny_set import write_tiny_set

pytest.importorskip("tensorflow")

from cl2cm_jax import config as configuration
from cl2cm_jax import main
from cl2cm_jax.evaluation.evaluate import NOT_FUSED
from cl2cm_jax.features.cache import corpora
from cl2cm_jax.studies.comparison import __main__ as compare

TRANSLATED = ("validation", "test")


def add_translations(folder: Path, *, without: str = "") -> None:
    """Gives every evaluation caption in de and fr a second one, and each its translation, which is the English name."""
    with (folder / "captions.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    more = []
    for image, language, caption, split in rows:
        if language != "en":
            more.append([image, language, f"{caption}!", split])
        if language != "en" and split in TRANSLATED:
            name = image.replace("-", " ")
            more += [[image, f"{language}2en", text, split] for text in (name, name if without != image else "")]
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows, *(row for row in more if row[2])])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fused")
    write_tiny_set(folder)
    add_translations(folder)
    return folder


def training(home: Path, workdir: Path, *changes: str) -> Outcome:
    return call(main.main, f"--config={home / 'config.py'}", f"--workdir={workdir}", *changes)


@pytest.fixture(scope="module")
def fused(home: Path) -> Path:
    outcome = training(home, home / "run", "--config.evaluation.query=fused")
    assert outcome.code == 0, outcome.err
    assert "query=fused, fusion_weight=0.5" in outcome.out and NOT_FUSED in outcome.out
    return home / "run"


def test_both_protocols_are_reported_apart_and_named(fused: Path) -> None:
    results = json.loads((fused / "results.json").read_text(encoding="utf-8"))
    assert set(results["test"]) == {"en", "de", "fr"}  # translations are not languages of their own
    assert (results["protocol"]["query"], results["protocol"]["fusion_weight"]) == ("fused", 0.5)
    assert results["protocol"]["captions"] == {"en": 8, "de": 16, "fr": 16}
    alone = results["groups"][NOT_FUSED]
    assert (alone["protocol"]["query"], alone["protocol"]["fusion_weight"]) == ("target", None)
    assert alone["test"]["en"] == results["test"]["en"]
    assert alone["test"]["de"] != results["test"]["de"]
    for language in ("de", "fr"):
        for direction in ("text_to_vision", "vision_to_text"):
            assert {f"{direction}/{name}" for name in ("median_rank", "mean_rank", "mAP")} <= set(
                alone["test"][language]
            )


def test_translations_are_read_for_evaluation_alone(home: Path, fused: Path) -> None:
    config = configuration.read(str(home / "config.py"), {"evaluation.query": "fused"})
    train, validation, test = corpora(config)
    assert train.languages == ("en", "de", "fr")
    assert validation.languages == test.languages == ("en", "de", "fr", "de2en", "fr2en")
    assert len(test.captions_of("de2en")) == 16
    plain = corpora(configuration.read(str(home / "config.py"), {}))
    assert all(split.languages == ("en", "de", "fr") for split in plain)


def test_a_fused_run_is_compared_with_both_its_protocols(fused: Path) -> None:
    outcome = call(compare.main, f"--workdirs={fused}")
    assert outcome.code == 0, outcome.err
    for title in ("en: query=target", "de: query=fused", "de: query=target", "fr: query=fused", "fr: query=target"):
        assert outcome.out.count(f"captions, {title}, captions_per_image=all\n") == 1


def test_the_first_caption_protocol_counts_fewer_queries(home: Path, fused: Path) -> None:
    changes = ["--config.evaluation.query=fused", "--config.evaluation.captions_per_image=first"]
    outcome = training(home, home / "first", *changes)
    assert outcome.code == 0, outcome.err
    first, every = (
        json.loads((workdir / "results.json").read_text(encoding="utf-8")) for workdir in (home / "first", fused)
    )
    assert first["protocol"]["captions"] == {"en": 8, "de": 8, "fr": 8}
    assert first["test"]["de"] != every["test"]["de"]
    tables = (home / "first" / "results.md").read_text(encoding="utf-8").split("\n\n**")
    assert len(tables) == 4 and all("captions_per_image=first" in table for table in tables)


def test_missing_translations_are_one_line_before_anything_is_trained(home: Path, tmp_path: Path) -> None:
    for name in ("none", "one"):
        (tmp_path / name).mkdir()
        write_tiny_set(tmp_path / name)
    add_translations(tmp_path / "one", without="pink-dog")
    found = {}
    for name in ("none", "one"):
        outcome = training(tmp_path / name, tmp_path / name / "run", "--config.evaluation.query=fused")
        assert outcome.code == 2 and not (tmp_path / name / "run").exists()
        found[name] = outcome.err.strip().splitlines()[-1]
    assert "config.evaluation.query='fused': the validation split has no caption in 'de2en'" in found["none"]
    assert "image 'pink-dog': 2 captions in 'de' but 1 in 'de2en'" in found["one"]
