"""Benchmarks run and write their records; the figures themselves are not tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import losses, paper_step, ranks, record, start, suite, train_step, transport
from cl2cm_jax.errors import UserError


@pytest.mark.slow
def test_the_step_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    flags = ["--batch=8", "--tokens=8", "--layers=2", "--first=1", "--vocabulary=64", "--repeats=1", "--parts"]
    small = {"hidden": 32, "heads": 8, "intermediate": 64}
    monkeypatch.setattr(train_step, "Sizes", lambda *a, **k: paper_step.Sizes(*a, **k, **small))
    monkeypatch.setattr(sys, "argv", ["train_step", *flags, f"--json={tmp_path / 'step.json'}"])
    train_step.main()
    rows = json.loads((tmp_path / "step.json").read_text())["rows"]
    assert [row["what"] for row in rows] == [
        "whole step",
        "cached prefix",
        "forward",
        "forward + losses",
        "+ backward",
    ]
    assert all(row["seconds"] > 0 and row["flops"] > 0 and row["dtype"] == "float32" for row in rows)
    assert "compile and first step" in capsys.readouterr().out


def test_flops_count_multiplications_and_additions():
    sizes = paper_step.Sizes(batch=1, layers=2, first=1, hidden=10, heads=1, intermediate=20)
    layer, tower = 4 * 100 + 2 * 200 + 2 * 5 * 10, 100 + 800 + 2 * 5 * 10 + 10 * 1024
    assert sizes.flops(5, with_prefix=False) == 2 * 4 * 5 * 3 * (layer + tower)
    assert sizes.flops(5, with_prefix=True) == 2 * 4 * 5 * (3 * (layer + tower) + layer)


@pytest.mark.slow
def test_all_forms_of_the_losses_agree_and_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    flags = ["--batches=64,128", "--timed=64", "--dim=16", "--block=4", "--repeats=1", f"--json={tmp_path / 'rows'}"]
    monkeypatch.setattr(sys, "argv", ["losses", *flags])
    monkeypatch.setattr(losses, "_process", lambda devices: losses.measure(losses.parse()))  # which compares the values
    losses.main()
    made = json.loads((tmp_path / "rows").read_text())
    assert [row["form"] for row in made["rows"][:4]] == list(losses.FORMS)
    assert all((row["seconds"] > 0) == (row["batch"] == 64) and row["temporary_mb"] > 0 for row in made["rows"])
    assert made["about"]["versions"]["jax"] and "MB a device" in capsys.readouterr().out


def test_starts_use_a_compile_cache_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    kept = tmp_path / "data" / "compiled" / "program"
    kept.parent.mkdir(parents=True)
    kept.write_text("of the user")
    started = []

    def run(command: list[str], *, env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        cache = Path(env["JAX_COMPILATION_CACHE_DIR"])
        started.append((cache, cache.exists()))
        cache.mkdir(exist_ok=True)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(record, "commit", str)
    monkeypatch.setattr(subprocess, "run", run)
    config = Path(__file__).parents[2] / "configs" / "emoji.py"
    written = tmp_path / "start.json"
    flags = [f"--config={config}", f"--json={written}", f"--config.data.dir={tmp_path / 'data'}"]
    monkeypatch.setattr(sys, "argv", ["start", *flags])
    start.main()
    (row,) = json.loads(written.read_text())["rows"]
    assert row["ratio"] == row["second"] / row["first"]
    assert kept.read_text() == "of the user"
    (check, _), (first, was_there), (second, is_there) = started
    assert check != first == second and (was_there, is_there) == (False, True)
    assert tmp_path not in first.parents and not first.exists()
    assert "first start" in capsys.readouterr().out


@pytest.mark.slow
def test_a_quick_suite_runs_to_the_end_and_renders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setenv("XLA_FLAGS", "")
    results = tmp_path / "results"
    monkeypatch.setattr(sys, "argv", ["suite", "--quick", "--only=losses,transport,ranks", f"--results={results}"])
    suite.main()
    kept = {path.stem: json.loads(path.read_text()) for path in (results / "cpu").iterdir()}
    assert set(kept) == {"losses", "transport", "ranks"}
    for name, content in kept.items():
        assert content["rows"] and "failed" not in content, name
        assert content["about"]["machine"]["cores"] and content["about"]["versions"]["jax"]
        assert f"benchmarks.{name}" in content["about"]["command"]
    table = (tmp_path / "RESULTS.md").read_text()
    assert "evaluation, 50 captions x 10 images" in table and "3 x 7 x 7" in table
    assert table.count("**not measured**") == 3  # no GPU: the step, transport, ranks


def test_a_failed_benchmark_is_reported_as_a_row(capfd: pytest.CaptureFixture[str]):
    content = suite.measured(["-c", "import sys; sys.exit('error: no such thing')"])
    assert content["rows"] == [] and content["failed"] == "error: no such thing"
    assert "Did not run: error: no such thing" in suite._section(suite.SUITE[0], content)


def test_figures_are_shown_with_bound_and_verdict():
    step = {"what": "whole step", "dtype": "bfloat16", "tokens": "48", "seconds": 0.1, "examples": 1280.0}
    cells = suite._cells(suite.SUITE[0], step | {"flops": 4e14, "share": 0.404, "note": ""})
    assert cells[-2:] == ["40 % of bf16 peak", "**reached**"] and "40.4%" in cells
    cells = suite._cells(suite.SUITE[0], step | {"flops": 1e11, "share": None, "note": "0.94 x torch"})
    assert cells[-2:] == ["1 x torch", "**missed**"]
    tile = {"devices": 8, "batch": 16384, "form": "ring", "seconds": 0.5, "of_dense": 0.9, "temporary_mb": 170.0}
    assert suite._cells(suite.SUITE[1], tile)[-2:] == ["1 x dense; 160 MB", "**reached**; **missed**"]


def test_alternating_runs_are_timed():
    order = []
    taken = record.alternate({name: lambda name=name: order.append(name) for name in "ab"}, 3)
    assert order == list("ababab")
    assert set(taken) == {"a", "b"} and taken["a"].seconds >= 0


def test_marginal_error_is_the_misplaced_mass():
    problem = transport.Problem(*(np.array(a) for a in ([[[0.0, 1], [1, 0]]], [[0.5, 0.5]], [[0.5, 0.5]])))
    assert transport.marginal_error([[[0.5, 0], [0, 0.5]]], problem) == 0
    assert transport.marginal_error([[[0.5, 0], [0.25, 0.25]]], problem) == pytest.approx(0.5)


def test_problems_have_ragged_captions_and_no_mass_on_padding():
    cost, mu, nu = transport.problem(20, 12)
    lengths = np.asarray((mu > 0).sum(1))
    assert lengths.min() >= transport.SHORTEST and len(set(lengths)) > 1
    np.testing.assert_allclose(nu.sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(cost)[np.asarray(mu) == 0], 0)


def test_answers_agree_up_to_swapped_near_ties():
    score, index = np.array([[0.9, 0.8, 0.8 - 1e-7]]), np.array([[4, 2, 7]])
    assert "33.33%" in ranks.agreement((score, np.array([[4, 7, 2]])), (score, index))
    with pytest.raises(SystemExit, match="ids at 1 places"):
        ranks.agreement((score, np.array([[5, 2, 7]])), (score, index))


def test_cudnn_gets_half_precision_and_whole_masks():
    calls = []

    def attend(q, k, v, *, mask, implementation="xla"):
        calls.append((implementation, mask.shape))

    for dtype in (jnp.bfloat16, jnp.float32):
        q = jnp.zeros((2, 6, 1, 8), dtype)
        train_step.cudnn_attention(attend, q, q, q, mask=jnp.ones((2, 1, 1, 6), bool))
    assert calls == [("cudnn", (2, 1, 6, 6)), ("xla", (2, 1, 1, 6))]


def test_on_a_busy_machine_cpu_time_decides_or_nothing_does(monkeypatch: pytest.MonkeyPatch):
    for load, taken, want in (
        (9.0, (3.0, 2.1), "not decided, load 9.0 (2.1 s of CPU time)"),
        (9.0, (3.0, 4.1), "missed"),
        (9.0, (1.9, 2.1), "reached"),
        (0.5, (3.0, 2.1), "missed"),
    ):
        monkeypatch.setattr(record, "machine", lambda load=load: {"load": load, "cores": 2})
        assert ranks.in_time(record.Taken(*taken)) == want


@pytest.mark.parametrize(
    ("benchmark", "flags", "says"),
    [
        (losses, ["--batches=foo"], "--batches: 'foo' is not a whole number of 1 or more"),
        (losses, ["--batches=10", "--devices=8"], "10 images are not divisible by 8 of --devices"),
        (losses, ["--devices=0"], "--devices: '0' is not a whole number"),
        (losses, ["--forms=dens"], "--forms: 'dens' is none of dense, gathered, ring, gather"),
        (losses, ["--batchs=64"], "unrecognized arguments: --batchs=64"),
        (transport, ["--shapes=8x"], "--shapes: '' is not a whole number"),
        (transport, ["--shapes=8"], "'8' is not a list such as 128x32,1024x48"),
        (transport, ["--epsilon=-1"], "--epsilon: '-1' is not a number above 0"),
        (ranks, ["--captions=0"], "--captions: '0' is not a whole number"),
        (ranks, ["--captions=5", "--images=6"], "--captions=5 are fewer than --images=6"),
        (ranks, ["--gallery=50", "--top=100"], "--top=100 is more than --gallery=50"),
        (suite, ["--only=loses"], "no benchmark is called loses"),
    ],
)
def test_a_mistake_in_a_command_line(
    benchmark: ModuleType, flags: list[str], says: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "argv", ["benchmark", *flags])
    with pytest.raises(UserError) as caught:
        benchmark.main()
    assert says in str(caught.value) and "\n" not in str(caught.value)
