"""Writes the English captions of the `stamps` training split as a caption file, for a machine to translate.

cl2cm stamps --root=data/stamps-source --out=data/stamps.en.jsonl

Only training captions are written: validation and test keep the captions that people wrote.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cl2cm_jax.errors import exit_cleanly
from cl2cm_jax.runtime.command_line import Arguments


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = Arguments(prog="cl2cm stamps", description=__doc__)
    parser.add_argument("--root", required=True, help="the unpacked Debian package tuxpaint-stamps-default")
    parser.add_argument("--out", type=Path, required=True, help="the JSONL file to write")
    return parser.parse_args(list(arguments))


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the stamps and writes the file."""
    from cl2cm_jax.data.sets.stamp_files import stamps
    from cl2cm_jax.data.sets.stamps import write_source_captions

    options = parse(sys.argv[1:] if arguments is None else arguments)
    written = write_source_captions(stamps(options.root), options.out)
    print(f"{written} English captions of the training split: {options.out}")


if __name__ == "__main__":
    exit_cleanly(main)
