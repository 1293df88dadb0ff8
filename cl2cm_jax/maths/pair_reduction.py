"""Reductions over all (row, column) pairs, one tile of pairs at a time: the machinery of the blockwise losses.

A loss names its tile: a function from a block of rows and a block of columns to what they say about each row and each
column, as statistics that merge (`Sum`, `LogSumExp`, `SoftMean`, `ArgMax`). `reduce_pairs` sweeps the tiles, and over a
mesh it passes the columns around a ring of devices, so that neither a score matrix nor a gathered side exists anywhere.
The backward pass sweeps again: it recomputes each tile and pulls the gradient of the merged statistics through it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from cl2cm_jax.maths.masking import MASKED

Tree = Any  # a pytree of arrays


class Sum(NamedTuple):
    """A sum. value: (n,)."""

    value: Array

    @classmethod
    def identity(cls, like: Sum) -> Sum:
        return cls(jnp.zeros_like(like.value))

    def merge(self, other: Sum) -> Sum:
        return Sum(self.value + other.value)

    def pull(self, total: Sum, gradient: Sum) -> Sum:
        """Gradient of this part, given the merged total and the gradient of that."""
        return gradient


class LogSumExp(NamedTuple):
    """The logarithm of a sum of exponentials. value: (n,)."""

    value: Array

    @classmethod
    def identity(cls, like: LogSumExp) -> LogSumExp:
        return cls(jnp.full_like(like.value, MASKED))

    def merge(self, other: LogSumExp) -> LogSumExp:
        return LogSumExp(jnp.logaddexp(self.value, other.value))

    def pull(self, total: LogSumExp, gradient: LogSumExp) -> LogSumExp:
        return LogSumExp(gradient.value * jnp.exp(self.value - total.value))


class SoftMean(NamedTuple):
    """A mean weighted by a softmax that gets no gradient, such as the teacher's.

    log_total: (n,), log-sum-exp of the softmax's logits so far; mean: (n,).
    """

    log_total: Array
    mean: Array

    @classmethod
    def identity(cls, like: SoftMean) -> SoftMean:
        return cls(jnp.full_like(like.log_total, MASKED), jnp.zeros_like(like.mean))

    def merge(self, other: SoftMean) -> SoftMean:
        log_total = jnp.logaddexp(self.log_total, other.log_total)
        mine, its = jnp.exp(self.log_total - log_total), jnp.exp(other.log_total - log_total)
        return SoftMean(log_total, mine * self.mean + its * other.mean)

    def pull(self, total: SoftMean, gradient: SoftMean) -> SoftMean:
        share = jnp.exp(self.log_total - total.log_total)
        return SoftMean(jnp.zeros_like(self.log_total), gradient.mean * share)


class ArgMax(NamedTuple):
    """A maximum and where it is, the lowest index among equals; for reductions without a gradient.

    value: (n,) fp32, MASKED where there is none; index: (n,) int32.
    """

    value: Array
    index: Array

    @classmethod
    def identity(cls, like: ArgMax) -> ArgMax:
        return cls(jnp.full_like(like.value, MASKED), jnp.zeros_like(like.index))

    def merge(self, other: ArgMax) -> ArgMax:
        better = (other.value > self.value) | ((other.value == self.value) & (other.index < self.index))
        return ArgMax(jnp.where(better, other.value, self.value), jnp.where(better, other.index, self.index))


class Block(NamedTuple):
    """Rows or columns. moving: pytree of fp32 (n, ...) that get a gradient; fixed: pytree of (n, ...) that do not."""

    moving: Tree
    fixed: Tree


Tile = Callable[[Block, Block, Tree], tuple[Tree, Tree]]
"""(rows, columns, scalars) -> tuples of statistics of the rows and of the columns."""


class _Plan(NamedTuple):
    """What is static about a reduction."""

    tile: Tile
    block: int
    mesh: Mesh | None
    axis: tuple[str, ...]

    @property
    def devices(self) -> int:
        return 1 if self.mesh is None else math.prod(self.mesh.shape[name] for name in self.axis)

    def over_mesh(self, local: Callable, in_specs: Tree, out_specs: Tree) -> Callable:
        if self.mesh is None:
            return local
        return jax.shard_map(local, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)

    def pass_on(self, tree: Tree) -> Tree:
        """To the next device of the ring."""
        n = self.devices
        return tree if n == 1 else jax.lax.ppermute(tree, self.axis, [(i, (i + 1) % n) for i in range(n)])


def reduce_pairs(
    tile: Tile,
    rows: Block,
    columns: Block,
    scalars: Tree,
    *,
    block: int,
    mesh: Mesh | None = None,
    axis: str | tuple[str, ...] = "data",
) -> tuple[Tree, Tree]:
    """Merged statistics of all rows and all columns, differentiable in what moves and in the scalars.

    Args:
        tile: pure. It must give an invalid row or column no say: the last block is padded with zeros (False).
        rows: R rows.
        columns: C columns.
        scalars: pytree of () fp32, such as a temperature.
        block: most rows and columns of a tile.
        mesh: None for one device, else R and C are split over its `axis` in equal parts.
        axis: mesh axis name or names.

    Returns:
        A tuple of statistics of length R and one of length C.

    Raises:
        ValueError: R or C is not divisible by the number of devices.
    """
    plan = _Plan(tile, block, mesh, (axis,) if isinstance(axis, str) else tuple(axis))
    for name, n in (("rows", _length(rows)), ("columns", _length(columns))):
        if n % plan.devices:
            raise ValueError(f"{n} {name} are not divisible by the {plan.devices} devices of mesh axes {plan.axis}")
    return _reduce(plan, rows, columns, scalars)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _reduce(plan: _Plan, rows: Block, columns: Block, scalars: Tree) -> tuple[Tree, Tree]:
    split = P(plan.axis)
    local = plan.over_mesh(partial(_forward, plan), (split, split, P()), (split, split))
    return local(rows, columns, scalars)


def _reduce_forward(plan: _Plan, rows: Block, columns: Block, scalars: Tree) -> tuple[Tree, Tree]:
    totals = _reduce(plan, rows, columns, scalars)
    return totals, (rows, columns, scalars, totals)


def _reduce_backward(plan: _Plan, saved: Tree, gradients: tuple[Tree, Tree]) -> tuple[Block, Block, Tree]:
    rows, columns, scalars, totals = saved
    split = P(plan.axis)
    local = plan.over_mesh(partial(_backward, plan), (split, split, P()), (split, split, P()))
    rows, columns = (rows, totals[0], gradients[0]), (columns, totals[1], gradients[1])
    by_rows, by_columns, by_scalars = local(rows, columns, scalars)
    return Block(by_rows, None), Block(by_columns, None), by_scalars


_reduce.defvjp(_reduce_forward, _reduce_backward)


def _forward(plan: _Plan, rows: Block, columns: Block, scalars: Tree) -> tuple[Tree, Tree]:
    """Statistics of this device's rows and columns. Columns travel with theirs; after a full round they are home."""
    row_blocks, column_blocks = _blocked(rows, plan.block), _blocked(columns, plan.block)

    def over_columns(row_block: Block, row_stats: Tree, column: tuple[Block, Tree]) -> tuple[Tree, Tree]:
        column_block, column_stats = column
        of_rows, of_columns = plan.tile(row_block, column_block, scalars)
        return _merge(row_stats, of_rows), _merge(column_stats, of_columns)

    def over_rows(travelling: tuple[Block, Tree], row: tuple[Block, Tree]) -> tuple[tuple[Block, Tree], Tree]:
        row_block, row_stats = row
        row_stats, column_stats = jax.lax.scan(partial(over_columns, row_block), row_stats, travelling)
        return (travelling[0], column_stats), row_stats

    def hop(state: tuple[Tree, Tree], _: None) -> tuple[tuple[Tree, Tree], None]:
        row_stats, travelling = state
        travelling, row_stats = jax.lax.scan(over_rows, travelling, (row_blocks, row_stats))
        return (row_stats, plan.pass_on(travelling)), None

    identities = _identities(plan.tile, row_blocks, column_blocks, scalars)
    state = identities[0], (column_blocks, identities[1])
    (row_stats, (_, column_stats)), _ = jax.lax.scan(hop, state, length=plan.devices)
    return _unblocked(row_stats, _length(rows)), _unblocked(column_stats, _length(columns))


