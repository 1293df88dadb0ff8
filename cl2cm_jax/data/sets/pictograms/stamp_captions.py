"""Writes the English captions of the `stamps` training split as a caption file, for machine translation.

cl2cm stamps --root=data/stamps-source --out=data/stamps.en.jsonl

Only training captions are written: validation and test keep the human captions.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from cl2cm_jax.data.sets.pictograms.stamp_files import SOURCE, stamps
from cl2cm_jax.errors import exit_cleanly
from cl2cm_jax.runtime.atomic import write_text
from cl2cm_jax.runtime.command_line import Arguments


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = Arguments(prog="cl2cm stamps", description=__doc__)
    parser.add_argument("--root", required=True, help="the unpacked Debian package tuxpaint-stamps-default")
    parser.add_argument("--out", type=Path, required=True, help="the JSONL file to write")
    return parser.parse_args(list(arguments))


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the stamps and writes the file."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    columns = ("image", "language", "caption", "split", "origin")
    rows = [row for row in stamps(options.root) if row.split == "train" and row.language == SOURCE]
    cells = [{column: getattr(row, column) for column in columns} for row in rows]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(options.out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in cells))
    print(f"{len(rows)} English captions of the training split: {options.out}")


if __name__ == "__main__":
    exit_cleanly(main)
