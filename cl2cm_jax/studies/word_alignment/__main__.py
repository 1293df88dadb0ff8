"""What the word level is worth: the teacher alone on parallel text, retrieval of sentences and plans of their words.

cl2cm align-words --text=multi30k --config=configs/word_level.py [--out=runs/word_level] [--seeds=3]

Trains the rows below with the trainer's own step, on train.{en,de,...}[.gz] of the folder (a copy of Multi30K's
repository will do), chooses the step on val and measures on test. Writes word_level.md and transport_plans.png. The
same line again goes on where it was stopped; finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cl2cm_jax.config import is_zero, override_all, read, reads_words
from cl2cm_jax.data.readers.parallel_text import read_parallel
from cl2cm_jax.errors import UserError, exit_cleanly
from cl2cm_jax.evaluation.retrieval import load_ranks, save_ranks
from cl2cm_jax.features.cache import Corpora
from cl2cm_jax.models.configured import configured_text
from cl2cm_jax.models.tokenizers import prepared
from cl2cm_jax.runtime.atomic import replacing, write_text
from cl2cm_jax.runtime.command_line import Arguments, split_flags
from cl2cm_jax.runtime.start import start_jax
from cl2cm_jax.studies.ablation.row_names import named_rows, run_folder
from cl2cm_jax.studies.bootstrap import RunHits
from cl2cm_jax.studies.word_alignment import plans
from cl2cm_jax.studies.word_alignment.corpora import text_corpora
from cl2cm_jax.studies.word_alignment.plan_picture import ShownPair, draw_plans
from cl2cm_jax.studies.word_alignment.plans import Pairs, Quality
from cl2cm_jax.studies.word_alignment.tables import QUALITY, RowRuns, difference_table, quality_table, retrieval_table
from cl2cm_jax.studies.word_alignment.teaching import Taught, sentence_ranks, targets_of, teach
from cl2cm_jax.training.experiment import Run, build, claim, fingerprint

BEFORE = "before: the backbone's own"
BASELINE = "sentence loss"
UNREAD = "sentence loss, words not read"
WITH_WORDS = "sentence + word, transport"
GENTLE = "sentence + word, transport at a hundredth"
SELF_LABELLED = "sentence + word, self-labelled"
CONTRAST = "sentence + word, contrast by late interaction"
CONTRAST_BY_PLAN = "sentence + word, contrast by transport"
# row: fields that differ from the config, whose weights.word the last ones keep
ROWS: dict[str, dict[str, str]] = {
    BEFORE: {"teacher.head": "none", "weights.word": "0.0"},
    UNREAD: {"weights.word": "0.0", "teacher.head": "linear", "teacher.pool": "backbone"},
    BASELINE: {"weights.word": "0.0"},
    WITH_WORDS: {"word.loss": "transport"},
    GENTLE: {"word.loss": "transport", "weights.word": "0.01"},
    "sentence + word, transport on the backbone's plan": {"word.loss": "transport", "word.plan_from": "backbone"},
    SELF_LABELLED: {"word.loss": "self_labelled"},
    CONTRAST: {"word.loss": "contrast", "word.score": "late_interaction"},
    CONTRAST_BY_PLAN: {"word.loss": "contrast", "word.score": "transport"},
}
RANKS_FILE, PLANS_FILE, RESULTS_FILE = "ranks.npz", "plans.npz", "results.json"  # the last one marks a finished run


class Setting(NamedTuple):
    """What all runs share."""

    config: ConfigDict
    corpora: Corpora
    data: str  # their fingerprint
    pairs: dict[str, Pairs]  # of the test split, by language
    out: Path


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """The command line: options, and the config fields that it changes in every row."""
    rest, overrides = split_flags(list(arguments))
    parser = Arguments(prog="cl2cm align-words", description=__doc__)
    parser.add_argument("--text", type=Path, required=True, help="folder with train.en, val.en, test.en and the others")
    parser.add_argument("--config", default="configs/word_level.py", help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/word_level"), help="(default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="config.seed 0 .. SEEDS-1 (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=0, help="train on the first lines only; 0: all (default)")
    parser.add_argument("--rows", default="", help="names of rows, separated by ';'; all without it")
    parser.add_argument(
        "--show",
        default=";".join((WITH_WORDS, GENTLE, SELF_LABELLED)),
        help="rows whose plans are drawn (default: %(default)s)",
    )
    options = parser.parse_args(rest)
    if options.seeds < 1:
        raise UserError(f"--seeds={options.seeds} must be 1 or more")
    if options.limit < 0:
        raise UserError(f"--limit={options.limit} must be 0 or more")
    named = named_rows(options.rows, list(ROWS), flag="rows")
    options.show = named_rows(options.show, list(ROWS), flag="show")
    wanted = {BEFORE, BASELINE, *options.show, *(named or ROWS)}  # what the others are compared with is always there
    options.rows = [name for name in ROWS if name in wanted]
    return options, overrides


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains what is missing, then prints and writes the tables and the picture."""
    start = time.perf_counter()
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr, force=True)
    options, overrides = parse(sys.argv[1:] if arguments is None else arguments)
    overrides.setdefault("data.captions", str(options.text))
    config = read(options.config, overrides)
    check(config)
    d = config.data
    languages = (*d.targets, *d.reported)
    records = read_parallel(options.text, languages=(d.source, *languages), limit=options.limit)
    start_jax(Path(d.dir))
    corpora = text_corpora(config, records)
    pairs = plans.pairs_of(corpora.train, corpora.test, words=_pieces_of(config), source=d.source, languages=languages)
    setting = Setting(config, corpora, fingerprint(corpora), pairs, options.out)
    for seed in range(options.seeds):
        for name in options.rows:
            began = time.perf_counter()
            if run_once(setting, name, seed=seed):
                print(f"seed {seed} {name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    report(setting, names=options.rows, seeds=range(options.seeds))
    picture(setting, shown=options.show)
    print(
        f"seconds: {time.perf_counter() - start:.0f}; tables: {options.out}/word_level.md, "
        f"picture: {options.out}/transport_plans.png"
    )


def check(config: ConfigDict) -> None:
    """Refuses what the rows could not be made of.

    Raises:
      UserError: the teacher has no stage of its own, several heads or no words, or the word loss has no weight.
    """
    t = config.teacher
    if t["update"] != "frozen":
        raise UserError(f"config.teacher.update={t['update']!r} has no stage of its own; use 'frozen'")
    if t.folds > 1:
        raise UserError(f"config.teacher.folds={t.folds} has no one teacher to measure; use 1")
    if not reads_words(t.head, t.pool):
        raise UserError(
            f"config.teacher.head={t.head!r} with teacher.pool={t.pool!r} reads no words; use 'linear' with 'both'"
        )
    if is_zero(config.weights.word):
        raise UserError(f"config.weights.word={config.weights.word!r} leaves nothing to compare; use '1.0'")


def run_once(setting: Setting, name: str, *, seed: int) -> bool:
    """Trains and measures one run; False if it was there already.

    Raises:
      UserError: it was there, of another configuration or other text.
    """
    config = setting.config.copy_and_resolve_references()
    config.seed = seed
    override_all(config, ROWS[name])
    folder = run_folder(setting.out, name, seed)
    with claim(folder, config):
        if (folder / RESULTS_FILE).exists():
            if _results(folder)["data"] != setting.data:
                raise UserError(f"--out={setting.out} was made with other text than this; use another --out")
            return False
        built = build(config, setting.corpora)
        with (folder / "log.txt").open("a", encoding="utf-8") as log:
            taught = teach(built, note=lambda line: print(line, file=log, flush=True))
        _measure(built, taught, setting, folder)
    return True


def _measure(run: Run, taught: Taught, setting: Setting, folder: Path) -> None:
    """Reads the test split, once, and writes what it says."""
    ranks = sentence_ranks(run, taught.params, run.corpora.test)
    quality, found = {}, {}
    for language in targets_of(run):
        found[language], alike = plans.plans(run, taught.params, setting.pairs[language])
        quality[language] = plans.quality(found[language], alike, setting.pairs[language])._asdict()
    save_ranks(folder / RANKS_FILE, ranks)
    shown = _shown(run.config, setting.corpora)
    with replacing(folder / PLANS_FILE) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **{str(i): found[language][row] for i, (language, row) in enumerate(shown)})
    results = {"data": run.data, "step": taught.step, "validation": taught.validation, "quality": quality}
    write_text(folder / RESULTS_FILE, json.dumps(results, indent=1) + "\n")


