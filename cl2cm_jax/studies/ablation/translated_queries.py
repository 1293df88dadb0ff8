"""Target captions translated to the source ("de2en"), for runs that do not read them.

`evaluation.query="fused"` reads such captions with all others. The ablation evaluates one row on them, so their text
features are cached separately and no image is encoded again.
"""

from __future__ import annotations

from collections.abc import Sequence

from ml_collections import ConfigDict

from cl2cm_jax.data.corpus import translation_tag
from cl2cm_jax.errors import UserError
from cl2cm_jax.features import cache
from cl2cm_jax.features.cache import Corpora
from cl2cm_jax.studies.text_features import cached_text_features


class NoTranslationsError(Exception):
    """The data set lacks captions for translated queries; the message is one line."""


def with_translations(config: ConfigDict, corpora: Corpora, *, splits: Sequence[str] = ("test",)) -> Corpora:
    """Adds the captions that were translated to the source: those of every target in `splits`, and others if any.

    Raises:
      NoTranslationsError: translations of a target are missing, or their number differs from that of its captions.
    """
    d = config.data
    if config.evaluation.query == "fused":
        return corpora  # has them already
    tags = {name: translation_tag(name, d.source) for name in (*d.targets, *d.reported)}
    rows = cache.stored_captions(config, list(dict.fromkeys((*splits, "validation"))))
    present = {split: {row.language for row in of_split} for split, of_split in rows.items()}
    for split in list(rows):
        missing = [tags[name] for name in d.targets if tags[name] not in present[split]]
        if missing and split in splits:
            raise NoTranslationsError(
                f"the {split} split has no captions {missing[0]!r}; create them with cl2cm translate"
            )
        if missing:
            del rows[split]
    languages = tuple(tag for tag in tags.values() if all(tag in present[split] for split in rows))
    folder = cached_text_features(config, rows, languages, selected=True)
    added = cache.read_splits(folder, dict.fromkeys(rows, languages))
    joined = corpora._replace(
        **{split: getattr(corpora, split).with_captions_of(corpus) for split, corpus in added.items()}
    )
    try:
        for split in rows:
            for name, tag in tags.items():
                if tag in languages:
                    getattr(joined, split).translations_of(name, d.source)
    except UserError as error:
        raise NoTranslationsError(str(error)) from error
    return joined
