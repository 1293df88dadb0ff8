"""Tokenizers of text towers, with what each does to a text before: lower case, no punctuation, single spaces."""

from __future__ import annotations

import functools
import re
import shutil
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cl2cm_jax.errors import UserError
from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.backbone import TokenizerCode
from cl2cm_jax.models.dual_encoders import open_clip
from cl2cm_jax.models.files.sentencepiece_file import sentencepiece_content
from cl2cm_jax.models.files.slow_tokenizer import tokenizer_json
from cl2cm_jax.models.files.tokenizer_file import library, marks_of, read_tokenizer
from cl2cm_jax.models.tokenizers import FastTokenizer, TokenBatch, padded

JSON, SPIECE = hub_folder.TOKENIZER, "spiece.model"
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")
FILES = (SPIECE, *SETTINGS)  # that are read even if there is a tokenizer.json
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_MARKS = r"[!-/:-@\[-`{-~]"  # the same as a pattern
_ANY = 10_000_000  # ids of a model whose number of ids is not known
_KEPT = ("tokenizer_class", "do_lower_case", "model_input_names", "sp_model_kwargs")


class Texts(NamedTuple):
    """How texts of a folder become ids.

    Attributes:
      folder: of the model.
      vocabulary: number of the model's ids.
      marks: numbers of special tokens before and behind a text.
      pool, eos: the token whose state stands for the text, see `ClipTextShape`; a row ends with it.
    """

    folder: Path
    vocabulary: int
    marks: tuple[int, int]
    pool: Literal["eos", "argmax", "last"]
    eos: int


class DualTokenizer(FastTokenizer):
    """The tokenizer of a text tower.

    Raises:
      UserError: the library or the file is missing, the file is damaged, or see `FastTokenizer`.
    """

    def __init__(self, *, texts: Texts, max_tokens: int):
        self._texts = texts
        file, found, _ = _read(texts.folder, vocabulary=texts.vocabulary)
        self._clean = _cleaner(texts.folder, file)
        super().__init__(found, file, max_tokens=max_tokens, vocabulary=texts.vocabulary, marks=texts.marks)
        ends = super().__call__([""]).ids[0].tolist()
        if texts.pool == "eos" and texts.eos not in ends:
            raise UserError(
                f"{file} puts the marks {ends} around a text, without config.json's eos_token_id={texts.eos}; are they "
                "a pair?",
                id="tokenizer-does-not-fit",
            )
        if self.unknown in ends:  # CLIP names the end of a text as its unknown piece, and knows all bytes
            self.unknown = None

    def __call__(self, texts: Sequence[str]) -> TokenBatch:
        """Tokenises texts, padded to the longest; each row ends with the token whose state stands for the text."""
        return padded([row.ids[: self._length(row.ids)] for row in self._encoded(texts)])

    def words(self, text: str) -> list[str]:
        """The pieces between the special tokens, as text."""
        row = self._encoded([text])[0]
        before, behind = self._texts.marks
        return row.tokens[before : self._length(row.ids) - behind]

    def _length(self, ids: list[int]) -> int:
        """Tokens up to the one whose state stands for the text: a mark of the end that is in it ends it."""
        ends = max(ids) if self._texts.pool == "argmax" else self._texts.eos
        return len(ids) if self._texts.pool == "last" or ends not in ids else ids.index(ends) + 1

    def _encoded(self, texts: Sequence[str]) -> list[Any]:
        return super()._encoded([self._clean(text) for text in texts])


def write(source: Path, path: Path, *, max_tokens: int, sees_padding: bool = False) -> None:
    """Writes the tokenizer of a folder as transformers reads it, with all that is done to a text.

    Args:
      source: the folder that was read.
      path: of the folder to write.
      max_tokens: longest row.
      sees_padding: whether the model is given the ids alone, so that it attends to padding.

    Raises:
      UserError: the folder has none, or a damaged one.
    """
    settings = {
        **{name: it for name, it in _settings(source).items() if name.endswith("_token") or name in _KEPT},
        "model_max_length": max_tokens,
        "padding_side": "right",
    }
    if sees_padding:
        settings["model_input_names"] = ["input_ids"]
    file, found, more = _read(source, vocabulary=_ANY)
    if file.name == SPIECE:
        shutil.copyfile(file, path / SPIECE)
    else:
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        if more:
            found.save(str(path / JSON))
        else:
            shutil.copyfile(file, path / JSON)
    hub_folder.write_json(path / SETTINGS[0], settings)


