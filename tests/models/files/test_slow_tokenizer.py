"""Model folders without a tokenizer.json: SentencePiece models and vocabularies, compared with their own libraries."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
import sentencepiece
from support.tiny_models import write_tiny_bert
from support.tiny_set import COLOURS, THINGS

from cl2cm_jax.errors import UserError
from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.configured import fingerprint, text_backbone
from cl2cm_jax.models.files.slow_tokenizer import tokenizer_json
from cl2cm_jax.models.files.tokenizer_file import read_tokenizer
from cl2cm_jax.models.tokenizers import HubTokenizer

WORDS = [word for table in (COLOURS, THINGS) for name, others in table.items() for word in (name, *others)]
TEXTS = ["red car", "ein rotes Auto", "", "maison  blanche", "gr\u00fcne Blume 42", "\u72ac"]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A SentencePiece model of the words of the tiny set."""
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(  # pyright: ignore[reportAttributeAccessIssue]
        sentence_iterator=iter(WORDS * 3), model_writer=made, vocab_size=90, minloglevel=2, hard_vocab_limit=False
    )
    return made.getvalue()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cl2cm_jax" / "tokenizers"


def folder_of(folder: Path, model_type: str, **files: bytes | str | dict) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    for name, content in files.items():
        data = json.dumps(content) if isinstance(content, dict) else content
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


@pytest.mark.parametrize(
    ("model_type", "name"), [("xlm-roberta", "sentencepiece.bpe.model"), ("camembert", "sentencepiece.bpe.model")]
)
def test_sentence_pieces_are_those_of_sentencepiece(
    model_type: str, name: str, pieces: bytes, tmp_path: Path, cache: Path
) -> None:
    folder = folder_of(tmp_path / "it", model_type, **{name: pieces})
    theirs = sentencepiece.SentencePieceProcessor(model_proto=pieces)  # pyright: ignore[reportCallIssue]
    ours = HubTokenizer(path=folder, max_tokens=64, vocabulary=100)
    for text in TEXTS:
        assert ours.words(text) == theirs.encode(text, out_type=str)  # pyright: ignore[reportAttributeAccessIssue]
    [made] = cache.rglob("tokenizer.json")
    before = made.stat().st_mtime_ns
    assert tokenizer_json(folder) == made and made.stat().st_mtime_ns == before  # kept
    (folder / name).write_bytes(pieces + b"")
    (folder / "special_tokens_map.json").write_text("{}")
    assert tokenizer_json(folder) != made  # of other files


def test_t5_ends_a_text_and_begins_it_with_nothing(pieces: bytes, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "it", "t5", **{"spiece.model": pieces})
    found = read_tokenizer(tokenizer_json(folder), vocabulary=300).encode("red car")
    assert found.tokens[-1] == "</s>" and found.tokens[0].startswith("\u2581")


def test_word_pieces_of_a_vocabulary(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "car", "app", "##el", "apfel", "\u00e4"]
    for lower, expected in ((True, ["red", "app", "##el"]), (False, ["[UNK]", "app", "##el"])):
        folder = folder_of(
            tmp_path / str(lower),
            "bert",
            **{"vocab.txt": "\n".join(words), "tokenizer_config.json": {"do_lower_case": lower}},
        )
        ours = HubTokenizer(path=folder, max_tokens=9, vocabulary=11)
        assert ours.words("Red appel") == expected
        assert ours(["red"]).ids.tolist() == [[2, 5, 3]]


def test_byte_pairs_of_a_vocabulary_and_merges(tmp_path: Path) -> None:
    vocabulary = {
        word: i for i, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", "r", "e", "d", "re", "red"])
    }
    files = {"vocab.json": vocabulary, "merges.txt": "#version: 0.2\nr e\nre d\n"}
    folder = folder_of(tmp_path / "it", "roberta", **files)
    assert HubTokenizer(path=folder, max_tokens=9, vocabulary=10)(["red"]).ids.tolist() == [[0, 9, 2]]


def test_a_backbone_reads_and_writes_such_a_folder(tmp_path: Path) -> None:
    folder = write_tiny_bert(tmp_path / "bert")
    words = [*json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]]
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="has no tokenizer.json, and none of sentencepiece.bpe.model, "):
        text_backbone("bert", folder).tokenizer(max_tokens=8)
    without = fingerprint("text", "bert", folder)
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    assert fingerprint("text", "bert", folder) != without
    assert {"vocab.txt", "config.json"} <= hub_folder.hashes(folder).keys()
    backbone = text_backbone("bert", folder)
    backbone.write(tmp_path / "copy", max_tokens=8)
    shutil.rmtree(tmp_path / "cache")
    again = text_backbone("bert", tmp_path / "copy").tokenizer(max_tokens=8)(["red car"])
    assert again.ids.tolist() == backbone.tokenizer(max_tokens=8)(["red car"]).ids.tolist()
    assert (tmp_path / "copy" / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("spiece.model", b"\xff" * 50, "is not a SentencePiece model"),
        ("spiece.model", b"", "gives ids up to 4, but the model has 50 word pieces"),
        ("vocab.txt", b"\xff\xfe", "cannot be read"),
        ("vocab.txt", "a" * 999, "1 pieces, the longest of 999 characters"),
        ("vocab.txt", "\n" * 700_000, "700,000 pieces"),
        ("vocab.json", b"[1]", "must be a JSON object"),
        ("tokenizer.model", b" " * 30_000_001, "has 30,000,001 bytes"),
    ],
)
def test_a_file_that_is_no_vocabulary_is_refused(name: str, content: bytes | str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as error:
        HubTokenizer(path=folder_of(tmp_path / "it", "bert", **{name: content}), max_tokens=9, vocabulary=50)
    assert "\n" not in str(error.value)


def test_a_folder_cannot_name_code_or_other_files(pieces: bytes, tmp_path: Path) -> None:
    told = {"auto_map": {"AutoTokenizer": ["mine.Tokenizer", None]}, "vocab_file": "/etc/passwd"}
    ids = []
    for name, about in (("plain", {}), ("hostile", told)):
        files = {
            "sentencepiece.bpe.model": pieces,
            "tokenizer_config.json": about,
            "mine.py": "raise SystemExit('run')",
        }
        folder = folder_of(tmp_path / name, "xlm-roberta", **files)
        ids.append(HubTokenizer(path=folder, max_tokens=9, vocabulary=100)(TEXTS).ids.tolist())
    assert ids[0] == ids[1]
