"""Neural models converted for CTranslate2: NLLB and OPUS-MT, from a local folder.

The folder has the converter's model.bin, config.json and vocabulary, and one of these tokenizers:

  source.spm, target.spm                  OPUS-MT (SentencePiece)
  sentencepiece.bpe.model (or *.model)    NLLB (SentencePiece)
  tokenizer.json                          any, by the library `tokenizers`

NLLB expects language tokens first, "eng_Latn a dog </s>" -> "deu_Latn ein Hund"; an OPUS-MT model with several target
languages expects ">>deu<<" before the source. Source: the documentation of CTranslate2.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cl2cm_jax.errors import UserError, not_installed, one_line
from cl2cm_jax.models.files.tokenizer_file import is_panic
from cl2cm_jax.runtime.command_line import positive
from cl2cm_jax.text.json_file import read_json
from cl2cm_jax.text.languages import canonical
from cl2cm_jax.translation.engine import Item
from cl2cm_jax.translation.languages import nllb_token, nllb_tokens, three_letters

INSTALL = "pip install ctranslate2 sentencepiece"
_TOKENS_PER_BATCH = 4096  # with padding, within one call of the model
_LARGEST, _MOST_VALUES = 200_000_000, 3_000_000  # of a vocabulary's file
_MAX_PIECES = 500  # of a caption, truncated beyond; models have 512 positions or more
OPTIONS = {
    "--model": {"type": Path, "help": "folder of the converted model", "required": True},
    "--source-token": {"help": "the model's token of the source, such as eng_Latn (default: from its code)"},
    "--target-token": {"help": "the same of the target, such as deu_Latn or '>>deu<<'"},
    "--beam": {"type": positive, "help": "width of the beam search (default: 4)"},
    "--device": {"choices": ("auto", "cpu", "cuda"), "help": "(default: auto)"},
}


def create(options: argparse.Namespace, items: Sequence[Item]) -> CTranslate2:
    """The engine of a command line."""
    return CTranslate2(
        options.model,
        source=options.source,
        target=options.target,
        source_token=options.source_token or "",
        target_token=options.target_token or "",
        beam=options.beam or 4,
        device=options.device or "auto",
    )


class CTranslate2:
    """A converted model.

    Args:
      folder: of the model.
      source: language of the captions.
      target: language of the translations.
      source_token: the model's token for `source`; "" derives it from the code.
      target_token: the same for `target`.
      beam: width of the beam search.
      device: "cpu", "cuda" or "auto".

    Raises:
      UserError: a package is not installed, the folder is not such a model, or lacks a language.
    """

    name = "ctranslate2"
    by_sentence = True

    def __init__(
        self,
        folder: Path,
        *,
        source: str,
        target: str,
        source_token: str = "",
        target_token: str = "",
        beam: int = 4,
        device: str = "auto",
    ):
        ctranslate2 = _imported("ctranslate2")
        _check_folder(folder)
        self._tokenizer = _tokenizer(folder)
        tokens = {"source": source_token, "target": target_token}
        self._before, self._prefix = _language_tokens(folder, source, target, tokens)
        config = _json(folder / "config.json", dict)
        self._after = [] if config.get("add_source_eos") else [config.get("eos_token", "</s>")]
        self._beam = beam
        try:
            self._translator = ctranslate2.Translator(str(folder), device=device)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"--model={str(folder)!r} cannot be loaded ({error}); convert it again") from error
        with (folder / "model.bin").open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self.model = f"{folder.resolve().name}@sha256:{digest[:16]}"
        self.version = f"CTranslate2 {ctranslate2.__version__}, beam {beam}"

    def translate(self, items: Sequence[Item]) -> list[str]:
        sources = [[*self._before, *self._tokenizer.pieces(item.text)[:_MAX_PIECES], *self._after] for item in items]
        try:
            results = self._translator.translate_batch(
                sources,
                target_prefix=[self._prefix] * len(sources) if self._prefix else None,
                beam_size=self._beam,
                max_batch_size=_TOKENS_PER_BATCH,
                batch_type="tokens",
                disable_unk=True,
            )
        except (RuntimeError, ValueError) as error:  # out of memory, for one
            raise UserError(f"ctranslate2 failed ({error}); try a smaller --beam or --device=cpu") from error
        return [self._tokenizer.text(result.hypotheses[0][len(self._prefix) :]) for result in results]


def _imported(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        run = INSTALL if package in INSTALL else ""
        raise not_installed(package, run=run, needed_for="--engine=ctranslate2") from error


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(
            f"--model={str(folder)!r} is not a folder; give one that a converter of CTranslate2 has written"
        )
    for name in ("model.bin", "config.json"):
        if not (folder / name).is_file():
            raise UserError(
                f"--model={str(folder)!r} has no {name}; convert the model: ct2-transformers-converter "
                "--model NAME --output_dir FOLDER --copy_files (source.spm target.spm, or sentencepiece.bpe.model)"
            )


def _language_tokens(folder: Path, source: str, target: str, given: dict[str, str]) -> tuple[list[str], list[str]]:
    """Tokens before the source sentence, and those at the start of the translation."""
    sources, targets = _vocabulary(folder, "source"), _vocabulary(folder, "target")
    for side, tokens in (("source", sources), ("target", sources | targets)):
        if given[side] and given[side] not in tokens:
            raise UserError(f"--{side}-token={given[side]!r} is not in the model's vocabulary; see its model card")
    if nllb := nllb_tokens(targets):
        first = given["source"] or nllb_token(source, nllb, option="--source-token")
        return [first], [given["target"] or nllb_token(target, nllb, option="--target-token")]
    marks = {token for token in sources if token.startswith(">>") and token.endswith("<<")}
    before = [given["source"]] if given["source"] else []
    if given["target"] and given["target"] not in marks:
        return before, [given["target"]]
    return [given["target"] or _target_token(target, marks), *before] if marks else before, []


def _target_token(target: str, marks: set[str]) -> str:
    """The token of OPUS-MT for a target language, such as ">>deu<<"; "zh-TW" may be ">>cmn_Hant<<"."""
    if f">>{target}<<" not in marks and len(same := [mark for mark in marks if canonical(mark[2:-2]) == target]) == 1:
        return same[0]
    for code in (target, three_letters(target)):
        found = sorted(mark for mark in marks if mark[2:-2] == code or mark[2:-2].split("_")[0] == code)
        if f">>{code}<<" in found or len(found) == 1:
            return f">>{code}<<" if f">>{code}<<" in found else found[0]
    names = ", ".join(sorted(marks)[:8])
    raise UserError(f"--target={target!r} has no unique token in the model; give one by --target-token: {names}")


def _vocabulary(folder: Path, side: str) -> set[str]:
    for name in (f"{side}_vocabulary", "shared_vocabulary"):
        if (file := folder / f"{name}.json").is_file():
            return set(map(str, _json(file, list)))
        if (file := folder / f"{name}.txt").is_file():
            return set(file.read_text(encoding="utf-8").split("\n"))
    raise UserError(
        f"--model={str(folder)!r} has no {side}_vocabulary.json or shared_vocabulary.json; convert it again"
    )


def _json(file: Path, kind: type) -> Any:
    try:
        content = read_json(file, largest=_LARGEST, values=_MOST_VALUES, strict=False)
        if not isinstance(content, kind):
            raise ValueError(f"it is a {type(content).__name__}, not a {kind.__name__}")
        return content
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is not readable JSON ({error}); convert the model again") from error


class _Tokenizer(NamedTuple):
    """Text to pieces of the source, and pieces of the target to text."""

    pieces: Callable[[str], list[str]]
    text: Callable[[list[str]], str]


def _tokenizer(folder: Path) -> _Tokenizer:
    if (folder / "source.spm").is_file() and (folder / "target.spm").is_file():
        return _sentencepiece(folder / "source.spm", folder / "target.spm")
    if (model := folder / "sentencepiece.bpe.model").is_file():
        return _sentencepiece(model, model)
    if (folder / "tokenizer.json").is_file():
        return _tokenizer_json(folder / "tokenizer.json")
    if len(models := sorted(folder.glob("*.model"))) == 1:
        return _sentencepiece(models[0], models[0])
    raise UserError(
        f"--model={str(folder)!r} has no tokenizer; copy source.spm and target.spm, sentencepiece.bpe.model, "
        "or tokenizer.json from the original model into it"
    )


def _sentencepiece(source: Path, target: Path) -> _Tokenizer:
    processor = _imported("sentencepiece").SentencePieceProcessor
    try:
        from_text, to_text = processor(model_file=str(source)), processor(model_file=str(target))
    except (RuntimeError, OSError) as error:
        raise UserError(f"{source} or {target} is not a SentencePiece model; copy it again") from error
    return _Tokenizer(lambda text: from_text.encode(text, out_type=str), to_text.decode)


def _tokenizer_json(path: Path) -> _Tokenizer:
    package = _imported("tokenizers")
    try:
        tokenizer = package.Tokenizer.from_file(str(path))
    except BaseException as error:
        if is_panic(error) or isinstance(error, Exception):  # the library raises no narrower class
            raise UserError(f"{path} is not a tokenizer ({one_line(error)}); copy it again") from error
        raise

    def text(pieces: list[str]) -> str:
        ids = [tokenizer.token_to_id(piece) for piece in pieces]
        return tokenizer.decode([number for number in ids if number is not None], skip_special_tokens=True)

    return _Tokenizer(lambda text: tokenizer.encode(text, add_special_tokens=False).tokens, text)
