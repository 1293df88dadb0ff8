"""Tokenizers of text towers: of SentencePiece, of vocab.json and merges.txt, and what is done to a text before."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest

from cl2cm_jax.errors import UserError
from cl2cm_jax.models.dual_encoders.text_tokenizer import DualTokenizer, Texts, padding, write

GOLDEN = Path(__file__).parents[2] / "golden"
PIECES = ["<pad>", "</s>", "<unk>", "\u2581a", "\u2581", "c", "a", "t", "\u2581cat", "s"]


def spiece(folder: Path, *, kind: int = 1, cut: int = 0) -> Path:
    """Writes a SentencePiece model; `kind` of the model, `cut` bytes short."""

    def field(number: int, value: bytes | int) -> bytes:
        if isinstance(value, int):
            return bytes([number << 3, value])
        return bytes([number << 3 | 2, len(value)]) + value

    def piece(place: int, text: str) -> bytes:
        score = bytes([2 << 3 | 5]) + struct.pack("<f", -place / 4)
        return field(1, field(1, text.encode()) + score + field(3, 2 if text == "<unk>" else 1))

    data = b"".join(piece(place, text) for place, text in enumerate(PIECES)) + field(2, field(3, kind))
    data += field(3, field(4, 1))
    folder.mkdir(exist_ok=True)
    (folder / "spiece.model").write_bytes(data[: len(data) - cut])
    settings = {"tokenizer_class": "SiglipTokenizer", "pad_token": "</s>", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def tokenizer(folder: Path, *, vocabulary: int = 10, max_tokens: int = 6) -> DualTokenizer:
    return DualTokenizer(texts=Texts(folder, vocabulary, (0, 1), "last", 0), max_tokens=max_tokens)


def test_sentencepiece_in_lower_case_without_punctuation(tmp_path: Path) -> None:
    folder = spiece(tmp_path / "siglip")
    read = tokenizer(folder)
    assert read.words("A  Cat!") == ["\u2581a", "\u2581cat"]
    rows = read(["A  Cat, s", "", "q", "cat " * 9])
    assert rows.ids.tolist() == [[3, 8, 4, 9, 1, 0], [1, 0, 0, 0, 0, 0], [4, 2, 1, 0, 0, 0], [8] * 5 + [1]]
    assert read.unknown == 2 and padding(folder, default=7) == 1
    (tmp_path / "written").mkdir()
    write(folder, tmp_path / "written", max_tokens=6, sees_padding=True)
    assert json.loads((tmp_path / "written" / "tokenizer_config.json").read_text())["model_input_names"] == [
        "input_ids"
    ]
    assert tokenizer(tmp_path / "written")(["A  Cat, s"]).ids.tolist() == [[3, 8, 4, 9, 1]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": 2}, "it is no SentencePiece model of unigrams"),
        ({"cut": 1}, "it ends"),
        ({"cut": 5}, "it ends"),
    ],
)
def test_a_damaged_sentencepiece_model_is_refused(options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"spiece\.model cannot be read \({message}.*; get a fresh copy") as caught:
        tokenizer(spiece(tmp_path / "siglip", **options))
    assert "\n" not in str(caught.value)


def test_vocabulary_and_merges_are_those_of_tokenizer_json(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(GOLDEN / "dual_clip", tmp_path / "clip"))
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").unlink()
    texts = Texts(folder, len(model["vocab"]), (1, 1), "argmax", 2)
    with pytest.raises(UserError, match=r"has no tokenizer\.json, and none of .*; save the model's tokenizer there"):
        DualTokenizer(texts=texts, max_tokens=12)
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = "\n".join(" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    parts = DualTokenizer(texts=texts, max_tokens=12)
    whole = DualTokenizer(texts=texts._replace(folder=GOLDEN / "dual_clip"), max_tokens=12)
    captions = ["A cat, and  a DOG!", "", "Straße 12", "cat " * 20]
    assert parts(captions).ids.tolist() == whole(captions).ids.tolist()
    assert parts.unknown is None and parts.words("A cat") == ["a</w>", "cat</w>"]


@pytest.mark.parametrize(
    ("clean", "expected"),
    [("whitespace", "\u2581A\u2581_b_,"), ("lower", "\u2581a\u2581_b_,"), ("canonicalize", "\u2581a\u2581b")],
)
def test_openclip_cleans_a_text_as_its_tokenizer_says(clean: str, expected: str, tmp_path: Path) -> None:
    folder = tmp_path / "open_clip"
    folder.mkdir()
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *"aAbB_,"]
    (folder / "tokenizer.json").write_text(
        json.dumps(
            {
                "model": {"type": "Unigram", "vocab": [[piece, -1.0] for piece in pieces], "unk_id": 2},
                "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always"},
                "post_processor": {
                    "type": "TemplateProcessing",
                    "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
                    "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
                },
            }
        )
    )
    text = {"hf_tokenizer_name": "x", "tokenizer_kwargs": {"clean": clean}}
    content = {"model_cfg": {"embed_dim": 8, "text_cfg": text, "vision_cfg": {}}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    assert "".join(tokenizer(folder, max_tokens=30).words("  A \n _b_, ")) == expected
    (tmp_path / "written").mkdir()
    write(folder, tmp_path / "written", max_tokens=30)
    assert "".join(tokenizer(tmp_path / "written", max_tokens=30).words("  A \n _b_, ")) == expected
    text["tokenizer_kwargs"]["strip_sep_token"] = True
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"tokenizer_kwargs\.strip_sep_token=True is not supported"):
        tokenizer(folder)
