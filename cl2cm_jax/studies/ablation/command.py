"""Command line of the studies that train rows of the ablation, and training of the runs that are missing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cl2cm_jax.config import read
from cl2cm_jax.errors import UserError
from cl2cm_jax.runtime.command_line import Arguments, resume_command, split_flags
from cl2cm_jax.runtime.preemption import exit_stopped
from cl2cm_jax.runtime.start import start_jax
from cl2cm_jax.studies.ablation.runs import Ablation
from cl2cm_jax.studies.ablation.variants import BASELINE, ROWS, variant
from cl2cm_jax.studies.rows import add_run_options
from cl2cm_jax.text.terminal import log_to_stderr

Options = tuple[argparse.Namespace, dict[str, str]]


def parse_options(
    arguments: Sequence[str], *, verb: str, about: str | None, noise: str = "0,0.4", rows: Sequence[str] = ()
) -> Options:
    """Parses the command line of `verb`: the options, and the config fields that it changes in every row."""
    rest, overrides = split_flags(list(arguments))
    parser = Arguments(prog=f"cl2cm {verb}", description=about)
    add_run_options(parser, rows=list(ROWS), workdir="runs/ablation", seeds=5, chosen=rows)
    parser.add_argument("--first-seed", type=int, default=0, help="the lowest config.seed (default: %(default)s)")
    parser.add_argument(
        "--noise", type=_shares, default=noise, help="shares of wrong translations (default: %(default)s)"
    )
    parser.add_argument(
        "--folds",
        type=int,
        default=0,
        help="cross-validation: deal all images into FOLDS by concept (0: the test split)",
    )
    options = parser.parse_args(rest)
    if options.folds < 0:
        raise UserError(f"--folds={options.folds} must be 0 (the set's own split) or 3 or more")
    options.folds = 0 if options.folds == 1 else options.folds
    options.rows = list(options.rows or rows or ROWS)
    if BASELINE not in options.rows:
        options.rows.insert(0, BASELINE)
    return options, overrides


def train_missing(arguments: Sequence[str] | None, *, verb: str, parse: Callable[[Sequence[str]], Options]) -> Ablation:
    """Trains the missing runs of an ablation; exits if a signal stopped it.

    Args:
      arguments: as typed; None: those of the process.
      verb: name of the command.
      parse: reads its command line.
    """
    log_to_stderr(format="%(message)s")
    arguments = sys.argv[1:] if arguments is None else arguments
    options, overrides = parse(arguments)
    config = read(options.config, overrides)
    start_jax(Path(config.data.dir))
    for noise in options.noise:  # refuses a wrong share before any data is read
        variant(config, BASELINE, noise=noise, seed=options.first_seed)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    ablation = Ablation(
        config, options.workdir, noises=options.noise, seeds=seeds, names=options.rows, folds=options.folds
    )
    if not ablation.train_all():
        exit_stopped(resume_command(verb, arguments))
    return ablation


def _shares(text: str) -> list[float]:
    try:
        return [float(share) for share in text.split(",")]
    except ValueError as error:
        raise UserError(f"--noise={text!r} must be shares such as 0,0.4") from error
