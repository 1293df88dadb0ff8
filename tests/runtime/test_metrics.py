from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cl2cm_jax.runtime.metrics import MetricWriter


def _json_rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def _csv_rows(workdir):
    with (workdir / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_three_forms_hold_the_same_numbers(tmp_path):
    with MetricWriter(tmp_path / "run") as writer:
        writer.write(10, {"loss": np.float32(2.5), "rate": 1})
        writer.write(20, {"loss": 1.25, "rate": 2})
    rows = _json_rows(tmp_path / "run")
    assert [(row["step"], row["loss"], row["rate"]) for row in rows] == [(10, 2.5, 1.0), (20, 1.25, 2.0)]
    assert rows[0]["time"] > 1e9
    assert [(row["step"], row["loss"]) for row in _csv_rows(tmp_path / "run")] == [("10", "2.5"), ("20", "1.25")]
    assert len(list((tmp_path / "run" / "tensorboard").glob("events.out.tfevents.*"))) == 1


def test_csv_header_is_stable_and_grows_at_the_end(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.write(1, {"loss": 3.0, "b": 1.0})
        writer.write(2, {"b": 2.0})
        writer.write(3, {"a, quoted": 7.0, "loss": 1.0})
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0] == 'step,time,loss,b,"a, quoted"' and len(lines) == 4
    rows = _csv_rows(tmp_path)
    assert [row["a, quoted"] for row in rows] == ["", "", "7.0"] and rows[1]["loss"] == ""
    assert not list(tmp_path.glob("*.tmp"))


def test_resuming_drops_later_rows_and_a_line_cut_short(tmp_path):
    with MetricWriter(tmp_path) as writer:
        for step in (10, 20, 30):
            writer.write(step, {"loss": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')
    with MetricWriter(tmp_path, resume_step=20) as writer:
        assert [row["step"] for row in _json_rows(tmp_path)] == [10, 20]
        assert [row["step"] for row in _csv_rows(tmp_path)] == ["10", "20"]
        writer.write(30, {"loss": -1.0})
    assert [row["loss"] for row in _json_rows(tmp_path)] == [10.0, 20.0, -1.0]
    assert [row["loss"] for row in _csv_rows(tmp_path)] == ["10.0", "20.0", "-1.0"]


def test_opening_without_a_resume_step_keeps_all(tmp_path):
    for step in (1, 2):
        with MetricWriter(tmp_path) as writer:
            writer.write(step, {"loss": 0.0})
    assert [row["step"] for row in _json_rows(tmp_path)] == [1, 2]


def test_nan_is_null_and_survives_a_rewrite(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.write(1, {"loss": float("nan"), "other": float("inf")})
        writer.write(2, {"new": 1.0})
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    assert _json_rows(tmp_path)[0]["loss"] is None and _csv_rows(tmp_path)[0]["other"] == ""
    with MetricWriter(tmp_path, resume_step=1):
        assert _json_rows(tmp_path)[0]["loss"] is None


def test_tensorboard_reads_it_and_hides_what_was_repeated(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for resume_step, value in ((None, 1.0), (20, 2.0)):
        with MetricWriter(tmp_path, resume_step=resume_step) as writer:
            for step in (10, 20, 30) if resume_step is None else (30, 40):
                writer.write(step, {"train/loss": value})
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    seen = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert seen == [(10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0)]


def test_tensorflow_is_not_imported(tmp_path):
    code = (
        "import sys; from cl2cm_jax.runtime.metrics import MetricWriter\n"
        "with MetricWriter(sys.argv[1]) as writer: writer.write(1, {'loss': 1.0})\n"
        "assert 'tensorflow' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=Path(__file__).parents[2])


def test_flipped_bits_of_the_metrics_are_seen_when_the_run_goes_on(tmp_path, caplog):
    with MetricWriter(tmp_path) as writer:
        for step in range(1, 6):
            writer.write(step, {"loss": 1 / step, "b, quoted": float(step)} | ({"late": 7.0} if step > 2 else {}))
    with MetricWriter(tmp_path, resume_step=4):
        pass
    assert not caplog.records
    for name in ("metrics.jsonl", "metrics.csv"):
        lines = (tmp_path / name).read_bytes().splitlines(keepends=True)
        begin = 0 if name.endswith("jsonl") else len(lines[0])
        for place in range(begin, len(b"".join(lines)) - 1, 5):  # without the last line's end, which a kill may cut
            folder = tmp_path / f"{name}-{place}"
            folder.mkdir()
            for file in ("metrics.jsonl", "metrics.csv"):
                (folder / file).write_bytes((tmp_path / file).read_bytes())
            content = bytearray((folder / name).read_bytes())
            content[place] ^= 1
            (folder / name).write_bytes(content)
            caplog.clear()
            with MetricWriter(folder, resume_step=4):
                pass
            if _json_rows(folder) != _json_rows(tmp_path) or name == "metrics.csv":  # else of a last digit beyond fp64
                assert len(caplog.records) == 1 and "one is damaged" in caplog.text, (name, place)
