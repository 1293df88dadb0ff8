"""Transport plans of test pairs, and what can be said about them without alignments made by people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from cl2cm_jax.data.batches import evaluation_batches
from cl2cm_jax.data.corpus import Corpus, text_inputs
from cl2cm_jax.maths.similarity import normalize, scores
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.towers import Text
from cl2cm_jax.steps.calibration import aligned_pairs
from cl2cm_jax.steps.word_scores import transport_plan
from cl2cm_jax.studies.word_alignment.cooccurrence import learn, links, once
from cl2cm_jax.training.experiment import Run

BATCH = 100
SHOWN, FEWEST, MOST = 10, 6, 12  # pairs in the picture, and how many words their source sentences have
LANGUAGE_OF_PAIR = (0, 0, 1, 0, 2, 0, 1, 0, 2, 0)  # place of the target language, by pair
_LETTERS_OF_A_NAME = 4


class Pairs(NamedTuple):
    """The sentence pairs of a language with their word pieces.

    Attributes:
      source_rows, target_rows: (n,) rows of the corpus.
      source, target: the pieces of each, n lists.
      linked: (k, 2) places that count words link, by pair (`cooccurrence`).
      same: (k, 2) places of equal numbers, names and marks, by pair.
    """

    source_rows: np.ndarray
    target_rows: np.ndarray
    source: list[list[str]]
    target: list[list[str]]
    linked: list[np.ndarray]
    same: list[np.ndarray]


class Quality(NamedTuple):
    """Percentages over all pairs of a language.

    Attributes:
      linked: of the links of cooccurrence, those whose source word sends more to the linked word than to any other.
      linked_mass: of the mass of those source words, what arrives there.
      same: of equal numbers, names and marks, those that send more to their equal than to any other word.
      mutual: of all source words, those that receive most from the word they send most to.
      alike: mean cosine of two words of one source sentence, times 100; 100 is a collapse.
    """

    linked: float
    linked_mass: float
    same: float
    mutual: float
    alike: float


def pairs_of(
    train: Corpus, test: Corpus, *, words: Callable[[str], list[str]], source: str, languages: Sequence[str]
) -> dict[str, Pairs]:
    """The test pairs of each language, with the links that counting on the training split finds.

    Args:
      train: the split that is counted.
      test: the split of the pairs.
      words: the pieces of a caption that the backbone has words for.
      source: language of the source sentences.
      languages: of the targets.
    """
    vocabulary: dict[str, int] = {}

    def pieces(corpus: Corpus, rows: np.ndarray) -> list[list[str]]:
        return [words(corpus.caption_text[row]) for row in rows]

    def ids(sentences: list[list[str]]) -> list[np.ndarray]:
        return [np.array([vocabulary.setdefault(p, len(vocabulary)) for p in s]) for s in sentences]

    source_pieces = {corpus.name: pieces(corpus, corpus.captions_of(source)) for corpus in (train, test)}
    found = {}
    for language in languages:
        learnt_from = ids(source_pieces[train.name]), ids(pieces(train, train.captions_of(language)))
        tables = learn(*learnt_from), learn(*reversed(learnt_from))
        source_rows, target_rows, _ = aligned_pairs(test, source, language)
        s, t = source_pieces[test.name], pieces(test, target_rows)
        linked = [links(*tables, *pair) for pair in zip(ids(s), ids(t), strict=True)]
        same = [_same(*pair) for pair in zip(s, t, strict=True)]
        found[language] = Pairs(source_rows, target_rows, s, t, linked, same)
    return found


def _same(source: list[str], target: list[str]) -> np.ndarray:
    """Places (k, 2) of pieces that stand once in both and are numbers, marks, or as long as few words but names are."""
    s, t = np.array(source), np.array(target)
    telling = [not p.strip("▁").isalpha() or len(p.strip("▁")) >= _LETTERS_OF_A_NAME for p in source]
    return np.argwhere((s[:, None] == t) & (once(s) & np.array(telling))[:, None] & once(t))


def plans(run: Run, teacher: Params, pairs: Pairs) -> tuple[list[np.ndarray], list[float]]:
    """The plan (M, N) of each pair's words, and how alike the source words of each are.

    The words are those that this teacher makes, or the backbone's where it makes none.
    """
    solve = _solver(run)
    found: list[np.ndarray] = []
    alike: list[float] = []
    length = run.config.text.max_tokens
    for batch in evaluation_batches(len(pairs.source_rows), batch_size=BATCH):
        texts = [
            text_inputs(run.corpora.test.text, rows[batch.rows], length=length, with_words=True)
            for rows in (pairs.source_rows, pairs.target_rows)
        ]
        plan, cosine, source_mask, target_mask = map(np.asarray, solve(teacher, *(Text(**text) for text in texts)))
        for row in np.flatnonzero(batch.is_valid):
            m, n = source_mask[row].sum(), target_mask[row].sum()
            found.append(plan[row][source_mask[row]][:, target_mask[row]])
            between = cosine[row][source_mask[row]][:, source_mask[row]]
            alike += [float((between.sum() - m) / (m * (m - 1)))] if m > 1 else []
            place = len(found) - 1
            assert (m, n) == (len(pairs.source[place]), len(pairs.target[place])), "pieces and words are not the same"
    return found, alike


def _solver(run: Run):  # noqa: ANN202
    """(teacher, source, target) -> plans (B, M, N), cosines of source words (B, M, M), masks; jitted."""

    @jax.jit
    def solve(teacher: Params, source: Text, target: Text) -> tuple[jax.Array, ...]:
        read = [run.networks.read("teacher", teacher, text) for text in (source, target)]
        made = [run.networks.teach(teacher, text).words for text in read]
        s, t = (text.words if words is None else words[0] for text, words in zip(read, made, strict=True))
        s_mask, t_mask = (text.mask for text in read)
        assert s is not None and t is not None and s_mask is not None and t_mask is not None
        plan = transport_plan(run.config, s, t, source_mask=s_mask, target_mask=t_mask)
        return plan, scores(normalize(s), normalize(s)), s_mask, t_mask

    return solve


def by_place(pairs: Pairs) -> list[np.ndarray]:
    """Plans that send a word to the one at its own place in the other sentence: what knowing nothing yields."""
    found = []
    for source, target in zip(pairs.source, pairs.target, strict=True):
        m, n = len(source), len(target)
        plan = np.zeros((m, n), np.float32)
        plan[np.arange(m), np.minimum((np.arange(m) + 0.5) * n / m, n - 1).astype(int)] = 1 / m
        found.append(plan)
    return found


def quality(found: Sequence[np.ndarray], alike: Sequence[float], pairs: Pairs) -> Quality:
    """Measures the plans of all pairs."""
    mutual = np.concatenate([_has_partner(plan) for plan in found])
    linked = [_hits(plan, where) for plan, where in zip(found, pairs.linked, strict=True)]
    same = [_hits(plan, where) for plan, where in zip(found, pairs.same, strict=True)]
    mass = [
        plan[tuple(where.T)] / plan.sum(axis=1)[where[:, 0]] for plan, where in zip(found, pairs.linked, strict=True)
    ]
    return Quality(*(_percent(part) for part in (linked, mass, same, [mutual], [np.asarray(alike)])))


def _percent(parts: Sequence[np.ndarray]) -> float:
    values = np.concatenate(parts)
    return 100.0 * float(values.mean()) if len(values) else float("nan")


def _hits(plan: np.ndarray, where: np.ndarray) -> np.ndarray:
    return plan.argmax(axis=1)[where[:, 0]] == where[:, 1]


def _has_partner(plan: np.ndarray) -> np.ndarray:
    """(M,) bool: the words whose best partner sends most to them, as `maths.word_alignment.mutual_links` has it."""
    return plan.argmax(axis=0)[plan.argmax(axis=1)] == np.arange(len(plan))


def shown_pairs(corpus: Corpus, *, source: str, languages: Sequence[str]) -> list[tuple[str, int]]:
    """(language, place among the source sentences) of the pairs to show: the first of a handy length, none skipped."""
    rows = corpus.captions_of(source)
    handy = [place for place, row in enumerate(rows) if FEWEST <= len(corpus.caption_text[row].split()) <= MOST]
    return [
        (languages[which % len(languages)], place)
        for which, place in zip(LANGUAGE_OF_PAIR, handy[:SHOWN], strict=False)
    ]
