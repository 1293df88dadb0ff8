"""Translates captions: a file of captions in, one more language out.

cl2cm translate --captions=IN --out=OUT --source=en --target=es --engine=apertium [--splits=train] [...]

--engine=apertium     Debian's rule-based translator; --pair=en-es, or a chain --pair=en-es,es-pt
--engine=ctranslate2  an NLLB or OPUS-MT model converted for CTranslate2, --model=FOLDER
--engine=file         translated elsewhere, --translations=FILE: one line a caption

OUT is a file of the same kind; OUT.provenance.jsonl says of each translation engine, model, version and date, and is
what a stopped or killed run goes on from: run the same command again.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from cl2cm_jax.config import nearest
from cl2cm_jax.data.captions import SPLITS
from cl2cm_jax.errors import UserError, exit_cleanly
from cl2cm_jax.runtime.atomic import write_text
from cl2cm_jax.runtime.command_line import Arguments, resume_command
from cl2cm_jax.runtime.preemption import Preemption
from cl2cm_jax.translation.apertium import Apertium
from cl2cm_jax.translation.documents import EVALUATED, Document, Written, read_document
from cl2cm_jax.translation.engine import Engine
from cl2cm_jax.translation.file_engine import TranslatedFile
from cl2cm_jax.translation.job import Outcome, translate_items
from cl2cm_jax.translation.neural import CTranslate2
from cl2cm_jax.translation.provenance import Provenance, provenance_path

_LANGUAGE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]+)*")
_OPTIONS_OF = {  # option: the engine that it is for
    "pair": "apertium",
    "model": "ctranslate2",
    "source_token": "ctranslate2",
    "target_token": "ctranslate2",
    "beam": "ctranslate2",
    "device": "ctranslate2",
    "translations": "file",
}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, checked as far as it goes without reading a file."""
    parser = Arguments(prog="cl2cm translate", description=__doc__)
    parser.add_argument("--captions", type=Path, required=True, help=".csv, .tsv, .jsonl, or .txt ('cap_id sentence')")
    parser.add_argument("--out", type=Path, required=True, help="the file to write, of the same kind")
    parser.add_argument("--source", required=True, help="language to translate, such as en")
    parser.add_argument("--target", required=True, help="language to translate into, such as de")
    parser.add_argument("--engine", required=True, choices=("apertium", "ctranslate2", "file"))
    parser.add_argument("--splits", default="", help="such as train,validation (default: all)")
    parser.add_argument(
        "--queries", action="store_true", help="write them as language de2en, for config.evaluation.query=fused"
    )
    parser.add_argument("--batch", type=int, default=500, help="sentences between two saves (default: %(default)s)")
    parser.add_argument("--pair", help="apertium: direction, or several in a chain (default: SOURCE-TARGET)")
    parser.add_argument("--model", type=Path, help="ctranslate2: folder of the converted model")
    parser.add_argument(
        "--source-token", help="ctranslate2: the model's token, such as eng_Latn (default: by the code)"
    )
    parser.add_argument("--target-token", help="ctranslate2: the same, such as deu_Latn or '>>deu<<'")
    parser.add_argument("--beam", type=int, help="ctranslate2: width of the search (default: 4)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="ctranslate2 (default: auto)")
    parser.add_argument("--translations", type=Path, help="file: the translations, one line a caption")
    options = parser.parse_args(list(arguments))
    _check(options)
    return options


def _check(options: argparse.Namespace) -> None:
    for name in ("source", "target"):
        if not _LANGUAGE.fullmatch(code := getattr(options, name)):
            raise UserError(f"--{name}={code!r} is no language; write a code such as 'de' or 'zh-TW'")
    if options.source == options.target:
        raise UserError(f"--target={options.target!r} is the source; name another language")
    for name in ("batch", "beam"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise UserError(f"--{name}={value} must be 1 or more")
    options.splits = [split.strip() for split in options.splits.split(",") if split.strip()]
    for split in options.splits:
        if split not in SPLITS:
            raise UserError(f"--splits: {split!r} is not a split{nearest(split, SPLITS)}")
    for name, engine in _OPTIONS_OF.items():
        if getattr(options, name) is not None and options.engine != engine:
            option = name.replace("_", "-")
            raise UserError(f"--{option} is for --engine={engine}, not {options.engine}; leave it out")
    for name in ("model", "translations"):
        if getattr(options, name) is None and options.engine == _OPTIONS_OF[name]:
            raise UserError(f"--engine={options.engine} needs --{name}; see cl2cm translate --help")
    if options.out.suffix.lower() != options.captions.suffix.lower():
        raise UserError(f"--out={str(options.out)!r} must end in {options.captions.suffix}, as --captions does")
    for path in (options.out, provenance_path(options.out)):
        if _is_loop(path):
            raise UserError(
                f"--out={str(options.out)!r}: {path} is a symbolic link in a loop; remove it or name another"
            )
    # Not Path.resolve, which some versions of Python raise from on a loop.
    if os.path.realpath(options.out) == os.path.realpath(options.captions):
        raise UserError(f"--out={str(options.out)!r} is --captions; name another file")


def _is_loop(path: Path) -> bool:
    try:
        path.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def main(arguments: Sequence[str] | None = None) -> None:
    """Translates what is not translated yet; writes OUT when all is."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    document = read_document(
        options.captions,
        source=options.source,
        target=options.target,
        splits=options.splits,
        are_queries=options.queries,
    )
    provenance = Provenance(provenance_path(options.out), inherited=_inherited(options.captions))
    with Preemption() as preemption:
        outcome = translate_items(
            document.chosen,
            engine=_engine(options, document),
            provenance=provenance,
            source=options.source,
            target=document.language,
            batch=options.batch,
            stop=lambda: preemption.requested,
            report=_Progress(),
        )
    if not outcome.is_complete:
        print(f"stopped and saved; resume with: {resume_command('translate', arguments)}")
        return
    written = document.written(outcome.translations)
    write_text(options.out, written.text)
    print(_summary(options, document, outcome, written))


def _inherited(captions: Path) -> Path | None:
    """The provenance of rows that OUT takes over; a .txt file takes none over."""
    return None if captions.suffix.lower() == ".txt" else provenance_path(captions)


def _engine(options: argparse.Namespace, document: Document) -> Engine:
    if options.engine == "file":
        return TranslatedFile(options.translations, document.items)
    if options.engine == "apertium":
        pair = options.pair or f"{options.source}-{options.target}"
        return Apertium(pair=pair, source=options.source, target=options.target)
    return CTranslate2(
        options.model,
        source=options.source,
        target=options.target,
        source_token=options.source_token or "",
        target_token=options.target_token or "",
        beam=options.beam or 4,
        device=options.device or "auto",
    )


class _Progress:
    """A line on stderr at most every few seconds."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._last > 5:
            self._last = time.monotonic()
            print(f"{done:,} of {total:,} captions", file=sys.stderr, flush=True)


def _summary(options: argparse.Namespace, document: Document, outcome: Outcome, written: Written) -> str:
    lines = [
        f"{options.out}: {written.added:,} captions from {options.source} to {document.language}; "
        f"{outcome.sentences:,} sentences translated now, {outcome.before:,} captions before",
        f"provenance: {provenance_path(options.out)}",
    ]
    left = len(document.items) - len(document.chosen)
    notes = {
        f"have a translation already or are of another split, and were left as they are: {left:,}": left,
        f"without a translation, left out: {written.empty:,}": written.empty,
        f"equal to another translation of their image, left out: {written.alike:,}": written.alike,
    }
    lines += [f"captions {note}" for note, count in notes.items() if count]
    lines += [f"note: {note}" for note in _notes(options, document, written)]
    return "\n".join(lines)


def _notes(options: argparse.Namespace, document: Document, written: Written) -> Iterator[str]:
    """What the captions that were written mean for the training that they are for."""
    splits = {item.split for item in document.chosen}
    judged = [split for split in EVALUATED if split in splits]
    if options.queries or options.captions.suffix.lower() == ".txt":
        return
    if "" in splits:
        yield "without a column split, validation and test will hold machine translations; scores on them say little"
    if judged:
        yield f"{' and '.join(judged)} hold machine translations now; scores on them say little (--splits)"
    if written.lacking:
        yield (
            f"no caption in {document.language}: {', '.join(written.lacking)}; training needs some there, written by "
            f"people: add them to {options.captions} as rows of that split, and type the same command again"
        )


if __name__ == "__main__":
    exit_cleanly(main)
