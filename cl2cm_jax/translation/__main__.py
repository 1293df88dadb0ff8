"""Translates a caption file into one more language.

cl2cm translate --captions=IN --out=OUT --source=en --target=es --engine=apertium [--splits=train] [...]

--engine=apertium     Apertium, which translates by rules; --pair=en-es, or a chain --pair=en-es,es-pt
--engine=ctranslate2  an NLLB or OPUS-MT model converted for CTranslate2, --model=FOLDER
--engine=file         existing translations, --translations=FILE: one line per caption
--engine=my.module    an engine of your own, see CONTRIBUTING.md

OUT is a file of the same kind; OUT.provenance.jsonl records engine, model, version and date of each translation. To
resume a stopped or killed run, run the same command again.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from cl2cm_jax.config import nearest
from cl2cm_jax.data.captions import SPLITS
from cl2cm_jax.errors import UserError, exit_cleanly
from cl2cm_jax.runtime.atomic import write_text
from cl2cm_jax.runtime.command_line import Arguments, positive, resume_command
from cl2cm_jax.runtime.preemption import Preemption, exit_stopped
from cl2cm_jax.runtime.progress import CountReport
from cl2cm_jax.runtime.storage import exclusive
from cl2cm_jax.text.languages import canonical, is_code
from cl2cm_jax.translation.documents import EVALUATED, Document, Written, read_document
from cl2cm_jax.translation.engine import create_engine, engine_options
from cl2cm_jax.translation.job import Outcome, translate_items
from cl2cm_jax.translation.provenance import Provenance, provenance_path


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, checked as far as possible without reading a file."""
    parser = Arguments(prog="cl2cm translate", description=__doc__)
    parser.add_argument("--captions", type=Path, required=True, help=".csv, .tsv, .jsonl, or .txt ('cap_id sentence')")
    parser.add_argument("--out", type=Path, required=True, help="the file to write, of the same kind")
    parser.add_argument("--source", required=True, help="language to translate from, such as en")
    parser.add_argument("--target", required=True, help="language to translate into, such as de")
    parser.add_argument("--engine", required=True, help="apertium, ctranslate2, file, or the dotted name of a module")
    parser.add_argument("--splits", default="", help="splits to translate, such as train,validation (default: all)")
    parser.add_argument(
        "--queries", action="store_true", help="for config.evaluation.query=fused: write them as language de2en"
    )
    parser.add_argument("--batch", type=positive, default=500, help="sentences per save (default: %(default)s)")
    owners = _add_engine_options(parser, arguments)
    options = parser.parse_args(list(arguments))
    for option, (engine, required) in owners.items():
        given = getattr(options, option.removeprefix("--").replace("-", "_")) is not None
        if given and engine != options.engine:
            raise UserError(f"{option} is for --engine={engine}, not {options.engine}; leave it out")
        if required and not given and engine == options.engine:
            raise UserError(f"--engine={engine} needs {option}; see cl2cm translate --help")
    _check(options)
    return options


