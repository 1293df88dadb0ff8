"""Paired bootstrap over seeds and test images: is one row of the ablation really better than another?

With k folds an image is tested in exactly one of them: `joined` makes one run of the k runs of a seed, so that a
resample draws images over the union of the folds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cl2cm_jax.evaluation.retrieval import DIRECTIONS, RECALL_AT, Ranks, metrics

RESAMPLES_AT_ONCE = 250  # bounds memory: 250 x images weights
LEAST_HEADROOM = 1.0  # SumR; a share of less than this is a share of noise


@dataclass(frozen=True)
class RunHits:
    """What one training run found on the test split: its seed and, per language, the rank of every query."""

    seed: int
    languages: Mapping[str, Ranks]


class Difference(NamedTuple):
    """A difference of SumR points (treated minus baseline) and its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies wholly on one side of 0."""
        return self.low > 0 or self.high < 0


class Share(NamedTuple):
    """Share of the headroom that a row wins back, 1.0 is all of it, and its 95 % interval."""

    mean: float
    low: float
    high: float


class Level(NamedTuple):
    """SumR and its 95 % interval."""

    mean: float
    low: float
    high: float


class Spread(NamedTuple):
    """Mean over seeds and sample standard deviation (None with one seed: it shows no spread)."""

    mean: float
    std: float | None


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation of one number a seed."""
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)


def mean_sum_recall(run: RunHits, *, languages: Sequence[str]) -> float:
    """SumR of one run, averaged over `languages`."""
    return float(np.mean([metrics(run.languages[language])["SumR"] for language in languages]))


def paired_difference(
    treated: Sequence[RunHits],
    baseline: Sequence[RunHits],
    *,
    languages: Sequence[str],
    resamples: int = 2000,
    seed: int = 0,
) -> Difference:
    """SumR of `treated` minus `baseline`, averaged over `languages` and seeds, with a 95 % percentile interval.

    Runs are paired by seed and queries by test image. One resample draws seeds with replacement and images with
    replacement; an image comes with all its captions in all languages (they are not independent). The drawn images
    are the same for all drawn seeds, because all seeds are tested on the same split: images drawn anew for each seed
    would average away the luck of the split and make the interval too narrow.

    Args:
        treated: one run a seed.
        baseline: the runs to compare with; the same seeds, the same test queries.
        languages: the languages to average over: the targets, or the source alone.
        resamples: number of bootstrap draws.
        seed: of the bootstrap's own generator, so that a table can be printed again.

    Raises:
        ValueError: the seeds or the queries of the two sides differ.

    Source: ours.
    """
    hits, queries = _paired_hits(treated, baseline, languages=languages)
    return Difference(*_with_interval(hits, queries, resamples=resamples, seed=seed))


def headroom_share(
    treated: Sequence[RunHits],
    baseline: Sequence[RunHits],
    ceiling: Sequence[RunHits],
    *,
    languages: Sequence[str],
    resamples: int = 2000,
    seed: int = 0,
) -> Share | None:
    """(treated - baseline) / (ceiling - baseline) of SumR, averaged over `languages` and seeds, with its interval.

    Seeds and images are drawn jointly for the three, as in `paired_difference`; the interval is that of the ratio.

    Returns:
        None where the share is not defined: the interval of ceiling - baseline holds 0, or the headroom is less than
        `LEAST_HEADROOM`.

    Raises:
        ValueError: the seeds or the queries differ.

    Source: ours.
    """
    treated, ceiling = (sorted(runs, key=lambda run: run.seed) for runs in (treated, ceiling))  # the same seed is drawn
    above, queries = _paired_hits(treated, baseline, languages=languages)
    whole, _ = _paired_hits(ceiling, baseline, languages=languages)
    headroom = Difference(*_with_interval(whole, queries, resamples=resamples, seed=seed))
    if not headroom.low > 0 or headroom.mean < LEAST_HEADROOM:
        return None
    gained, possible = (_draws(hits, queries, resamples=resamples, seed=seed) for hits in (above, whole))
    low, high = np.percentile(gained / possible, [2.5, 97.5])
    return Share(_point(above, queries) / headroom.mean, float(low), float(high))


def joined(folds: Sequence[RunHits]) -> RunHits:
    """The runs of one seed on the folds as one run: the images of a fold come after those of the folds before it.

    Every image keeps its gallery, that of its fold; ranks are not counted anew.

    Raises:
        ValueError: the seeds or the languages of the folds differ.
    """
    first, *_ = folds
    if any(run.seed != first.seed or set(run.languages) != set(first.languages) for run in folds):
        raise ValueError("the folds of one run need the same seed and the same languages")
    starts = np.cumsum([0, *(_images(run) for run in folds)])
    languages = {}
    for language in first.languages:
        parts = [run.languages[language] for run in folds]
        moved = [
            ranks._replace(text_image=ranks.text_image + start, vision_image=ranks.vision_image + start)
            for ranks, start in zip(parts, starts, strict=False)
        ]
        languages[language] = Ranks(*(np.concatenate(arrays) for arrays in zip(*moved, strict=True)))
    return RunHits(first.seed, languages)


def _images(run: RunHits) -> int:
    """Images that a run's queries belong to, counted to the last one that has a query in any language."""
    return 1 + max(int(ranks.text_image.max()) for ranks in run.languages.values())


