"""Time and accuracy of batched optimal transport between the words of pairs, compared with ott-jax and POT.

python -m benchmarks.transport [--shapes=128x32,1024x48] [--epsilon=0.05] [--iterations=50] [--repeats=5] [--json=FILE]

A shape is pairs x words; captions have from 6 to that many words, drawn with a fixed seed. A peer that is not installed
has a row that says so. Rows:

sinkhorn           ours, batched and masked
ott-jax            its Sinkhorn in one vmapped, jitted call, in the faster form (log domain or products)
POT, loop          `ot.sinkhorn` pair by pair, without padding, with as many iterations as ours
ipot               ours
POT exact, loop    `ot.emd` pair by pair: the exact costs

ott-jax runs `--iterations`; ours runs as many as needed to reach the marginal error of ott-jax. Marginal error:
|row sums - mu| + |column sums - nu|, mean over pairs. Cost error: relative error of <plan, cost>, mean.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import record
from cl2cm_jax.errors import exit_cleanly
from cl2cm_jax.maths.optimal_transport import ipot, marginals, sinkhorn
from cl2cm_jax.maths.similarity import cosine_cost
from cl2cm_jax.runtime.command_line import Arguments, positive

POT_BAR = 5.0  # times as fast as a loop over POT
SHORTEST = 6  # words
MORE = (1, 1.2, 1.5, 2, 3, 4, 6)  # times the iterations of ott-jax


class Problem(NamedTuple):
    """Transport problems of one shape.

    Attributes:
      cost: (B, L, L) fp32, 0 on padding.
      mu, nu: (B, L) fp32, 0 on padding.
    """

    cost: jax.Array
    mu: jax.Array
    nu: jax.Array


def main() -> None:
    """Measures every shape and prints."""
    options = parse()
    rows = []
    for pairs, words in options.shapes:
        for row in measure(problem(pairs, words), options):
            rows.append({"shape": f"{pairs} x {words} x {words}"} | row)
            print("  ".join(f"{name} {_shown(value)}" for name, value in rows[-1].items() if value != ""), flush=True)
    record.write(options.json, rows)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = Arguments(description=__doc__)
    parser.add_argument("--shapes", type=shapes, default="128x32,1024x48")
    parser.add_argument("--epsilon", type=weight, default=0.05)
    parser.add_argument("--iterations", type=positive, default=50)
    parser.add_argument("--repeats", type=positive, default=5)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def shapes(text: str) -> list[tuple[int, int]]:
    """Reads "128x32,1024x48": pairs and words of each."""
    found = [tuple(positive(size) for size in shape.split("x")) for shape in text.split(",")]
    if any(len(shape) != 2 for shape in found):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as 128x32,1024x48")
    return [(pairs, words) for pairs, words in found]


def weight(text: str) -> float:
    """Reads a number above 0."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return found


def problem(pairs: int, words: int, *, seed: int = 0) -> Problem:
    """Random words of captions of different lengths; target words are near source words."""
    random = np.random.default_rng(seed)
    lengths = random.integers(min(SHORTEST, words), words + 1, (2, pairs, 1))
    masks = jnp.asarray(np.arange(words) < lengths)
    source, target = random.normal(size=(2, pairs, words, 64)).astype(np.float32)
    source, target = jnp.asarray(source), jnp.asarray(target + 0.3 * source)
    mu, nu = marginals(source, masks[0]), marginals(target, masks[1])
    return Problem(jnp.where((mu > 0)[:, :, None] & (nu > 0)[:, None, :], cosine_cost(source, target), 0), mu, nu)


def measure(p: Problem, options: argparse.Namespace) -> list[record.Row]:
    """The rows of one shape."""
    peer, iterations = _ott(p, options), options.iterations
    if peer:
        iterations = equal_iterations(p, options, limit=min(marginal_error(run(), p) for run in peer.values()))
    solvers = {
        "sinkhorn": jax.jit(partial(sinkhorn, epsilon=options.epsilon, iterations=iterations)),
        "ipot": jax.jit(ipot),
    }
    runs: dict[str, Callable[[], Any]] = {
        name: partial(_ready, f, p.cost, source_marginal=p.mu, target_marginal=p.nu) for name, f in solvers.items()
    }
    runs |= peer | _pot(p, epsilon=options.epsilon, iterations=iterations)
    plans = {name: run() for name, run in runs.items()}  # compiles
    taken = record.alternate(runs, options.repeats)
    return list(_rows(p, plans, taken, {"sinkhorn": iterations, "ipot": 50}, options.iterations))


def equal_iterations(p: Problem, options: argparse.Namespace, *, limit: float) -> int:
    """The smallest tried number of our iterations that reaches the marginal error `limit`, or the largest tried."""
    tried = [round(options.iterations * more) for more in MORE]
    for iterations in tried:
        plan = sinkhorn(
            p.cost, source_marginal=p.mu, target_marginal=p.nu, epsilon=options.epsilon, iterations=iterations
        )
        if marginal_error(plan, p) <= 1.001 * limit:
            return iterations
    return tried[-1]


