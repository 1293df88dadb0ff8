"""Tables in the layout of the papers: finished runs beside each other and beside what others printed for their set.

cl2cm compare --workdirs=runs/a,runs/b [--set=multi30k] [--markdown]

One table for each set, language and protocol; the protocol of a number stands in its row. Published numbers appear only
for the set and language that they were measured on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cl2cm_jax.config import nearest
from cl2cm_jax.errors import UserError, exit_cleanly
from cl2cm_jax.evaluation.table import Table
from cl2cm_jax.runtime.command_line import Arguments
from cl2cm_jax.studies.comparison.comparison import Row, comparison_tables, run_rows
from cl2cm_jax.studies.comparison.published import OTHER_LEAGUE, PUBLISHED, SETS

OWN_FILES = "captions"  # config.data.name of a set that only its user can name


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, with `workdirs` as a list of paths; raises UserError."""
    parser = Arguments(prog="cl2cm compare", description=__doc__)
    parser.add_argument("--workdirs", default="", help="folders of finished runs, separated by commas")
    parser.add_argument(
        "--set",
        default="",
        help=f"one of {', '.join(SETS)}: its published numbers, also without a run; says which set it is that runs on "
        f"config.data.name='{OWN_FILES}' read",
    )
    parser.add_argument("--markdown", action="store_true", help="print Markdown instead of plain text")
    options = parser.parse_args(list(arguments))
    options.workdirs = [Path(name.strip()) for name in options.workdirs.split(",") if name.strip()]
    if options.set and options.set not in SETS:
        raise UserError(f"--set={options.set!r} has no published numbers here{nearest(options.set, SETS)}")
    if not options.workdirs and not options.set:
        raise UserError("nothing to print; name finished runs with --workdirs=runs/a,runs/b, or a --set")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    ours = [row for workdir in options.workdirs for row in _run(workdir, options.set)]
    wanted = {(row.set, row.language) for row in ours}
    wanted = wanted or {(row.set, row.language) for row in PUBLISHED if row.set == options.set}
    tables = comparison_tables(_together(ours, [row for row in PUBLISHED if (row.set, row.language) in wanted]))
    tables += comparison_tables(
        (row for row in OTHER_LEAGUE if (row.set, row.language) in wanted),
        prefix="Another league, pretrained on millions of pairs: ",
    )
    print("\n\n".join(_printed(table, options.markdown) for table in tables))


def _printed(table: Table, markdown: bool) -> str:
    return table.markdown() if markdown else table.text()


def _together(ours: list[Row], published: list[Row]) -> list[Row]:
    """Set by set and language by language in the order of the runs; published rows stand first in each."""
    places = list(dict.fromkeys((row.set, row.language) for row in [*ours, *published]))
    return [row for place in places for row in [*published, *ours] if (row.set, row.language) == place]


def _run(workdir: Path, name: str) -> list[Row]:
    """The rows of one run; `name` is that of its set where the run cannot know it, or ""."""
    rows = _read_rows(workdir)
    found = rows[0].set
    if name and found not in (name, OWN_FILES):
        raise UserError(
            f"--workdirs: {workdir} was run on the set {found!r}, not on {name!r}; leave one of the two out"
        )
    return [row._replace(set=name or found) for row in rows]


def _read_rows(workdir: Path) -> list[Row]:
    path = workdir / "results.json"
    try:
        results: Any = json.loads(path.read_text(encoding="utf-8"))
        return run_rows(str(workdir), results)
    except OSError as error:
        raise UserError(
            f"--workdirs: {path} cannot be read ({error.strerror}); name the --workdir of a finished run"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"--workdirs: {path} is damaged ({error}); run --mode=evaluate on the workdir to write it anew"
        ) from error


if __name__ == "__main__":
    exit_cleanly(main)
