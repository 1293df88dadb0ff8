"""Computes the features that a configuration lacks.

cl2cm features --config=configs/emoji.py [--config.data.dir=... ...]

Every command computes the features that it lacks; this one does nothing else. It uses all devices of the machine, and
an interrupted computation resumes.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cl2cm_jax.config import read
from cl2cm_jax.errors import exit_cleanly
from cl2cm_jax.features.cache import all_corpora
from cl2cm_jax.runtime.command_line import PLACE, Arguments, split_flags
from cl2cm_jax.runtime.start import start_jax
from cl2cm_jax.text.terminal import log_to_stderr


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """The command line: options, and the config fields that it changes."""
    rest, overrides = split_flags(list(arguments))
    parser = Arguments(prog="cl2cm features", description=__doc__)
    help = "a file in configs/; FILE:ARGUMENT passes it an argument"
    parser.add_argument("--config", type=PLACE, required=True, help=help)
    return parser.parse_args(rest), overrides


def main(arguments: Sequence[str] | None = None) -> None:
    """Computes missing features and prints their sizes."""
    start = time.perf_counter()
    log_to_stderr(level=logging.INFO, format="%(message)s")
    options, overrides = parse(sys.argv[1:] if arguments is None else arguments)
    config = read(options.config, overrides)
    start_jax(Path(config.data.dir))
    for corpus in all_corpora(config):
        frames, dim = corpus.vision.shape[1:]
        captions = f"{len(corpus.caption_text):,} captions in {', '.join(corpus.languages)}"
        print(f"{corpus.name}: {len(corpus.image_ids):,} x {frames} x {dim} vision features, {captions}")
    print(f"seconds: {time.perf_counter() - start:.0f}; the runs of this configuration find them in {config.data.dir}")


if __name__ == "__main__":
    exit_cleanly(main)
