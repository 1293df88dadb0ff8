"""Pairwise losses in blockwise form: values and gradients of the dense losses without an R x C matrix.

A loss is two functions: `*_pairs`, from the scores of pairs (..., c) to statistics of x and of y, and `*_term`, from
the statistics of all pairs to the loss. Losses of the same scores share a sweep by joining their `*_pairs` in one tile
(steps/pair_terms_blockwise.py). The other functions take the arguments of their dense form (distillation.py,
confidence.py) and those of `reduce_pairs`; with a mesh R and C must be divisible by its devices.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from cl2cm_jax.maths import confidence, contrastive
from cl2cm_jax.maths.distillation import Pair, sum_over
from cl2cm_jax.maths.masking import MASKED, Term, zero_invalid
from cl2cm_jax.maths.pair_reduction import Block, Tree, reduce_pairs
from cl2cm_jax.maths.pair_statistics import ArgMax, LogSumExp, Moments, SoftMean, Sum
from cl2cm_jax.maths.similarity import scores

BLOCK = 512


def infonce_pairs(
    score: Array, same: Array, pair: Array, *, temperature: Array | float, positive_weight: Array | float = 1.0
) -> tuple[Tree, Tree]:
    """Statistics of x and of y for `contrastive.infonce`, from scores fp32 and masks bool of pairs, all (..., c).

    `positive_weight` broadcasts over pairs.
    """
    logits = jnp.where(pair, score / temperature, MASKED)

    def statistics(target: Array) -> Tree:
        return LogSumExp(logits), Sum(target * logits), Sum(target)

    return statistics(same * jax.lax.stop_gradient(positive_weight)), statistics(same.astype(jnp.float32))


def infonce_term(of_x: Tree, of_y: Tree, x_weight: Array, y_weight: Array) -> Term:
    """The loss from the statistics of all pairs."""
    return contrastive.mean_of_directions(
        contrastive.cross_entropy(*(stat.value for stat in of_x), weight=x_weight),
        contrastive.cross_entropy(*(stat.value for stat in of_y), weight=y_weight),
    )


def triplet_pairs(score: Array, same: Array, pair: Array, *, x_index: Array, y_index: Array) -> tuple[Tree, Tree]:
    """Statistics of x and of y for `contrastive.triplet`, from scores fp32 and masks bool of pairs, all (..., c).

    The indices broadcast over pairs.
    """

    def statistics(index: Array) -> Tree:
        index = jnp.broadcast_to(index, score.shape).astype(jnp.float32)
        return tuple(ArgMax(jnp.where(among, score, MASKED), index) for among in (same, pair & ~same))

    return statistics(y_index), statistics(x_index)


def triplet_term(of_x: Tree, of_y: Tree, x_weight: Array, y_weight: Array, *, margin: Array | float) -> Term:
    """The loss from the statistics of all pairs."""
    return contrastive.sum_of_directions(
        contrastive.hinge(*(best.value for best in of_x), weight=x_weight, margin=margin),
        contrastive.hinge(*(best.value for best in of_y), weight=y_weight, margin=margin),
    )


def sigmoid_pairs(
    score: Array, same: Array, pair: Array, *, scale: Array | float, bias: Array | float, weight: Array | float
) -> tuple[Tree, Tree]:
    """Statistics of x for `contrastive.sigmoid`, and none of y; arguments as for `infonce_pairs`."""
    loss = -jax.nn.log_sigmoid(jnp.where(same, 1, -1) * (scale * score + bias))
    return (Sum(jnp.where(pair, weight * loss, 0)),), ()


def sigmoid_term(of_x: Tree, x_is_valid: Array) -> Term:
    """The loss from the statistics of all pairs."""
    return Term(jnp.sum(of_x[0].value), jnp.sum(x_is_valid, dtype=jnp.float32))


def relational_kl(
    *,
    teacher: Pair,
    student: Pair,
    is_valid: Pair,
    temperature: Array | float,
    student_temperature: Array | float | None = None,
    exclude_diagonal: bool = False,
    block: int = BLOCK,
    **tiles: Any,
) -> Term:
    """`distillation.relational_kl` by blocks."""

    def tile(rows: Block, columns: Block, temperatures: Tree) -> tuple[Tree, Tree]:
        (teacher_rows, row_is_valid, i), (teacher_columns, column_is_valid, j) = rows.fixed, columns.fixed
        pair = row_is_valid[:, None] & column_is_valid
        if exclude_diagonal:
            pair &= i[:, None] != j
        of_teacher, of_student = scores(teacher_rows, teacher_columns), scores(rows.moving, columns.moving)
        return relational_pairs(of_teacher / temperatures[0], of_student / temperatures[1], pair), ()

    def side(student: Array, teacher: Array, is_valid: Array) -> Block:
        fixed = zero_invalid(teacher, is_valid), is_valid, jnp.arange(len(teacher))
        return Block(zero_invalid(student, is_valid), jax.lax.stop_gradient(fixed))

    temperatures = temperature, temperature if student_temperature is None else student_temperature
    rows, columns = (side(*arrays) for arrays in zip(student, teacher, is_valid, strict=True))
    scalars = tuple(jnp.asarray(t, jnp.float32) for t in temperatures)
    return relational_term(reduce_pairs(tile, rows, columns, scalars, block=block, **tiles)[0])


def relational_pairs(teacher: Array, student: Array, pair: Array) -> Tree:
    """Statistics of the rows of the softmax, from the logits of both networks; no gradient to the teacher's."""
    teacher = jnp.where(pair, jax.lax.stop_gradient(teacher), MASKED)
    student = jnp.where(pair, student, MASKED)
    return SoftMean(teacher, teacher - student), LogSumExp(student)


