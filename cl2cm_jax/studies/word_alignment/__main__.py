"""Word alignment: trains the teacher alone on parallel text; measures sentence retrieval and word transport plans.

cl2cm align-words --text=multi30k --config=configs/word_level.py [--workdir=runs/word_level] [--seeds=3]

Each row of the tables (`runs.ROWS`) is a teacher with or without a word loss. It is trained on train.{en,de,...}[.gz]
of the folder, such as a copy of Multi30K's repository; val selects the step, and test is measured.
Writes word_level.md and transport_plans.png. Finished runs are kept: rerun an interrupted command to resume.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from cl2cm_jax.config import is_zero, read, reads_words
from cl2cm_jax.data.readers.parallel_text import read_parallel
from cl2cm_jax.errors import UserError, exit_cleanly
from cl2cm_jax.runtime.command_line import Arguments, split_flags
from cl2cm_jax.runtime.start import start_jax
from cl2cm_jax.studies.charts import require_matplotlib
from cl2cm_jax.studies.rows import add_run_options, row_names
from cl2cm_jax.studies.text_features import parallel_text_corpora
from cl2cm_jax.studies.word_alignment.report import draw, report
from cl2cm_jax.studies.word_alignment.runs import BASELINE, BEFORE, ROWS, SHOWN_ROWS, Experiment, run_once
from cl2cm_jax.text.terminal import log_to_stderr
from cl2cm_jax.training.identity import as_recorded, record_inputs


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """The options, and the config fields that the command line changes in every row."""
    rest, overrides = split_flags(list(arguments))
    parser = Arguments(prog="cl2cm align-words", description=__doc__)
    parser.add_argument("--text", type=Path, required=True, help="folder with train.en, val.en, test.en and so on")
    add_run_options(
        parser, rows=list(ROWS), workdir="runs/word_level", aliases=("--out",), config="configs/word_level.py", seeds=3
    )
    parser.add_argument("--limit", type=int, default=0, help="train on the first LIMIT lines; 0: all (default)")
    parser.add_argument(
        "--show",
        type=row_names(list(ROWS), flag="--show"),
        default=";".join(SHOWN_ROWS),
        help="rows whose plans are drawn (default: %(default)s)",
    )
    options = parser.parse_args(rest)
    if options.limit < 0:
        raise UserError(f"--limit={options.limit} must be 0 or more")
    requested = {BEFORE, BASELINE, *options.show, *(options.rows or ROWS)}  # the first two are what others compare with
    options.rows = [name for name in ROWS if name in requested]
    return options, overrides


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains missing runs, then prints and writes the tables and draws the chart."""
    start = time.perf_counter()
    log_to_stderr(format="%(message)s")
    options, overrides = parse(sys.argv[1:] if arguments is None else arguments)
    require_matplotlib()
    overrides.setdefault("data.captions", str(options.text))
    config = as_recorded(read(options.config, overrides), options.workdir)
    check(config)
    d = config.data
    table = read_parallel(options.text, languages=(d.source, *d.targets, *d.reported), limit=options.limit)
    start_jax(Path(d.dir))
    corpora = parallel_text_corpora(config, table)
    record_inputs(options.workdir, config, corpora)
    experiment = Experiment.of(config, corpora, options.workdir)
    seeds = range(options.seeds)
    for seed in seeds:
        for name in options.rows:
            run_start = time.perf_counter()
            if run_once(experiment, name, seed=seed):
                print(f"seed {seed} {name}: {time.perf_counter() - run_start:.0f} s", file=sys.stderr, flush=True)
    report(experiment, names=options.rows, seeds=seeds)
    draw(experiment, rows=options.show)
    seconds, workdir = time.perf_counter() - start, options.workdir
    print(f"seconds: {seconds:.0f}; tables: {workdir}/word_level.md, chart: {workdir}/transport_plans.png")


def check(config: ConfigDict) -> None:
    """Refuses a config whose teacher cannot be measured alone.

    Raises:
      UserError: the teacher is not trained before the student, has several heads or no words, or the word loss has no
        weight.
    """
    t = config.teacher
    if t.schedule != "frozen":
        raise UserError(f"config.teacher.schedule={t.schedule!r} does not train the teacher on its own; use 'frozen'")
    if t.folds > 1:
        raise UserError(f"config.teacher.folds={t.folds} trains several teachers; use 1")
    if not reads_words(t.head, t.pool):
        raise UserError(
            f"config.teacher.head={t.head!r} with teacher.pool={t.pool!r} reads no words; use 'linear' with 'both'"
        )
    if is_zero(config.weights.word):
        raise UserError(f"config.weights.word={config.weights.word!r} turns the word loss off; use '1.0'")


if __name__ == "__main__":
    exit_cleanly(main)
