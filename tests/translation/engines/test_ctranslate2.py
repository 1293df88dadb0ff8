"""CTranslate2 with tiny models in the layouts of NLLB and OPUS-MT, and damaged ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cl2cm_jax.errors import UserError
from cl2cm_jax.translation.engine import Item
from cl2cm_jax.translation.engines import ctranslate2
from cl2cm_jax.translation.engines.ctranslate2 import CTranslate2


def items(*texts: str) -> list[Item]:
    return [Item(number, f"{number}.png", text, "") for number, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("target", "expected"),
    [("de", ["ein Hund", "ein Pferd", "ein Kater"]), ("fr", ["un chien", "un cheval", "un chat"])],
)
def test_nllb_translates_into_the_target(nllb_folder: Path, target: str, expected: list[str]) -> None:
    engine = CTranslate2(nllb_folder, source="en", target=target, device="cpu")
    assert engine.translate(items("a dog", "a horse", "a cat")) == expected


def test_opus_mt_translates_without_language_tokens(opus_folder: Path) -> None:
    engine = CTranslate2(opus_folder, source="en", target="de", device="cpu")
    assert engine.translate(items("a cat", "a dog")) == ["ein Kater", "ein Hund"]


def test_a_tokenizer_json(nllb_folder: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    pieces = json.loads((nllb_folder / "shared_vocabulary.json").read_text(encoding="utf-8"))
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    tokenizer.save(str(nllb_folder / "tokenizer.json"))
    (nllb_folder / "sentencepiece.bpe.model").unlink()
    engine = CTranslate2(nllb_folder, source="en", target="de", device="cpu")
    assert engine.translate(items("a horse")) == ["ein Pferd"]


def test_nllb_input_has_language_and_end_tokens(nllb_folder: Path) -> None:
    engine = CTranslate2(nllb_folder, source="en", target="de", device="cpu")
    seen = []

    class Listening:
        def translate_batch(self, sources: list[list[str]], **options: object) -> list[object]:
            seen.append((sources, options["target_prefix"]))
            return []

    engine._translator = Listening()
    engine.translate(items("a dog"))
    assert seen == [([["eng_Latn", "▁a", "▁dog", "</s>"]], [["deu_Latn"]])]


def test_provenance_names_the_weights_and_the_search(nllb_folder: Path) -> None:
    engine = CTranslate2(nllb_folder, source="en", target="de", device="cpu", beam=2)
    other = nllb_folder / "model.bin"
    assert engine.model.startswith("tiny-nllb@sha256:") and engine.version.endswith("beam 2")
    same = CTranslate2(nllb_folder, source="en", target="de", device="cpu")
    assert same.model == engine.model
    assert other.stat().st_size > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "cs"}, "--target-token: deu_Latn, eng_Latn, fra_Latn"),
        ({"target": "de", "target_token": "deu"}, "--target-token='deu' is not in the model's vocabulary"),
        ({"source": "xx", "target": "de"}, "--source-token: "),
    ],
)
def test_a_language_without_a_token(nllb_folder: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CTranslate2(nllb_folder, **{"source": "en", "device": "cpu"} | options)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("model.bin", "has no model.bin; convert the model: ct2-transformers-converter"),
        ("config.json", "has no config.json"),
        ("shared_vocabulary.json", "vocabulary"),
        ("sentencepiece.bpe.model", "has no tokenizer; copy"),
    ],
)
def test_a_missing_file_is_named(nllb_folder: Path, file: str, message: str) -> None:
    (nllb_folder / file).unlink()
    with pytest.raises(UserError, match=message):
        CTranslate2(nllb_folder, source="en", target="de", device="cpu")


@pytest.mark.parametrize("file", ["model.bin", "sentencepiece.bpe.model", "config.json"])
def test_a_damaged_file_is_one_line(nllb_folder: Path, file: str) -> None:
    (nllb_folder / file).write_bytes(b"\x06\0\0\0damaged")
    with pytest.raises(UserError, match="tiny-nllb"):
        CTranslate2(nllb_folder, source="en", target="de", device="cpu")


@pytest.mark.parametrize("file", ["config.json", "shared_vocabulary.json"])
@pytest.mark.parametrize("content", ["[" * 100_000, "1", '"text"', "null"])
def test_json_of_another_kind_is_one_line(nllb_folder: Path, file: str, content: str) -> None:
    (nllb_folder / file).write_text(content)
    with pytest.raises(UserError, match=rf"{file} is not readable JSON \(it is .*; convert the model again"):
        CTranslate2(nllb_folder, source="en", target="de", device="cpu")


def test_no_folder(tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2")
    with pytest.raises(UserError, match="is not a folder"):
        CTranslate2(tmp_path / "none", source="en", target="de")


def test_a_package_that_is_not_installed_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(ctranslate2.importlib, "import_module", fail)
    with pytest.raises(UserError, match="ctranslate2 is not installed; run: pip install ctranslate2 sentencepiece"):
        CTranslate2(Path("x"), source="en", target="de")


def test_opus_mt_of_several_targets_gets_its_target_token(opus_folder: Path) -> None:
    assert ctranslate2._target_token("de", {">>de<<", ">>fr<<"}) == ">>de<<"
    assert ctranslate2._target_token("de", {">>deu<<", ">>fra<<"}) == ">>deu<<"
    assert ctranslate2._target_token("pt", {">>pt_BR<<", ">>fr<<"}) == ">>pt_BR<<"
    for target, mark in (("pt", "pt_PT"), ("pt-BR", "pt_BR"), ("zh", "cmn_Hans"), ("zh-TW", "cmn_Hant")):
        marks = {">>pt_BR<<", ">>pt_PT<<", ">>cmn_Hans<<", ">>cmn_Hant<<"}
        assert ctranslate2._target_token(target, marks) == f">>{mark}<<"
    with pytest.raises(UserError, match="--target-token: >>pt_AO<<, >>pt_BR<<"):
        ctranslate2._target_token("pt", {">>pt_BR<<", ">>pt_AO<<"})
    vocabulary = json.loads((opus_folder / "source_vocabulary.json").read_text(encoding="utf-8"))
    (opus_folder / "source_vocabulary.json").write_text(json.dumps([*vocabulary[:-2], ">>deu<<", ">>fra<<"]))
    engine = CTranslate2(opus_folder, source="en", target="de", device="cpu")
    assert (engine._before, engine._prefix) == ([">>deu<<"], [])
