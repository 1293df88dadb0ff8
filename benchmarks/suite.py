"""Runs all benchmarks on the present device, stores the figures and renders them as tables.

python -m benchmarks.suite [--quick] [--only=step,losses,transport,ranks,pipeline,start] [--results=FOLDER] [--render]

Each benchmark runs in its own process; if one fails, its section says why and the others still run. Figures are
written to `benchmarks/results/<device>/<benchmark>.json`, the tables to `benchmarks/RESULTS.md`. `--quick` uses small
shapes, whose figures mean nothing, and needs `--results`. `--render` only renders stored figures.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import record
from cl2cm_jax.errors import exit_cleanly
from cl2cm_jax.runtime.atomic import write_text
from cl2cm_jax.runtime.command_line import Arguments

HERE = Path(__file__).parent
NVIDIA = re.compile(r"NVIDIA|[AHB]\d00")
Judge = Callable[[record.Row], "tuple[str, str] | None"]  # (bar, verdict)


class Benchmark(NamedTuple):
    """One benchmark of the suite.

    Attributes:
      name: of its results file.
      module: in `benchmarks`.
      title: of its section.
      columns: row keys and their headings.
      flags: for a CPU.
      gpu_flags: for an NVIDIA GPU; None if it does not apply.
      quick: additional flags for small shapes.
      judge: target and verdict of a row that does not have its own.
    """

    name: str
    module: str
    title: str
    columns: dict[str, str]
    flags: tuple[str, ...] = ()
    gpu_flags: tuple[str, ...] | None = None
    quick: tuple[str, ...] = ()
    judge: Judge = lambda row: None

    def command(self, *, gpu: bool, quick: bool) -> list[str]:
        """Arguments of `python`."""
        flags = [*(self.gpu_flags or () if gpu else self.flags), *(self.quick if quick else ())]
        if self.name == "step" and not gpu and importlib.util.find_spec("torch"):
            flags.append("--peer=torch")
        return ["-m", f"benchmarks.{self.module}", *flags]


def _step(row: record.Row) -> tuple[str, str] | None:
    if row["what"] != "whole step":
        return None
    if row.get("share") is not None:
        return "40 % of bf16 peak", record.verdict(row["share"] >= 0.4)
    times = re.match(r"([\d.]+) x torch", row["note"])
    return "1 x torch", record.verdict(float(times[1]) >= 1) if times else record.missing("torch", extra="peers")


def _losses(row: record.Row) -> tuple[str, str] | None:
    if row["form"] not in ("ring", "gather"):
        return None
    bars = {}
    if row["seconds"]:
        bars["1 x dense"] = row["of_dense"] <= 1
    if row["devices"] == 8 and row["batch"] == 16384:
        bars["160 MB"] = row["temporary_mb"] <= 160
    return "; ".join(bars), "; ".join(map(record.verdict, bars.values()))


def _pipeline(row: record.Row) -> tuple[str, str]:
    return "5 x the step", record.verdict(row["ratio"] >= 5)


def _start(row: record.Row) -> tuple[str, str]:
    return "0.5 of the first", record.verdict(row["ratio"] <= 0.5)


SUITE = (
    Benchmark(
        "step", "train_step", "The training step",
        {"what": "", "dtype": "dtype", "tokens": "tokens", "seconds": "s a step", "examples": "examples/s",
         "gflops": "GFLOP/s", "share": "share of peak", "note": ""},
        flags=("--batch=16", "--repeats=1", "--unroll"),
        gpu_flags=("--batch=128", "--dtype=bfloat16", "--attention=cudnn", "--repeats=20"),
        quick=("--batch=8", "--tokens=8", "--layers=2", "--first=1", "--vocabulary=64"),
        judge=_step,
    ),
    Benchmark(
        "losses", "losses", "The losses of the whole batch",
        {"devices": "devices", "batch": "batch", "form": "form", "seconds": "s", "of_dense": "of dense",
         "temporary_mb": "MB a device"},
        flags=("--batches=4096,16384,65536", "--timed=4096"),  # dense at 16384 needs more than 10 GB
        quick=("--batches=64", "--dim=16", "--block=32", "--devices=1"),
        judge=_losses,
    ),
    Benchmark(
        "transport", "transport", "Transport between words",
        {"shape": "pairs x words", "solver": "solver", "iterations": "iterations", "ms": "ms", "cpu_ms": "CPU ms",
         "marginal_error": "marginal error", "cost_error": "cost error"},
        gpu_flags=(),
        quick=("--shapes=3x7", "--repeats=1"),
    ),
    Benchmark(
        "ranks", "ranks", "Exact ranks and search",
        {"what": "", "seconds": "s", "cpu_seconds": "CPU s", "queries_per_second": "queries/s", "memory_mb": "MB more",
         "note": ""},
        gpu_flags=(),
        quick=("--captions=50", "--images=10", "--gallery=300", "--queries=5", "--dim=8", "--repeats=1"),
    ),
    Benchmark(
        "pipeline", "pipeline", "The data pipeline",
        {"what": "", "pipeline": "pipeline, examples/s", "step": "step, examples/s", "ratio": "times the step"},
        judge=_pipeline,
    ),
    Benchmark(
        "start", "start", "Starting again",
        {"what": "", "first": "first, s", "second": "second, s", "ratio": "of the first"},
        judge=_start,
    ),
)  # fmt: skip


def main() -> None:
    """Runs the benchmarks, stores the figures and renders the tables."""
    options = parse()
    results = options.results or HERE / "results"
    if not options.render:
        run(options, results)
    write_text(results.parent / "RESULTS.md", render(results))
    print(f"tables: {results.parent / 'RESULTS.md'}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = Arguments(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default=",".join(benchmark.name for benchmark in SUITE))
    parser.add_argument("--results", type=Path, help="folder of the results; RESULTS.md is written next to it")
    parser.add_argument("--render", action="store_true")
    options = parser.parse_args()
    unknown = set(options.only.split(",")) - {benchmark.name for benchmark in SUITE}
    if unknown:
        parser.error(f"--only: no benchmark is called {', '.join(sorted(unknown))}")
    if options.quick and not options.results:
        parser.error("--quick needs --results=FOLDER, because its figures must not be mixed with real ones")
    return options


def run(options: argparse.Namespace, results: Path) -> None:
    """Runs the selected benchmarks in sequence."""
    accelerator = _accelerator()
    gpu = bool(NVIDIA.search(accelerator))
    folder = results / (re.sub(r"[^a-z0-9]+", "-", accelerator.lower()).strip("-") or "cpu")
    for benchmark in SUITE:
        if benchmark.name not in options.only.split(",") or (gpu and benchmark.gpu_flags is None):
            continue
        command = benchmark.command(gpu=gpu, quick=options.quick)
        print(f"\n== {benchmark.title}: python {' '.join(command)}", flush=True)
        write_text(folder / f"{benchmark.name}.json", json.dumps(measured(command), indent=1) + "\n")


def measured(command: Sequence[str]) -> dict[str, Any]:
    """Runs a benchmark: its rows, machine and command; the reason if it failed."""
    about = record.about() | {"command": f"python {' '.join(command)}"}
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary, "rows.json")
        finished = subprocess.run([sys.executable, *command, f"--json={path}"], stderr=subprocess.PIPE, text=True)
        if finished.returncode == 0 and path.is_file():
            return {"about": about, "rows": json.loads(path.read_text(encoding="utf-8"))["rows"]}
    lines = [line for line in finished.stderr.splitlines() if line.strip()] or [f"exit status {finished.returncode}"]
    print(finished.stderr, file=sys.stderr)
    return {"about": about, "rows": [], "failed": lines[-1][:200]}


def _accelerator() -> str:
    """The accelerator's name, from another process so that this one takes no device memory."""
    code = "from benchmarks import record; print(record.machine()['accelerator'])"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()