def _backward(plan: _Plan, rows: Tree, columns: Tree, scalars: Tree) -> tuple[Tree, Tree, Tree]:
    """Gradients of what moves and of the scalars; rows and columns are (Block, totals, gradients of the totals)."""
    row_blocks, column_blocks = _blocked(rows, plan.block), _blocked(columns, plan.block)

    def over_columns(row: Tree, sums: tuple[Tree, Tree], state: tuple[Tree, Tree]) -> tuple[tuple[Tree, Tree], Tree]:
        (row_block, *row_totals), (column, by_column) = row, state
        column_block, *column_totals = column

        def tile(row_moving: Tree, column_moving: Tree, scalars: Tree) -> tuple[Tree, Tree]:
            return plan.tile(Block(row_moving, row_block.fixed), Block(column_moving, column_block.fixed), scalars)

        (of_rows, of_columns), pull = jax.vjp(tile, row_block.moving, column_block.moving, scalars)
        new_row, new_column, new_scalars = pull((_pull(of_rows, *row_totals), _pull(of_columns, *column_totals)))
        return _add(sums, (new_row, new_scalars)), _add(by_column, new_column)

    def over_rows(state: tuple[Tree, Tree], row: tuple[Tree, Tree]) -> tuple[tuple[Tree, Tree], Tree]:
        (columns, by_columns), by_scalars = state
        row, by_row = row
        sums, by_columns = jax.lax.scan(partial(over_columns, row), (by_row, by_scalars), (columns, by_columns))
        by_row, by_scalars = sums
        return ((columns, by_columns), by_scalars), by_row

    def hop(state: tuple[Tree, Tree, Tree], _: None) -> tuple[tuple[Tree, Tree, Tree], None]:
        by_rows, travelling, by_scalars = state
        (travelling, by_scalars), by_rows = jax.lax.scan(over_rows, (travelling, by_scalars), (row_blocks, by_rows))
        return (by_rows, plan.pass_on(travelling), by_scalars), None

    def zeros(tree: Tree) -> Tree:
        return jax.tree.map(jnp.zeros_like, tree)

    state = zeros(row_blocks[0].moving), (column_blocks, zeros(column_blocks[0].moving)), zeros(scalars)
    (by_rows, (_, by_columns), by_scalars), _ = jax.lax.scan(hop, state, length=plan.devices)
    if plan.mesh is not None:
        by_scalars = jax.lax.psum(by_scalars, plan.axis)
    return _unblocked(by_rows, _length(rows)), _unblocked(by_columns, _length(columns)), by_scalars


