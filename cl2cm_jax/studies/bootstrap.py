"""Paired bootstrap over seeds and test images: does one row of the ablation differ from another?

With k folds each image is tested in exactly one fold. `joined` merges the k runs of a seed into one run, so that a
resample draws images from all folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cl2cm_jax.evaluation.retrieval import DIRECTIONS, RECALL_AT, Ranks

RESAMPLES_AT_ONCE = 250  # bounds memory: 250 x images weights
MIN_HEADROOM = 1.0  # SumR; a share of a smaller headroom is noise
MARK = "*"  # of a difference whose interval excludes 0


@dataclass(frozen=True)
class RunRanks:
    """Test ranks of one training run: its seed and, by language, the rank of every query."""

    seed: int
    languages: dict[str, Ranks]


class Estimate(NamedTuple):
    """A mean and its 95 % interval: of SumR, of a difference of SumR, or of a share (1.0: all) of the headroom."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies entirely on one side of 0."""
        return self.low > 0 or self.high < 0


def format_difference(difference: Estimate | None) -> str:
    """`+9.4 [+7.1, +11.8] *`, or a dash for the baseline."""
    if difference is None:
        return "-"
    text = f"{difference.mean:+.1f} [{difference.low:+.1f}, {difference.high:+.1f}]"
    return f"{text} {MARK}" if difference.excludes_zero else text


class Spread(NamedTuple):
    """Mean and sample standard deviation over seeds; the latter is None for a single seed."""

    mean: float
    std: float | None


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation of one value per seed."""
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)


def sum_recall(runs: Sequence[RunRanks], *, languages: Sequence[str], resamples: int = 2000, seed: int = 0) -> Estimate:
    """SumR averaged over `languages` and seeds, with a 95 % percentile interval; drawn as in `paired_difference`."""
    return _estimate(*_hits(runs, languages), resamples=resamples, seed=seed)


def paired_difference(
    treated: Sequence[RunRanks],
    baseline: Sequence[RunRanks],
    *,
    languages: Sequence[str],
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """SumR of `treated` minus `baseline`, averaged over `languages` and seeds, with a 95 % percentile interval.

    Runs are paired by seed and queries by test image. One resample draws seeds with replacement and images with
    replacement; an image comes with all its captions in all languages, as they are not independent. All drawn seeds
    share the drawn images, because all seeds are tested on the same split: separate images for each seed would
    average out the sampling error of the split and make the interval too narrow. `seed` is that of the draws.

    Raises:
        ValueError: the seeds or the queries of the two sides differ.
    """
    return _estimate(*_paired_hits(treated, baseline, languages), resamples=resamples, seed=seed)


def headroom_share(
    treated: Sequence[RunRanks],
    baseline: Sequence[RunRanks],
    ceiling: Sequence[RunRanks],
    *,
    languages: Sequence[str],
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate | None:
    """(treated - baseline) / (ceiling - baseline) of SumR, averaged over `languages` and seeds, with its interval.

    Seeds and images are drawn jointly for all three; errors are those of `paired_difference`. None if the share is
    undefined: the interval of ceiling - baseline contains 0, or the headroom is below `MIN_HEADROOM`.
    """
    treated, ceiling = (sorted(runs, key=lambda run: run.seed) for runs in (treated, ceiling))  # the same seed is drawn
    gain, queries = _paired_hits(treated, baseline, languages)
    headroom, _ = _paired_hits(ceiling, baseline, languages)
    whole = _estimate(headroom, queries, resamples=resamples, seed=seed)
    if not whole.low > 0 or whole.mean < MIN_HEADROOM:
        return None
    gained, possible = (_draws(hits, queries, resamples=resamples, seed=seed) for hits in (gain, headroom))
    low, high = np.percentile(gained / possible, [2.5, 97.5])
    return Estimate(_mean(gain, queries) / whole.mean, float(low), float(high))


def joined(folds: Sequence[RunRanks]) -> RunRanks:
    """Merges one seed's runs on the folds into one; each image keeps its rank in the gallery of its fold.

    Raises:
        ValueError: the seeds or the languages of the folds differ.
    """
    first, *_ = folds
    if any(run.seed != first.seed or set(run.languages) != set(first.languages) for run in folds):
        raise ValueError("the folds of one run need the same seed and the same languages")
    starts = np.cumsum([0, *(_image_count([run], list(run.languages)) for run in folds)])
    languages = {}
    for language in first.languages:
        shifted = [
            ranks._replace(text_image=ranks.text_image + start, vision_image=ranks.vision_image + start)
            for ranks, start in zip((run.languages[language] for run in folds), starts, strict=False)
        ]
        languages[language] = Ranks(*(np.concatenate(arrays) for arrays in zip(*shifted, strict=True)))
    return RunRanks(first.seed, languages)


def _image_count(runs: Sequence[RunRanks], languages: Sequence[str]) -> int:
    """Number of images, up to the last one with a query."""
    return 1 + max(int(run.languages[language].text_image.max()) for run in runs for language in languages)


def _hits(runs: Sequence[RunRanks], languages: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """By direction and image: hits (S, L, 2, n) of R@1, R@5 and R@10 together, and number of queries (L, 2, n)."""
    images = _image_count(runs, languages)
    counts = np.array([[_count(run.languages[language], images) for language in languages] for run in runs])
    return counts[:, :, 0], counts[0, :, 1]


def _count(ranks: Ranks, images: int) -> np.ndarray:
    """(2, 2, n) float64: hits, then queries, by direction and image."""
    hits, queries = [], []
    for direction, image in zip(DIRECTIONS, (ranks.text_image, ranks.vision_image), strict=True):
        recalls = (np.asarray(getattr(ranks, direction))[:, None] <= np.array(RECALL_AT)).sum(axis=1)
        hits.append(np.bincount(image, weights=recalls, minlength=images))
        queries.append(np.bincount(image, minlength=images))
    return np.array([hits, queries], np.float64)


def _paired_hits(
    treated: Sequence[RunRanks], baseline: Sequence[RunRanks], languages: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Hits (S, L, 2, n) of treated minus baseline, in the order of the treated seeds, and queries (L, 2, n)."""
    partner = {run.seed: run for run in baseline}
    seeds = [run.seed for run in treated]
    if not seeds or sorted(seeds) != sorted(run.seed for run in baseline) or len(partner) != len(seeds):
        raise ValueError(f"paired runs need the same seeds, once each: {seeds} and {[run.seed for run in baseline]}")
    partners = [partner[run.seed] for run in treated]
    for run, other in zip(treated, partners, strict=True):
        for language in languages:
            if not np.array_equal(run.languages[language].text_image, other.languages[language].text_image):
                raise ValueError(
                    f"paired runs need the same test queries; they differ in {language!r}, seed {run.seed}"
                )
    (hits, queries), (baseline_hits, _) = _hits(treated, languages), _hits(partners, languages)
    return hits - baseline_hits, queries


