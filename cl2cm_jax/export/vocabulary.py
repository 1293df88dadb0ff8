"""Cut the vocabulary of a text tower to some languages: most of a multilingual model is its table of word pieces.

Kept are the pieces spelt with the letters of texts in these languages, those that BPE merges them from, every single
character or byte, and all special tokens. A text of these letters has the same pieces as before, whether its words were
counted or not, since a tokenizer prefers none that is gone: the best sum of scores, the longest piece and the first
merge are still there. Any other text can still be read, in shorter pieces.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cl2cm_jax.errors import UserError
from cl2cm_jax.features import cache
from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.backbone import TextBackbone
from cl2cm_jax.models.configured import text_prompt
from cl2cm_jax.models.pretrained import read_safetensors, write_safetensors
from cl2cm_jax.models.text_folder import FolderText
from cl2cm_jax.models.tokenizers import prepared
from cl2cm_jax.text.languages import canonical, is_code
from cl2cm_jax.training.identity import check_recorded_data

FLAG = "--languages"
_TOKENIZER = "tokenizer.json"
_TABLES = ("word_embeddings.weight", "tok_embeddings.weight", "embed_tokens.weight", "token_embedding.weight")
_AT_ONCE = 2000  # texts
_LONGEST = 4096  # ids of a text that are counted
_PROBES = 2  # texts of each language on which the bundle is compared with the run
_WORD = "\u2581"  # begins a word, in SentencePiece


@dataclass(frozen=True, kw_only=True)
class Served:
    """The languages that a bundle is for, and what their texts need.

    Attributes:
      languages: their codes.
      pieces: ids of the word pieces in their texts.
      letters: the letters of their texts, in upper and lower case.
      texts: number of texts that were counted.
      probes: some of them.
    """

    languages: tuple[str, ...]
    pieces: frozenset[int]
    letters: frozenset[str]
    texts: int
    probes: tuple[str, ...]


def count_pieces(
    config: ConfigDict, backbone: TextBackbone, *, languages: Sequence[str], files: Sequence[Path], data: str
) -> Served:
    """Collects word pieces and letters of the run's captions in some languages, without the test split, and of files.

    Args:
      config: of the run.
      backbone: its text backbone.
      languages: codes in any spelling.
      files: further texts, one in a line, in any of the languages.
      data: fingerprint of the run's data, "" if it has none.

    Raises:
      UserError: the backbone has no tokenizer.json, a language has no text, or a file cannot be read.
    """
    if not isinstance(backbone, FolderText):
        raise UserError(
            f"{FLAG}: config.text.backbone={config.text.backbone!r} has a vocabulary that cannot be cut; omit the "
            "flag, or use e5_small or a family of model folders that JAX computes"
        )
    if unknown := [language for language in languages if not is_code(language)]:
        raise UserError(f"{FLAG}={','.join(languages)}: {unknown[0]!r} is not a language code; use codes such as en,de")
    languages = tuple(dict.fromkeys(map(canonical, languages)))
    captions = _captions(config, languages, data, required=not files)
    if not files and (missing := [language for language, texts in captions.items() if not texts]):
        raise UserError(
            f"{FLAG}: the run's data have no captions in {', '.join(missing)} for training; add a text in each with "
            "--corpus=FILE, one sentence in a line"
        )
    count = _Counter(config, backbone)
    for texts in (*captions.values(), *map(_lines, files)):
        count(texts)
    probes = [text for texts in captions.values() for text in texts[:_PROBES]]
    probes = probes or [text for file in files for text in islice(_lines(file), _PROBES)]
    return Served(
        languages=languages,
        pieces=frozenset(count.pieces),
        letters=frozenset(_with_cases(count.letters)),
        texts=count.texts,
        probes=tuple(probes),
    )


class _Counter:
    """Collects the word pieces and the letters of texts."""

    def __init__(self, config: ConfigDict, backbone: TextBackbone):
        self._prompt, self._lowercase = text_prompt(config), config.text.lowercase
        self._tokenize = backbone.tokenizer(max_tokens=_LONGEST)
        self.texts, self.pieces, self.letters = 0, set[int](), set[str]()

    def __call__(self, texts: Iterable[str]) -> None:
        rest = iter(texts)
        while some := list(islice(rest, _AT_ONCE)):
            self.texts += len(some)
            tokens = self._tokenize([prepared(one, prompt=self._prompt, lowercase=self._lowercase) for one in some])
            self.pieces |= set(np.unique(tokens.ids[tokens.mask]).tolist())
            for text in some:
                self.letters |= set(filter(_is_letter, text))


def _is_letter(character: str) -> bool:
    return unicodedata.category(character)[0] in "LM"  # a letter, or a mark on one


def _with_cases(letters: Iterable[str]) -> set[str]:
    """Letters with those of the other case, composed and in parts, as tokenizers may change them."""
    cases = {one for letter in letters for one in (letter, letter.lower(), letter.upper())}
    forms = (unicodedata.normalize(form, one) for form in ("NFC", "NFD", "NFKC", "NFKD") for one in cases)
    return set(filter(_is_letter, "".join(forms)))


def _captions(config: ConfigDict, languages: Sequence[str], data: str, *, required: bool) -> dict[str, list[str]]:
    """The captions of each language in training and validation, none where the data are not available."""
    try:
        corpora = cache.corpora(config)
        check_recorded_data(data, corpora, name="the run")
    except (UserError, ImportError) as error:
        if not required:
            return {}
        raise UserError(
            f"{FLAG} counts the word pieces of the run's captions, which are not available ({error}); give a text with "
            "--corpus=FILE, one sentence in a line"
        ) from error
    return {
        language: [
            split.caption_text[row]
            for split in (corpora.train, corpora.validation)
            if language in split.languages
            for row in split.captions_of(language)
        ]
        for language in languages
    }


def _lines(file: Path) -> Iterator[str]:
    """The lines of a text that are not empty."""
    try:
        with file.open(encoding="utf-8") as lines:
            yield from filter(None, map(str.strip, lines))
    except (OSError, ValueError) as error:
        raise UserError(
            f"--corpus={file} cannot be read ({error}); give a text in UTF-8, one sentence in a line"
        ) from error


def cut_vocabulary(folder: Path, served: Served) -> None:
    """Cuts the vocabulary of a model folder in place.

    Args:
      folder: with config.json, model.safetensors and tokenizer.json, as `TextBackbone.write` writes it.
      served: what to keep.

    Raises:
      UserError: the tokenizer is in another file, or the model has no table of word pieces of a known name.
    """
    file = folder / _TOKENIZER
    if not file.is_file():
        raise UserError(f"{FLAG}: the model has no {_TOKENIZER}, so its vocabulary cannot be cut; omit the flag")
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))  # read and checked when pieces were counted
    config = hub_folder.read_json(folder)
    tensors = read_safetensors(folder / hub_folder.WEIGHTS)
    tables = [name for name in tensors if name.endswith(_TABLES)]
    if len(tables) != 1:
        raise UserError(f"{FLAG}: the model has {len(tables)} tables of word pieces instead of 1; omit the flag")
    table = tensors[tables[0]]
    kept = np.array(sorted(one for one in _kept(content, config, served) if one < len(table)))
    ids = {int(old): new for new, old in enumerate(kept)}
    _cut_tokenizer(content, ids)
    write_safetensors(folder / hub_folder.WEIGHTS, tensors | {tables[0]: table[kept]})
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    hub_folder.write_json(folder / hub_folder.CONFIG, _cut_config(config, ids, before=len(table)))


def _kept(content: Mapping[str, Any], config: Mapping[str, Any], served: Served) -> set[int]:
    """The ids to keep: those of the letters, with all that they are merged from, characters and special tokens."""
    model = content["model"]
    pieces, spelling = _ids(model), _spelling(content)
    spelt = {i: text for piece, i in pieces.items() if (text := spelling(piece)) is not None}
    used = set(served.pieces) | {i for i, text in spelt.items() if served.letters.issuperset(filter(_is_letter, text))}
    special = {token["id"] for token in content.get("added_tokens") or ()} | set(_token_ids(config))
    if isinstance(model.get("unk_id"), int):
        special.add(model["unk_id"])
    special |= {pieces[name] for name in (model.get("unk_token"),) if name in pieces}
    if model.get("merges"):
        sources = _sources(model)
        used |= {i for piece, i in pieces.items() if piece not in sources}  # characters and bytes
        return used | special | _merged_from(used, pieces, sources)
    single = {i for i, text in spelt.items() if len(text) <= 1}
    return used | special | single | {i for piece, i in pieces.items() if _is_byte(piece)}


def _spelling(content: Mapping[str, Any]) -> Callable[[str], str | None]:
    """A piece -> the text that it stands for; None for bytes that are no whole characters."""
    model = content["model"]
    first, last = model.get("continuing_subword_prefix") or _WORD, model.get("end_of_word_suffix") or ""
    if "ByteLevel" not in json.dumps([content.get("pre_tokenizer"), content.get("normalizer")]):
        return lambda piece: piece.removeprefix(first).removesuffix(last)
    byte_of = {character: value for value, character in _byte_characters().items()}

    def spelt(piece: str) -> str | None:
        try:
            return bytes(byte_of[one] for one in piece.removesuffix(last)).decode("utf-8")
        except (KeyError, UnicodeDecodeError):
            return None

    return spelt


def _byte_characters() -> dict[int, str]:
    """The character that stands for a byte in byte-level BPE (GPT-2): itself if it is printable, others from 256 on."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (value for value in range(256) if value not in own)
    return {value: chr(value) for value in own} | {value: chr(256 + place) for place, value in enumerate(others)}