def relational_term(stats: Tree) -> Term:
    """KL_i = sum_j p_ij (t_ij - s_ij) - lse(t_i) + lse(s_i) for the logits t of the teacher and s of the student."""
    teacher, student = stats
    return sum_over(teacher.mean - teacher.log_total + student.value, teacher.log_total > MASKED / 2)


def standard_scores(source: Array, target: Array, *, is_valid: Array, block: int = BLOCK, **tiles: Any) -> Array:
    """`confidence.standard_scores` by blocks; no gradient passes."""

    def tile(source: Block, target: Block, _: Tree) -> tuple[Tree, Tree]:
        (x, x_is_valid, i), (y, y_is_valid, j) = source.fixed, target.fixed
        others = x_is_valid[:, None] & y_is_valid & (i[:, None] != j)
        similarity = jnp.where(others, scores(x, y), 0)
        moments = Moments(others.astype(jnp.float32), similarity, jnp.zeros_like(similarity))
        return moments, moments

    rows, columns, pair = _aligned(source, target, is_valid)
    of_rows, of_columns = reduce_pairs(tile, rows, columns, (), block=block, **tiles)
    by_rows, by_columns = (confidence.standardised(pair, *moments) for moments in (of_rows, of_columns))
    return 0.5 * (by_rows + by_columns)


def softmax_confidence(
    source: Array, target: Array, *, temperature: float, is_valid: Array, block: int = BLOCK, **tiles: Any
) -> Array:
    """`confidence.softmax_confidence` by blocks; no gradient passes."""

    def tile(source: Block, target: Block, _: Tree) -> tuple[Tree, Tree]:
        (x, x_is_valid, i), (y, y_is_valid, j) = source.fixed, target.fixed
        counts = x_is_valid[:, None] & y_is_valid | (i[:, None] == j)
        logits = LogSumExp(jnp.where(counts, scores(x, y) / temperature, MASKED))
        return logits, logits

    rows, columns, pair = _aligned(source, target, is_valid)
    of_rows, of_columns = reduce_pairs(tile, rows, columns, (), block=block, **tiles)
    by_rows, by_columns = (jnp.exp(pair / temperature - stat.value) for stat in (of_rows, of_columns))
    return 0.5 * (by_rows + by_columns)


def _aligned(source: Array, target: Array, is_valid: Array) -> tuple[Block, Block, Array]:
    """Rows, columns, and the scores of the aligned pairs (B,)."""
    source, target = (jax.lax.stop_gradient(side).astype(jnp.float32) for side in (source, target))
    index = 1 + jnp.arange(len(source))  # 0 is the index of padding in a last tile
    pair = jnp.einsum("nd,nd->n", source, target, precision=jax.lax.Precision.HIGHEST)
    return Block((), (source, is_valid, index)), Block((), (target, is_valid, index)), pair
