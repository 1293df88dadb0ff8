"""Cost of the word-level terms: the training step with and without them, in the teacher and the student stage.

python -m benchmarks.word_step [--batch=256 --tokens=16 --dim=1024 --text=512 --vision=1280] [--folds=2] [--json=FILE]

Frozen backbones, random features, linear networks. Rows:

sentence           a teacher without words (`teacher.pool="backbone"`)
sentence, words    a teacher whose sentence vector includes the mean of the words ("both"), without word terms
contrast           `word.loss="contrast"` by late interaction; its scores are also transferred
contrast, plans    the same by optimal transport
plan, cost         `word.loss="transport"`, which is not transferred

The steps run in turn. Printed are medians over `--repeats` of wall-clock and CPU time, and multiples of the first row.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import record
from cl2cm_jax import config as configs
from cl2cm_jax.errors import exit_cleanly
from cl2cm_jax.models.networks import FeatureShape, Networks
from cl2cm_jax.parallel.mesh import make_mesh
from cl2cm_jax.parallel.sharding import put_batch
from cl2cm_jax.runtime.command_line import Arguments, positive
from cl2cm_jax.steps.optimizer import make_optimizers
from cl2cm_jax.steps.schedule import Stages
from cl2cm_jax.steps.train_step import make_train_step

_CONTRAST = {"teacher.pool": "both", "word.loss": "contrast", "weights.word": "1.0", "transfer.word": "0.5"}
ROWS = {
    "sentence": {"teacher.pool": "backbone"},
    "sentence, words": {"teacher.pool": "both"},
    "contrast": _CONTRAST,
    "contrast, plans": _CONTRAST | {"word.score": "transport", "word.iterations": "10"},
    "plan, cost": {"teacher.pool": "both", "word.loss": "transport", "weights.word": "1.0"},
}
STAGES = {"teacher": 0, "student": 1}  # a step number in each stage, after one teacher step


def main() -> None:
    """Measures and prints."""
    options = parse()
    rows = measure(options)
    print(f"{'':18}{'stage':>9}{'ms/step':>10}{'CPU ms':>10}{'of first':>10}{'CPU':>8}")
    for row in rows:
        times = f"{1000 * row['seconds']:10.1f}{1000 * row['cpu_seconds']:10.1f}"
        print(f"{row['what']:18}{row['stage']:>9}{times}{row['of_first']:10.2f}{row['cpu_of_first']:8.2f}")
    record.write(options.json, rows)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = Arguments(description=__doc__)
    for name, default in (("batch", 256), ("tokens", 16), ("dim", 1024), ("text", 512), ("vision", 1280)):
        parser.add_argument(f"--{name}", type=positive, default=default)
    parser.add_argument("--folds", type=positive, default=2)
    parser.add_argument("--repeats", type=positive, default=15)
    parser.add_argument("--rows", default=";".join(ROWS), help="separated by ';' (default: all)")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measure(options: argparse.Namespace) -> list[record.Row]:
    """Rows of both stages."""
    mesh, rows = make_mesh(), []
    batch = put_batch(made_up(options), mesh)
    shape = FeatureShape(text=options.text, vision=options.vision, max_words=options.tokens, max_frames=1)
    for stage, number in STAGES.items():
        runs = {}
        for name in options.rows.split(";"):
            runs[name] = _step(configs.override_all(configs.defaults(), _fields(options) | ROWS[name]), shape, batch)
        for run in runs.values():
            run(number)  # compiles
        taken = record.alternate({name: partial(run, number) for name, run in runs.items()}, options.repeats)
        first = next(iter(taken.values()))
        for name, (seconds, cpu) in taken.items():
            row = {"what": name, "stage": stage, "seconds": seconds, "cpu_seconds": cpu}
            rows.append(row | {"of_first": seconds / first.seconds, "cpu_of_first": cpu / first.cpu_seconds})
    return rows


def _fields(options: argparse.Namespace) -> dict[str, str]:
    return {
        "student.dim": str(options.dim),
        "student.dropout": "0.5",
        "teacher.head": "linear",
        "teacher.folds": str(options.folds),
        "train.batch_size": str(options.batch),
        "text.max_tokens": str(options.tokens),
    }


def _step(config: Any, shape: FeatureShape, batch: Any) -> Any:
    stages, networks = Stages(1, 10_000), Networks(config, shape)
    optimizers = make_optimizers(config, stages, warmup=0)
    train = make_train_step(config, networks, optimizers, mesh=make_mesh(), stages=stages, languages=2)
    state = train.init()

    def run(number: int) -> None:
        nonlocal state
        state, terms = train.step(state, batch, number)
        jax.block_until_ready((state, terms))

    return run


def made_up(options: argparse.Namespace) -> dict[str, Any]:
    """A batch of random features, one target caption per image, with lengths from half of `--tokens` to all."""
    random, size, tokens = np.random.default_rng(0), options.batch, options.tokens

    def side(*rows: int) -> dict[str, np.ndarray]:
        mask = np.arange(tokens) < random.integers(1 + tokens // 2, tokens + 1, size=(*rows, 1))
        words = random.normal(size=(*rows, tokens, options.text)).astype(np.float32) * mask[..., None]
        return {"sentence": words.mean(axis=-2), "words": words, "mask": mask}

    features = random.normal(size=(size, 1, options.vision)).astype(np.float32)
    return {
        "vision": {"features": features, "mask": np.ones((size, 1), bool)},
        "source": side(size),
        "target": side(size, 1),
        "target_language": np.ones((size, 1), np.int32),
        "target_is_valid": np.ones((size, 1), bool),
        "image_id": np.arange(size, dtype=np.int32),
        "is_valid": np.ones(size, bool),
    }


if __name__ == "__main__":
    exit_cleanly(main)