def _ids(model: Mapping[str, Any]) -> dict[str, int]:
    """The pieces with their ids; of Unigram the place in the list is the id."""
    vocabulary = model["vocab"]
    return {piece: i for i, (piece, _) in enumerate(vocabulary)} if isinstance(vocabulary, list) else vocabulary


def _is_byte(piece: str) -> bool:
    return len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left, right


def _result(model: Mapping[str, Any], left: str, right: str) -> str:
    return left + right.removeprefix(model.get("continuing_subword_prefix") or "")


def _sources(model: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Each piece that is merged, with the pairs that it is merged from."""
    found = dict[str, list[tuple[str, str]]]()
    for left, right in map(_pair, model["merges"]):
        found.setdefault(_result(model, left, right), []).append((left, right))
    return found


def _merged_from(
    used: set[int], pieces: Mapping[str, int], sources: Mapping[str, Sequence[tuple[str, str]]]
) -> set[int]:
    """The ids of all pieces on the way to those used."""
    found, todo = set[str](), [piece for piece, i in pieces.items() if i in used]
    while todo:
        for part in (part for pair in sources.get(todo.pop(), ()) for part in pair):
            if part not in found:
                found.add(part)
                todo.append(part)
    return {pieces[piece] for piece in found if piece in pieces}


def _cut_tokenizer(content: dict[str, Any], ids: Mapping[int, int]) -> None:
    """Takes the pieces of other ids out of the content of a tokenizer.json, and numbers the others anew."""
    model = content["model"]
    vocabulary, known = model["vocab"], _ids(model)
    if isinstance(vocabulary, list):
        model["vocab"] = [piece for i, piece in enumerate(vocabulary) if i in ids]
    else:
        model["vocab"] = {piece: ids[i] for piece, i in vocabulary.items() if i in ids}
    if isinstance(model.get("unk_id"), int):
        model["unk_id"] = ids[model["unk_id"]]
    if model.get("merges"):
        model["merges"] = [
            merge
            for merge in model["merges"]
            if all(known.get(piece) in ids for piece in (*_pair(merge), _result(model, *_pair(merge))))
        ]
    for token in content.get("added_tokens") or ():
        token["id"] = ids[token["id"]]
    if content.get("padding"):
        content["padding"]["pad_id"] = ids.get(content["padding"]["pad_id"], 0)
    content["post_processor"] = _renumbered(content.get("post_processor"), ids)


def _renumbered(part: Any, ids: Mapping[int, int]) -> Any:
    """A post-processor with the new ids of its marks."""
    if isinstance(part, list):
        return [_renumbered(one, ids) for one in part]
    if not isinstance(part, dict):
        return part
    changed = {name: _renumbered(value, ids) for name, value in part.items()}
    for name in ("sep", "cls"):  # [token, id]
        if isinstance(part.get(name), list):
            changed[name] = [part[name][0], ids[part[name][1]]]
    if isinstance(part.get("ids"), list):
        changed["ids"] = [ids[i] for i in part["ids"]]
    return changed


def _token_ids(config: Mapping[str, Any]) -> Iterator[int]:
    """The ids that a config.json names, in it and in its parts."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _token_ids(value)
        elif name.endswith("_token_id"):
            yield from (one for one in (value if isinstance(value, list) else [value]) if isinstance(one, int))


def _cut_config(config: Mapping[str, Any], ids: Mapping[int, int], *, before: int) -> dict[str, Any]:
    """A config.json with the new ids and the new number of pieces."""
    changed = dict(config)
    for name, value in config.items():
        if isinstance(value, Mapping):
            changed[name] = _cut_config(value, ids, before=before)
        elif name == "vocab_size" and value == before:
            changed[name] = len(ids)
        elif name.endswith("_token_id"):
            changed[name] = [ids.get(one, one) for one in value] if isinstance(value, list) else ids.get(value, value)
    return changed