def _length(tree: Tree) -> int:
    return len(jax.tree.leaves(tree)[0])


def _blocked(tree: Tree, block: int) -> Tree:
    """Leaves (n, ...) as (blocks, block, ...), the last block padded with zeros."""
    n = _length(tree)
    size = min(block, n)

    def split(a: Array) -> Array:
        return jnp.pad(a, [(0, -n % size)] + [(0, 0)] * (a.ndim - 1)).reshape(-1, size, *a.shape[1:])

    return jax.tree.map(split, tree)


def _unblocked(tree: Tree, n: int) -> Tree:
    """The inverse of `_blocked`."""
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:n], tree)


def _identities(tile: Tile, row_blocks: Block, column_blocks: Block, scalars: Tree) -> tuple[Tree, Tree]:
    """Statistics of nothing, for all blocks of rows and of columns."""
    first = partial(jax.tree.map, lambda a: a[0])
    like = jax.eval_shape(tile, first(row_blocks), first(column_blocks), scalars)

    def spread(stats: Tree, blocks: int) -> Tree:
        empty = tuple(stat.identity(stat) for stat in stats)
        return jax.tree.map(lambda a: jnp.broadcast_to(a, (blocks, *a.shape)), empty)

    return spread(like[0], _length(row_blocks)), spread(like[1], _length(column_blocks))


def _merge(a: Tree, b: Tree) -> Tree:
    return tuple(mine.merge(its) for mine, its in zip(a, b, strict=True))


def _pull(parts: Tree, totals: Tree, gradients: Tree) -> Tree:
    return tuple(part.pull(total, g) for part, total, g in zip(parts, totals, gradients, strict=True))


def _add(a: Tree, b: Tree) -> Tree:
    return jax.tree.map(jnp.add, a, b)
