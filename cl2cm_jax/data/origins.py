"""The choice of captions by who wrote them, and of the share of the images that is trained on.

A caption that is left out keeps its row and loses its language (`caption_language` is -1), so `Corpus.captions_of`
does not find it. No array is copied, and runs that train on other captions share one feature cache.

Training: `data.train_origin` and `data.train_share`. Validation and test: where a target language has human captions,
these alone; machine translations only where there are no others. The source language stays as it is.
Source: paper (training and evaluation captions); ours: the share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cl2cm_jax.data.corpus import LEFT_OUT, Corpus
from cl2cm_jax.errors import UserError

ANY, HUMAN = "any", "human"


def trained_on(corpus: Corpus, *, origin: str, targets: Sequence[str], share: float) -> Corpus:
    """The training split with the chosen captions.

    Args:
      corpus: the training split.
      origin: "any", "machine" or "human": origin of the captions in the target languages that are kept.
      targets: the target languages.
      share: of the images whose captions are kept, in (0, 1].

    Raises:
      UserError: a target language has no caption of that origin, or none on the share of the images.
    """
    for target in targets if origin != ANY else ():
        rows = corpus.captions_of(target)
        others = rows[corpus.caption_origin[rows] != origin]
        if len(others) == len(rows):
            there = ", ".join(sorted(set(corpus.caption_origin[rows].tolist())))
            raise UserError(
                f"config.data.train_origin={origin!r}: the {corpus.name} split has no such caption in {target!r}, "
                f"but {there}; {_REMEDY[origin]}, or leave the language out of config.data.targets"
            )
        corpus = _without(corpus, others)
    if share == 1.0:
        return corpus
    corpus = _without(corpus, np.flatnonzero(~_chosen(corpus.image_ids, share)[corpus.caption_image]))
    for target in targets:
        if not len(corpus.captions_of(target)):
            raise UserError(
                f"config.data.train_share={share}: no picture of that share of the {corpus.name} split has a caption "
                f"in {target!r}; raise it"
            )
    return corpus


_REMEDY = {
    "machine": "translate the source captions (cl2cm translate), or use 'any'",
    "human": "add human captions, or use 'any'",
}


def evaluated_on(corpus: Corpus, *, targets: Sequence[str]) -> Corpus:
    """A validation or test split with the human captions of each target language, or with all if it has none."""
    for target in targets:
        rows = corpus.captions_of(target)
        others = rows[corpus.caption_origin[rows] != HUMAN]
        if len(others) < len(rows):
            corpus = _without(corpus, others)
    return corpus


def _without(corpus: Corpus, rows: np.ndarray) -> Corpus:
    """The corpus without the captions `rows` (k,)."""
    if not len(rows):
        return corpus
    language = corpus.caption_language.copy()
    language[rows] = LEFT_OUT
    return replace(corpus, caption_language=language)


def _chosen(image_ids: np.ndarray, share: float) -> np.ndarray:
    """A mask (n,) of the images in the share, at least one: the first by a hash of ids, so shares are nested."""
    order = sorted(range(len(image_ids)), key=lambda row: hashlib.sha256(str(image_ids[row]).encode()).digest())
    chosen = np.zeros(len(image_ids), bool)
    chosen[order[: max(1, round(share * len(order)))]] = True
    return chosen
