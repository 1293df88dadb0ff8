"""Trains and evaluates.

python -m cl2cm_jax.main --config=configs/emoji.py --workdir=runs/emoji [--mode=...] [--config.train.batch_size=512 ...]

--mode=train     trains (or goes on), evaluates, and writes results, picture, model and gallery into the workdir
--mode=evaluate  evaluates the selected checkpoint of a workdir anew; --config may be left out
--mode=check     builds the data and features and prints what would be trained; leaves the workdir alone
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from cl2cm_jax import finish, run, train
from cl2cm_jax.command_line import Arguments, resume_command, split_flags
from cl2cm_jax.config import override_all, read
from cl2cm_jax.errors import UserError, exit_cleanly
from cl2cm_jax.runtime.start import start_jax
from cl2cm_jax.search.model import read_config


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """The command line: options, and the config fields that it changes."""
    rest, overrides = split_flags(list(arguments))
    parser = Arguments(
        prog="python -m cl2cm_jax.main",
        description=__doc__,
    )
    parser.add_argument("--config", help="a file in configs/; FILE:ARGUMENT passes it an argument")
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    parser.add_argument("--mode", choices=("train", "evaluate", "check"), default="train")
    return parser.parse_args(rest), overrides


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one mode."""
    start = time.perf_counter()
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr, force=True)
    for noisy in ("absl", "jax", "orbax"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    arguments = sys.argv[1:] if arguments is None else arguments
    options, overrides = parse(arguments)
    config = _config(options, overrides)
    start_jax(Path(config.data.dir))
    if options.mode == "check":
        print(run.check(run.build(config)))
        return
    run.check_workdir(options.workdir, config)
    if options.mode == "train" and finish.is_finished(options.workdir):
        print((options.workdir / "results.md").read_text(encoding="utf-8"))
        print(f"finished before: {options.workdir}; --mode=evaluate evaluates again, another --workdir trains anew")
        return
    built = run.build(config)
    if options.mode == "evaluate":
        finished = finish.finish(built, options.workdir)
    else:
        with run.claim(options.workdir, config):  # after everything that can be wrong with the inputs
            if train.train(built, options.workdir) is None:
                print(f"stopped and saved; resume with: {resume_command('main', arguments)}")
                return
            finished = finish.finish(built, options.workdir)
    print(finish.summary(finished, seconds=time.perf_counter() - start))


def _config(options: argparse.Namespace, overrides: dict[str, str]) -> ConfigDict:
    """The configuration of the file, or that of the workdir, with the changes of the command line."""
    if options.config:
        return read(options.config, overrides)
    if options.mode != "evaluate":
        raise UserError("--config is missing; name a file such as configs/emoji.py")
    return override_all(read_config(options.workdir), overrides)


if __name__ == "__main__":
    exit_cleanly(main)
