"""A tokenizer.json of unknown origin, run by the `tokenizers` library.

Only parts of known kinds reach the library, with parameters that bound what a text can cost: patterns are matched in
linear time, replacements lengthen a text little, and the trie of the pieces fits the memory. What only decoding needs
is left out.
"""

from __future__ import annotations

import base64
import json
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from cl2cm_jax.errors import UserError, not_installed, one_line
from cl2cm_jax.text.json_file import read_json

_LARGEST, _MOST_VALUES = 200_000_000, 3_000_000  # of the file; XLM-R's has 17 MB and 750,000 values
_MOST_PARTS, _MOST_PATTERNS, _MOST_ADDED = 24, 8, 2000
_MOST_OF_ADDED, _MOST_CHANGES = 50_000, 200  # their characters; where the kind changes, the library indexes them anew
LONGEST_PIECE, _SHORT, _LONGEST_STRING = 256, 32, 100  # characters of a piece, a parameter, a text that is replaced
_LONGEST_WORD = 100  # characters of a word that WordPiece looks up, in quadratic time; BERT's
MAX_GROWTH = 20  # characters that replace one; NFKC's longest has 18
_LARGEST_MAP = 4_000_000  # characters of a precompiled map; SentencePiece's have 320,000
# Pieces, as many, or one in so many bytes of the file. LaBSE has 501,000; XLM-V's 900,000 come with their scores.
MOST_PIECES, _BYTES_OF_PIECE = 600_000, 30
# Nodes of the library's trie of Unigram pieces, with 350 bytes each: as many, or one in so many bytes of the file.
# XLM-R has 780,000 in 9 to 17 MB.
_MOST_NODES, _BYTES_OF_NODE = 1_200_000, 16

_LISTS = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "post_processor": "processors"}
_KINDS = {
    "normalizer": (
        "BertNormalizer", "ByteLevel", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "Prepend",
        "Replace", "Strip", "StripAccents",
    ),
    "pre_tokenizer": (
        "BertPreTokenizer", "ByteLevel", "CharDelimiterSplit", "Digits", "Metaspace", "Punctuation", "Split",
        "UnicodeScripts", "Whitespace", "WhitespaceSplit",
    ),
    "post_processor": ("BertProcessing", "ByteLevel", "RobertaProcessing", "TemplateProcessing"),
    "model": ("BPE", "Unigram", "WordLevel", "WordPiece"),
}  # fmt: skip
_OWN = ("type", "pattern", "precompiled_charsmap", "single", "pair", "special_tokens", "sep", "cls")  # checked apart
_MODEL = (
    "type", "unk_token", "unk_id", "continuing_subword_prefix", "end_of_word_suffix", "max_input_chars_per_word",
    "byte_fallback", "fuse_unk", "ignore_merges",
)  # fmt: skip
_ADDED = ("id", "content", "single_word", "lstrip", "rstrip", "normalized", "special")

