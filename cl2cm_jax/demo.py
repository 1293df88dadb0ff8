"""The demo: trains on the emoji set, then searches it in three languages.

cl2cm demo [--workdir=runs/emoji] [--config.train.steps=50 ...]
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from cl2cm_jax import main as training
from cl2cm_jax.runtime.command_line import Arguments, split_flags
from cl2cm_jax.search import __main__ as search

QUERIES = ("ein roter Apfel", "犬", "gato sonriente")


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """The command line: options, and the config fields that it changes."""
    rest, overrides = split_flags(list(arguments))
    parser = Arguments(prog="cl2cm demo", description=__doc__)
    parser.add_argument("--workdir", type=Path, default=Path("runs/emoji"), help="output folder (default: %(default)s)")
    return parser.parse_args(rest), overrides


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, unless the workdir holds a finished run, searches, and says what is where."""
    options, overrides = parse(sys.argv[1:] if arguments is None else arguments)
    workdir = options.workdir
    fields = [f"--config.{name}={text}" for name, text in overrides.items()]
    training.main(["--config=configs/emoji.py", f"--workdir={workdir}", *fields])
    search.main([f"--model={workdir}", "--top=5", *QUERIES])
    print(f"""
Pictures  {workdir}/retrieval.png
Metrics   {workdir}/results.json, {workdir}/metrics.csv; curves: tensorboard --logdir={workdir}
Model     {workdir}/model.safetensors, config.json, gallery.npz
Search    {shlex.join(["cl2cm", "search", f"--model={workdir}", "your own words"])}""")
