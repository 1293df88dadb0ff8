"""Pair confidence: how likely it is that a caption is a correct translation, by the teacher's similarity.

A pair's score is its teacher similarity, standardised against the mismatched pairs of the batch. Two densities of
scores are known for each language: of mismatched pairs, from the batch, and of correct pairs, from validation, which is
never machine-translated. The training pairs are a mixture of the two; its share of wrong pairs is the only unknown, and
the posterior that a pair is correct follows. Where the teacher does not know a language the densities coincide, and
every pair gets the same weight.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cl2cm_jax.maths.similarity import scores as similarities

GRID = np.linspace(-4.0, 12.0, 129, dtype=np.float32)  # scores, in standard deviations of mismatched pairs

# If the correct pairs of a language score fewer standard deviations above mismatched ones than SMALLEST_SEPARATION, or
# its estimated share of wrong pairs exceeds LARGEST_SHARE, the teacher does not know it: all its pairs keep weight 1.
SMALLEST_SEPARATION = 1.0
LARGEST_SHARE = 0.85
UNJUDGED, TOO_FEW = -1.0, -2.0  # in place of a share: as above, or there are fewer than FEWEST_PAIRS
FEWEST_PAIRS = 8


class Calibration(NamedTuple):
    """Weights of pairs by their scores.

    Attributes:
      weight: (k, len(GRID)) fp32 in [0, 1], by language.
      wrong_share: (k,) fp32, the estimated mixture; `UNJUDGED` where the teacher does not know the language, `TOO_FEW`
        where there are too few pairs.
    """

    weight: jax.Array | np.ndarray
    wrong_share: jax.Array | np.ndarray


def uncalibrated(languages: int) -> Calibration:
    """Weight 1 for every pair."""
    return Calibration(np.ones((languages, len(GRID)), np.float32), np.zeros(languages, np.float32))


def standard_scores(source: jax.Array, target: jax.Array, *, is_valid: jax.Array) -> jax.Array:
    """Similarity of each pair in standard deviations of the batch's mismatched pairs.

    Args:
      source: (B, D) unit vectors.
      target: (B, D) unit vectors; row i is the translation of row i.
      is_valid: (B,) bool.

    Returns:
      (B,) fp32: the mean of the score within the row and within the column; about 0 for wrong pairs.
    """
    similarity = similarities(source, target)
    pair = jnp.diagonal(similarity)
    others = is_valid[:, None] & is_valid[None, :] & ~jnp.eye(len(pair), dtype=bool)
    count = others.sum(1)  # symmetric in rows and columns

    def against(axis: int) -> jax.Array:
        mean = jnp.where(others, similarity, 0.0).sum(axis) / jnp.maximum(count, 1)
        centred = similarity - jnp.expand_dims(mean, axis)
        return standardised(pair, count, mean, jnp.where(others, centred**2, 0.0).sum(axis))

    return 0.5 * (against(0) + against(1))


def standardised(pair: jax.Array, count: jax.Array, mean: jax.Array, squares: jax.Array) -> jax.Array:
    """Scores (N,) in standard deviations, from count, mean and sum of squared deviations (N,) of the others."""
    spread = jnp.sqrt(squares / jnp.maximum(count, 1))
    return (pair - mean) / jnp.maximum(spread, 1e-6)


def softmax_confidence(source: jax.Array, target: jax.Array, *, temperature: float, is_valid: jax.Array) -> jax.Array:
    """Teacher's probability p_ii of the pair among the batch, mean of both directions: (B,) in [0, 1]."""
    counts = is_valid[:, None] & is_valid[None, :] | jnp.eye(len(is_valid), dtype=bool)
    logits = jnp.where(counts, similarities(source, target) / temperature, -jnp.inf)
    rows, columns = jax.nn.softmax(logits, axis=1), jax.nn.softmax(logits, axis=0)
    return 0.5 * (jnp.diagonal(rows) + jnp.diagonal(columns))


def posterior(scores: jax.Array, language: jax.Array, calibration: Calibration) -> jax.Array:
    """Looks up the weight of each pair: scores (N,) and language (N,) int32 -> (N,) fp32."""
    table = jnp.asarray(calibration.weight)[language]
    return jax.vmap(lambda score, row: jnp.interp(score, jnp.asarray(GRID), row))(scores, table)


def calibrate(*, training: list[np.ndarray], right: list[np.ndarray], wrong: list[np.ndarray]) -> Calibration:
    """Fits the mixture of each language.

    Args:
      training: per language, scores of the training pairs, some of them wrong.
      right: per language, scores of pairs known to be correct (validation).
      wrong: per language, scores of mismatched pairs.

    Returns:
      The posterior that a pair is correct at every point of `GRID`, relative to the largest of its language. In a
      language that the teacher does not know, or with too few pairs, all weights are 1 and the share is `UNJUDGED` or
      `TOO_FEW`.
    """
    fitted = [_fit(*scores) for scores in zip(training, right, wrong, strict=True)]
    weights, shares = zip(*fitted, strict=True)
    return Calibration(np.stack(weights), np.asarray(shares, np.float32))


def _fit(pairs: np.ndarray, right: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights on `GRID` and the share of wrong pairs of one language."""
    flat = np.ones(len(GRID), np.float32)
    if min(len(pairs), len(right), len(wrong)) < FEWEST_PAIRS:
        return flat, TOO_FEW
    density_right, density_wrong = _density(right), _density(wrong)
    share = _wrong_share(np.interp(pairs, GRID, density_right), np.interp(pairs, GRID, density_wrong))
    if share > LARGEST_SHARE or np.mean(right) - np.mean(wrong) < SMALLEST_SEPARATION * np.std(wrong):
        return flat, UNJUDGED
    right_mass = (1 - share) * density_right
    posterior = right_mass / (right_mass + share * density_wrong)
    curve = _monotone(posterior, float(np.mean(wrong)), float(np.mean(right)))
    return (curve / max(curve.max(), 1e-6)).astype(np.float32), share


def _monotone(posterior: np.ndarray, typical_wrong: float, typical_right: float) -> np.ndarray:
    """Makes a posterior on `GRID` non-decreasing, and flat beyond the typical wrong and correct scores.

    In the tails both densities are guesses.
    """
    places = np.clip(GRID, typical_wrong, max(typical_wrong, typical_right))
    return np.maximum.accumulate(np.interp(places, GRID, posterior))


def _density(scores: np.ndarray) -> np.ndarray:
    """Gaussian kernel density on `GRID` (Silverman's bandwidth), with a floor that keeps ratios finite."""
    bandwidth = 1.06 * max(float(np.std(scores)), 1e-3) * len(scores) ** -0.2
    distance = (GRID[:, None] - np.clip(scores, GRID[0], GRID[-1])[None, :]) / bandwidth
    density = np.exp(-0.5 * distance**2).mean(1) / (bandwidth * np.sqrt(2 * np.pi))
    return density + 1e-4


def _wrong_share(right: np.ndarray, wrong: np.ndarray, *, iterations: int = 200) -> float:
    """Maximum-likelihood share of wrong pairs when both densities at the pairs are known (EM)."""
    share = 0.5
    for _ in range(iterations):
        share = float(np.mean(share * wrong / (share * wrong + (1 - share) * right)))
    return share
