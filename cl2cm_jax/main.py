"""Trains and evaluates.

python -m cl2cm_jax.main --config=configs/emoji.py --workdir=runs/emoji [--mode=...] [--config.train.batch_size=512 ...]

--mode=train     trains (or resumes, or goes on with a larger config.train.steps), evaluates, and writes results,
                 picture, model and gallery into the workdir; --init=MODEL starts from the weights of a trained model
--mode=evaluate  evaluates the selected checkpoint of a workdir again; --config may be left out
--mode=check     builds the data and features and prints what would be trained; does not touch the workdir

Exit codes: 0 finished; 2 an error that you can fix; 143 stopped by SIGTERM (a time limit, a preempted machine) and 130
by Ctrl-C, after a checkpoint was saved: the same command resumes; 75 another process of the run was lost, the same.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from cl2cm_jax.config import PLACES, override_all, read
from cl2cm_jax.config.declarations import AUTO
from cl2cm_jax.errors import UserError, exit_cleanly
from cl2cm_jax.evaluation.report import read_report
from cl2cm_jax.models.configured import pinned, text_prompt
from cl2cm_jax.parallel import hosts
from cl2cm_jax.runtime.command_line import PLACE, Arguments, resume_command, split_flags
from cl2cm_jax.runtime.preemption import exit_stopped
from cl2cm_jax.runtime.start import start_jax
from cl2cm_jax.text.terminal import log_to_stderr
from cl2cm_jax.trained.initial import Initial, initial_student
from cl2cm_jax.training import experiment, loop, results
from cl2cm_jax.training.going_on import CONTINUED, check_going_on
from cl2cm_jax.training.identity import as_trained, read_record, write_record
from cl2cm_jax.training.workdir import read_config


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """The options of the command line, and the config fields that it sets."""
    rest, overrides = split_flags(list(arguments))
    parser = Arguments(prog="python -m cl2cm_jax.main", description=__doc__)
    parser.add_argument("--config", type=PLACE, help="a file in configs/; FILE:ARGUMENT passes it an argument")
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    help = "start from the weights of a trained model: a workdir, a bundle, or a hub id (org/name)"
    parser.add_argument("--init", type=PLACE, metavar="MODEL", help=help)
    parser.add_argument("--mode", choices=("train", "evaluate", "check"), default="train")
    options = parser.parse_args(rest)
    if options.init and options.mode != "train":
        raise UserError(f"--init={options.init} starts a training; leave it out with --mode={options.mode}")
    return options, overrides


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
    workdir: Path = options.workdir
    if options.mode == "check":
        return experiment.describe(experiment.build(config))
    trains, is_new = options.mode == "train", not experiment.has_outputs(workdir)
    at_commits = pinned(config) if is_new else None
    config = _with_prompt(config, workdir, at_commits)
    free = (*experiment.free_places(workdir), *(CONTINUED if trains else ()))
    fix = f"use another --workdir, which --init={workdir} starts from these weights"
    experiment.check_workdir(workdir, config, free=free, fix=fix)
    if trains:
        _check_init(options.init, workdir, config, is_new=is_new)
    finished = trains and results.is_finished(workdir, config)
    if finished and not experiment.changes(workdir, config).keys() & PLACES:
        again = "--mode=evaluate evaluates again, a larger config.train.steps goes on, another --workdir trains again"
        return f"{read_report(workdir)}\nfinished before: {workdir}; {again}"
    built = experiment.build(pinned(as_trained(config, workdir)) if at_commits is None else at_commits)
    if trains and not finished:
        init = initial_student(options.init, built.config) if options.init and is_new else None
        with _claimed(built, workdir, config, free=free, init=init):  # after all checks of the inputs
            if loop.train(built, workdir, init=init and init.student) is None:
                return ""
            measured = results.evaluate_and_write(built, workdir)
    else:
        measured = results.evaluate_and_write(built, workdir)
        hosts.on_host_zero(lambda: experiment.note_places(workdir, config))
    # a run of an earlier version, whose data have been checked as that did, gets its record now
    hosts.on_host_zero(lambda: read_record(workdir) or write_record(workdir, built.config, built.data))
    return results.summary(measured, workdir, seconds=time.perf_counter() - start)


def _with_prompt(config: ConfigDict, workdir: Path, at_commits: ConfigDict | None) -> ConfigDict:
    """The configuration with the prompt itself in place of "auto": a run keeps the one that it began with.

    `at_commits` is the configuration of a new run at the commits of its hub ids, which gets the prompt too.
    """
    config = config.copy_and_resolve_references()
    if at_commits is not None:
        at_commits.text.prompt = config.text.prompt = text_prompt(at_commits)
    elif config.text.prompt == AUTO:
        config.text.prompt = read_config(workdir).text.prompt
    else:
        config.text.prompt = text_prompt(config)
    return config


def _check_init(init: str | None, workdir: Path, config: ConfigDict, *, is_new: bool) -> None:
    """Refuses to go on with a run that was started from another model than `init`, which may have been moved."""
    started = read_record(workdir).get("init")
    if is_new and started and not init:
        model = started["model"]
        raise UserError(f"--workdir={workdir} was started with --init={model}; give it again, or another --workdir")
    if init and not is_new:
        if started and (started["model"] == init or started.get("weights") == initial_student(init, config).weights):
            return
        how = f"with --init={started['model']}" if started else "without --init"
        raise UserError(
            f"--init={init}: --workdir={workdir} was started {how}; leave it out, or give another --workdir"
        )


@contextlib.contextmanager
def _claimed(
    built: experiment.Run, workdir: Path, config: ConfigDict, *, free: Sequence[str], init: Initial | None
) -> Iterator[None]:
    """Holds the workdir; a new one gets the record of what the run is built on."""
    is_new = not experiment.has_outputs(workdir)
    if init:
        loop.check_initial(built, init.student, flag=f"--init={init.name}")
    if not is_new and results.is_finished(workdir) and not any((workdir / "checkpoints").glob("[0-9]*")):
        raise UserError(
            f"--workdir={workdir} has no checkpoint to go on from; start another --workdir with --init={workdir}",
            id="going-on",
        )
    if experiment.changes(workdir, config).keys() & {*PLACES, *CONTINUED}:  # before its config.json is written anew
        with experiment.checkpoints(built, workdir) as saved:
            newest = saved.read_metadata()
        if newest:
            experiment.check_data(built, workdir, newest.metadata)
            check_going_on(built, workdir, newest.metadata, newest.step)
    about = {"init": {"model": init.name, "weights": init.weights}} if init else {}
    with experiment.claim(workdir, config, free=free):
        hosts.on_host_zero(lambda: write_record(workdir, built.config, built.data, **about) if is_new else None)
        yield


def _config(options: argparse.Namespace, overrides: dict[str, str]) -> ConfigDict:
    """The configuration of the file or of the workdir, with the overrides of the command line."""
    if options.config:
        return read(options.config, overrides)
    if options.mode != "evaluate":
        raise UserError("--config is missing; name a file such as configs/emoji.py")
    return override_all(read_config(options.workdir), overrides)


if __name__ == "__main__":
    exit_cleanly(main)
