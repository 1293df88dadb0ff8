"""Ablation: measures the contribution of each part of the method, over several seeds, with and without noise.

cl2cm ablate --config=configs/emoji.py --workdir=runs/ablation --seeds=5 --noise=0,0.4 [--rows=...]
cl2cm ablate --config=configs/emoji.py --workdir=runs/ablation --seeds=1 --folds=7

Each row is the config with the fields of one variant changed (`variants.ROWS`). Parameters are selected on validation;
the test split is read once per run. With folds each image is tested once, which narrows the intervals of a small set.
Writes ablation.md and ablation.json. Finished runs are kept: rerun an interrupted command to resume.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from cl2cm_jax.errors import exit_cleanly
from cl2cm_jax.studies.ablation import command
from cl2cm_jax.studies.ablation.report import report


def parse(arguments: Sequence[str]) -> command.Options:
    """The options, and the config fields that the command line changes in every row."""
    return command.parse_options(arguments, verb="ablate", about=__doc__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains missing runs, then prints and writes the tables."""
    start = time.perf_counter()
    ablation = command.train_missing(arguments, verb="ablate", parse=parse)
    report(ablation)
    print(f"seconds: {time.perf_counter() - start:.0f}; tables: {ablation.workdir}/ablation.md, ablation.json")


if __name__ == "__main__":
    exit_cleanly(main)