def report(setting: Setting, *, names: Sequence[str], seeds: Sequence[int]) -> None:
    """Prints the tables and writes word_level.md."""
    d = setting.config.data
    languages = (*d.targets, *d.reported)
    rows = {name: _runs(setting, name, seeds) for name in names}
    by_place = {language: plans.quality(plans.by_place(pairs), [], pairs) for language, pairs in setting.pairs.items()}
    tables = [difference_table(rows, languages, baseline=BASELINE)]
    sentences = len(setting.corpora.test.captions_of(d.source))
    tables += [retrieval_table(rows, language, source=d.source, sentences=sentences) for language in languages]
    for language in languages:
        links = sum(map(len, setting.pairs[language].linked))
        tables.append(quality_table(rows, by_place, language, links=links))
    notes = [
        f"Recalls in percent, mean over seeds ({len(seeds)}); std: over seeds. Every test sentence is a query against "
        "all of the other language; ties count against us. The step is chosen on validation.",
        *(f"{name}: {text}." for name, text in QUALITY.items()),
    ]
    print("\n\n".join(table.text() for table in tables), *notes, sep="\n")
    listed = "\n".join(f"- {note}" for note in notes)
    write_text(setting.out / "word_level.md", "\n\n".join([*(table.markdown() for table in tables), listed]) + "\n")


