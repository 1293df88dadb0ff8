"""Time and memory of exact evaluation and exact search on unit vectors, compared with faiss's exact index.

python -m benchmarks.ranks [--captions=25000 --images=5000] [--gallery=1000000 --queries=1000 --top=10] [...]

evaluation   all metrics in both directions, `--captions` of `--images`; memory is the growth of the process in the
             first call, including compilation, and in later calls
search       the best `--top` of `--gallery` vectors for each of `--queries`; ours and faiss (IndexFlatIP, all cores)
             run in turn and must agree: scores equal to 1e-5, and the same ids unless scores are that close
"""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import record
from cl2cm_jax.errors import UserError, exit_cleanly
from cl2cm_jax.evaluation.retrieval import metrics, retrieval_ranks
from cl2cm_jax.maths.ranking import top
from cl2cm_jax.runtime.command_line import Arguments, positive

SECONDS_BAR, MB_BAR = 2.0, 200.0  # targets of an evaluation on two cores
NEAR = 1e-5  # difference of scores within the rounding of fp32 sums of 512 products


def main() -> None:
    """Measures and prints."""
    options = parse()
    rows = evaluation(options) + search(options)
    for row in rows:
        print("  ".join(f"{name} {_shown(value)}" for name, value in row.items() if value != ""))
    record.write(options.json, rows)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = Arguments(description=__doc__)
    parser.add_argument("--captions", type=positive, default=25_000)
    parser.add_argument("--images", type=positive, default=5_000)
    parser.add_argument("--gallery", type=positive, default=1_000_000)
    parser.add_argument("--queries", type=positive, default=1_000)
    parser.add_argument("--top", type=positive, default=10)
    parser.add_argument("--dim", type=positive, default=512)
    parser.add_argument("--repeats", type=positive, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.images > options.captions:
        raise UserError(f"--captions={options.captions} are fewer than --images={options.images}; each needs one")
    if options.top > options.gallery:
        raise UserError(f"--top={options.top} is more than --gallery={options.gallery}; use a smaller number")
    return options


def unit_vectors(count: int, dim: int, *, seed: int) -> np.ndarray:
    """Random unit vectors (count, dim) fp32, made in blocks to save memory."""
    random, vectors = np.random.default_rng(seed), np.empty((count, dim), np.float32)
    for start in range(0, count, 65_536):
        block = random.standard_normal((min(65_536, count - start), dim), np.float32)
        vectors[start : start + len(block)] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return vectors


def evaluation(options: argparse.Namespace) -> list[record.Row]:
    """Time and memory of the evaluation of one language."""
    vision = unit_vectors(options.images, options.dim, seed=0)
    image = np.random.default_rng(1).permutation(np.arange(options.captions) % options.images)
    text = unit_vectors(options.captions, options.dim, seed=2)
    text += 0.2 * vision[image]  # so that ranks vary

    def evaluate() -> dict[str, float]:
        return metrics(retrieval_ranks(text, vision, text_image=image))

    retrieval_ranks(vision[:8], vision[:8], text_image=np.arange(len(vision[:8])))  # starts JAX
    first, found = growth(evaluate)
    again, _ = growth(evaluate)
    taken = record.alternate({"evaluation": evaluate}, options.repeats)["evaluation"]
    row = {
        "what": f"evaluation, {options.captions:,} captions x {options.images:,} images",
        "seconds": taken.seconds,
        "cpu_seconds": taken.cpu_seconds,
        "memory_mb": max(first, again),
        "note": f"SumR {found['SumR']:.2f}; calls after the first grow by {again:.0f} MB",
        "bar": f"{SECONDS_BAR:g} s; {MB_BAR:g} MB",
    }
    return [row | {"verdict": f"{in_time(taken)}; {record.verdict(row['memory_mb'] <= MB_BAR)}"}]


def in_time(taken: record.Taken) -> str:
    """The verdict on the time of an evaluation; undecided if only the load of the machine may explain a miss."""
    machine = record.machine()
    waited = taken.seconds > SECONDS_BAR >= taken.cpu_seconds / 2
    if waited and machine["load"] and machine["load"] > machine["cores"]:
        return f"not decided, load {machine['load']} ({taken.cpu_seconds:.1f} s of CPU time)"
    return record.verdict(taken.seconds <= SECONDS_BAR)


def growth(run: Callable[[], Any]) -> tuple[float, Any]:
    """(MB by which peak memory exceeds memory at the start, result of the run)."""
    before = _memory_mb("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
    except OSError:
        before = _memory_mb("VmHWM")
    found = run()
    return max(0.0, _memory_mb("VmHWM") - before), found


def _memory_mb(field: str) -> float:
    """A field of /proc/self/status; on other systems the peak since the process started."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1e3
    except (OSError, StopIteration):
        unit = 1e6 if sys.platform == "darwin" else 1e3
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def search(options: argparse.Namespace) -> list[record.Row]:
    """Our search compared with faiss."""
    gallery = unit_vectors(options.gallery, options.dim, seed=3)
    queries = unit_vectors(options.queries, options.dim, seed=4)
    index = _faiss(gallery)
    gallery = jax.device_put(gallery)  # before timing starts, as faiss's index holds its gallery too
    runs: dict[str, Callable[[], Any]] = {"ours": partial(top, queries, gallery, options.top)}
    if index is not None:
        runs["faiss"] = partial(index.search, queries, options.top)
    found = {name: run() for name, run in runs.items()}
    note = agreement(found["ours"], found["faiss"]) if index is not None else ""
    taken = record.alternate(runs, options.repeats)
    what = f"top {options.top} of {options.gallery:,} for {options.queries:,} queries"
    names = {"ours": "ours", "faiss": "faiss, IndexFlatIP"}
    rows: list[record.Row] = [
        {"what": f"{what}: {names[name]}", "seconds": t.seconds, "cpu_seconds": t.cpu_seconds, "note": ""}
        | {"queries_per_second": options.queries / t.seconds}
        for name, t in taken.items()
    ]
    if index is None:
        return [*rows, {"what": f"{what}: {names['faiss']}", "verdict": record.missing("faiss-cpu")}]
    rate = taken["faiss"].seconds / taken["ours"].seconds
    rows[0] |= {"note": note, "bar": "1 x faiss", "verdict": f"{rate:.2f} x: {record.verdict(rate >= 1)}"}
    return rows


def agreement(ours: tuple[np.ndarray, np.ndarray], reference: tuple[np.ndarray, np.ndarray]) -> str:
    """How far two results (scores, ids) agree; exits if they differ in more than the order of close scores."""
    (score, index), (reference_score, reference_index) = ours, reference
    apart = float(np.abs(score - reference_score).max())
    differ = index != reference_index
    # Another id is correct if its score equals a neighbour's; scores after the last place are unknown.
    before = np.abs(np.diff(reference_score, axis=1, prepend=np.inf))
    after = np.abs(np.diff(reference_score, axis=1, append=reference_score[:, -1:]))
    near = np.minimum(before, after) < NEAR
    if apart > NEAR or (differ & ~near).any():
        sys.exit(f"error: ours and faiss differ: scores by {apart:.1e}, ids at {int((differ & ~near).sum())} places")
    return f"ids as faiss's at {1 - differ.mean():.2%} of places, the rest scores within {NEAR:g}"


def _faiss(gallery: np.ndarray) -> Any:
    try:
        import faiss  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(gallery)
    return index


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    exit_cleanly(main)
