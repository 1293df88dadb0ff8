"""The batch-level losses one tile of scores at a time: the values and gradients of their dense forms, without R x C.

Each takes the arguments of its dense form (contrastive.py, distillation.py) and three more: `block`, the most rows and
columns of a tile; `mesh`, None for one device; `axis`, the mesh axes over which rows and columns are split. With a mesh
R and C must be divisible by its devices, and no device ever holds another's rows except while they pass by (`triplet`
looks up its few winners at the end). Source: ours.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import logsumexp
from jax.sharding import Mesh

from cl2cm_jax.maths import contrastive
from cl2cm_jax.maths.contrastive import Side
from cl2cm_jax.maths.distillation import sum_over
from cl2cm_jax.maths.masking import MASKED, Term, zero_invalid
from cl2cm_jax.maths.pair_reduction import ArgMax, Block, LogSumExp, SoftMean, Sum, Tree, reduce_pairs
from cl2cm_jax.maths.similarity import scores


def infonce(
    x: Side,
    y: Side,
    *,
    temperature: Array | float,
    positive_weight: Array | None = None,
    block: int = 1024,
    mesh: Mesh | None = None,
    axis: str | tuple[str, ...] = "data",
) -> Term:
    """`contrastive.infonce` by blocks."""
    weight = jnp.ones(len(y.vectors)) if positive_weight is None else positive_weight
    of_rows, of_columns = reduce_pairs(
        _infonce_tile,
        _block(x),
        _block(y, weight),
        jnp.asarray(temperature, jnp.float32),
        block=block,
        mesh=mesh,
        axis=axis,
    )
    return contrastive.mean_of_directions(
        contrastive.cross_entropy(*(stat.value for stat in of_rows), weight=x.weight),
        contrastive.cross_entropy(*(stat.value for stat in of_columns), weight=y.weight),
    )


def triplet(
    x: Side,
    y: Side,
    *,
    margin: Array | float,
    block: int = 1024,
    mesh: Mesh | None = None,
    axis: str | tuple[str, ...] = "data",
) -> Term:
    """`contrastive.triplet` by blocks; all pairs are needed to find the winners, but not for the gradient."""
    x_vectors, y_vectors = zero_invalid(x.vectors, x.is_valid), zero_invalid(y.vectors, y.is_valid)

    def still(vectors: Array, side: Side) -> Block:
        return Block((), (jax.lax.stop_gradient(vectors), _identity(side), jnp.arange(len(vectors))))

    of_rows, of_columns = reduce_pairs(
        _triplet_tile, still(x_vectors, x), still(y_vectors, y), (), block=block, mesh=mesh, axis=axis
    )

    def score(vectors: Array, others: Array, found: ArgMax) -> Array:
        return jnp.where(found.value > MASKED / 2, jnp.sum(vectors * others[found.index], axis=1), MASKED)

    rows = (score(x_vectors, y_vectors, found) for found in of_rows)
    columns = (score(y_vectors, x_vectors, found) for found in of_columns)
    return contrastive.sum_of_directions(
        contrastive.hinge(*rows, weight=x.weight, margin=margin),
        contrastive.hinge(*columns, weight=y.weight, margin=margin),
    )


def sigmoid(
    x: Side,
    y: Side,
    *,
    scale: Array | float,
    bias: Array | float,
    block: int = 1024,
    mesh: Mesh | None = None,
    axis: str | tuple[str, ...] = "data",
) -> Term:
    """`contrastive.sigmoid` by blocks."""
    scalars = jnp.asarray(scale, jnp.float32), jnp.asarray(bias, jnp.float32)
    (loss,), _ = reduce_pairs(_sigmoid_tile, _block(x), _block(y), scalars, block=block, mesh=mesh, axis=axis)
    return Term(jnp.sum(loss.value), jnp.sum(x.is_valid, dtype=jnp.float32))


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
    block: int = 1024,
    mesh: Mesh | None = None,
    axis: str | tuple[str, ...] = "data",
) -> Term:
    """`distillation.relational_kl` by blocks.

    KL_i = sum_j p_ij (t_ij - s_ij) - lse(t_i) + lse(s_i) for the logits t of the teacher and s of the student.
    """

    def side(student: Array, teacher: Array, is_valid: Array) -> Block:
        fixed = zero_invalid(teacher, is_valid), is_valid, jnp.arange(len(teacher))
        return Block(zero_invalid(student, is_valid), jax.lax.stop_gradient(fixed))

    temperatures = temperature, temperature if student_temperature is None else student_temperature
    ((teacher, student), _) = reduce_pairs(
        partial(_relational_tile, exclude_diagonal=exclude_diagonal),
        side(student_rows, teacher_rows, row_is_valid),
        side(student_columns, teacher_columns, column_is_valid),
        tuple(jnp.asarray(t, jnp.float32) for t in temperatures),
        block=block,
        mesh=mesh,
        axis=axis,
    )
    divergence = teacher.mean - teacher.log_total + student.value
    return sum_over(divergence, teacher.log_total > MASKED / 2)


def _identity(side: Side) -> Side:
    """What a tile needs to know of a side besides its vectors."""
    return jax.lax.stop_gradient(side._replace(vectors=()))


def _block(side: Side, *fixed: Array) -> Block:
    return Block(zero_invalid(side.vectors, side.is_valid), (_identity(side), *jax.lax.stop_gradient(fixed)))


def _infonce_tile(x: Block, y: Block, temperature: Array) -> tuple[Tree, Tree]:
    (x_side,), (y_side, positive_weight) = x.fixed, y.fixed
    same, pair = contrastive.pairs(x_side, y_side)
    logits = jnp.where(pair, scores(x.moving, y.moving) / temperature, MASKED)

    def statistics(target: Array, axis: int) -> Tree:
        log_total = LogSumExp(logsumexp(logits, axis=axis))
        return log_total, Sum(jnp.sum(target * logits, axis=axis)), Sum(jnp.sum(target, axis=axis, dtype=jnp.float32))

    return statistics(same * positive_weight, 1), statistics(same, 0)


def _triplet_tile(x: Block, y: Block, _: Tree) -> tuple[Tree, Tree]:
    (x_vectors, x_side, x_index), (y_vectors, y_side, y_index) = x.fixed, y.fixed
    same, pair = contrastive.pairs(x_side, y_side)
    score = scores(x_vectors, y_vectors)

    def best(among: Array, index: Array, axis: int) -> ArgMax:
        masked = jnp.where(among, score, MASKED)
        return ArgMax(jnp.max(masked, axis=axis), index[jnp.argmax(masked, axis=axis)])

    negative = pair & ~same
    return (
        (best(same, y_index, 1), best(negative, y_index, 1)),
        (best(same, x_index, 0), best(negative, x_index, 0)),
    )


def _sigmoid_tile(x: Block, y: Block, scalars: Tree) -> tuple[Tree, Tree]:
    scale, bias = scalars
    (x_side,), (y_side,) = x.fixed, y.fixed
    same, pair = contrastive.pairs(x_side, y_side)
    loss = -jax.nn.log_sigmoid(jnp.where(same, 1, -1) * (scale * scores(x.moving, y.moving) + bias))
    weight = (x_side.weight[:, None] + y_side.weight) / 2
    return (Sum(jnp.sum(jnp.where(pair, weight * loss, 0), axis=1)),), ()


def _relational_tile(rows: Block, columns: Block, temperatures: Tree, *, exclude_diagonal: bool) -> tuple[Tree, Tree]:
    (teacher_rows, row_is_valid, i), (teacher_columns, column_is_valid, j) = rows.fixed, columns.fixed
    teacher_temperature, student_temperature = temperatures
    pair = row_is_valid[:, None] & column_is_valid
    if exclude_diagonal:
        pair &= i[:, None] != j
    teacher = scores(teacher_rows, teacher_columns) / jax.lax.stop_gradient(teacher_temperature)
    teacher = jnp.where(pair, teacher, MASKED)
    student = jnp.where(pair, scores(rows.moving, columns.moving) / student_temperature, MASKED)
    log_total = logsumexp(teacher, axis=1)
    mean = jnp.sum(jnp.exp(teacher - log_total[:, None]) * (teacher - student), axis=1)
    return (SoftMean(log_total, mean), LogSumExp(logsumexp(student, axis=1))), ()
