"""Checkpoints of a run: asynchronous, atomic, newest readable first, restored onto any mesh.

A step is a folder `<directory>/<step>`, renamed to this when it is complete. Orbax writes the state; beside it are the
caller's metadata (configuration, data position, clock), the metrics and the checksums.

Orbax's own `training.Checkpointer` is not used: it refuses to open a directory in which one step's metrics are damaged.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import jax
from orbax.checkpoint import v1 as ocp

from cl2cm_jax.errors import UserError
from cl2cm_jax.parallel import hosts
from cl2cm_jax.parallel.sharding import path_name
from cl2cm_jax.runtime.checksums import LIST_NAME, add_checksums, has_checksums, verify_checksums, write_checksums

Which = int | Literal["latest", "best"]
T = TypeVar("T")

# how the writer of arrays reports an error of the system
_SYSTEM_ERROR = re.compile(r"os_error_code='(\d+)'|\[OS error (\d+):")
_UNREADABLE, _DELETED = ".unreadable", ".deleted"
_METADATA = "_CHECKPOINT_METADATA"  # Orbax's file with the metadata and metrics
_UNFINISHED = ("*.orbax-checkpoint-tmp*", f"*{_DELETED}")  # left by a killed process


class Saved(NamedTuple):
    """Metadata and metrics of a checkpoint."""

    step: int
    metadata: dict[str, Any]
    metrics: dict[str, float]


class Restored(NamedTuple):
    """A checkpoint's state, on the requested devices, and its metadata."""

    state: Any
    step: int
    metadata: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run.

    Args:
        directory: where they are; created at the first save.
        keep_last: how many of the newest are kept.
        best_metric: the checkpoint with its highest value is kept as well; None keeps only the newest.
        older_metric: used instead in checkpoints of an older version, which lack `best_metric`.
        always: steps whose checkpoints are kept where there are any.

    A failed save is reported by the next call of `save`, `check`, `wait` or `close`.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep_last: int = 2,
        best_metric: str | None = None,
        older_metric: str | None = None,
        always: Collection[int] = (),
    ):
        self.directory = Path(directory).absolute()
        self._keep_last, self._always = max(keep_last, 1), always
        self._best_metric, self._older_metric = best_metric, older_metric
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: tuple[int, Future[None]] | None = None
        self._unreadable: set[int] = set()
        self._scores: dict[int, float | None] = {}  # of steps that this object has saved or read, see `_score`

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except UserError as error:
            if kind is None:
                raise
            logging.warning("%s", error)  # the exception being raised matters more

    def save(self, step: int, state: Any, *, metadata: dict[str, Any], metrics: dict[str, float] | None = None) -> bool:
        """Starts to write a checkpoint and returns once `state` may be donated.

        Args:
            step: number of finished steps.
            state: pytree of arrays (no typed keys).
            metadata: a dict that JSON can hold.
            metrics: may contain `best_metric`.

        Returns:
            False if the step exists already; it is not written again.

        Raises:
            UserError: the previous save, or the start of this one, failed (full disk, no permission).
        """
        self.wait()
        self._set_unreadable_aside()
        if step in self.steps():
            return False
        self._scores.pop(step, None)  # of an earlier, unreadable checkpoint of this step
        about = json.loads(json.dumps({"step": step, "metadata": metadata, "metrics": metrics or {}}))
        folder = self.directory / str(step)
        logging.getLogger("absl").addFilter(_is_not_a_repeated_traceback)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self.remove_unfinished()
            response = ocp.save_async(str(folder), state, custom_metadata=about)
        except OSError as error:
            raise self._failure(step, error) from error
        self._pending = (step, self._worker.submit(_complete, response, folder))
        return True

    def check(self) -> None:
        """Raises UserError if a save is known to have failed; does not wait."""
        if self._pending and self._pending[1].done():
            self.wait()

    def wait(self) -> None:
        """Waits for the running save, then deletes old checkpoints.

        Raises:
            UserError: the save failed; earlier checkpoints are unchanged.
        """
        if self._pending is None:
            return
        (step, future), self._pending = self._pending, None
        try:
            future.result()
        except Exception as error:
            raise self._failure(step, error) from error
        self._prune()

    def close(self) -> None:
        """Waits for the running save and ends the thread; raises as `wait` does."""
        try:
            self.wait()
        finally:
            self._worker.shutdown()

    def steps(self) -> list[int]:
        """Steps of all complete checkpoints, ascending, readable or not."""
        if not self.directory.is_dir():
            return []
        return sorted(int(path.name) for path in self.directory.iterdir() if path.name.isdecimal() and path.is_dir())

    def latest_step(self) -> int | None:
        """The newest step, None without a checkpoint."""
        return max(self.steps(), default=None)

    def read_metadata(self, *, step: Which | None = "latest") -> Saved | None:
        """The metadata of a checkpoint; chooses and raises as `restore` does."""
        return self._first_readable(step, self._about)

    def restore(self, abstract_state: Any, *, step: Which | None = "latest") -> Restored | None:
        """Reads a checkpoint onto the devices of `abstract_state`.

        Args:
            abstract_state: pytree of `jax.ShapeDtypeStruct` with shardings, of the whole state or of a part of it
                (`{"params": ...}` reads no optimiser state).
            step: a step number; "latest" (or None) and "best" take the first readable one, newest or best first, and
                log a warning for each that is skipped.

        Returns:
            None if the run has no checkpoint.

        Raises:
            UserError: checkpoints exist and no requested one is readable, or the state has other shapes.
        """

        def read(step: int) -> Restored:
            about = self._about(step)
            folder = self.directory / str(step)
            _check_shapes(ocp.metadata(str(folder)).metadata, abstract_state, folder)
            context = ocp.Context()
            context.pytree.loading.partial_load = True
            with context:
                return Restored(ocp.load(str(folder), abstract_state), step, about.metadata)

        return self._first_readable(step, read)

    def _about(self, step: int) -> Saved:
        about: Any = ocp.metadata(str(self.directory / str(step))).custom_metadata
        if not about or about.get("step") != step:  # Orbax reads a damaged file as an empty one
            raise ValueError("its metadata is missing or damaged")
        return Saved(**about)

    def _first_readable(self, which: Which | None, read: Callable[[int], T]) -> T | None:
        self.wait()
        steps = self._order(which)
        reasons = []
        for position, step in enumerate(steps):
            try:
                with _quiet():
                    found = self._damage(step) if hosts.is_host_zero() else ""  # all processes skip the same ones
                    if damage := hosts.from_host_zero(found):
                        raise ValueError(damage)
                    return read(step)
            except UserError:
                raise
            except Exception as error:  # damage raises anything: JSON, Unicode, tensorstore, OSError
                reasons.append(f"step {step}: {_reason(error)}")
                self._unreadable.add(step)
            if following := steps[position + 1 : position + 2]:
                text = "checkpoint %s is not readable (%s); taking step %d instead"
                logging.warning(text, self.directory / str(step), reasons[-1], following[0])
        if reasons:
            others = [step for step in self.steps() if step not in steps]
            fix = f"request one of {others}" if others else "restore its files, or start again with another workdir"
            raise UserError(
                f"no checkpoint in {self.directory} is readable ({'; '.join(reasons)}); {fix}.",
                id="no-readable-checkpoint",
            )
        return None

    def _damage(self, step: int) -> str:
        """Damage of a checkpoint's files that is found without reading its arrays; "" if there is none."""
        folder = self.directory / str(step)
        try:
            if has_checksums(folder):
                verify_checksums(folder)
            elif any(map(has_checksums, self.directory.iterdir())):
                return f"{LIST_NAME} is missing"  # deleted, or the process was killed before it wrote it
            else:
                for each in self.steps():  # of an earlier version; all, or the others would be taken for damaged ones
                    add_checksums(self.directory / str(each))
        except Exception as error:
            return _reason(error) or type(error).__name__
        return ""

    def _order(self, which: Which | None) -> list[int]:
        steps = self.steps()
        if isinstance(which, int):
            if which not in steps:
                raise UserError(f"step {which} has no checkpoint in {self.directory}; there are {steps}.")
            return [which]
        newest_first = steps[::-1]
        if which != "best":
            return newest_first
        scores = {step: self._score(step) for step in steps}
        return sorted(newest_first, key=lambda step: _lowest_if_damaged(scores[step]), reverse=True)

    def _score(self, step: int) -> float | None:
        """The best metric of a step, -inf if it has none; None, with a warning, if its metadata is damaged."""
        if step not in self._scores:
            self._scores[step] = -math.inf if self._best_metric is None else self._read_score(step, self._best_metric)
        return self._scores[step]

    def _read_score(self, step: int, metric: str) -> float | None:
        folder = self.directory / str(step)
        try:
            with _quiet():
                verify_checksums(folder, _METADATA)
                metrics = self._about(step).metrics
            value = float(metrics.get(metric, metrics.get(self._older_metric or "", math.nan)))
        except Exception as error:
            text = "the metrics of checkpoint %s are not readable (%s); it is not taken for the best one"
            logging.warning(text, folder, _reason(error))
            return None
        return -math.inf if math.isnan(value) else value

    def _prune(self) -> None:
        if not hosts.is_host_zero():
            return
        steps = self.steps()
        scores = {step: self._score(step) for step in steps}
        damaged = (step for step in steps if scores[step] is None)  # may have been the best
        keep = {*(set(steps) & set(self._always)), *steps[-self._keep_last :], *damaged}
        best = max(reversed(steps), key=lambda step: _lowest_if_damaged(scores[step]))
        if _lowest_if_damaged(scores[best]) > -math.inf:
            keep.add(best)
        for step in set(steps) - keep:
            _delete(self.directory / str(step))
        for aside in self.directory.glob(f"*{_UNREADABLE}"):
            if not has_checksums(aside):  # of a process killed before it wrote them; now there is a newer one
                _remove(aside)

    def _set_unreadable_aside(self) -> None:
        """Renames unreadable checkpoints, so that their steps can be written again."""
        if self._unreadable:
            hosts.barrier("unreadable checkpoints are known")
            for step in self._unreadable & set(self.steps()) if hosts.is_host_zero() else ():
                aside = self.directory / f"{step}{_UNREADABLE}"
                shutil.rmtree(aside, ignore_errors=True)
                os.replace(self.directory / str(step), aside)
            hosts.barrier("unreadable checkpoints are set aside")
            self._unreadable.clear()

    def remove_unfinished(self) -> None:
        """Removes what a killed process has left; for the one process that writes here, while it saves nothing."""
        if hosts.is_host_zero():
            for pattern in _UNFINISHED:
                for path in self.directory.glob(pattern):
                    _remove(path)

    def _failure(self, step: int, error: Exception) -> UserError:
        self.remove_unfinished()
        latest = self.latest_step()
        left = "there is no earlier one" if latest is None else f"step {latest} is the newest complete one"
        system = _SYSTEM_ERROR.search(str(error))
        reason = os.strerror(int(system[1] or system[2])) if system else _reason(error)
        return UserError(
            f"checkpoint {self.directory / str(step)} was not written ({reason}): {left}; "
            "free disk space or fix permissions, then rerun the same command.",
            id="no-disk-space",
        )


