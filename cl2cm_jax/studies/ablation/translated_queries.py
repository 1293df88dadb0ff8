"""Captions translated to the source ("de2en") of a set whose runs do not read them: features of the captions alone.

`evaluation.query="fused"` reads such captions with all others. An ablation evaluates one row on them, so their features
are computed and cached apart, and pictures are not encoded again. Source: ours.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cl2cm_jax.config import cut_layer, reads_frozen
from cl2cm_jax.data.captions import Caption, by_image
from cl2cm_jax.data.corpus import translation_tag
from cl2cm_jax.errors import UserError
from cl2cm_jax.features import cache
from cl2cm_jax.features.cache import Corpora
from cl2cm_jax.features.encoders import text_encoder
from cl2cm_jax.models.backbones import fingerprint
from cl2cm_jax.models.configured import configured_text


class NoTranslationsError(Exception):
    """The set has not what a translated query needs; the message is one line."""


def with_translations(config: ConfigDict, corpora: Corpora, *, splits: Sequence[str] = ("test",)) -> Corpora:
    """The corpora with the captions of these splits translated to the source, of every target that has any.

    Args:
      config: its targets must all have translations in these splits; those in `data.reported` may have.
      corpora: as `features.corpora` reads them.
      splits: those that queries are made of; validation is added where it has translations too.

    Raises:
      NoTranslationsError: a target's are missing, or not as many as it has captions.
    """
    d = config.data
    if config.evaluation.query == "fused":
        return corpora  # they are read
    tags = {name: translation_tag(name, d.source) for name in (*d.targets, *d.reported)}
    captions = cache.stored_captions(config, list(dict.fromkeys((*splits, "validation"))))
    there = {split: {row.language for row in rows} for split, rows in captions.items()}
    for split in list(captions):
        lacking = [tags[name] for name in d.targets if tags[name] not in there[split]]
        if lacking and split in splits:
            raise NoTranslationsError(f"the {split} split has no captions {lacking[0]!r}; cl2cm translate makes them")
        if lacking:
            del captions[split]
    languages = tuple(tag for tag in tags.values() if all(tag in there[split] for split in captions))
    folder = Path(d.dir, "features", f"translated-{_key(config, captions, languages, tags=set(tags.values()))}")
    if not (folder / "done.json").exists():
        logging.info("features: the text backbone runs over the translated captions, once")
        _compute(config, captions, languages, folder)
    added = cache.read_splits(folder, dict.fromkeys(captions, languages))
    joined = corpora._replace(
        **{split: getattr(corpora, split).with_captions_of(corpus) for split, corpus in added.items()}
    )
    try:
        for split in captions:
            for name, tag in tags.items():
                if tag in languages:
                    getattr(joined, split).translations_of(name, d.source)
    except UserError as error:
        raise NoTranslationsError(str(error)) from error
    return joined


def _key(config: ConfigDict, captions: dict[str, list[Caption]], languages: tuple[str, ...], *, tags: set[str]) -> str:
    texts = [
        [(row.image, row.language, row.caption) for row in rows if row.language in tags] for rows in captions.values()
    ]
    t = config.text
    inputs = [cache.FORMAT, fingerprint("text", t.backbone, t.path or None), t.max_tokens, t.lowercase, languages]
    inputs += [cut_layer(config), reads_frozen(config), list(captions), texts]
    inputs += [t.prefix] if t.prefix else []  # as features._key
    return hashlib.sha256(json.dumps(inputs).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _compute(config: ConfigDict, captions: dict[str, list[Caption]], languages: tuple[str, ...], folder: Path) -> None:
    encode = text_encoder(config, configured_text(config))

    def write(split: str, place: Path) -> None:
        count = len(by_image(captions[split]))
        nothing = cache.VisionFeatures(lambda start: iter(np.zeros((count - start, 1, 1), np.float32)), frames=1)
        cache.write_split(place, captions[split], languages, nothing, encode)

    cache.write_cache(folder, write, about={"languages": languages}, splits=list(captions))
