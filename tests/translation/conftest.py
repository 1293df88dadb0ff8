"""A CTranslate2 model that translates "a dog" into German and French, made by hand; small enough to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SPECIAL = ["<unk>", "<s>", "</s>"]
ENGLISH = ["▁a", "▁dog", "▁cat", "▁horse"]
WORDS = {"de": ["▁ein", "▁Hund", "▁Kater", "▁Pferd"], "fr": ["▁un", "▁chien", "▁chat", "▁cheval"]}
LANGUAGES = {"en": "eng_Latn", "de": "deu_Latn", "fr": "fra_Latn"}
SENTENCES = [" ".join(words).replace("▁", "") for words in (ENGLISH, *WORDS.values())]


@pytest.fixture
def nllb_folder(tmp_path: Path) -> Path:
    """Like NLLB: one vocabulary with language tokens, one SentencePiece model, eos added by the caller."""
    folder = tmp_path / "tiny-nllb"
    pieces = [*SPECIAL, *ENGLISH, *WORDS["de"], *WORDS["fr"], *LANGUAGES.values()]
    _write_model(folder, pieces, pieces, starts={LANGUAGES["de"]: "de", LANGUAGES["fr"]: "fr"}, adds_eos=False)
    _train_pieces(folder / "sentencepiece.bpe.model", SENTENCES)
    return folder


@pytest.fixture
def opus_folder(tmp_path: Path) -> Path:
    """Like OPUS-MT en-de: two vocabularies and SentencePiece models, eos added by the library."""
    folder = tmp_path / "tiny-opus"
    _write_model(folder, [*SPECIAL, *ENGLISH], [*SPECIAL, *WORDS["de"]], starts={"</s>": "de"}, adds_eos=True)
    _train_pieces(folder / "source.spm", SENTENCES[:1])
    _train_pieces(folder / "target.spm", SENTENCES[1:2])
    return folder


def _write_model(
    folder: Path, sources: list[str], targets: list[str], *, starts: dict[str, str], adds_eos: bool
) -> None:
    """Writes a Transformer whose next token is a table of the last one, plus a lexicon of what is in the source.

    A language's article follows its start, its noun the article, and the end the noun; the lexicon chooses the noun.
    """
    specs: Any = pytest.importorskip("ctranslate2.specs", reason="pip install ctranslate2")
    spec = specs.TransformerSpec.from_config(1, 1, pre_norm=True)
    width = len(sources) + len(targets)
    after = np.zeros((len(targets), width), np.float32)  # scores of the next token
    rows = {token: row for row, token in enumerate(targets)}
    columns = {token: column for column, token in enumerate(sources)}
    for token, language in starts.items():
        after[rows[WORDS[language][0]], len(sources) + rows[token]] = 50
        for english, word in zip(ENGLISH[1:], WORDS[language][1:], strict=True):
            after[rows[word], len(sources) + rows[WORDS[language][0]]] = 50
            after[rows["</s>"], len(sources) + rows[word]] = 50
            after[rows[word], columns[english]] = 20
    spec.encoder.embeddings[0].weight = np.eye(len(sources), width, dtype=np.float32)
    # the last token counts for more than the source, of which attention sees the mean
    spec.decoder.embeddings.weight = 10 * np.eye(len(targets), width, k=len(sources), dtype=np.float32)
    spec.decoder.projection.weight = after
    for layers in (spec.encoder, spec.decoder):
        layers.scale_embeddings = False
        layers.position_encodings.encodings = np.zeros((512, width), np.float32)
        _norm(layers.layer_norm, width)
        _norm(layers.layer[0].ffn.layer_norm, width)
        _linear(layers.layer[0].ffn.linear_0, np.zeros((width, width)))
        _linear(layers.layer[0].ffn.linear_1, np.zeros((width, width)))
    for attention in (spec.encoder.layer[0].self_attention, spec.decoder.layer[0].self_attention):
        _norm(attention.layer_norm, width)
        _linear(attention.linear[0], np.zeros((3 * width, width)))
        _linear(attention.linear[1], np.zeros((width, width)))
    _look_at_the_source(spec.decoder.layer[0].attention, width)
    spec.register_source_vocabulary(sources)
    spec.register_target_vocabulary(targets)
    spec.config.add_source_eos = adds_eos
    spec.config.decoder_start_token = "</s>"
    spec.validate()
    spec.optimize()
    folder.mkdir()
    spec.save(str(folder))
    assert json.loads((folder / "config.json").read_text())["add_source_eos"] is adds_eos


def _look_at_the_source(attention: Any, width: int) -> None:
    """The mean of the source's one-hot vectors: all keys are equal."""
    _norm(attention.layer_norm, width)
    _linear(attention.linear[0], np.zeros((width, width)))
    _linear(attention.linear[1], np.concatenate([np.zeros((width, width)), np.eye(width)]))
    _linear(attention.linear[2], np.eye(width))


def _norm(layer: Any, width: int) -> None:
    layer.gamma, layer.beta = np.ones(width, np.float32), np.zeros(width, np.float32)


def _linear(layer: Any, weight: np.ndarray) -> None:
    layer.weight = weight.astype(np.float32)


def _train_pieces(path: Path, sentences: list[str]) -> None:
    sentencepiece: Any = pytest.importorskip("sentencepiece", reason="pip install sentencepiece")
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences * 10),
            model_writer=file,
            model_type="word",
            vocab_size=len(SPECIAL) + sum(len(sentence.split()) for sentence in sentences),
            minloglevel=2,
        )