def _lowest_if_damaged(score: float | None) -> float:
    return -math.inf if score is None else score


def _remove(folder: Path) -> None:
    """Removes a folder, retrying for two seconds: other writers of a failed save may still add files to it."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def _complete(response: ocp.AsyncResponse[None], folder: Path) -> None:
    response.result()
    if hosts.is_host_zero():
        try:
            write_checksums(folder)
        except OSError:  # a checkpoint without checksums is not read
            _delete(folder)
            raise


def _delete(folder: Path) -> None:
    """Removes a step; renamed first, so that a kill does not leave a partial checkpoint."""
    doomed = folder.with_name(f"{folder.name}{_DELETED}")
    os.replace(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _check_shapes(saved: Any, wanted: Any, folder: Path) -> None:
    if saved is None:  # Orbax cannot open the arrays
        raise ValueError("its arrays are damaged")
    shapes = {path_name(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_flatten_with_path(saved)[0]}
    for path, leaf in jax.tree_util.tree_flatten_with_path(wanted)[0]:
        name = path_name(path)
        if shapes.get(name) != tuple(leaf.shape):
            found = f"has shape {shapes[name]}" if name in shapes else "is missing"
            raise UserError(
                f"checkpoint {folder}: {name} {found} but the configuration builds {tuple(leaf.shape)}; "
                "use the configuration that it was trained with, or another workdir.",
                id="other-shape",
            )


def _reason(error: Exception) -> str:
    text = str(error)
    if "No space left on device" in text:
        return "No space left on device"
    lines: Sequence[str] = text.splitlines() or [type(error).__name__]
    return lines[0][:160]


def _is_not_a_repeated_traceback(record: logging.LogRecord) -> bool:
    """False for tracebacks of Orbax's writing threads, which each log the error that `result` raises."""
    return "orbax/checkpoint/_src/futures/" not in Path(record.pathname).as_posix()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences Orbax's own messages about damage, which is reported in one line instead."""
    loggers = [logging.getLogger("absl"), logging.getLogger("asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
