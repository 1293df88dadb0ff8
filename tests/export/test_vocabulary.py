"""A bundle for some languages: fewer word pieces, the same vectors of their letters, and any text can still be read."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tokenizers
from support.command import call
from support.finished_runs import write_finished_run
from support.tiny_models import write_tiny_text
from support.tokenizer_kinds import KINDS, MARKS

import cl2cm_jax
from cl2cm_jax.errors import UserError
from cl2cm_jax.export import __main__ as export
from cl2cm_jax.export import quality
from cl2cm_jax.export.bundle import read_trained, write_bundle
from cl2cm_jax.export.vocabulary import FLAG, count_pieces
from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.pretrained import read_safetensors, write_safetensors
from cl2cm_jax.trained.student import load_encoder

TEXT = ["a red car", "a car", "r e d"]
SAME_LETTERS = ["Red deer, a card: 12 1", "RED"]  # its words are not counted
OTHER = ["12 fin birn apples", "\ufb01n"]  # has letters that are not counted


def with_tokenizer(folder: Path, kind: str) -> Path:
    """The golden BERT with another tokenizer, and as many rows in its table as that has pieces."""
    write_tiny_text(folder, "bert", template="[CLS] $A [SEP]")
    tokenizer = KINDS[kind]()
    tokenizer.save(str(folder / "tokenizer.json"))
    size, name = tokenizer.get_vocab_size(), "embeddings.word_embeddings.weight"
    tensors = read_safetensors(folder / hub_folder.WEIGHTS)
    (name,) = [one for one in tensors if one.endswith(name)]
    table = np.random.default_rng(0).normal(size=(size, tensors[name].shape[1])).astype(np.float32)
    write_safetensors(folder / hub_folder.WEIGHTS, tensors | {name: table})
    content = hub_folder.read_json(folder)
    hub_folder.write_json(folder / hub_folder.CONFIG, content | {"vocab_size": size, "pad_token_id": 0})
    return folder


def finished(folder: Path, kind: str, fields: dict[str, Any]) -> Path:
    path = with_tokenizer(folder / "model", kind)
    text = {"text__path": str(path), "text__max_tokens": 12}
    away = {"data__name": "captions", "data__captions": str(folder / "away.csv")}
    return write_finished_run(folder / "run", **fields | text | away)


def corpus(folder: Path, texts: list[str] = TEXT) -> Path:
    file = folder / "corpus.txt"
    file.write_text("\n".join(texts) + "\n\n", encoding="utf-8")
    return file


@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_the_languages_keep_their_vectors(kind: str, fields: dict[str, Any], tmp_path: Path) -> None:
    run = finished(tmp_path, kind, fields)
    trained = read_trained(run)
    served = count_pieces(trained.config, trained.text, languages=["en"], files=[corpus(tmp_path)], data=trained.data)
    write_bundle(trained, tmp_path / "bundle", served=served)
    whole, cut = load_encoder(run), cl2cm_jax.from_pretrained(tmp_path / "bundle")
    for texts in (TEXT, SAME_LETTERS):
        np.testing.assert_allclose(cut.encode_text(texts), whole.text(texts), atol=1e-6)
    assert np.isfinite(cut.encode_text(OTHER)).all()
    before = tokenizers.Tokenizer.from_file(str(tmp_path / "model" / "tokenizer.json"))
    after = tokenizers.Tokenizer.from_file(str(tmp_path / "bundle" / "tokenizer.json"))
    for text in (*TEXT, *SAME_LETTERS):
        assert after.encode(text).tokens == before.encode(text).tokens
    kept, old = after.get_vocab(), before.get_vocab()
    assert len(kept) < len(old) and set(kept) < set(old) and sorted(kept.values()) == list(range(len(kept)))
    assert sorted(kept, key=kept.__getitem__) == sorted(kept, key=old.__getitem__)  # in their order
    assert {piece for piece in old if len(piece) == 1} <= set(kept) and set(MARKS) <= set(kept)
    config = json.loads((tmp_path / "bundle" / "config.json").read_text())
    assert config["vocab_size"] == len(kept) and config["pad_token_id"] == kept["<pad>"]


def test_merged_pieces_keep_what_they_are_merged_from(fields: dict[str, Any], tmp_path: Path) -> None:
    trained = read_trained(finished(tmp_path, "roberta", fields))
    texts = corpus(tmp_path, ["red"])
    served = count_pieces(trained.config, trained.text, languages=["en"], files=[texts], data=trained.data)
    write_bundle(trained, tmp_path / "bundle", served=served)
    content = json.loads((tmp_path / "bundle" / "tokenizer.json").read_text())
    pairs = [tuple(merge.split() if isinstance(merge, str) else merge) for merge in content["model"]["merges"]]
    assert pairs == [("r", "e"), ("re", "d")] and "\u0120a" not in content["model"]["vocab"]


def test_letters_are_kept_in_both_cases_and_forms(fields: dict[str, Any], tmp_path: Path) -> None:
    trained = read_trained(finished(tmp_path, "bert", fields))
    texts = corpus(tmp_path, ["\u00c4pfel \u65e5 1"])
    served = count_pieces(trained.config, trained.text, languages=["de"], files=[texts], data=trained.data)
    assert served.letters == set("\u00c4\u00e4Aa\u0308PpFfEeLl\u65e5")


def test_the_command_cuts_and_says_what_it_costs(fields: dict[str, Any], tmp_path: Path) -> None:
    run, bundle = finished(tmp_path, "xlm-roberta", fields), tmp_path / "bundle"
    arguments = [f"--model={run}", f"--out={bundle}", "--languages=EN,de", f"--corpus={corpus(tmp_path)}"]
    done = call(export.main, *arguments)
    assert done.code == 0, done.err
    assert "languages: en, de" in done.out
    card = (bundle / "README.md").read_text(encoding="utf-8")
    assert "is cut to en, de: " in card and "What the cut costs was not measured" in card
    assert "language:\n- en\n- de\n" in card


def test_the_cost_is_shown_for_the_languages_that_were_measured() -> None:
    run = {language: {"SumR": value} for language, value in {"en": 300.0, "de": 200.0, "fr": 100.0}.items()}
    results = SimpleNamespace(test=run, targets=("de", "fr"))
    lines = quality.table(results, {"cut": {"en": 299.9, "de": 200.04}})  # pyright: ignore[reportArgumentType]
    assert lines[0] == "| SumR | JAX | cut |"
    assert lines[2:] == ["| en | 300.0 | 299.9 |", "| de | 200.0 | 200.0 |"]
    assert quality.table(results, {"cut": {"en": 299.9}})[2:] == ["| en | 300.0 | 299.9 |"]  # pyright: ignore[reportArgumentType]


def test_bad_input_is_one_line(fields: dict[str, Any], tmp_path: Path) -> None:
    trained = read_trained(finished(tmp_path, "bert", fields))

    def error(languages: list[str], *files: Path) -> str:
        with pytest.raises(UserError) as caught:
            count_pieces(trained.config, trained.text, languages=languages, files=files, data=trained.data)
        return str(caught.value)

    assert "'e n' is not a language code" in error(["e n"])
    assert "give a text with --corpus=FILE" in error(["en"])  # the run's data are not there
    assert "missing.txt cannot be read" in error(["en"], tmp_path / "missing.txt")
    latin = tmp_path / "latin.txt"
    latin.write_bytes("Äpfel".encode("latin-1"))
    assert "give a text in UTF-8" in error(["en"], latin)
    done = call(export.main, "--model=run", "--out=bundle", "--corpus=text.txt")
    assert done.code == 2 and "--corpus needs --languages=CODES" in done.err


def test_a_vocabulary_in_another_format_is_refused(tmp_path: Path) -> None:
    trained = read_trained(write_finished_run(tmp_path / "run"))
    with pytest.raises(UserError, match=f"{FLAG}: config.text.backbone=.* cannot be cut"):
        count_pieces(trained.config, trained.text, languages=["en"], files=[], data="")
