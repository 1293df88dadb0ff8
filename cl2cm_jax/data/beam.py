"""Large builds on Apache Beam: Dataflow, Flink or Spark. Needs the extra `beam`.

Workers read the inputs and write the set at the paths of the configuration, which must be the same on all of them.
They get their items as lines of a file, since some runners limit the size of the graph.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from cl2cm_jax.data import lazy_tensorflow
from cl2cm_jax.errors import UserError, not_installed, one_line


class Beam(NamedTuple):
    """The runner of a build."""

    beam_runner: str  # "DirectRunner", "DataflowRunner", "FlinkRunner", "SparkRunner" ...
    beam_options: Any  # apache_beam's PipelineOptions


def beam_of(runner: str, options: Sequence[str]) -> Beam:
    """Checks a runner and its options, such as "project=mine".

    Raises:
      UserError: apache_beam is not installed, or does not know the runner or an option.
    """
    beam = _apache_beam(runner)
    try:
        beam.runners.create_runner(runner)
    except (ValueError, ImportError, AttributeError, TypeError) as error:
        raise UserError(
            f"config.data.beam_runner={runner!r} cannot be used ({one_line(error)}); use 'DirectRunner', "
            "'DataflowRunner', 'FlinkRunner' or 'SparkRunner'"
        ) from error
    flags = [f"--{option.lstrip('-')}" for option in options]
    return Beam(runner, _pipeline_options(beam, flags))


def mapped(function: Callable[[Any], Any], items: Sequence[Any], *, beam: Beam, folder: Path) -> list[Any]:
    """Runs a pipeline of its own that applies a function to items; the results are in their order.

    Args:
      function: of one item; a function of a module, or a `partial` of one. Items and results are JSON.
      items: the arguments.
      beam: where it runs.
      folder: for intermediate files; all workers see it.
    """
    if not items:
        return []
    apache_beam = _apache_beam(beam.beam_runner)
    folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="checks-", dir=folder))
    with apache_beam.Pipeline(runner=beam.beam_runner, options=beam.beam_options) as pipeline:
        _ = (
            pipeline
            | apache_beam.io.ReadFromText(str(_write_lines(folder / "items.jsonl", enumerate(items))))
            | apache_beam.Reshuffle()
            | apache_beam.Map(partial(_numbered_result, function=function))
            | apache_beam.io.WriteToText(str(folder / "results"))
        )
    lines = (line for file in folder.glob("results-*") for line in file.read_text(encoding="utf-8").splitlines())
    return [result for _, result in sorted((json.loads(line) for line in lines), key=lambda pair: pair[0])]


def examples(
    function: Callable[[Any], tuple[int, dict[str, Any]]], items: Iterable[Any], *, beam: Beam, file: Path
) -> Any:
    """The Beam transform that makes the examples of a tfds builder, for its `_generate_examples`.

    Returns:
      A `beam.PTransform`.
    """
    apache_beam = _apache_beam(beam.beam_runner)
    return (
        apache_beam.io.ReadFromText(str(_write_lines(file, items)))
        | apache_beam.Reshuffle()
        | apache_beam.Map(partial(_of_line, function=function))
    )


def _numbered_result(line: str, *, function: Callable[[Any], Any]) -> str:
    number, item = json.loads(line)
    return json.dumps([number, function(item)])


def _of_line(line: str, *, function: Callable[[Any], Any]) -> Any:
    return function(json.loads(line))


def _write_lines(file: Path, items: Iterable[Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8") as opened:
        opened.writelines(f"{json.dumps(item)}\n" for item in items)
    return file


def _pipeline_options(beam: Any, flags: list[str]) -> Any:
    """The options; Beam warns of unknown ones, since a runner may pass them on."""
    options = beam.options.pipeline_options.PipelineOptions(flags)
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):  # argparse, with all of its 150 options
            options.get_all_options()
    except SystemExit as error:
        reason = message.getvalue().strip().rpartition("error: ")[2]
        raise UserError(f"config.data.beam_options: {' '.join(reason.split())}") from error
    return options


def _apache_beam(runner: str) -> Any:
    lazy_tensorflow.tensorflow_datasets()
    try:
        return importlib.import_module("apache_beam")
    except ImportError as error:
        run = "in a checkout pip install -e '.[data,beam]', in an environment of its own"
        raise not_installed("apache_beam", run=run, needed_for=f"config.data.beam_runner={runner!r}") from error
