"""Time and memory of the pairwise losses: value and gradient of all terms, in each of their forms.

python -m benchmarks.losses [--batches=4096,8192,16384,32768,65536] [--devices=1,8] [--timed=16384] [--json=FILE] [...]

The terms: contrastive (InfoNCE) V-S, V-T and the teacher's S-T, and transfer in both directions. The forms:

dense     `contrastive.form=dense`; the compiler shards the matrices over the devices
gathered  the usual way: each device gathers all vectors and scores its own rows against them
ring      `contrastive.form=blockwise`, columns passed around a ring
gather    `contrastive.form=blockwise`, columns gathered once

Memory is the compiler's figure for temporaries per device. The forms run in turn and the median of `--repeats` is
printed; batches above `--timed` images are compiled but not run. The devices are virtual devices of one CPU, in a
separate process, so that times exclude real links. Needs no TensorFlow.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import logsumexp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from benchmarks import record
from cl2cm_jax import config as configs
from cl2cm_jax.errors import UserError, exit_cleanly
from cl2cm_jax.maths.confidence import uncalibrated
from cl2cm_jax.maths.similarity import normalize, scores
from cl2cm_jax.models.networks import FeatureShape, Networks
from cl2cm_jax.models.towers import Text
from cl2cm_jax.parallel.mesh import make_mesh
from cl2cm_jax.parallel.sharding import batch_sharding
from cl2cm_jax.runtime.command_line import Arguments, positive
from cl2cm_jax.steps.embeddings import Embeddings
from cl2cm_jax.steps.objective import Objective

FORMS = ("dense", "gathered", "ring", "gather")
VECTORS = ("vision", "source", "target", "taught_source", "taught_target")
# Eight virtual devices on few cores wait long for each other; collectives must keep one order (tests/conftest.py).
XLA_FLAGS = (
    "--xla_force_host_platform_device_count={} --xla_cpu_collective_call_terminate_timeout_seconds=600 "
    "--xla_cpu_enable_concurrency_optimized_scheduler=false"
)

Row = dict[str, Any]
Vectors = dict[str, jax.Array]


def main() -> None:
    """Measures each number of devices in its own process, and prints."""
    options = parse()
    if options.here:
        for row in measure(options):
            print(json.dumps(row), flush=True)
        return
    print(f"{'devices':>7}{'batch':>8}  {'form':10}{'seconds':>9}{'of dense':>10}{'MB a device':>13}")
    rows = []
    for devices in options.devices:
        for row in _process(devices):
            rows.append(row)
            taken = f"{row['seconds']:9.2f}{row['of_dense']:10.2f}" if row["seconds"] else f"{'-':>9}{'-':>10}"
            print(f"{devices:7}{row['batch']:8}  {row['form']:10}{taken}{row['temporary_mb']:13.1f}", flush=True)
    record.write(options.json, rows)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = Arguments(description=__doc__)
    parser.add_argument("--batches", type=numbers, default="4096,8192,16384,32768,65536")
    parser.add_argument("--devices", type=numbers, default="1,8")
    parser.add_argument("--forms", type=form_names, default=",".join(FORMS))
    parser.add_argument("--timed", type=int, default=16384, help="the largest batch that is run")
    parser.add_argument("--dim", type=positive, default=512)
    parser.add_argument("--block", type=positive, default=configs.defaults().contrastive.block)
    parser.add_argument("--repeats", type=positive, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for batch, devices in itertools.product(options.batches, options.devices):
        if batch % devices:
            raise UserError(f"--batches: {batch} images are not divisible by {devices} of --devices; use other numbers")
    return options


def numbers(text: str) -> list[int]:
    """Reads "1,8"."""
    return [positive(part) for part in text.split(",")]


def form_names(text: str) -> list[str]:
    """Reads "dense,ring"."""
    found = text.split(",")
    unknown = [form for form in found if form not in FORMS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(FORMS)}")
    return found


def _process(devices: int) -> Any:
    """The rows of a process with this number of devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} {XLA_FLAGS.format(devices)}".strip()
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "NPROC": str(8 * devices)}
    command = [sys.executable, "-m", "benchmarks.losses", *sys.argv[1:], "--here"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        yield from map(json.loads, running.stdout)
    if running.returncode:
        sys.exit(running.returncode)


def measure(options: argparse.Namespace) -> Any:
    """Rows of all batches and forms on the devices of this process."""
    mesh = make_mesh()
    for batch in options.batches:
        vectors = {name: jax.ShapeDtypeStruct((batch, options.dim), jnp.float32) for name in VECTORS}
        split = batch_sharding(mesh)
        forms = {}
        for form in options.forms:
            step = jax.jit(jax.value_and_grad(partial(total, form, mesh, options.block)), in_shardings=split)
            forms[form] = step.lower(vectors).compile()
        seconds = {form: 0.0 for form in forms}
        if batch <= options.timed:
            made = jax.jit(partial(random, vectors), out_shardings=split)()
            seconds = timed(forms, made, options.repeats)
        for form, compiled in forms.items():
            memory = compiled.memory_analysis().temp_size_in_bytes / 1e6
            row = {"devices": mesh.size, "batch": batch, "form": form, "seconds": seconds[form]}
            yield row | {"of_dense": seconds[form] / (seconds.get("dense") or 1), "temporary_mb": memory}


def random(shapes: Any) -> Vectors:
    """Unit vectors of these shapes."""
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return {name: normalize(jax.random.normal(k, a.shape)) for (name, a), k in zip(shapes.items(), keys, strict=True)}


def timed(forms: dict[str, Any], vectors: Vectors, repeats: int) -> dict[str, float]:
    """Median seconds of each form; checks that the values agree."""
    taken: dict[str, list[float]] = {form: [] for form in forms}
    values = {}
    for _ in range(repeats):
        for form, compiled in forms.items():
            began = time.perf_counter()
            values[form] = jax.block_until_ready(compiled(vectors))[0]
            taken[form].append(time.perf_counter() - began)
    first = next(iter(values.values()))
    assert all(abs(value - first) < 1e-4 * abs(first) for value in values.values()), values
    return {form: statistics.median(times) for form, times in taken.items()}


def total(form: str, mesh: Mesh, block: int, vectors: Vectors) -> jax.Array:
    """The sum of all terms of one of `FORMS`."""
    if form == "gathered":
        return _gathered(mesh, vectors)
    exchange = {} if form == "dense" else {"contrastive.form": "blockwise", "contrastive.exchange": form}
    config = configs.override_all(configs.defaults(), {"contrastive.block": str(block), **exchange})
    size, dim = vectors["vision"].shape
    batch = {
        "image_id": jnp.arange(size),
        "is_valid": jnp.ones(size, bool),
        "target_is_valid": jnp.ones((size, 1), bool),
    }
    taught_source, taught_target = Text(vectors["taught_source"][None]), Text(vectors["taught_target"][None, :, None])
    embeddings = Embeddings(
        vectors["vision"], vectors["source"], vectors["target"][:, None], taught_source, taught_target
    )
    networks = Networks(config, FeatureShape(text=dim, vision=dim, max_words=1, max_frames=1))
    params = {"student": {"log_temperature": jnp.log(0.07)}, "teacher": {}}
    weights = {name: jnp.ones(()) for name in ("source", "target", "sentence", "transfer")}
    objective = Objective(config, networks, mesh)
    return objective(embeddings, params, batch, weights=weights, calibration=uncalibrated(1))[0]


def _gathered(mesh: Mesh, vectors: Vectors) -> jax.Array:
    """Each device's rows against all columns, in both directions, averaged over devices."""
    axis = ("data", "fsdp")

    def local(mine: Vectors) -> jax.Array:
        others = {name: jax.lax.all_gather(a, axis, tiled=True) for name, a in mine.items()}
        count, own = len(mine["vision"]), jnp.arange(len(mine["vision"]))

        def both(loss: Callable[..., jax.Array], x: str, y: str, *more: Any) -> jax.Array:
            return (loss(x, y, *more) + loss(y, x, *(pair[::-1] for pair in more))) / 2

        def contrast(x: str, y: str) -> jax.Array:
            logits = scores(mine[x], others[y]) / temperature[x, y]
            diagonal = logits[own, jax.lax.axis_index(axis) * count + own]
            return jnp.mean(logsumexp(logits, axis=1) - diagonal)

        def transfer(x: str, y: str, taught: tuple[str, str]) -> jax.Array:
            teacher = jax.lax.stop_gradient(scores(mine[taught[0]], others[taught[1]]))
            log_p, log_q = (jax.nn.log_softmax(s / 0.05, axis=1) for s in (teacher, scores(mine[x], others[y])))
            return jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=1))

        pairs = {("vision", "source"): 0.07, ("vision", "target"): 0.07, ("taught_source", "taught_target"): 0.05}
        temperature = pairs | {names[::-1]: tau for names, tau in pairs.items()}
        terms = [both(contrast, *names) for names in pairs]
        terms.append(both(transfer, "vision", "target", ("taught_source", "taught_target")))
        return jax.lax.pmean(sum(terms, jnp.zeros(())), axis)

    return jax.shard_map(local, mesh=mesh, in_specs=P(axis), out_specs=P(), check_vma=False)(vectors)


if __name__ == "__main__":
    exit_cleanly(main)
