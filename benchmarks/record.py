"""The record of a benchmark: machine, versions, commit, command line and rows of figures."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jax

from cl2cm_jax.runtime.atomic import write_text

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "ott-jax", "POT", "faiss-cpu", "torch")
Row = dict[str, Any]


class Taken(NamedTuple):
    """Medians over the repeats.

    Attributes:
      seconds: wall-clock time.
      cpu_seconds: CPU time of all threads of this process, more reliable on a busy machine.
    """

    seconds: float
    cpu_seconds: float


def alternate(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, Taken]:
    """Times the runs in turn, so that other load on the machine affects all of them.

    A run must block until its results are ready.
    """
    taken: dict[str, list[Taken]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            began, cpu = time.perf_counter(), time.process_time()
            run()
            taken[name].append(Taken(time.perf_counter() - began, time.process_time() - cpu))
    return {name: Taken(*map(statistics.median, zip(*values, strict=True))) for name, values in taken.items()}


def verdict(reached: bool) -> str:
    """Whether a target is reached, as a word."""
    return "reached" if reached else "missed"


def missing(package: str, *, extra: str = "bench") -> str:
    """The verdict of a row whose peer is not installed."""
    return f'not measured: {package} is not installed (pip install -e ".[{extra}]")'


def machine() -> Row:
    """CPU, cores available to this process, memory in GB, accelerator ("" on a CPU) and one-minute load average."""
    device = jax.local_devices()[0]
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": _memory_gb(),
        "accelerator": "" if device.platform == "cpu" else device.device_kind,
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }


def about(command: Iterable[str] | None = None) -> Row:
    """Machine, versions, commit, time and command line (by default that of this process)."""
    given = sys.argv[1:] if command is None else list(command)
    words = [word for word in given if not word.startswith("--json")]
    module = sys.modules["__main__"].__spec__
    name = module.name if module else Path(sys.argv[0]).stem
    return {
        "command": " ".join(["python", "-m", name, *words]),
        "machine": machine(),
        "versions": versions(),
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the installed `PACKAGES`."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit, with "+" if tracked files differ from it; "" outside a checkout."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "..", ":!../benchmarks/results")
        return git("rev-parse", "--short=12", "HEAD") + "+" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return ""


def write(path: Path | None, rows: list[Row], **more: Any) -> None:
    """Writes the record as JSON atomically, if a path is given."""
    if path is not None:
        write_text(path, json.dumps({"about": about() | more, "rows": rows}, indent=1) + "\n")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    found = {name.strip(): value.strip() for name, value in fields.items()}
    wide = " with AVX-512" if "avx512f" in found.get("flags", "") else ""
    return found.get("model name", platform.machine()) + wide


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, OSError, ValueError):
        return None
