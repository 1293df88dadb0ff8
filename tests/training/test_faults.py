"""Signals, full disks and other devices in the middle of things: the run that goes on is the one left alone."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest
from support.command import Outcome, call
from support.run_ends import assert_same_end, last_state, rows

pytest.importorskip("tensorflow")

from cl2cm_jax import config as configuration
from cl2cm_jax import main
from cl2cm_jax.data.batches import batches
from cl2cm_jax.evaluation import evaluate
from cl2cm_jax.parallel.mesh import make_mesh
from cl2cm_jax.runtime import checkpoint
from cl2cm_jax.training import experiment, loop

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
STEPS = 12  # 4 of the teacher, 8 of the student; a checkpoint every 2, validation at 8 and 12
FULL = 6  # the checkpoint for which there is no room


@pytest.fixture(scope="module")
def built(home: Path) -> experiment.Run:
    return experiment.build(configuration.read(str(home / "config.py")))


@pytest.fixture(scope="module")
def on_one_device(home: Path) -> experiment.Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "make_mesh", lambda **_: make_mesh(devices=jax.devices()[:1]))
        return experiment.build(configuration.read(str(home / "config.py")))


@pytest.fixture(scope="module")
def undisturbed(built: experiment.Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("undisturbed")
    assert loop.train(built, workdir) is not None
    return workdir


def nth(number: int, function: Callable[..., Any], act: Callable[[], object]) -> Callable[..., Any]:
    """`function`, which does something else at the end of its n-th call."""
    calls = iter(range(1, 1000))

    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        result = function(*arguments, **keywords)
        if next(calls) == number:
            act()
        return result

    return wrapped


def ask() -> None:
    signal.raise_signal(signal.SIGTERM)


def ask_from_a_thread() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def clock(built: experiment.Run, workdir: Path) -> loop.Clock:
    with experiment.checkpoints(built, workdir) as saved:
        about = saved.read_metadata()
    assert about is not None
    return loop.Clock(**about.metadata["clock"])


@pytest.mark.parametrize(
    ("place", "name", "number", "act", "stopped"),
    [
        pytest.param("step", "step", 7, ask, 7, id="a-step-on-the-devices"),
        pytest.param(evaluate, "embed_corpus", 1, ask, 9, id="an-evaluation"),
        pytest.param(evaluate, "embed_corpus", 2, ask, STEPS, id="the-last-evaluation"),
        pytest.param(loop, "calibration", 1, ask, 5, id="a-calibration"),
        pytest.param(checkpoint.ocp, "save_async", 3, ask, 7, id="the-start-of-a-save"),
        pytest.param(checkpoint, "write_checksums", 3, ask_from_a_thread, None, id="the-end-of-a-save"),
    ],
)
def test_a_signal_during(
    built: experiment.Run,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: Any,
    name: str,
    number: int,
    act: Callable[[], None],
    stopped: int | None,
) -> None:
    run = built
    with monkeypatch.context() as patch:
        if place == "step":
            run = built._replace(step=built.step._replace(step=nth(number, built.step.step, act)))
        else:
            patch.setattr(place, name, nth(number, getattr(place, name), act))
        assert loop.train(run, tmp_path) is None
    step, _ = last_state(built, tmp_path)
    assert step == stopped if stopped else 6 < step < STEPS
    before = clock(built, tmp_path)
    starts: list[int] = []
    monkeypatch.setattr(loop, "batches", lambda *a, **k: starts.append(k["start_step"]) or batches(*a, **k))
    assert loop.train(built, tmp_path) is not None
    assert starts == [step]
    assert rows(tmp_path) == rows(undisturbed)
    assert_same_end(built, undisturbed, tmp_path)
    after, actual = clock(built, undisturbed), clock(built, tmp_path)
    assert (actual.best, actual.evaluations_since_best) == (after.best, after.evaluations_since_best)
    assert actual.seconds > before.seconds > 0 or (step == STEPS and actual.seconds == before.seconds > 0)


class Full:
    """The answer of a save that finds no room once it is under way."""

    def __init__(self, response: Any):
        response.result()

    def result(self, timeout: float | None = None) -> None:
        raise ValueError("RESOURCE_EXHAUSTED: writing d/1 [OS error 28: No space left on device]\nsecond line")


def full_at_the_start(path: str, *_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", path)


def full_in_the_writer(path: str, *arguments: Any, **keywords: Any) -> Full:
    return Full(SAVE(f"{path}.orbax-checkpoint-tmp", *arguments, **keywords))


def no_large_files(path: str, *arguments: Any, **keywords: Any) -> Any:
    """The system itself refuses what Orbax writes; the limit holds until the test lifts it."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    return SAVE(path, *arguments, **keywords)