def sum_recall_level(
    runs: Sequence[RunHits], *, languages: Sequence[str], resamples: int = 2000, seed: int = 0
) -> Level:
    """SumR averaged over `languages` and seeds, with a 95 % percentile interval; drawn as in `paired_difference`.

    Source: ours.
    """
    images = 1 + max(int(run.languages[language].text_image.max()) for run in runs for language in languages)
    tallies = [[_tally(run.languages[language], images) for language in languages] for run in runs]
    hits = np.stack([np.stack([found for found, _ in run]) for run in tallies])  # (S, L, 2, n)
    queries = np.stack([asked for _, asked in tallies[0]])  # (L, 2, n)
    return Level(*_with_interval(hits, queries, resamples=resamples, seed=seed))


def _with_interval(hits: np.ndarray, queries: np.ndarray, *, resamples: int, seed: int) -> tuple[float, float, float]:
    """The mean of SumR over languages and seeds, and the ends of its 95 % interval."""
    low, high = np.percentile(_draws(hits, queries, resamples=resamples, seed=seed), [2.5, 97.5])
    return _point(hits, queries), float(low), float(high)


def _draws(hits: np.ndarray, queries: np.ndarray, *, resamples: int, seed: int) -> np.ndarray:
    """The mean of SumR over languages and seeds in each resample (R,); with one `seed` always the same resamples."""
    generator = np.random.default_rng(seed)
    drawn = [
        _resample(hits, queries, generator, resamples=min(RESAMPLES_AT_ONCE, resamples - start))
        for start in range(0, resamples, RESAMPLES_AT_ONCE)
    ]
    return np.concatenate(drawn)


def _point(hits: np.ndarray, queries: np.ndarray) -> float:
    """The mean of SumR over languages and seeds, every image once."""
    return float(_sum_recall(hits, queries, np.ones((1, hits.shape[-1]))).mean())


def _paired_hits(
    treated: Sequence[RunHits], baseline: Sequence[RunHits], *, languages: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """(S, L, 2, n) hits of treated minus baseline in the order of the treated seeds, and (L, 2, n) queries."""
    pairs = _pair_by_seed(treated, baseline)
    images = 1 + max(int(run.languages[language].text_image.max()) for run, _ in pairs for language in languages)
    hits = np.stack([_hit_differences(*pair, languages=languages, images=images) for pair in pairs])
    queries = np.stack([_tally(pairs[0][0].languages[language], images)[1] for language in languages])
    return hits, queries


def _pair_by_seed(treated: Sequence[RunHits], baseline: Sequence[RunHits]) -> list[tuple[RunHits, RunHits]]:
    partner = {run.seed: run for run in baseline}
    seeds = [run.seed for run in treated]
    if not seeds or sorted(seeds) != sorted(run.seed for run in baseline) or len(partner) != len(seeds):
        raise ValueError(f"paired runs need the same seeds, once each: {seeds} and {[run.seed for run in baseline]}")
    return [(run, partner[run.seed]) for run in treated]


def _tally(ranks: Ranks, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Per direction and image, (2, n): how many of R@1, R@5, R@10 its queries hit, and how many queries it has."""
    hits, queries = [], []
    for direction, image in zip(DIRECTIONS, (ranks.text_image, ranks.vision_image), strict=True):
        recalls = (np.asarray(getattr(ranks, direction))[:, None] <= np.array(RECALL_AT)).sum(axis=1)
        hits.append(np.bincount(image, weights=recalls, minlength=images))
        queries.append(np.bincount(image, minlength=images))
    return np.stack(hits).astype(np.float64), np.stack(queries).astype(np.float64)


def _hit_differences(treated: RunHits, baseline: RunHits, *, languages: Sequence[str], images: int) -> np.ndarray:
    """(L, 2, n) hits of the treated run minus hits of its partner, per language, direction and image."""
    rows = []
    for language in languages:
        ours, theirs = treated.languages[language], baseline.languages[language]
        if not np.array_equal(ours.text_image, theirs.text_image):
            raise ValueError(
                f"paired runs need the same test queries; they differ in {language!r}, seed {treated.seed}"
            )
        rows.append(_tally(ours, images)[0] - _tally(theirs, images)[0])
    return np.stack(rows)


def _sum_recall(hits: np.ndarray, queries: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """SumR differences (R, S) when image j counts `weights[r, j]` times; the mean over languages."""
    seeds, languages, directions, images = hits.shape
    found = (weights @ hits.reshape(-1, images).T).reshape(-1, seeds, languages, directions)
    asked = (weights @ queries.reshape(-1, images).T).reshape(-1, 1, languages, directions)
    return (100.0 * found / np.maximum(asked, 1)).sum(axis=-1).mean(axis=-1)


def _resample(hits: np.ndarray, queries: np.ndarray, generator: np.random.Generator, *, resamples: int) -> np.ndarray:
    """(R,) mean differences over the drawn seeds, on the drawn images."""
    seeds, images = hits.shape[0], hits.shape[-1]
    weights = generator.multinomial(images, np.full(images, 1 / images), size=resamples).astype(np.float64)
    drawn_seeds = generator.integers(seeds, size=(resamples, seeds))
    return np.take_along_axis(_sum_recall(hits, queries, weights), drawn_seeds, axis=1).mean(axis=1)
