from __future__ import annotations

import io
import re

import pytest

from cl2cm_jax.runtime import progress
from cl2cm_jax.runtime.progress import ProgressReport, clock


class _Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(name="now")
def _now(monkeypatch):
    times = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: times[0])
    return times


def test_plain_lines_where_there_is_no_terminal(now):
    out = io.StringIO()
    with ProgressReport(total=1200, batch_size=64, stream=out) as report:
        now[0] += 6.0
        report.waited(0.12)
        rates = report.update(120, loss=3.2149)
        report.note("saved [step 120]")
    assert out.getvalue().splitlines() == [
        "step 120/1200 loss 3.215 1,280 examples/s wait 2 % eta 0:54",
        "saved [step 120]",
    ]
    assert rates == {"examples_per_second": pytest.approx(1280), "data_wait": pytest.approx(0.02)}


def test_rates_are_since_the_last_update_and_a_resumed_run_counts_its_own_steps(now):
    report = ProgressReport(total=100, batch_size=10, start=80, stream=io.StringIO())
    now[0] += 10.0
    assert report.update(90, loss=1.0)["examples_per_second"] == pytest.approx(10)
    now[0] += 1.0
    report.waited(5.0)
    rates = report.update(100, loss=1.0)
    assert rates["examples_per_second"] == pytest.approx(100) and rates["data_wait"] == 1.0


def test_a_bar_on_a_terminal():
    out = _Terminal()
    with ProgressReport(total=10, batch_size=2, stream=out) as report:
        report.update(5, loss=0.5)
        report.note("saved [step 5]")
        report.update(10, loss=0.25)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert "step 10/10 loss 0.25" in text and "━" in text
    assert "saved [step 5]" in text, "square brackets are text, not markup"


def test_clock():
    assert [clock(0), clock(42.4), clock(3723), clock(-5)] == ["0:00", "0:42", "1:02:03", "0:00"]