SAVE = checkpoint.ocp.save_async


def training(home: Path, workdir: Path) -> Outcome:
    return call(main.main, f"--config={home / 'config.py'}", f"--workdir={workdir}")


@pytest.mark.parametrize(
    ("save", "why"),
    [
        (full_at_the_start, "No space left on device"),
        (full_in_the_writer, "No space left on device"),
        (no_large_files, "File too large"),
    ],
)
def test_a_save_on_a_full_disk_is_one_line_and_the_next_start_resumes(
    built: experiment.Run,
    undisturbed: Path,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    save: Callable[..., Any],
    why: str,
) -> None:
    def at_one_step(path: str, *arguments: Any, **keywords: Any) -> Any:
        return (save if Path(path).name == str(FULL) else SAVE)(path, *arguments, **keywords)

    monkeypatch.setattr(experiment, "build", lambda config: built)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint.ocp, "save_async", at_one_step)
            outcome = training(home, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert outcome.code == 2 and "Traceback" not in outcome.err, outcome.err
    last = outcome.err.strip().splitlines()[-1]
    assert last.startswith(f"error: checkpoint {tmp_path / 'checkpoints' / str(FULL)} was not written ({why}"), last
    assert f"step {FULL - 2} is the newest complete one" in last
    assert sorted(os.listdir(tmp_path / "checkpoints")) == [str(FULL - 4), str(FULL - 2)]
    again = training(home, tmp_path)
    assert again.code == 0 and f"resuming from step {FULL - 2} of {STEPS}" in again.err, again.err
    assert rows(tmp_path) == rows(undisturbed)
    assert_same_end(built, undisturbed, tmp_path)


@pytest.mark.parametrize("order", ["8-to-1", "1-to-8"])
def test_a_run_resumes_with_another_number_of_devices(
    built: experiment.Run, on_one_device: experiment.Run, undisturbed: Path, tmp_path: Path, order: str
) -> None:
    first, second = (built, on_one_device) if order == "8-to-1" else (on_one_device, built)
    stops = first._replace(step=first.step._replace(step=nth(7, first.step.step, ask)))
    assert loop.train(stops, tmp_path) is None
    state = loop.train(second, tmp_path)
    assert state is not None
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(state)} == {second.mesh.size}
    assert int(state["step"]) == STEPS
    for actual, expected in zip(rows(tmp_path), rows(undisturbed), strict=True):
        assert actual == pytest.approx(expected, rel=1e-5)


KILLED = """
import os, signal, sys
from cl2cm_jax import main
from cl2cm_jax.evaluation import evaluate
from cl2cm_jax.runtime import checkpoint

def kill(*arguments, **keywords):
    os.kill(os.getpid(), signal.SIGKILL)

place, *rest = sys.argv[1:]
if place == "evaluation":
    evaluate.rank_all = kill  # the vectors are there, the metrics are not
else:
    save = checkpoint.ocp.save_async
    checkpoint.ocp.save_async = lambda path, *a, **k: (save(path, *a, **k), path.endswith("/6") and kill())[0]
main.main(rest)
"""


def test_killed_during_a_save_and_then_during_an_evaluation(
    built: experiment.Run, undisturbed: Path, home: Path, tmp_path: Path
) -> None:
    for place in ("save", "evaluation"):
        flags = [place, f"--config={home / 'config.py'}", f"--workdir={tmp_path}"]
        killed = subprocess.run([sys.executable, "-c", KILLED, *flags], cwd=ROOT, capture_output=True, text=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert last_state(built, tmp_path)[0] in (4, 6), "the writer may have been quicker than the kill"
    assert loop.train(built, tmp_path) is not None
    assert rows(tmp_path) == rows(undisturbed)
    assert_same_end(built, undisturbed, tmp_path)
