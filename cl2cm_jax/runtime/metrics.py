"""Metrics on disk: TensorBoard, JSON Lines and CSV."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cl2cm_jax.runtime.atomic import naming, replacing

_FIRST_COLUMNS = ("step", "time")


class MetricWriter:
    """Writes metrics.jsonl, metrics.csv and tensorboard/ event files, row by row; does not import TensorFlow.

    Args:
        workdir: folder of the run, created if needed.
        resume_step: the step that the run resumes from. Rows of later steps, which a killed run wrote after its last
            checkpoint, are dropped (and TensorBoard hides them). None keeps all.
    """

    def __init__(self, workdir: str | os.PathLike[str], *, resume_step: int | None = None):
        root = Path(workdir)
        root.mkdir(parents=True, exist_ok=True)
        self._jsonl, self._csv = root / "metrics.jsonl", root / "metrics.csv"
        rows = read_rows(self._jsonl)
        self._columns = _columns(rows)
        self._compare_csv(rows)
        if resume_step is not None:
            rows = [row for row in rows if row["step"] <= resume_step]
        self._columns = _columns(rows)
        _replace(self._jsonl, (_json_line(row) for row in rows))
        self._rewrite_csv(rows)
        self._events = _EventFile(root / "tensorboard", resume_step=resume_step)

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._events.close()

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds one row; `values` are scalars by name. A new name becomes a new last column of the CSV."""
        scalars = {name: float(value) for name, value in values.items()}
        # JSON has no NaN and no infinity: null there, an empty cell in the CSV.
        row: dict[str, Any] = {"step": int(step), "time": round(time.time(), 3)}
        row |= {name: value if math.isfinite(value) else None for name, value in scalars.items()}
        _append(self._jsonl, _json_line(row))
        if new := [name for name in row if name not in self._columns]:
            self._columns += new
            self._rewrite_csv(read_rows(self._jsonl))
        else:
            _append(self._csv, _csv_line(row.get(name, "") for name in self._columns))
        self._events.add(row["step"], row["time"], scalars)

    def _csv_rows(self, rows: list[dict[str, Any]]) -> list[str]:
        return [_csv_line(row.get(name, "") for name in self._columns) for row in rows]

    def _rewrite_csv(self, rows: list[dict[str, Any]]) -> None:
        _replace(self._csv, [_csv_line(self._columns), *self._csv_rows(rows)])

    def _compare_csv(self, rows: list[dict[str, Any]]) -> None:
        """Warns where the two files differ: one of them is damaged. A kill may have left out the last row of either."""
        text = self._csv.read_text(encoding="utf-8", errors="replace") if self._csv.exists() else ""
        header, *lines = text.removesuffix("\n").split("\n")
        wanted = self._csv_rows(rows)
        is_whole = len(lines) == len(wanted) and text.endswith("\n")
        pairs = zip(wanted if is_whole else wanted[:-1], lines, strict=False)  # without the columns that came later:
        is_same = all(one.rstrip(",\n") == other.rstrip(",") for one, other in pairs)
        if not is_same or len(lines) > len(wanted) or not _csv_line(self._columns).startswith(header):
            logging.warning("%s and %s differ: one is damaged, and the first is kept", self._jsonl, self._csv.name)


class _EventFile:
    """One TensorBoard event file, written record by record."""

    def __init__(self, folder: Path, *, resume_step: int | None):
        # tensorboard's EventFileWriter imports TensorFlow where it is installed; its RecordWriter does not
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        events: Any = event_pb2  # generated at run time, unknown to type checkers
        summaries: Any = summary_pb2
        self._event, self._summary = events.Event, summaries.Summary
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}"
        self._records = RecordWriter((folder / name).open("xb"))
        self._write(self._event(wall_time=time.time(), file_version="brain.Event:2"))
        if resume_step is not None:  # TensorBoard drops earlier events of this step or later
            start = events.SessionLog(status=events.SessionLog.START)
            self._write(self._event(wall_time=time.time(), step=resume_step + 1, session_log=start))

    def close(self) -> None:
        self._records.close()

    def add(self, step: int, wall_time: float, scalars: Mapping[str, float]) -> None:
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._write(self._event(wall_time=wall_time, step=step, summary=self._summary(value=values)))

    def _write(self, event: Any) -> None:
        self._records.write(event.SerializeToString())
        self._records.flush()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; damaged lines, such as a last one that a kill cut, are left out."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def _columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The columns of metrics.csv, in the order in which they came."""
    return list(dict.fromkeys([*_FIRST_COLUMNS, *(name for row in rows for name in row)]))


def _json_line(row: Mapping[str, Any]) -> str:
    return json.dumps(row) + "\n"


def _csv_line(cells: Iterable[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _append(path: Path, line: str) -> None:
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write(line)


def _replace(path: Path, lines: Iterable[str]) -> None:
    with replacing(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        file.writelines(lines)