def picture(setting: Setting, *, shown: Sequence[str]) -> None:
    """Draws the plans of the first seed, before and with the rows `shown`."""
    config = setting.config
    stored: Mapping[str, Mapping[str, np.ndarray]] = {
        caption: np.load(run_folder(setting.out, name, 0) / PLANS_FILE, allow_pickle=False)
        for caption, name in (("before", BEFORE), *((name, name) for name in shown))
    }
    pairs = []
    for i, (language, row) in enumerate(_shown(config, setting.corpora)):
        own = setting.pairs[language]
        maps = {caption: arrays[str(i)] for caption, arrays in stored.items()}
        pairs.append(ShownPair(language, own.source[row], own.target[row], maps, own.linked[row]))
    notes = (
        "Rows are pieces of the source caption; the darker a cell, the more of its mass goes there. The first "
        f"{len(pairs)} test captions of {plans.FEWEST} to {plans.MOST} words.",
        "First the frozen backbone's words, then those of trained teachers. Framed: what counting in the training text "
        "links, which none of them has seen.",
    )
    draw_plans(setting.out / "transport_plans.png", pairs, title="Where words go in a translation", notes=notes)


def _pieces_of(config: ConfigDict) -> Callable[[str], list[str]]:
    """What cuts a caption into the pieces that the text backbone has words for."""
    c = config.text
    backbone = configured_text(config)
    cut = backbone.tokenizer(max_tokens=c.max_tokens)
    return lambda text: cut.words(prepared(text, prefix=c.prefix, lowercase=c.lowercase))


def _shown(config: ConfigDict, corpora: Corpora) -> list[tuple[str, int]]:
    d = config.data
    return plans.shown_pairs(corpora.test, source=d.source, languages=(*d.targets, *d.reported))


def _results(folder: Path) -> dict:
    try:
        return json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{folder / RESULTS_FILE} is damaged ({error}); delete {folder}, it is made anew") from error


def _runs(setting: Setting, name: str, seeds: Sequence[int]) -> RowRuns:
    folders = [run_folder(setting.out, name, seed) for seed in seeds]
    results = [_results(folder) for folder in folders]
    return RowRuns(
        hits=[RunHits(seed, load_ranks(folder / RANKS_FILE)) for seed, folder in zip(seeds, folders, strict=True)],
        validation=[result["validation"] for result in results],
        step=[result["step"] for result in results],
        quality={
            language: [Quality(**result["quality"][language]) for result in results] for language in setting.pairs
        },
    )


if __name__ == "__main__":
    exit_cleanly(main)
