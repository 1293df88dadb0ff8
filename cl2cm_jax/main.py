"""Trains and evaluates.

python -m cl2cm_jax.main --config=configs/emoji.py --workdir=runs/emoji [--mode=...] [--config.train.batch_size=512 ...]

--mode=train     trains (or resumes), evaluates, and writes results, picture, model and gallery into the workdir
--mode=evaluate  evaluates the selected checkpoint of a workdir again; --config may be left out
--mode=check     builds the data and features and prints what would be trained; does not touch the workdir

Exit codes: 0 finished; 2 an error that you can fix; 143 stopped by SIGTERM (a time limit, a preempted machine) and 130
by Ctrl-C, after a checkpoint was saved: the same command resumes; 75 another process of the run was lost, the same.
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
from cl2cm_jax.evaluation.report import read_report
from cl2cm_jax.parallel import hosts
from cl2cm_jax.runtime.command_line import Arguments, resume_command, split_flags
from cl2cm_jax.runtime.preemption import exit_stopped
from cl2cm_jax.runtime.start import start_jax
from cl2cm_jax.terminal import log_to_stderr
from cl2cm_jax.training import experiment, loop, results
from cl2cm_jax.training.workdir import read_config


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """The options of the command line, and the config fields that it sets."""
    rest, overrides = split_flags(list(arguments))
    parser = Arguments(prog="python -m cl2cm_jax.main", description=__doc__)
    parser.add_argument("--config", help="a file in configs/; FILE:ARGUMENT passes it an argument")
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    parser.add_argument("--mode", choices=("train", "evaluate", "check"), default="train")
    return parser.parse_args(rest), overrides


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one mode."""
    start = time.perf_counter()
    log_to_stderr(level=logging.INFO, format="%(message)s")
    arguments = sys.argv[1:] if arguments is None else arguments
    options, overrides = parse(arguments)
    config = _config(options, overrides)
    start_jax(Path(config.data.dir))
    if not hosts.is_host_zero():
        logging.getLogger().setLevel(logging.WARNING)
    with hosts.fail_together():
        message = _run(options, config, start=start)
    if not message:
        exit_stopped(resume_command("train", arguments) if hosts.is_host_zero() else "")
    if hosts.is_host_zero():
        print(message)


def _run(options: argparse.Namespace, config: ConfigDict, *, start: float) -> str:
    """Runs one mode and returns its last message, "" if a signal stopped it."""
    workdir = options.workdir
    if options.mode == "check":
        return experiment.describe(experiment.build(config))
    experiment.check_workdir(workdir, config)
    if options.mode == "train" and results.is_finished(workdir):
        again = "--mode=evaluate evaluates again, another --workdir trains again"
        return f"{read_report(workdir)}\nfinished before: {workdir}; {again}"
    built = experiment.build(config)
    if options.mode == "evaluate":
        measured = results.evaluate_and_write(built, workdir)
    else:
        with experiment.claim(workdir, config):  # after all checks of the inputs
            if loop.train(built, workdir) is None:
                return ""
            measured = results.evaluate_and_write(built, workdir)
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
