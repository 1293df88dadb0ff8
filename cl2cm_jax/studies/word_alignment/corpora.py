"""Parallel text as the corpora that the trainer reads: captions without pictures, features computed once.

A line stands for a picture that nobody sees: its vision features are one zero. Source: ours.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cl2cm_jax.config import cut_layer, reads_frozen
from cl2cm_jax.data.records import Record
from cl2cm_jax.features import cache, encoders
from cl2cm_jax.features.cache import Corpora
from cl2cm_jax.models.configured import configured_text, fingerprint


def text_corpora(config: ConfigDict, records: dict[str, list[Record]]) -> Corpora:
    """The three splits with the text backbone's features, which are computed where they are not there yet.

    Args:
      config: its text backbone is run; the features lie below config.data.dir.
      records: by split, from `read_parallel`.

    Raises:
      UserError: the cached features are damaged, or the backbone takes no captions of that length.
    """
    languages = (config.data.source, *config.data.targets, *config.data.reported)
    folder = Path(config.data.dir, "features", f"text-{_key(config, records)}")
    if not (folder / "done.json").exists():
        start = time.perf_counter()
        _compute(config, records, languages, folder)
        logging.info("features: computed in %.0f s, kept in %s", time.perf_counter() - start, folder)
    return cache.read_cache(folder, dict.fromkeys(records, languages))


def _key(config: ConfigDict, records: dict[str, list[Record]]) -> str:
    """A hash of everything that the features depend on."""
    texts = [[(c.language, c.text) for record in some for c in record.captions] for some in records.values()]
    weights = fingerprint("text", config.text.backbone, config.text.path or None)
    t = config.text
    inputs = [cache.FORMAT, weights, t.max_tokens, t.lowercase, cut_layer(config), reads_frozen(config), texts]
    inputs += [t.prefix] if t.prefix else []
    return hashlib.sha256(json.dumps(inputs).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _compute(config: ConfigDict, records: dict[str, list[Record]], languages: tuple[str, ...], folder: Path) -> None:
    """Runs the text backbone over all splits and keeps what it yields."""
    encode = encoders.text_encoder(config, configured_text(config))

    def write(split: str, place: Path) -> None:
        lines = records[split]
        nothing = cache.Vision(lambda start: iter(np.zeros((len(lines) - start, 1, 1), np.float32)), frames=1)
        cache.write_split(place, lines, languages, nothing, encode)

    cache.write_cache(folder, write, about={"languages": languages})
