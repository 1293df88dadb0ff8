"""Resuming a translation job: nothing is lost or repeated."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from cl2cm_jax.errors import UserError
from cl2cm_jax.translation.engine import Item
from cl2cm_jax.translation.job import Outcome, translate_items
from cl2cm_jax.translation.provenance import Provenance

ITEMS = [Item(number, f"{number}.png", text, "") for number, text in enumerate(["dog", "cat", "dog", "été", "cow"])]


class Upper:
    """Translates to capitals and records its input."""

    name, model, version, by_sentence = "upper", "m1", "1.0", True

    def __init__(self) -> None:
        self.inputs: list[str] = []

    def translate(self, items: Sequence[Item]) -> list[str]:
        self.inputs += [item.text for item in items]
        return [item.text.upper() for item in items]


class BatchDependent(Upper):
    """Its output depends on the batch, as with Apertium's tagger and the rounding of a network."""

    def translate(self, items: Sequence[Item]) -> list[str]:
        return [f"{text} {len(items)} {items[0].text}" for text in super().translate(items)]


class Losing(Upper):
    """Drops one caption of every batch but the first."""

    def translate(self, items: Sequence[Item]) -> list[str]:
        is_first = not self.inputs
        return super().translate(items)[None if is_first else 1 :]


def run(path: Path, engine: Upper, items: Sequence[Item] = ITEMS, **options: object) -> Outcome:
    provenance = Provenance(path, inherited=None)
    options = {"batch": 2} | options
    return translate_items(items, engine=engine, provenance=provenance, source="en", target="de", **options)


def entries(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_deeply_nested_line_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("[" * 200_000 + "\n" + json.dumps({"image": 1}) + "\n")
    assert run(path, Upper()).is_complete and path.read_text().count("\n") == 2 + len(ITEMS)


def test_equal_sentences_are_translated_once_and_each_caption_has_its_provenance(tmp_path: Path) -> None:
    engine, path = Upper(), tmp_path / "p.jsonl"
    outcome = run(path, engine)
    assert engine.inputs == ["dog", "cat", "été", "cow"]
    assert list(outcome.translations.values()) == ["DOG", "CAT", "DOG", "ÉTÉ", "COW"]
    assert (outcome.before, outcome.sentences, outcome.is_complete) == (0, 4, True)
    assert sorted(entry["image"] for entry in entries(path)) == [item.name for item in ITEMS]
    first = entries(path)[0]
    assert isinstance(first.pop("crc32"), int) and first == {
        "image": "0.png",
        "language": "de",
        "caption": "DOG",
        "source_language": "en",
        "source": "dog",
        "engine": "upper",
        "model": "m1",
        "version": "1.0",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def test_without_by_sentence_every_caption_is_translated(tmp_path: Path) -> None:
    engine = Upper()
    engine.by_sentence = False
    run(tmp_path / "p.jsonl", engine)
    assert engine.inputs == [item.text for item in ITEMS]


def test_a_second_run_translates_nothing(tmp_path: Path) -> None:
    first = run(tmp_path / "p.jsonl", Upper())
    before = (tmp_path / "p.jsonl").read_bytes()
    again = Upper()
    second = run(tmp_path / "p.jsonl", again)
    assert again.inputs == [] and second.before == len(ITEMS)
    assert second.translations == first.translations
    assert (tmp_path / "p.jsonl").read_bytes() == before


def test_a_journal_truncated_at_any_byte_is_resumed(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole.jsonl", BatchDependent())
    content = (tmp_path / "whole.jsonl").read_bytes()
    path = tmp_path / "cut.jsonl"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        engine = BatchDependent()
        assert run(path, engine).translations == whole.translations, length
        assert path.read_bytes().startswith(content[:length])
        good = [line for line in path.read_bytes().splitlines() if line.endswith(b"}")]
        images = [json.loads(line)["image"] for line in good]
        assert sorted(images) == [item.name for item in ITEMS], length
        lines = content[:length].split(b"\n")
        finished = {json.loads(line)["image"] for line in lines if line.endswith(b"}")}
        for batch in (["dog", "cat"], ["été", "cow"]):  # a batch that is there whole is not asked for
            is_whole = {item.name for item in ITEMS if item.text in batch} <= finished
            assert not (is_whole and set(batch) & set(engine.inputs)), length


def test_a_wrong_number_of_translations_is_an_error_and_keeps_finished_batches(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    with pytest.raises(UserError, match=r"upper \(m1\) gave 1 translations for 2 captions; finished ones are kept"):
        run(path, Losing())
    assert [entry["source"] for entry in entries(path)] == ["dog", "dog", "cat"]
    engine = Upper()
    assert run(path, engine).is_complete and engine.inputs == ["été", "cow"]


def test_a_stop_is_between_batches(tmp_path: Path) -> None:
    engine, answers = Upper(), iter([False, True])
    outcome = run(tmp_path / "p.jsonl", engine, should_stop=lambda: next(answers))
    assert not outcome.is_complete and engine.inputs == ["dog", "cat"]
    assert run(tmp_path / "p.jsonl", Upper()).is_complete


@pytest.mark.parametrize(("field", "value"), [("model", "m2"), ("name", "lower")])
def test_another_engine_does_not_resume_a_job(tmp_path: Path, field: str, value: str) -> None:
    run(tmp_path / "p.jsonl", Upper(), ITEMS[:2])
    other = Upper()
    setattr(other, field, value)
    with pytest.raises(UserError, match=f"p.jsonl was started with .*, not '{value}'; .*choose another --out"):
        run(tmp_path / "p.jsonl", other)


def test_a_newer_version_resumes_a_job(tmp_path: Path) -> None:
    path, newer = tmp_path / "p.jsonl", Upper()
    run(path, Upper(), ITEMS[:2])
    newer.version = "1.1"
    run(path, newer)
    assert {entry["source"]: entry["version"] for entry in entries(path)}["cow"] == "1.1"
    assert {entry["image"]: entry["version"] for entry in entries(path)}["2.png"] == "1.0"  # "dog" was done before


def test_whitespace_and_zero_bytes_do_not_reach_the_captions(tmp_path: Path) -> None:
    engine = Upper()
    engine.translate = lambda items: ["a\nb\u2028 c\t\0d " for _ in items]
    assert set(run(tmp_path / "p.jsonl", engine).translations.values()) == {"a b c d"}


def test_provenance_of_the_input_is_copied_once(tmp_path: Path) -> None:
    run(tmp_path / "old.jsonl", Upper())
    for _ in range(2):
        Provenance(tmp_path / "new.jsonl", inherited=tmp_path / "old.jsonl")
    assert entries(tmp_path / "new.jsonl") == entries(tmp_path / "old.jsonl")
