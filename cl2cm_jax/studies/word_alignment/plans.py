"""Transport plans of test pairs, and measures of them that need no manual alignments."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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
from cl2cm_jax.studies.word_alignment.ibm_model import fit, is_unique, links
from cl2cm_jax.training.experiment import Run

BATCH = 100
MIN_WORDS, MAX_WORDS = 6, 12  # of the source sentences in the chart
LANGUAGE_OF_PAIR = (0, 0, 1, 0, 2, 0, 1, 0, 2, 0)  # index of the target language, by pair of the chart
_NAME_LETTERS = 4  # shorter equal words are often function words


class Pairs(NamedTuple):
    """The n sentence pairs of a language with their word pieces."""

    source_rows: np.ndarray  # (n,) of the corpus
    target_rows: np.ndarray  # (n,)
    source: list[list[str]]  # pieces
    target: list[list[str]]
    linked: list[np.ndarray]  # (k, 2) places that `ibm_model` links
    same: list[np.ndarray]  # (k, 2) places of equal numbers, names and marks


class Quality(NamedTuple):
    """Percentages over all pairs of a language, NaN where no pair has such words; `report.QUALITY` explains them."""

    linked: float
    linked_mass: float
    same: float
    mutual: float
    alike: float

    def to_json(self) -> dict[str, float | None]:
        """The percentages by name, None for NaN, which JSON does not have."""
        return {name: None if math.isnan(value) else value for name, value in self._asdict().items()}

    @classmethod
    def from_json(cls, stored: Mapping[str, float | None]) -> Quality:
        """The percentages of `to_json`."""
        return cls(**{name: math.nan if value is None else value for name, value in stored.items()})


def read_pairs(
    train: Corpus, test: Corpus, *, words: Callable[[str], list[str]], source: str, languages: Sequence[str]
) -> dict[str, Pairs]:
    """The test pairs of each language with the links of an IBM model of the training split; `words` cuts a caption."""
    vocabulary: dict[str, int] = {}

    def pieces(corpus: Corpus, rows: np.ndarray) -> list[list[str]]:
        return [words(corpus.caption_text[row]) for row in rows]

    def ids(sentences: list[list[str]]) -> list[np.ndarray]:
        return [np.array([vocabulary.setdefault(p, len(vocabulary)) for p in s]) for s in sentences]

    source_pieces = {corpus.name: pieces(corpus, corpus.captions_of(source)) for corpus in (train, test)}
    found = {}
    for language in languages:
        sentences = ids(source_pieces[train.name]), ids(pieces(train, train.captions_of(language)))
        tables = fit(*sentences), fit(*reversed(sentences))
        source_rows, target_rows, _ = aligned_pairs(test, source, language)
        s, t = source_pieces[test.name], pieces(test, target_rows)
        linked = [links(*tables, *pair) for pair in zip(ids(s), ids(t), strict=True)]
        same = [_same(*pair) for pair in zip(s, t, strict=True)]
        found[language] = Pairs(source_rows, target_rows, s, t, linked, same)
    return found


def _same(source: list[str], target: list[str]) -> np.ndarray:
    """Places (k, 2) of equal pieces that occur once in both sentences and are numbers, marks, or as long as names."""
    s, t = np.array(source), np.array(target)
    distinctive = [not p.strip("▁").isalpha() or len(p.strip("▁")) >= _NAME_LETTERS for p in source]
    return np.argwhere((s[:, None] == t) & (is_unique(s) & np.array(distinctive))[:, None] & is_unique(t))


def transport_plans(run: Run, teacher: Params, pairs: Pairs) -> tuple[list[np.ndarray], list[float]]:
    """The plan (M, N) of each pair, and the mean cosine of its source words.

    The words are those of the teacher's head, or of the backbone if the head makes none.
    """
    solve = _solver(run)
    plans: list[np.ndarray] = []
    cosines: list[float] = []
    for batch in evaluation_batches(len(pairs.source_rows), batch_size=BATCH):
        texts = [
            text_inputs(run.corpora.test.text, rows[batch.rows], length=run.config.text.max_tokens, with_words=True)
            for rows in (pairs.source_rows, pairs.target_rows)
        ]
        plan, cosine, source_mask, target_mask = map(np.asarray, solve(teacher, *(Text(**text) for text in texts)))
        for row in np.flatnonzero(batch.is_valid):
            m, n = source_mask[row].sum(), target_mask[row].sum()
            place = len(plans)
            assert (m, n) == (len(pairs.source[place]), len(pairs.target[place])), "pieces and words differ in number"
            plans.append(plan[row][source_mask[row]][:, target_mask[row]])
            between = cosine[row][source_mask[row]][:, source_mask[row]]
            cosines += [float((between.sum() - m) / (m * (m - 1)))] if m > 1 else []
    return plans, cosines


def _solver(run: Run):  # noqa: ANN202
    """(teacher, source, target) -> plans (B, M, N), cosines of source words (B, M, M), masks; jitted."""

    @jax.jit
    def solve(teacher: Params, source: Text, target: Text) -> tuple[jax.Array, ...]:
        read = [run.networks.text_features("teacher", teacher, text) for text in (source, target)]
        made = [run.networks.encode_teacher(teacher, text).words for text in read]
        s, t = (text.words if words is None else words[0] for text, words in zip(read, made, strict=True))
        s_mask, t_mask = (text.mask for text in read)
        assert s is not None and t is not None and s_mask is not None and t_mask is not None
        plan = transport_plan(run.config, s, t, source_mask=s_mask, target_mask=t_mask)
        return plan, scores(normalize(s), normalize(s)), s_mask, t_mask

    return solve


def diagonal_plans(pairs: Pairs) -> list[np.ndarray]:
    """Plans that send each word to the one at the same place in the other sentence: a baseline without knowledge."""
    plans = []
    for source, target in zip(pairs.source, pairs.target, strict=True):
        m, n = len(source), len(target)
        plan = np.zeros((m, n), np.float32)
        plan[np.arange(m), np.minimum((np.arange(m) + 0.5) * n / m, n - 1).astype(int)] = 1 / m
        plans.append(plan)
    return plans


def plan_quality(plans: Sequence[np.ndarray], cosines: Sequence[float], pairs: Pairs) -> Quality:
    """Measures the plans of all pairs."""
    linked, mass, same, mutual = [], [], [], []
    for plan, links_of_pair, same_of_pair in zip(plans, pairs.linked, pairs.same, strict=True):
        best = plan.argmax(axis=1)
        linked.append(best[links_of_pair[:, 0]] == links_of_pair[:, 1])
        same.append(best[same_of_pair[:, 0]] == same_of_pair[:, 1])
        mass.append(plan[tuple(links_of_pair.T)] / plan.sum(axis=1)[links_of_pair[:, 0]])
        mutual.append(plan.argmax(axis=0)[best] == np.arange(len(plan)))  # as in `word_alignment.mutual_links`
    return Quality(*(_percent(np.concatenate(parts)) for parts in (linked, mass, same, mutual, [np.asarray(cosines)])))


def _percent(values: np.ndarray) -> float:
    return 100.0 * float(values.mean()) if len(values) else math.nan


def shown_pairs(corpus: Corpus, *, source: str, languages: Sequence[str]) -> list[tuple[str, int]]:
    """(language, row among the source sentences) of the pairs of the chart: the first ones of suitable length."""
    lengths = [len(corpus.caption_text[row].split()) for row in corpus.captions_of(source)]
    suitable = [row for row, length in enumerate(lengths) if MIN_WORDS <= length <= MAX_WORDS]
    return [(languages[i % len(languages)], row) for i, row in zip(LANGUAGE_OF_PAIR, suitable, strict=False)]
