"""The batch-level losses one tile of scores at a time: the values and gradients of their dense forms, without R x C.

Each takes the arguments of its dense form (contrastive.py, distillation.py, confidence.py) and those of
`reduce_pairs`: `block`, the most rows and columns of a tile; `mesh`, None for one device; `axis`, the mesh axes over
which rows and columns are split; `exchange`, how they meet. With a mesh R and C must be divisible by its devices.

A loss is two functions here: what it says of pairs, `*_pairs`, from scores of any shape (..., c) to statistics of x and
of y; and what follows from those of all pairs, `*_term`. Losses of the same scores share a sweep by putting the former
into one tile (steps/one_sweep.py). Source: ours.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from cl2cm_jax.maths import confidence, contrastive
from cl2cm_jax.maths.contrastive import Side
from cl2cm_jax.maths.distillation import sum_over
from cl2cm_jax.maths.masking import MASKED, Term, zero_invalid
from cl2cm_jax.maths.pair_reduction import Block, Tree, reduce_pairs
from cl2cm_jax.maths.pair_statistics import ArgMax, LogSumExp, Moments, SoftMean, Sum
from cl2cm_jax.maths.similarity import scores

BLOCK = 512


def infonce(
    x: Side,
    y: Side,
    *,
    temperature: Array | float,
    positive_weight: Array | None = None,
    block: int = BLOCK,
    **tiles: Any,
) -> Term:
    """`contrastive.infonce` by blocks."""

    def tile(x: Block, y: Block, temperature: Array) -> tuple[Tree, Tree]:
        (x_side,), (y_side, positive_weight) = x.fixed, y.fixed
        same, pair = contrastive.pairs(x_side, y_side)
        score = scores(x.moving, y.moving)
        return infonce_pairs(score, same, pair, temperature=temperature, positive_weight=positive_weight)

    weight = jnp.ones(len(y.vectors)) if positive_weight is None else positive_weight
    temperature = jnp.asarray(temperature, jnp.float32)
    totals = reduce_pairs(tile, _block(x), _block(y, weight), temperature, block=block, **tiles)
    return infonce_term(*totals, x.weight, y.weight)


def infonce_pairs(
    score: Array, same: Array, pair: Array, *, temperature: Array | float, positive_weight: Array | float = 1.0
) -> tuple[Tree, Tree]:
    """Statistics of x and of y; `positive_weight` as in `contrastive.infonce`, broadcast over pairs."""
    logits = jnp.where(pair, score / temperature, MASKED)

    def statistics(target: Array) -> Tree:
        return LogSumExp(logits), Sum(target * logits), Sum(target)

    return statistics(same * jax.lax.stop_gradient(positive_weight)), statistics(same.astype(jnp.float32))


def infonce_term(of_x: Tree, of_y: Tree, x_weight: Array, y_weight: Array) -> Term:
    """The loss from all pairs' statistics."""
    return contrastive.mean_of_directions(
        contrastive.cross_entropy(*(stat.value for stat in of_x), weight=x_weight),
        contrastive.cross_entropy(*(stat.value for stat in of_y), weight=y_weight),
    )


def triplet(x: Side, y: Side, *, margin: Array | float, block: int = BLOCK, **tiles: Any) -> Term:
    """`contrastive.triplet` by blocks."""

    def tile(x: Block, y: Block, _: Tree) -> tuple[Tree, Tree]:
        (x_side, x_index), (y_side, y_index) = x.fixed, y.fixed
        same, pair = contrastive.pairs(x_side, y_side)
        return triplet_pairs(scores(x.moving, y.moving), same, pair, x_index=x_index[:, None], y_index=y_index)

    rows, columns = (_block(side, jnp.arange(len(side.vectors))) for side in (x, y))
    totals = reduce_pairs(tile, rows, columns, (), block=block, **tiles)
    return triplet_term(*totals, x.weight, y.weight, margin=margin)


