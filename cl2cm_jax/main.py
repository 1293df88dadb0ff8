"""Trains and evaluates.

python -m cl2cm_jax.main --config=configs/emoji.py --workdir=runs/emoji [--mode=...] [--config.train.batch_size=512 ...]

--mode=train     trains (or resumes), evaluates, and writes results, picture, model and gallery into the workdir
--mode=evaluate  evaluates the selected checkpoint of a workdir again; --config may be left out
--mode=check     builds the data and features and prints what would be trained; does not touch the workdir
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from cl2cm_jax.config import override_all, read
from cl2cm_jax.errors import UserError, exit_cleanly
from cl2cm_jax.models.configured import pinned
from cl2cm_jax.parallel import hosts
from cl2cm_jax.runtime.command_line import PLACE, Arguments, resume_command, split_flags
from cl2cm_jax.runtime.start import start_jax
from cl2cm_jax.training import experiment, loop, results
from cl2cm_jax.training.identity import as_trained, read_record, write_record
from cl2cm_jax.training.workdir import read_config


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """The options of the command line, and the config fields that it sets."""
    rest, overrides = split_flags(list(arguments))
    parser = Arguments(prog="python -m cl2cm_jax.main", description=__doc__)
    parser.add_argument("--config", type=PLACE, help="a file in configs/; FILE:ARGUMENT passes it an argument")
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
    if not hosts.is_host_zero():
        logging.getLogger().setLevel(logging.WARNING)
    with hosts.fail_together():
        message = _run(options, config, resume=resume_command("train", arguments), start=start)
    if hosts.is_host_zero():
        print(message)


def _run(options: argparse.Namespace, config: ConfigDict, *, resume: str, start: float) -> str:
    """Runs one mode and returns its last message."""
    workdir = options.workdir
    if options.mode == "check":
        return experiment.describe(experiment.build(config))
    free = experiment.free_places(workdir)
    experiment.check_workdir(workdir, config, free=free)
    finished = options.mode == "train" and results.is_finished(workdir)
    if finished and not experiment.changes(workdir, config).keys() & set(free):
        table = (workdir / "results.md").read_text(encoding="utf-8")
        return f"{table}\nfinished before: {workdir}; --mode=evaluate evaluates again, another --workdir trains again"
    is_new = not experiment.has_outputs(workdir)
    built = experiment.build(pinned(config if is_new else as_trained(config, workdir)))
    if options.mode == "evaluate" or finished:  # finished, and its data or backbones are in another place now
        measured = results.evaluate_and_write(built, workdir)
        hosts.on_host_zero(lambda: experiment.note_places(workdir, config))
    else:
        with experiment.claim(workdir, config, free=free):  # after all checks of the inputs
            if is_new:
                hosts.on_host_zero(lambda: write_record(workdir, built.config, built.data))
            if loop.train(built, workdir) is None:
                return f"stopped and saved; resume with: {resume}"
            measured = results.evaluate_and_write(built, workdir)
    if not read_record(workdir):  # a run of an earlier version, whose data have been checked as it did
        hosts.on_host_zero(lambda: write_record(workdir, built.config, built.data))
    return results.summary(measured, workdir, seconds=time.perf_counter() - start)


def _config(options: argparse.Namespace, overrides: dict[str, str]) -> ConfigDict:
    """The configuration of the file or of the workdir, with the overrides of the command line."""
    if options.config:
        return read(options.config, overrides)
    if options.mode != "evaluate":
        raise UserError("--config is missing; name a file such as configs/emoji.py")
    return override_all(read_config(options.workdir), overrides)


if __name__ == "__main__":
    exit_cleanly(main)
