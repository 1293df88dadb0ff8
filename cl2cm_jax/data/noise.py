"""Synthetic translation noise, to measure robustness to wrong translations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cl2cm_jax.data.corpus import Corpus
from cl2cm_jax.errors import UserError

NOISED = "human_noised"


def swap_translations(corpus: Corpus, *, share: float, seed: int, source: str) -> Corpus:
    """Permutes a share of the target captions between images, within each language.

    In each language but the source, `round(share * captions)` captions are drawn and permuted so that none keeps its
    image. Only `caption_image` and `caption_origin` change. Depends on the arguments alone.

    Args:
      corpus: the training split.
      share: in [0, 1]; a share that rounds to one caption swaps two.
      seed: any integer >= 0.
      source: the language that is not changed.

    Raises:
      ValueError: the share is outside [0, 1].
      UserError: the corpus lacks the source language, or more than half of the chosen captions belong to one image.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share={share} must be between 0 and 1")
    source_index = corpus.language_index(source)
    image, origin = corpus.caption_image.copy(), corpus.caption_origin.astype(f"<U{len(NOISED)}")
    for index, language in enumerate(corpus.languages):
        rows = corpus.captions_of(language)
        count = round(share * len(rows))
        if index == source_index or count == 0 or len(rows) < 2:
            continue
        random = np.random.default_rng([seed, index])
        chosen = random.permutation(rows)[: max(count, 2)]
        image[chosen] = _moved(image[chosen], random)
        origin[chosen] = NOISED
    return replace(corpus, caption_image=image, caption_origin=origin)


def _moved(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A permutation of the images in which no position keeps its image."""
    # Sorted by image in a random order of the images, equal ones are adjacent, and a shift by the longest run changes
    # the image of every position if that is possible at all.
    _, groups, counts = np.unique(images, return_inverse=True, return_counts=True)
    longest = int(counts.max())
    if 2 * longest > len(images):
        raise UserError(
            f"config.data.translation_noise: {longest} of the {len(images)} captions to swap belong to one image; use "
            "another share, or 0"
        )
    order = np.lexsort((random.random(len(images)), random.permutation(len(counts))[groups]))
    moved = np.empty_like(images)
    moved[order] = np.roll(images[order], longest)
    return moved