def render(results: Path) -> str:
    """Content of RESULTS.md: a table per benchmark and device."""
    stored = {path: json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*/*.json"))}
    parts = [
        "# Benchmark results",
        "Written by `python -m benchmarks.suite` (`make bench`) from the files in `results/`.\n"
        "The docstring of each benchmark explains its columns.\n"
        "Load is the load average over the minute before the run. If it exceeds the number of cores, other work was "
        "running: wall-clock times are then unreliable, and ratios within a table and CPU time are better evidence.",
    ]
    for benchmark in SUITE:
        parts.append(f"## {benchmark.title}")
        found = [content for path, content in stored.items() if path.stem == benchmark.name]
        parts += [_section(benchmark, content) for content in found]
        if not found:
            parts.append(f"Not run yet. `python {' '.join(benchmark.command(gpu=False, quick=False))}`")
        on_gpu = any(NVIDIA.search(content["about"]["machine"]["accelerator"]) for content in found)
        if benchmark.gpu_flags is not None and not on_gpu:
            command = " ".join(["python", *benchmark.command(gpu=True, quick=False)])
            parts.append(f"On an NVIDIA GPU: **not measured**, none was available. `{command}`")
    return "\n\n".join(parts) + "\n"


def _section(benchmark: Benchmark, content: dict[str, Any]) -> str:
    about = content["about"]
    machine = about["machine"]
    device = f"{machine['accelerator']}, " if machine["accelerator"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    head = (
        f"`{about['command']}`\n\n{device}{machine['cores']} cores of {machine['cpu']}, {machine['memory_gb']} GB, "
        f"load {machine['load']}; {versions}; commit {about['commit']}, {about['date'][:10]}"
    )
    if "failed" in content:
        return f"{head}\n\nDid not run: {content['failed']}"
    headings = [*benchmark.columns.values(), "bar", "verdict"]
    lines = [_line(headings), _line(["---"] * len(headings))]
    return head + "\n\n" + "\n".join([*lines, *(_line(_cells(benchmark, row)) for row in content["rows"])])


def _cells(benchmark: Benchmark, row: record.Row) -> list[str]:
    row = {"note": "", "gflops": (row.get("flops") or 0) / 1e9 or None} | row
    row |= {name: None for name in ("seconds", "of_dense") if not row.get(name)}  # not run
    bar, verdict = row.get("bar"), row.get("verdict")
    judged = benchmark.judge(row) if verdict is None else None
    if judged:
        bar, verdict = judged
    return [*(_cell(key, row.get(key)) for key in benchmark.columns), bar or "", _marked(verdict or "")]


def _cell(key: str, value: Any) -> str:
    if value is None or value == "":
        return ""
    if key == "share":
        return f"{value:.1%}"
    if key.endswith("_error"):
        return f"{value:.1e}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _marked(verdict: str) -> str:
    return re.sub(r"\b(reached|missed)\b", r"**\1**", verdict)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


if __name__ == "__main__":
    exit_cleanly(main)
