"""How fast a folder becomes an index, beside the model alone on pictures that are decoded already.

python -m benchmarks.index_pictures --model=runs/emoji [--pictures=640] [--repeats=3]

The pictures are JPEGs of 640 x 480 with random blots. "index" reads, hashes, decodes, embeds and writes them to Milvus
Lite; "model" embeds them. Both take turns, and the medians are printed, as JSON.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

import cl2cm_jax
from benchmarks import record
from cl2cm_jax.data.media.images import decode
from cl2cm_jax.errors import exit_cleanly
from cl2cm_jax.runtime.command_line import Arguments, positive
from cl2cm_jax.search.incremental import update
from cl2cm_jax.search.stores.milvus import Manifest, Store
from cl2cm_jax.trained.model import TrainedModel


def paint(folder: Path, count: int) -> list[Path]:
    """Writes pictures that differ, so that none is taken for another."""
    random = np.random.default_rng(0)
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for path in paths:
        blots = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8))
        blots.resize((640, 480), Image.Resampling.BICUBIC).save(path, quality=90)
    return paths


def index(model: TrainedModel, photos: Path, place: Path) -> None:
    """Builds a new index of a folder."""
    with Store(str(place)) as store:
        store.create(Manifest(weights=model.weights, model=model.name, dim=model.dim, images=str(photos)))
        update(store, model.encoder, photos)


def main() -> None:
    """Measures and prints."""
    parser = Arguments(prog="python -m benchmarks.index_pictures", description="Times building an index.")
    parser.add_argument("--model", required=True, metavar="MODEL")
    parser.add_argument("--pictures", type=positive, default=640)
    parser.add_argument("--repeats", type=positive, default=3)
    options = parser.parse_args()
    model = cl2cm_jax.load(options.model)
    with tempfile.TemporaryDirectory() as name:
        folder, numbers = Path(name), itertools.count()
        (folder / "photos").mkdir()
        frames = [[decode(path)] for path in paint(folder / "photos", options.pictures)]
        model.encoder.images(frames[:64])  # compiles
        runs = {
            "index": lambda: index(model, folder / "photos", folder / f"{next(numbers)}.db"),
            "model": partial(model.encoder.images, frames),
        }
        taken = record.alternate(runs, options.repeats)
    rates = {f"{name}_pictures_per_second": round(options.pictures / t.seconds, 1) for name, t in taken.items()}
    share = {"index_over_model": round(taken["model"].seconds / taken["index"].seconds, 3)}
    print(
        json.dumps(
            {
                "pictures": options.pictures,
                "cores": os.cpu_count(),
                **rates,
                **share,
                "load_average": os.getloadavg()[0],
            }
        )
    )


if __name__ == "__main__":
    exit_cleanly(main)