# A pattern that cannot be slow: alternatives, each an optional character, fixed ones, and the last repeated. Where one
# fails it has looked at as many characters as it has atoms; where it matches, at those that it takes.
_ATOM = r"(?:\\[sSwWdDnrtfv]|\\[pP]\{\^?\w+\}|\\[^\w\s]|\[\^?(?:\\[^xuoc]|[^\\\[\]&])+\]|[^\\\[\](){}*+?|^$])"
_ALTERNATIVE = rf"(?:{_ATOM}\?)?{_ATOM}{{1,16}}(?:\+|\{{[1-9](?:,[1-9]?)?\}})?"
_LINEAR = re.compile(rf"{_ALTERNATIVE}(?:\|{_ALTERNATIVE}){{0,15}}")
_CONTRACTIONS, _MARKS = "'s|'t|'re|'ve|'m|'ll|'d", r"[^\s\p{L}\p{N}]+"
_KNOWN_PATTERNS = (
    # GPT-2
    rf"{_CONTRACTIONS}| ?\p{{L}}+| ?\p{{N}}+| ?{_MARKS}|\s+(?!\S)|\s+",
    # GPT-4, Llama 3, Qwen 2
    *(
        rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?{_MARKS}[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        for digits in (r"\p{N}{1,3}", r"\p{N}")
    ),
)


class _Refused(ValueError):
    """Why a file is not read."""


def read_tokenizer(file: Path, *, vocabulary: int, made: Callable[[Path], Mapping[str, Any]] | None = None) -> Any:
    """Reads a tokenizer.json as a `tokenizers.Tokenizer` without truncation, padding and decoder.

    Args:
      file: the tokenizer.json.
      vocabulary: number of the model's ids, which bounds that of the pieces.
      made: makes the content of a tokenizer.json of a file of another format; raises OSError or ValueError.

    Raises:
      UserError: the file is damaged, has more pieces than the model, or a part or parameter that is not accepted.
    """
    tokenizers = library()
    try:
        content = _content(file) if made is None else made(file)
        text = json.dumps(_checked(content, file=file, vocabulary=vocabulary), ensure_ascii=False)
        del content
        return tokenizers.Tokenizer.from_str(text)
    except UserError:
        raise
    except BaseException as error:
        if is_panic(error) or isinstance(error, Exception):  # the library raises plain exceptions
            raise UserError(f"{file} cannot be read ({one_line(error)}); get a fresh copy") from error
        raise


def marks_of(file: Path) -> tuple[int, int]:
    """Numbers of special tokens that a tokenizer.json puts before and behind a text, by its post_processor.

    Raises:
      UserError: the file is missing or damaged, or has a post_processor of an unknown kind.
    """
    before = behind = 0
    try:
        for part in _flat(_content(file).get("post_processor"), "post_processor"):
            if part["type"] in ("BertProcessing", "RobertaProcessing"):
                before, behind = before + 1, behind + 1
            if part["type"] == "TemplateProcessing":
                place = next(i for i, one in enumerate(part["single"]) if "Sequence" in one)
                before, behind = before + place, behind + len(part["single"]) - 1 - place
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({one_line(error)}); get a fresh copy") from error
    return before, behind


def _content(file: Path) -> dict[str, Any]:
    content = read_json(file, largest=_LARGEST, values=_MOST_VALUES, strict=False)
    if not isinstance(content, dict):
        raise _Refused("it is not a JSON object")
    return content


def library() -> Any:
    """The `tokenizers` library; raises UserError if it is not installed."""
    try:
        import tokenizers
    except ImportError as error:
        raise not_installed("tokenizers") from error
    return tokenizers


def is_panic(error: BaseException) -> bool:
    """Whether a library in Rust has stopped, as at an index out of range; that is no `Exception` in Python."""
    return type(error).__name__ == "PanicException"


def check_pair(file: Path, highest: int, vocabulary: int) -> None:
    """Raises UserError if a tokenizer with ids up to `highest` does not fit a model of `vocabulary` ids.

    An embedding table may be padded or extended; one of twice the tokenizer's size belongs to another tokenizer.
    """
    if highest >= vocabulary or 2 * (highest + 1) < vocabulary:
        raise UserError(
            f"{file} gives ids up to {highest}, but the model has {vocabulary} word pieces; are they a pair?",
            id="tokenizer-does-not-fit",
        )


def _checked(content: Mapping[str, Any], *, file: Path, vocabulary: int) -> dict[str, Any]:
    """The parts that encoding needs."""
    parts = {place: list(_flat(content.get(place), place)) for place in _LISTS}
    if sum(map(len, parts.values())) > _MOST_PARTS:
        raise _Refused(f"it has more than {_MOST_PARTS} parts")
    patterns = [part["pattern"] for place in parts for part in parts[place] if "pattern" in part]
    _check_patterns(patterns)
    _check_growth([*parts["normalizer"], *parts["pre_tokenizer"]])
    pieces = _model(content.get("model"), size=file.stat().st_size, most=vocabulary, file=file)
    return {
        "version": "1.0",
        "added_tokens": _added(content.get("added_tokens") or []),
        **{place: _sequence(parts[place], place) for place in _LISTS},
        "model": pieces,
    }


def _flat(part: Any, place: str, depth: int = 0) -> Iterator[dict[str, Any]]:
    """The parts of a normaliser, pre-tokenizer or post-processor in their order, each checked."""
    if part is None:
        return
    kind = part.get("type") if isinstance(part, dict) else None
    inner = part.get(_LISTS[place]) if kind == "Sequence" else None
    if isinstance(inner, list) and len(inner) <= _MOST_PARTS and depth < 3:
        for one in inner:
            yield from _flat(one, place, depth + 1)
        return
    if kind == "Sequence":
        raise _Refused(f"its {place} has more than {_MOST_PARTS} parts, or sequences deep in each other")
    if kind not in _KINDS[place]:
        raise _Refused(f"its {place} is or holds {reprlib.repr(kind)}, not one of {', '.join(_KINDS[place])}")
    _check_parameters(part, place)
    yield _template(part) if kind == "TemplateProcessing" else part


def _sequence(parts: Sequence[dict[str, Any]], place: str) -> dict[str, Any] | None:
    return {"type": "Sequence", _LISTS[place]: list(parts)} if len(parts) > 1 else next(iter(parts), None)


def _check_parameters(part: Mapping[str, Any], place: str) -> None:
    for name, value in part.items():
        marks = name in ("sep", "cls") and isinstance(value, list) and len(value) == 2
        for one in value if marks else () if name in _OWN else (value,):
            if not (one is None or isinstance(one, bool | int) or (isinstance(one, str) and len(one) <= _SHORT)):
                raise _Refused(
                    f"its {place} has {name}={reprlib.repr(one)}, which is not a short text, a number or a truth value"
                )


def _check_patterns(patterns: Sequence[Any]) -> None:
    if len(patterns) > _MOST_PATTERNS:
        raise _Refused(f"it has {len(patterns)} patterns, and {_MOST_PATTERNS} are matched")
    for pattern in patterns:
        kind, text = next(iter(pattern.items())) if isinstance(pattern, dict) and len(pattern) == 1 else ("", None)
        string = kind == "String" and isinstance(text, str) and 0 < len(text) <= _LONGEST_STRING
        regex = kind == "Regex" and isinstance(text, str) and is_linear(text)
        if not string and not regex:
            raise _Refused(
                f"its pattern {reprlib.repr(text)} may take long to match; alternatives of single characters, the last "
                "of each repeated, such as ' ?[a-z]+|\\s{2,}', and those of GPT-2 and Llama 3 are matched"
            )


def is_linear(pattern: str) -> bool:
    """Whether a regular expression is of a form that the library matches in time linear in the text."""
    return pattern in _KNOWN_PATTERNS or (len(pattern) <= 200 and _LINEAR.fullmatch(pattern) is not None)


def _check_growth(parts: Sequence[Mapping[str, Any]]) -> None:
    """Refuses replacements that could make a text very long."""
    growth = 1
    for part in parts:
        if part["type"] == "Replace":
            replaced = part["pattern"].get("String", " ")  # a regular expression matches one character or more
            growth *= max(1, -(-len(part.get("content") or "") // len(replaced)))
        if part["type"] == "ByteLevel":
            growth *= 4  # each byte of UTF-8 becomes a character
        if part["type"] == "Precompiled":
            growth *= _longest_replacement(part.get("precompiled_charsmap"))
    if growth > MAX_GROWTH:
        raise _Refused(f"it replaces a character by up to {growth:,}, and {MAX_GROWTH} are accepted")


def _longest_replacement(charsmap: Any) -> int:
    """Characters of the longest text of a map in SentencePiece's format: a trie, behind its size, then the texts."""
    if not isinstance(charsmap, str) or len(charsmap) > _LARGEST_MAP:
        raise _Refused(f"its precompiled_charsmap is not a text of at most {_LARGEST_MAP:,} characters")
    content = base64.b64decode(charsmap, validate=True)
    behind = 4 + int.from_bytes(content[:4], "little")
    units, texts = np.frombuffer(content[4:behind], "<u4").astype(np.int64), content[behind:]
    _check_double_array(units, texts)
    return max(map(len, texts.decode("utf-8").split("\0")))


def _check_double_array(units: np.ndarray, texts: bytes) -> None:
    """Refuses a trie that leads outside itself or its texts, where the library would stop; see `precompiled`."""
    inner = np.flatnonzero(units < 1 << 31)
    found = units[inner]
    below = inner ^ ((found >> 10) << ((found & 1 << 9) >> 6))  # where the units for the next byte begin
    if not len(units) or (below | 255).max(initial=0) >= len(units):
        raise _Refused("the trie of its precompiled_charsmap leads outside")
    values = units[below[(found >> 8 & 1) == 1]] & (1 << 31) - 1
    starts = np.frombuffer(texts, np.uint8)
    if values.max(initial=0) >= len(starts) or ((starts[values] & 0xC0) == 0x80).any():
        raise _Refused("its precompiled_charsmap has a text that begins nowhere")


def _template(part: Mapping[str, Any]) -> dict[str, Any]:
    """A template with the text once; of the pairs of texts, which are not encoded, the plainest."""
    single, special = part.get("single"), part.get("special_tokens")
    if not isinstance(single, list) or not 0 < len(single) <= 8 or not isinstance(special, dict) or len(special) > 16:
        raise _Refused("its template is not a list of at most 8 marks and the text")
    if sum("Sequence" in one for one in single if isinstance(one, dict)) != 1:
        raise _Refused("its template has the text not once")
    for mark in special.values():
        lists = [mark.get(name) for name in ("ids", "tokens")] if isinstance(mark, dict) else [None]
        if not all(isinstance(one, list) and len(one) == 1 for one in lists) or len(str(mark)) > 1000:
            raise _Refused("a mark of its template has not one id")
    pair = [{"Sequence": {"id": name, "type_id": 0}} for name in ("A", "B")]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}


def _added(tokens: Any) -> list[dict[str, Any]]:
    if not isinstance(tokens, list) or len(tokens) > _MOST_ADDED:
        raise _Refused(f"its added_tokens are not a list of at most {_MOST_ADDED:,}")
    for token in tokens:
        content = token.get("content") if isinstance(token, dict) else None
        if not isinstance(content, str) or not 0 < len(content) <= LONGEST_PIECE:
            raise _Refused(f"an added token is not a text of 1 to {LONGEST_PIECE} characters: {reprlib.repr(content)}")
    kept = [{name: token[name] for name in _ADDED if name in token} for token in tokens]
    special = [bool(token.get("special")) for token in kept]
    characters = sum(len(token["content"]) for token in kept)
    if characters > _MOST_OF_ADDED or sum(map(bool.__ne__, special, special[1:])) > _MOST_CHANGES:
        raise _Refused(f"its added_tokens have {characters:,} characters, or special and others are mixed")
    return kept


def _model(model: Any, *, size: int, most: int, file: Path) -> dict[str, Any]:
    if not isinstance(model, dict):
        raise _Refused("it has no model")
    kind, vocabulary = model.get("type") or _kind(model), model.get("vocab")
    if kind not in _KINDS["model"] or not isinstance(vocabulary, list if kind == "Unigram" else dict):
        raise _Refused(f"its model {reprlib.repr(kind)} is not one of {', '.join(_KINDS['model'])} with a vocabulary")
    if len(vocabulary) > most:
        check_pair(file, len(vocabulary) - 1, most)
    if len(vocabulary) > (accepted := max(MOST_PIECES, size // _BYTES_OF_PIECE)):
        raise _Refused(f"it has {len(vocabulary):,} pieces, and {accepted:,} are read of {size:,} bytes")
    kept = {name: model[name] for name in _MODEL if name in model} | {"type": kind, "vocab": vocabulary}
    _check_parameters({name: kept[name] for name in _MODEL if name in kept}, "model")
    if kind == "Unigram":
        check_trie([piece[0] if isinstance(piece, list) and piece else None for piece in vocabulary], size=size)
    if kind == "BPE":
        kept["merges"] = _merges(model.get("merges"), most=4 * most)
    if kind == "WordPiece" and not 0 < kept.get("max_input_chars_per_word", _LONGEST_WORD) <= _LONGEST_WORD:
        raise _Refused(f"its max_input_chars_per_word is not from 1 to {_LONGEST_WORD}")
    return kept


def _kind(model: Mapping[str, Any]) -> str:
    """The kind of a model in a file of an early version, which does not name it."""
    if isinstance(model.get("vocab"), list):
        return "Unigram"
    return "BPE" if "merges" in model else "WordPiece" if "max_input_chars_per_word" in model else "WordLevel"


def _merges(merges: Any, *, most: int) -> list[Any]:
    if not isinstance(merges, list) or len(merges) > most:
        raise _Refused(f"its merges are not a list of at most {most:,}")
    return merges


def check_trie(pieces: Sequence[Any], *, size: int) -> None:
    """Raises ValueError where the trie of Unigram pieces would take far more memory than their file of `size` bytes."""
    most = max(_MOST_NODES, size // _BYTES_OF_NODE)
    if not all(isinstance(piece, str) and len(piece) <= LONGEST_PIECE for piece in pieces):
        raise _Refused(f"a piece is not a text of at most {LONGEST_PIECE} characters")
    nodes, before = 0, b""
    for piece in sorted(str(piece).encode("utf-8") for piece in pieces):
        same = sum(1 for _ in takewhile(bool, map(int.__eq__, piece, before)))
        nodes, before = nodes + len(piece) - same, piece
        if nodes > most:
            raise _Refused(f"its pieces are long and alike in little: a search tree of more than {most:,} nodes")