def _add_engine_options(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> dict[str, tuple[str, bool]]:
    """Adds the options of all engines; returns for each its engine, and whether that one requires it."""
    chooser = Arguments(prog=parser.prog, add_help=False)
    chooser.add_argument("--engine", default="")
    owners: dict[str, tuple[str, bool]] = {}
    for engine, options in engine_options(chooser.parse_known_args(list(arguments))[0].engine).items():
        group = parser.add_argument_group(f"--engine={engine}")
        for option, described in options.items():
            group.add_argument(option, **{name: value for name, value in described.items() if name != "required"})
            owners[option] = engine, described.get("required", False)
    return owners


def _check(options: argparse.Namespace) -> None:
    for name in ("source", "target"):
        if not is_code(code := getattr(options, name)):
            raise UserError(f"--{name}={code!r} is not a language code; write for example de or zh-TW")
        setattr(options, name, canonical(code))
    if options.source == options.target:
        raise UserError(f"--target={options.target!r} is also the source; give another language")
    options.splits = [split.strip() for split in options.splits.split(",") if split.strip()]
    for split in options.splits:
        if split not in SPLITS:
            raise UserError(f"--splits: {split!r} is not a split{nearest(split, SPLITS)}")
    if options.out.suffix.lower() != options.captions.suffix.lower():
        raise UserError(f"--out={str(options.out)!r} must end in {options.captions.suffix}, as --captions does")
    for path in (options.out, provenance_path(options.out)):
        if _is_loop(path):
            raise UserError(
                f"--out={str(options.out)!r}: {path} is a symbolic link in a loop; remove it or give another path"
            )
    # Not Path.resolve, which raises on a loop in some versions of Python.
    if os.path.realpath(options.out) == os.path.realpath(options.captions):
        raise UserError(f"--out={str(options.out)!r} is the file of --captions; give another one")


def _is_loop(path: Path) -> bool:
    try:
        path.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def main(arguments: Sequence[str] | None = None) -> None:
    """Translates the captions that lack a translation; writes OUT when all have one."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    document = read_document(
        options.captions,
        source=options.source,
        target=options.target,
        splits=options.splits,
        are_queries=options.queries,
    )
    busy = f"--out={options.out}: another process translates into it; wait for it, or give another --out"
    with exclusive(options.out.with_name(f".{options.out.name}.lock"), busy=busy):
        outcome = _translated(options, document)
        if not outcome.is_complete:
            exit_stopped(resume_command("translate", arguments))
        written = document.written(outcome.translations)
        write_text(options.out, written.text)
    print(_summary(options, document, outcome, written))


def _translated(options: argparse.Namespace, document: Document) -> Outcome:
    # A .txt file takes no rows over, and so no provenance.
    inherited = None if options.captions.suffix.lower() == ".txt" else provenance_path(options.captions)
    provenance = Provenance(provenance_path(options.out), inherited=inherited)
    with Preemption() as preemption, CountReport("translated") as report:
        return translate_items(
            document.chosen,
            engine=create_engine(options, document.items),
            provenance=provenance,
            source=options.source,
            target=document.language,
            batch=options.batch,
            should_stop=lambda: preemption.requested,
            on_progress=report,
        )


def _summary(options: argparse.Namespace, document: Document, outcome: Outcome, written: Written) -> str:
    lines = [
        f"{options.out}: {written.added:,} captions from {options.source} to {document.language}; "
        f"{outcome.sentences:,} sentences translated now, {outcome.before:,} captions before",
        f"provenance: {provenance_path(options.out)}",
    ]
    left = len(document.items) - len(document.chosen)
    notes = {
        f"with a translation already or of another split, left as they are: {left:,}": left,
        f"without a translation, left out: {written.empty:,}": written.empty,
        f"equal to another translation of their image, left out: {written.duplicates:,}": written.duplicates,
    }
    lines += [f"captions {note}" for note, count in notes.items() if count]
    lines += [f"note: {note}" for note in _notes(options, document, written)]
    return "\n".join(lines)


def _notes(options: argparse.Namespace, document: Document, written: Written) -> Iterator[str]:
    """What the written captions mean for a training with them."""
    splits = {item.split for item in document.chosen}
    evaluated = [split for split in EVALUATED if split in splits]
    if options.queries or options.captions.suffix.lower() == ".txt":
        return
    if "" in splits:
        yield "without a column split, validation and test will have machine translations; scores on them say little"
    if evaluated:
        yield f"{' and '.join(evaluated)} now have machine translations; scores on them say little (see --splits)"
    if written.lacking:
        yield (
            f"no caption in {document.language}: {', '.join(written.lacking)}; training needs some there, written by "
            f"people: add them to {options.captions} as rows of that split, then run the same command again"
        )


if __name__ == "__main__":
    exit_cleanly(main)