def triplet_pairs(score: Array, same: Array, pair: Array, *, x_index: Array, y_index: Array) -> tuple[Tree, Tree]:
    """Statistics of x and of y; the indices broadcast over pairs."""

    def statistics(index: Array) -> Tree:
        index = jnp.broadcast_to(index, score.shape).astype(jnp.float32)
        return tuple(ArgMax(jnp.where(among, score, MASKED), index) for among in (same, pair & ~same))

    return statistics(y_index), statistics(x_index)


def triplet_term(of_x: Tree, of_y: Tree, x_weight: Array, y_weight: Array, *, margin: Array | float) -> Term:
    """The loss from all pairs' statistics."""
    return contrastive.sum_of_directions(
        contrastive.hinge(*(best.value for best in of_x), weight=x_weight, margin=margin),
        contrastive.hinge(*(best.value for best in of_y), weight=y_weight, margin=margin),
    )


def sigmoid(x: Side, y: Side, *, scale: Array | float, bias: Array | float, block: int = BLOCK, **tiles: Any) -> Term:
    """`contrastive.sigmoid` by blocks."""

    def tile(x: Block, y: Block, scalars: Tree) -> tuple[Tree, Tree]:
        (x_side,), (y_side,) = x.fixed, y.fixed
        same, pair = contrastive.pairs(x_side, y_side)
        weight = (x_side.weight[:, None] + y_side.weight) / 2
        return sigmoid_pairs(scores(x.moving, y.moving), same, pair, scale=scalars[0], bias=scalars[1], weight=weight)

    scalars = jnp.asarray(scale, jnp.float32), jnp.asarray(bias, jnp.float32)
    of_x, _ = reduce_pairs(tile, _block(x), _block(y), scalars, block=block, **tiles)
    return sigmoid_term(of_x, x.is_valid)


def sigmoid_pairs(
    score: Array, same: Array, pair: Array, *, scale: Array | float, bias: Array | float, weight: Array | float
) -> tuple[Tree, Tree]:
    """Statistics of x, and none of y."""
    loss = -jax.nn.log_sigmoid(jnp.where(same, 1, -1) * (scale * score + bias))
    return (Sum(jnp.where(pair, weight * loss, 0)),), ()


def sigmoid_term(of_x: Tree, x_is_valid: Array) -> Term:
    """The loss from all pairs' statistics."""
    return Term(jnp.sum(of_x[0].value), jnp.sum(x_is_valid, dtype=jnp.float32))


def relational_kl(
    *,
    teacher_rows: Array,
    teacher_columns: Array,
    student_rows: Array,
    student_columns: Array,
    temperature: Array | float,
    student_temperature: Array | float | None = None,
    row_is_valid: Array,
    column_is_valid: Array,
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
        teacher, student = scores(teacher_rows, teacher_columns), scores(rows.moving, columns.moving)
        return relational_pairs(teacher / temperatures[0], student / temperatures[1], pair), ()

    def side(student: Array, teacher: Array, is_valid: Array) -> Block:
        fixed = zero_invalid(teacher, is_valid), is_valid, jnp.arange(len(teacher))
        return Block(zero_invalid(student, is_valid), jax.lax.stop_gradient(fixed))

    temperatures = temperature, temperature if student_temperature is None else student_temperature
    of_rows, _ = reduce_pairs(
        tile,
        side(student_rows, teacher_rows, row_is_valid),
        side(student_columns, teacher_columns, column_is_valid),
        tuple(jnp.asarray(t, jnp.float32) for t in temperatures),
        block=block,
        **tiles,
    )
    return relational_term(of_rows)


def relational_pairs(teacher: Array, student: Array, pair: Array) -> Tree:
    """Statistics of the side whose softmax it is, from both networks' logits; no gradient to the teacher's."""
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
    index = 1 + jnp.arange(len(source))  # 0 is that of the padding of a last tile, which is no pair of anything
    pair = jnp.einsum("nd,nd->n", source, target, precision=jax.lax.Precision.HIGHEST)
    return Block((), (source, is_valid, index)), Block((), (target, is_valid, index)), pair


def _block(side: Side, *fixed: Array) -> Block:
    identity = side._replace(vectors=())
    return Block(zero_invalid(side.vectors, side.is_valid), jax.lax.stop_gradient((identity, *fixed)))