def _estimate(hits: np.ndarray, queries: np.ndarray, *, resamples: int, seed: int) -> Estimate:
    low, high = np.percentile(_draws(hits, queries, resamples=resamples, seed=seed), [2.5, 97.5])
    return Estimate(_mean(hits, queries), float(low), float(high))


def _mean(hits: np.ndarray, queries: np.ndarray) -> float:
    """Mean of SumR over languages and seeds, every image once."""
    return float(_sum_recall(hits, queries, np.ones((1, hits.shape[-1]))).mean())


def _draws(hits: np.ndarray, queries: np.ndarray, *, resamples: int, seed: int) -> np.ndarray:
    """Mean of SumR over the drawn seeds and images in each resample (R,); the same resamples for the same `seed`."""
    generator = np.random.default_rng(seed)
    seeds, images = hits.shape[0], hits.shape[-1]
    drawn = []
    for start in range(0, resamples, RESAMPLES_AT_ONCE):
        size = min(RESAMPLES_AT_ONCE, resamples - start)
        weights = generator.multinomial(images, np.full(images, 1 / images), size=size).astype(np.float64)
        drawn_seeds = generator.integers(seeds, size=(size, seeds))
        drawn.append(np.take_along_axis(_sum_recall(hits, queries, weights), drawn_seeds, axis=1).mean(axis=1))
    return np.concatenate(drawn)


def _sum_recall(hits: np.ndarray, queries: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """SumR (R, S), the mean over languages, when image j counts `weights[r, j]` times."""
    seeds, languages, directions, images = hits.shape
    found = (weights @ hits.reshape(-1, images).T).reshape(-1, seeds, languages, directions)
    total = (weights @ queries.reshape(-1, images).T).reshape(-1, 1, languages, directions)
    return (100.0 * found / np.maximum(total, 1)).sum(axis=-1).mean(axis=-1)
