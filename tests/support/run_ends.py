"""Reads the end of a run, and compares two runs."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np

from cl2cm_jax.training import experiment

_TIMED = ("time", "examples_per_second", "data_wait")


def rows(workdir: Path) -> list[dict[str, float]]:
    """The logged metrics without times."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in _TIMED} for line in lines]


def last_state(built: experiment.Run, workdir: Path) -> tuple[int, dict[str, np.ndarray]]:
    """Step and every array of the newest checkpoint."""
    with experiment.checkpoints(built, workdir) as saved:
        restored = saved.restore(experiment.abstract_state(built))
    assert restored is not None
    leaves = jax.tree_util.tree_flatten_with_path(restored.state)[0]
    return restored.step, {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_same_end(built: experiment.Run, one: Path, other: Path) -> None:
    """Checks that parameters, optimiser state, averages and calibration are equal bit for bit."""
    (step, left), (other_step, right) = last_state(built, one), last_state(built, other)
    assert step == other_step == built.stages.total
    assert left.keys() == right.keys() and any("'opt'" in name for name in left)
    for name, array in left.items():
        assert array.tobytes() == right[name].tobytes(), name
