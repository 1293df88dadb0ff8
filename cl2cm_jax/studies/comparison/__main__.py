"""Comparison of finished runs with each other and with published numbers of their data set, as in papers.

cl2cm compare --workdirs=runs/a,runs/b [--set=multi30k] [--markdown]

Prints one table per data set, language and protocol; each row states the protocol of its numbers. Published numbers
are printed only for the set and language that they were measured on.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cl2cm_jax.config import nearest
from cl2cm_jax.errors import UserError, exit_cleanly
from cl2cm_jax.runtime.checksums import read_checked_json
from cl2cm_jax.runtime.command_line import Arguments
from cl2cm_jax.studies.comparison.published import PRETRAINED, PUBLISHED, SETS
from cl2cm_jax.studies.comparison.tables import Row, comparison_tables, run_rows
from cl2cm_jax.studies.rows import separated

OWN_FILES = "captions"  # config.data.name of a set that only its user can identify


def places(text: str) -> list[str]:
    """Paths that are separated by commas."""
    return [os.path.expanduser(one) for one in separated(text)]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, with `workdirs` as a list of names; raises UserError."""
    parser = Arguments(prog="cl2cm compare", description=__doc__)
    parser.add_argument("--workdirs", type=places, default="", help="finished runs, separated by commas")
    parser.add_argument(
        "--set",
        default="",
        help=f"{', '.join(SETS)}: print its published numbers, also without a run; the set of runs on "
        f"config.data.name='{OWN_FILES}'",
    )
    parser.add_argument("--markdown", action="store_true", help="print Markdown instead of plain text")
    options = parser.parse_args(list(arguments))
    if options.set and options.set not in SETS:
        raise UserError(f"--set={options.set!r} has no published numbers here{nearest(options.set, SETS)}")
    if not options.workdirs and not options.set:
        raise UserError("nothing to print; name finished runs with --workdirs=runs/a,runs/b, or a --set")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    runs = [row for workdir in options.workdirs for row in _run(Path(workdir), options.set)]
    wanted = {(row.set, row.language) for row in runs}
    wanted = wanted or {(row.set, row.language) for row in PUBLISHED if row.set == options.set}
    published, pretrained = ([row for row in rows if row.place in wanted] for rows in (PUBLISHED, PRETRAINED))
    places = dict.fromkeys(row.place for row in [*runs, *published])  # in the order of the runs, published rows first
    rows = [row for place in places for row in [*published, *runs] if row.place == place]
    tables = comparison_tables(rows)
    tables += comparison_tables(pretrained, prefix="Not comparable, pretrained on millions of pairs: ")
    print("\n\n".join(table.markdown() if options.markdown else table.text() for table in tables))


def _run(workdir: Path, name: str) -> list[Row]:
    """The rows of one run; `name` identifies its set if the run itself does not, or is ""."""
    path = workdir / "results.json"
    try:
        rows = run_rows(str(workdir), read_checked_json(path, fix="write it again with --mode=evaluate"))
    except OSError as error:
        raise UserError(
            f"--workdirs: {path} cannot be read ({error.strerror}); name the --workdir of a finished run"
        ) from error
    except ValueError as error:
        raise UserError(
            f"--workdirs: {path} is damaged ({error}); run --mode=evaluate on the workdir to write it again"
        ) from error
    found = rows[0].set
    if name and found not in (name, OWN_FILES):
        raise UserError(
            f"--workdirs: {workdir} was run on the set {found!r}, not on {name!r}; leave out --set or this workdir"
        )
    return [row._replace(set=name or found) for row in rows]


if __name__ == "__main__":
    exit_cleanly(main)