def marginal_error(plan: Any, p: Problem) -> float:
    """Mean over pairs of how much mass is in wrong rows and columns."""
    plan = np.asarray(plan, np.float64)
    return float((np.abs(plan.sum(2) - p.mu).sum(1) + np.abs(plan.sum(1) - p.nu).sum(1)).mean())


def _rows(p: Problem, plans: dict[str, Any], taken: dict[str, record.Taken], own: dict[str, int], peer: int) -> Any:
    costs = {name: (np.asarray(plan, np.float64) * np.asarray(p.cost)).sum((1, 2)) for name, plan in plans.items()}
    exact = costs.get("POT exact, loop")
    bars = {"sinkhorn": "POT, loop", "ipot": "POT exact, loop"}
    fastest = min((name for name in taken if name.startswith("ott")), key=lambda name: taken[name].seconds, default="")
    for name, time in taken.items():
        if name.startswith("ott") and name != fastest:
            continue
        row = {
            "solver": name,
            "iterations": own.get(name, "" if "exact" in name else peer if name == fastest else own["sinkhorn"]),
            "ms": 1e3 * time.seconds,
            "cpu_ms": 1e3 * time.cpu_seconds,
            "marginal_error": marginal_error(plans[name], p),
            "cost_error": "" if exact is None else float(np.mean(np.abs(costs[name] - exact) / exact)),
            "bar": "",
            "verdict": "",
        }
        if bars.get(name) in taken:
            times = taken[bars[name]].seconds / time.seconds
            row["bar"] = f"{POT_BAR:g} x {bars[name]}"
            row["verdict"] = f"{times:.1f} x: {record.verdict(times >= POT_BAR)}"
        if name == "sinkhorn" and fastest:
            times = taken[fastest].seconds / time.seconds
            row["bar"] = "; ".join(filter(None, [row["bar"], "1 x ott-jax"]))
            row["verdict"] = "; ".join(filter(None, [row["verdict"], f"{times:.1f} x: {record.verdict(times >= 1)}"]))
        yield row
    absent = {"ott-jax": bool(fastest), "POT": exact is not None}
    yield from ({"solver": name, "verdict": record.missing(name)} for name, there in absent.items() if not there)


def _ott(p: Problem, options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """ott-jax's Sinkhorn in both of its forms; {} if it is not installed."""
    try:
        from ott.geometry.geometry import Geometry  # pyright: ignore[reportMissingImports]
        from ott.problems.linear.linear_problem import LinearProblem  # pyright: ignore[reportMissingImports]
        from ott.solvers.linear.sinkhorn import Sinkhorn  # pyright: ignore[reportMissingImports]
    except ImportError:
        return {}
    n = options.iterations

    def solve(cost: jax.Array, mu: jax.Array, nu: jax.Array, *, log_domain: bool) -> jax.Array:
        geometry = Geometry(cost_matrix=cost, epsilon=options.epsilon)
        solver = Sinkhorn(lse_mode=log_domain, min_iterations=n, max_iterations=n, inner_iterations=n)
        return solver(LinearProblem(geometry, a=mu, b=nu)).matrix

    forms = {"ott-jax, log domain": True, "ott-jax, products": False}
    solvers = {name: jax.jit(jax.vmap(partial(solve, log_domain=form))) for name, form in forms.items()}
    return {name: partial(_ready, f, *p) for name, f in solvers.items()}


def _pot(p: Problem, *, epsilon: float, iterations: int) -> dict[str, Callable[[], Any]]:
    """POT pair by pair, in double precision, on arrays without padding."""
    try:
        import ot  # pyright: ignore[reportMissingImports]
    except ImportError:
        return {}
    cost, mu, nu = (np.asarray(a, np.float64) for a in p)
    sizes = list(zip((mu > 0).sum(1), (nu > 0).sum(1), strict=True))
    cut = [(mu[i, :m] / mu[i].sum(), nu[i, :n] / nu[i].sum(), cost[i, :m, :n].copy()) for i, (m, n) in enumerate(sizes)]

    def loop(solve: Callable[..., np.ndarray]) -> np.ndarray:
        plans = np.zeros(cost.shape)
        for i, (m, n) in enumerate(sizes):
            plans[i, :m, :n] = solve(*cut[i])
        return plans

    regularised = partial(ot.sinkhorn, reg=epsilon, numItermax=iterations, stopThr=0, warn=False)
    return {"POT, loop": partial(loop, regularised), "POT exact, loop": partial(loop, ot.emd)}


def _ready(f: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    return jax.block_until_ready(f(*arguments, **named))


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    exit_cleanly(main)