def code(path: Path, *, max_tokens: int) -> TokenizerCode:
    """How a program without this package tokenises; `path` is that of `write`."""
    file = (path / JSON).as_posix()
    lines = f'tokenizer = tokenizers.Tokenizer.from_file("{file}")', f"tokenizer.enable_truncation({max_tokens})"
    return TokenizerCode("tokenizers", lines, "tokenizer.encode(text).ids")


def marks(folder: Path, *, siglip: bool) -> tuple[int, int]:
    """Numbers of special tokens before and behind a text, as the folder's family or its own tokenizer has them."""
    if open_clip.is_open_clip(folder) and (folder / JSON).is_file():
        return marks_of(folder / JSON)
    return (0, 1) if siglip else (1, 1)


def padding(folder: Path, *, default: int) -> int:
    """The id of the padding of a folder's tokenizer; `default` where the folder has none."""
    named = _settings(folder).get("pad_token")
    text = named.get("content") if isinstance(named, dict) else named
    if not isinstance(text, str) or not hub_folder.tokenizer_files(folder):
        return default
    _, found = _library_tokenizer(folder, vocabulary=_ANY)
    place = found.token_to_id(text)
    if place is None:
        raise UserError(
            f"model folder {folder}: the tokenizer has no id for pad_token={text!r}, which {SETTINGS[0]} or "
            f"{SETTINGS[1]} names; get a fresh copy"
        )
    return place


def _settings(folder: Path) -> dict[str, Any]:
    """The entries of tokenizer_config.json, and those of special_tokens_map.json that it lacks."""
    found: dict[str, Any] = {}
    for name in reversed(SETTINGS):
        if (folder / name).is_file():
            found |= hub_folder.read_json(folder, name)
    return found


def _read(folder: Path, *, vocabulary: int) -> tuple[Path, Any, bool]:
    """The file of the tokenizer, the library's tokenizer, and whether it does more than the file says."""
    file, found = _library_tokenizer(folder, vocabulary=vocabulary)
    given, settings = open_clip.text_input(folder), _settings(folder)
    normalizers = library().normalizers
    parts = [] if given is None else _cleaning(given.clean)
    gemma = str(settings.get("tokenizer_class", "")).startswith(("Siglip2", "Gemma"))
    if given is None and gemma and settings.get("do_lower_case", "Siglip2" in settings["tokenizer_class"]) is True:
        parts = [normalizers.Lowercase()]  # SigLIP 2 was trained on lower case
    if parts:
        found.normalizer = normalizers.Sequence([*parts, *([found.normalizer] if found.normalizer is not None else [])])
    return file, found, bool(parts)


def _cleaning(kind: str) -> list[Any]:
    """What OpenCLIP does to a text, without ftfy and HTML entities, which repair texts that were stored wrongly."""
    library_ = library()
    normalizers, regex = library_.normalizers, library_.Regex
    parts = [normalizers.Replace(regex(r"\s+"), " "), normalizers.Strip()]
    if kind != "whitespace":
        parts.append(normalizers.Lowercase())
    if kind == "canonicalize":
        parts = [normalizers.Replace("_", " "), normalizers.Replace(regex(_MARKS), ""), *parts]
    return parts


def _library_tokenizer(folder: Path, *, vocabulary: int) -> tuple[Path, Any]:
    slow = str(_settings(folder).get("tokenizer_class", "")) == "SiglipTokenizer" or not (folder / JSON).is_file()
    if slow and (folder / SPIECE).is_file():
        return folder / SPIECE, read_tokenizer(folder / SPIECE, vocabulary=vocabulary, made=sentencepiece_content)
    file = tokenizer_json(folder)
    return file, read_tokenizer(file, vocabulary=vocabulary)


def _cleaner(folder: Path, file: Path) -> Callable[[str], str]:
    """What is done to a text before its tokenizer of the library."""
    if file.name != SPIECE:
        return str
    return functools.partial(_siglip, lowercase=_settings(folder).get("do_lower_case", True) is not False)


def _siglip(text: str, *, lowercase: bool) -> str:
    """As SiglipTokenizer of transformers: lower case, no ASCII punctuation, single spaces."""
    text = "\u2581" + text.replace("\u2581", " ")
    text = re.sub(r"\s+", " ", (text.lower() if lowercase else text).translate(_PUNCTUATION))
    return text.strip().rstrip("\u2581")
