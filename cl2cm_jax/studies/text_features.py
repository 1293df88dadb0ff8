"""Cached text features of captions without images, whose vision features are a single zero."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cl2cm_jax.config import cut_layer, reads_frozen
from cl2cm_jax.data.captions import SPLITS, Caption, CaptionTable, by_image
from cl2cm_jax.data.corpus import translation_tag
from cl2cm_jax.features import cache
from cl2cm_jax.features.cache import Corpora
from cl2cm_jax.features.caption_counts import CaptionCounts
from cl2cm_jax.features.encoders import text_encoder
from cl2cm_jax.models.configured import configured_text_reader, fingerprint, text_prompt

Rows = dict[str, list[Caption]]  # by split


def parallel_text_corpora(config: ConfigDict, table: CaptionTable) -> Corpora:
    """Parallel text, from `read_parallel`, as the three splits of a data set in which each line stands for an image.

    Raises:
      UserError: the cached features are damaged, or the backbone cannot take captions of that length.
    """
    languages = (config.data.source, *config.data.targets, *config.data.reported)
    rows: Rows = {split: [row for row in table.rows if row.split == split] for split in SPLITS}
    folder = cached_text_features(config, rows, languages, selected=False)
    return cache.read_cache(folder, dict.fromkeys(rows, languages))


def cached_text_features(config: ConfigDict, rows: Rows, languages: Sequence[str], *, selected: bool) -> Path:
    """The folder of the features of these captions below config.data.dir; computes them if they are missing.

    `selected`: the translated captions of a data set, whose splits, languages and images identify the features too.
    """
    name = "translated" if selected else "text"
    folder = Path(config.data.dir, "features", f"{name}-{_key(config, rows, languages, selected=selected)}")
    if (folder / "done.json").exists():
        return folder
    logging.info("features: the text backbone runs over %s, once", "translated captions" if selected else "the text")
    start = time.perf_counter()
    encode = text_encoder(config, configured_text_reader(config))

    def write(split: str, place: Path) -> CaptionCounts:
        count = len(by_image(rows[split]))
        no_pictures = cache.VisionFeatures(lambda start: iter(np.zeros((count - start, 1, 1), np.float32)), frames=1)
        return cache.write_split(place, rows[split], tuple(languages), no_pictures, encode)

    cache.write_cache(folder, write, about={"languages": tuple(languages)}, splits=list(rows))
    logging.info("features: computed in %.0f s, kept in %s", time.perf_counter() - start, folder)
    return folder


def _key(config: ConfigDict, rows: Rows, languages: Sequence[str], *, selected: bool) -> str:
    """A hash of everything that the features depend on."""
    t, d = config.text, config.data
    tags = {translation_tag(name, d.source) for name in (*d.targets, *d.reported)}
    captions = [
        [(row.image, row.language, row.caption) for row in of_split if row.language in tags or not selected]
        for of_split in rows.values()
    ]
    inputs = [cache.FORMAT, fingerprint("text", t.backbone, t.path or None), t.max_tokens, t.lowercase]
    layers = [cut_layer(config), reads_frozen(config)]
    if selected:
        inputs += [list(languages), *layers, list(rows), captions]
    else:
        inputs += [*layers, [[caption[1:] for caption in of_split] for of_split in captions]]
    inputs += [prompt] if (prompt := text_prompt(config)) else []  # as in `features.cache`: earlier caches stay valid
    return hashlib.sha256(json.dumps(inputs).encode("utf-8", "surrogatepass")).hexdigest()[:16]
