"""Throughput of the tf.data pipeline compared with the training step.

python -m benchmarks.pipeline [--config=configs/emoji.py] [--batches=100] [--json=FILE] [--config.data.dir=...]
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import jax

from benchmarks import record
from cl2cm_jax.config import read
from cl2cm_jax.errors import exit_cleanly
from cl2cm_jax.parallel.sharding import put_batch
from cl2cm_jax.runtime.command_line import Arguments, positive, split_flags
from cl2cm_jax.runtime.start import start_jax
from cl2cm_jax.training.experiment import build
from cl2cm_jax.training.loop import training_batches


def main() -> None:
    """Times the pipeline alone, then the training step on one batch."""
    rest, overrides = split_flags(sys.argv[1:])
    parser = Arguments(description=__doc__)
    parser.add_argument("--config", default="configs/emoji.py")
    parser.add_argument("--batches", type=positive, default=100)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(rest)
    config = read(options.config, overrides)
    start_jax(Path(config.data.dir))
    run = build(config)
    data = training_batches(run, 0)
    first = next(data)
    began = time.perf_counter()
    for _ in range(options.batches):
        next(data)
    feeding = (time.perf_counter() - began) / options.batches
    state, batch, taken = run.step.init(), put_batch(first, run.mesh), []
    number = run.stages.teacher  # the student's stage
    for _ in range(12):
        began = time.perf_counter()
        state, terms = run.step.step(state, batch, number)
        jax.block_until_ready(terms)
        taken.append(time.perf_counter() - began)
    stepping = statistics.median(taken[2:])
    size = config.train.batch_size
    print(f"{options.config}, batch {size}, {jax.local_devices()[0].device_kind}")
    print(f"pipeline {size / feeding:10,.0f} examples/s ({1e3 * feeding:.2f} ms a batch, mean of {options.batches})")
    print(f"step     {size / stepping:10,.0f} examples/s ({1e3 * stepping:.2f} ms, median of {len(taken) - 2})")
    print(f"the pipeline is {stepping / feeding:.1f} times as fast as the step")
    row = {"what": f"{Path(options.config).stem}, batch {size}", "pipeline": size / feeding, "step": size / stepping}
    record.write(options.json, [row | {"ratio": stepping / feeding}])


if __name__ == "__main__":
    exit_cleanly(main)
