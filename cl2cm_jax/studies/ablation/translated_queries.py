"""Captions translated to the source ("de2en") of a set whose runs do not read them: features of the captions alone.

`evaluation.query="fused"` reads such captions with all others. An ablation evaluates one row on them, so their features
are computed and cached apart, and pictures are not encoded again. Source: ours.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cl2cm_jax.config import cut_layer, reads_frozen
from cl2cm_jax.data import builders, sets
from cl2cm_jax.data.corpus import translation_tag
from cl2cm_jax.data.records import Record
from cl2cm_jax.errors import UserError
from cl2cm_jax.features import cache
from cl2cm_jax.features.cache import Corpora
from cl2cm_jax.features.encoders import text_encoder
from cl2cm_jax.models.configured import configured_text, fingerprint


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
    builder, tags = sets.builder(d), {name: translation_tag(name, d.source) for name in (*d.targets, *d.reported)}
    records: dict[str, list[Record]] = {}
    for split in dict.fromkeys((*splits, "validation")):
        of_split = [_only(record, set(tags.values())) for record in builders.read_records(builder, split)]
        there = {caption.language for record in of_split for caption in record.captions}
        lacking = [tags[name] for name in d.targets if tags[name] not in there]
        if lacking and split in splits:
            raise NoTranslationsError(f"the {split} split has no captions {lacking[0]!r}; cl2cm translate makes them")
        if not lacking:
            records[split] = of_split
    tagged = {split: {c.language for record in some for c in record.captions} for split, some in records.items()}
    languages = tuple(tag for tag in tags.values() if all(tag in there for there in tagged.values()))
    folder = Path(d.dir, "features", f"translated-{_key(config, records, languages)}")
    if not (folder / "done.json").exists():
        logging.info("features: the text backbone runs over the translated captions, once")
        _compute(config, records, languages, folder)
    added = cache.read_splits(folder, dict.fromkeys(records, languages))
    joined = corpora._replace(
        **{split: getattr(corpora, split).with_captions_of(corpus) for split, corpus in added.items()}
    )
    try:
        for split in records:
            for name, tag in tags.items():
                if tag in languages:
                    getattr(joined, split).translations_of(name, d.source)
    except UserError as error:
        raise NoTranslationsError(str(error)) from error
    return joined


def _only(record: Record, languages: set[str]) -> Record:
    captions = tuple(caption for caption in record.captions if caption.language in languages)
    return replace(record, captions=captions, image=None, feature=None, frames=())


def _key(config: ConfigDict, records: dict[str, list[Record]], languages: tuple[str, ...]) -> str:
    texts = [[(r.image_id, c.language, c.text) for r in some for c in r.captions] for some in records.values()]
    t = config.text
    inputs = [cache.FORMAT, fingerprint("text", t.backbone, t.path or None), t.max_tokens, t.lowercase, languages]
    inputs += [cut_layer(config), reads_frozen(config), list(records), texts]
    inputs += [t.prefix] if t.prefix else []  # as features._key
    return hashlib.sha256(json.dumps(inputs).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _compute(config: ConfigDict, records: dict[str, list[Record]], languages: tuple[str, ...], folder: Path) -> None:
    encode = text_encoder(config, configured_text(config))

    def write(split: str, place: Path) -> None:
        of_split = records[split]
        nothing = cache.Vision(lambda start: iter(np.zeros((len(of_split) - start, 1, 1), np.float32)), frames=1)
        cache.write_split(place, of_split, languages, nothing, encode)

    cache.write_cache(folder, write, about={"languages": languages}, splits=list(records))
