"""Reductions over all (row, column) pairs, one tile of pairs at a time; the blockwise losses are made of them.

A loss defines its tile: a function from a block of rows and a block of columns to mergeable statistics of each pair, of
its row and of its column (pair_statistics.py). `reduce_pairs` sweeps the tiles. The backward pass sweeps again: it
recomputes each tile and pulls the gradient of the merged statistics through it.

Over a mesh rows stay on their device and columns come to them. "ring": each device holds one part of the columns at a
time and passes it on, with its statistics, while it sweeps it; the least memory. "gather": each device holds all
columns, for the backward pass too; their statistics and gradients return to their own device at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from cl2cm_jax.maths.pair_statistics import Statistic

Tree = Any  # a pytree of arrays
Exchange = Literal["ring", "gather"]


class Block(NamedTuple):
    """Rows or columns. moving: pytree of fp32 (n, ...) with a gradient; fixed: pytree of (n, ...) without."""

    moving: Tree
    fixed: Tree


Tile = Callable[[Block, Block, Tree], tuple[Tree, Tree]]
"""(rows (r, ...), columns (c, ...), scalars) -> pytrees of statistics of pairs, of rows and of columns.

Arrays of both are (r, ..., c): those of rows are reduced over the last axis, those of columns over all others.
"""


class _Plan(NamedTuple):
    """Static part of a reduction; `block` is the largest number of rows and of columns of a tile."""

    tile: Tile
    block: tuple[int, int]
    mesh: Mesh | None
    axis: tuple[str, ...]
    exchange: Exchange

    @property
    def devices(self) -> int:
        return 1 if self.mesh is None else math.prod(self.mesh.shape[name] for name in self.axis)

    @property
    def gathers(self) -> bool:
        return self.exchange == "gather" and self.devices > 1

    def over_mesh(self, local: Callable, in_specs: Tree, out_specs: Tree) -> Callable:
        if self.mesh is None:
            return local
        return jax.shard_map(local, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)

    def pass_on(self, tree: Tree) -> Tree:
        """Sends to the next device of the ring."""
        n = self.devices
        return tree if n == 1 else jax.lax.ppermute(tree, self.axis, [(i, (i + 1) % n) for i in range(n)])

    def gather(self, tree: Tree) -> Tree:
        """The parts of all devices."""
        return jax.tree.map(lambda a: jax.lax.all_gather(a, self.axis, tiled=True), tree) if self.gathers else tree

    def sum_home(self, parts: Array) -> Array:
        """This device's part (n/devices, ...) of the sum of all devices' (n, ...).

        In two rounds: the TPU compiler may join a sum over all devices with those of scalars, as one all-reduce.
        """
        n = self.devices
        inner = next(k for k in range(math.isqrt(n), 0, -1) if n % k == 0)
        far = [[a * inner + b for a in range(n // inner)] for b in range(inner)]
        near = [[a * inner + b for b in range(inner)] for a in range(n // inner)]
        for groups in (far, near):
            parts = jax.lax.psum_scatter(parts, self.axis, axis_index_groups=groups, tiled=True)
        return parts

    def home(self, stats: Tree) -> Tree:
        """This device's part (n/devices, ...) of the merged statistics (n, ...) of all devices."""
        parts = jax.tree.map(lambda a: a.reshape(self.devices, -1, *a.shape[1:]), stats)
        parts = jax.tree.map(lambda a: jax.lax.all_to_all(a, self.axis, 0, 0, tiled=True), parts)
        n = self.devices
        while n > 1:  # merge by halves; an odd part waits for the next round
            low, high, odd = (_part(parts, *ends) for ends in ((0, n // 2), (n // 2, n // 2 * 2), (n // 2 * 2, n)))
            parts, n = jax.tree.map(lambda *a: jnp.concatenate(a), _merge(low, high), odd), n - n // 2
        return jax.tree.map(lambda a: a[0], parts)


def reduce_pairs(
    tile: Tile,
    rows: Block,
    columns: Block,
    scalars: Tree,
    *,
    block: int | tuple[int, int],
    mesh: Mesh | None = None,
    axis: str | tuple[str, ...] = "data",
    exchange: Exchange = "ring",
) -> tuple[Tree, Tree]:
    """Merged statistics of all rows and all columns, differentiable in what moves and in the scalars.

    Args:
        tile: pure. Invalid rows and columns must not count in it: the last block is padded with zeros (False).
        rows: R rows.
        columns: C columns.
        scalars: pytree of () fp32, such as a temperature.
        block: largest number of rows and columns of a tile, one number or two.
        mesh: None for one device, else R and C are split over its `axis` in equal parts.
        axis: mesh axis name or names.
        exchange: "ring" or "gather", how columns reach the other devices' rows.

    Returns:
        The tile's two pytrees, of statistics (R, ...) and (C,).

    Raises:
        ValueError: R or C is not divisible by the number of devices; an unknown exchange.
    """
    if exchange not in get_args(Exchange):
        raise ValueError(f"exchange={exchange!r} is none of {', '.join(get_args(Exchange))}")
    sides = (block, block) if isinstance(block, int) else block
    plan = _Plan(tile, sides, mesh, (axis,) if isinstance(axis, str) else tuple(axis), exchange)
    for name, n in (("rows", _length(rows)), ("columns", _length(columns))):
        if n % plan.devices:
            raise ValueError(f"{n} {name} are not divisible by the {plan.devices} devices of mesh axes {plan.axis}")
    return _reduce(plan, rows, columns, scalars)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _reduce(plan: _Plan, rows: Block, columns: Block, scalars: Tree) -> tuple[Tree, Tree]:
    return _reduce_forward(plan, rows, columns, scalars)[0]


def _reduce_forward(plan: _Plan, rows: Block, columns: Block, scalars: Tree) -> tuple[tuple[Tree, Tree], Tree]:
    split = P(plan.axis)
    local = plan.over_mesh(partial(_forward, plan), (split, split, P()), (split, split, P() if plan.gathers else split))
    of_rows, of_columns, seen = local(rows, columns, scalars)
    return (of_rows, of_columns), (rows, seen, scalars, of_rows, of_columns)


def _reduce_backward(plan: _Plan, saved: Tree, gradients: tuple[Tree, Tree]) -> tuple[Block, Block, Tree]:
    rows, seen, scalars, of_rows, of_columns = saved
    split = P(plan.axis)
    places = split, P() if plan.gathers else split, split, P()
    local = plan.over_mesh(partial(_backward, plan), places, (split, split, P()))
    by_rows, by_columns, by_scalars = local((rows, of_rows, gradients[0]), seen, (of_columns, gradients[1]), scalars)
    return Block(by_rows, None), Block(by_columns, None), by_scalars


_reduce.defvjp(_reduce_forward, _reduce_backward)


def _forward(plan: _Plan, rows: Block, columns: Block, scalars: Tree) -> tuple[Tree, Tree, Block]:
    """Statistics of this device's rows and columns, and the columns for its backward pass."""
    columns = plan.gather(columns)
    row_blocks, column_blocks = _blocked(rows, plan.block[0]), _blocked(columns, plan.block[1])
    nothing = _identities(plan, row_blocks, column_blocks, scalars)

    def over_columns(row_block: Block, row_stats: Tree, column: tuple[Block, Tree]) -> tuple[Tree, Tree]:
        column_block, column_stats = column
        of_rows, of_columns = plan.tile(row_block, column_block, scalars)
        return _merge(row_stats, _by_row(of_rows)), _merge(column_stats, _by_column(of_columns))

    def sweep(columns: Block, row_stats: Tree) -> tuple[Tree, Tree]:
        def over_rows(column_stats: Tree, row: tuple[Block, Tree]) -> tuple[Tree, Tree]:
            row_block, row_stats = row
            row_stats, column_stats = jax.lax.scan(partial(over_columns, row_block), row_stats, (columns, column_stats))
            return column_stats, row_stats

        return jax.lax.scan(over_rows, nothing[1], (row_blocks, row_stats))

    def hop(state: tuple[Block, Tree, Tree], _: None) -> tuple[tuple[Block, Tree, Tree], None]:
        here, row_stats, column_stats = state
        coming, column_stats = plan.pass_on((here, column_stats))  # first, so that it can overlap with the sweep
        found, row_stats = sweep(here, row_stats)
        return (coming, row_stats, _merge(column_stats, found)), None

    if plan.gathers:
        found, row_stats = sweep(column_blocks, nothing[0])
        column_stats = plan.home(_unblocked(found, _length(columns)))
    else:
        (_, row_stats, column_stats), _ = jax.lax.scan(hop, (column_blocks, *nothing), length=plan.devices)
        column_stats = _unblocked(plan.pass_on(column_stats), _length(columns))
    return _unblocked(row_stats, _length(rows)), column_stats, columns


def _backward(plan: _Plan, rows: Tree, seen: Block, column_totals: Tree, scalars: Tree) -> tuple[Tree, Tree, Tree]:
    """Gradients of `moving` of rows and columns, and of the scalars.

    rows are (Block, totals, gradients of the totals); `column_totals` are the latter two of this device's columns.
    """
    columns = seen, *plan.gather(column_totals)
    row_blocks, column_blocks = _blocked(rows, plan.block[0]), _blocked(columns, plan.block[1])

    def over_columns(row: Tree, sums: tuple[Tree, Tree, Tree], column: tuple[Array, Tree]) -> tuple[Tree, None]:
        (row_block, *row_totals), (by_row, by_columns, by_scalars) = row, sums
        place, (column_block, *column_totals) = column

        def tile(row_moving: Tree, column_moving: Tree, scalars: Tree) -> tuple[Tree, Tree]:
            return plan.tile(Block(row_moving, row_block.fixed), Block(column_moving, column_block.fixed), scalars)

        (of_rows, of_columns), pull = jax.vjp(tile, row_block.moving, column_block.moving, scalars)
        row_totals = jax.tree.map(lambda a: a[..., None], row_totals)
        more = pull((_pull(of_rows, *row_totals), _pull(of_columns, *column_totals)))
        by_columns = jax.tree.map(partial(_add_at, place), by_columns, more[1])
        return (_add(by_row, more[0]), by_columns, _add(by_scalars, more[2])), None

    def sweep(columns: Tree, by_rows: Tree, by_scalars: Tree) -> tuple[Tree, Tree, Tree]:
        places = jnp.arange(_length(columns))

        def over_rows(state: tuple[Tree, Tree], row: tuple[Tree, Tree]) -> tuple[tuple[Tree, Tree], Tree]:
            (by_columns, by_scalars), (row, by_row) = state, row
            sums = by_row, by_columns, by_scalars
            (by_row, by_columns, by_scalars), _ = jax.lax.scan(partial(over_columns, row), sums, (places, columns))
            return (by_columns, by_scalars), by_row

        (by_columns, by_scalars), by_rows = jax.lax.scan(over_rows, (nothing, by_scalars), (row_blocks, by_rows))
        return by_rows, by_columns, by_scalars

    def hop(state: tuple[Tree, Tree, Tree, Tree], _: None) -> tuple[tuple[Tree, Tree, Tree, Tree], None]:
        here, by_rows, by_columns, by_scalars = state
        coming, by_columns = plan.pass_on((here, by_columns))
        by_rows, more, by_scalars = sweep(here, by_rows, by_scalars)
        return (coming, by_rows, _add(by_columns, more), by_scalars), None

    nothing, zeros = _zeros(column_blocks[0].moving), (_zeros(row_blocks[0].moving), _zeros(scalars))
    if plan.gathers:
        by_rows, by_columns, by_scalars = sweep(column_blocks, *zeros)
        by_columns = _unblocked(by_columns, _length(columns))
        by_columns = jax.tree.map(plan.sum_home, by_columns)
    else:
        state = column_blocks, zeros[0], nothing, zeros[1]
        (_, by_rows, by_columns, by_scalars), _ = jax.lax.scan(hop, state, length=plan.devices)
        by_columns = _unblocked(plan.pass_on(by_columns), _length(columns))
    if plan.mesh is not None:
        by_scalars = jax.lax.psum(by_scalars, plan.axis)
    return _unblocked(by_rows, _length(rows)), by_columns, by_scalars


def _length(tree: Tree) -> int:
    return len(jax.tree.leaves(tree)[0])


def _part(tree: Tree, start: int, stop: int) -> Tree:
    return jax.tree.map(lambda a: a[start:stop], tree)


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


def _identities(plan: _Plan, row_blocks: Block, column_blocks: Block, scalars: Tree) -> tuple[Tree, Tree]:
    """Neutral statistics for all blocks of rows and of columns."""

    def reduced(row_blocks: Block, column_blocks: Block, scalars: Tree) -> tuple[Tree, Tree]:
        first = partial(jax.tree.map, lambda a: a[0])
        of_rows, of_columns = plan.tile(first(row_blocks), first(column_blocks), scalars)
        return _by_row(of_rows), _by_column(of_columns)

    def spread(stats: Tree, blocks: int) -> Tree:
        empty = _over(lambda stat: stat.identity(stat), stats)
        return jax.tree.map(lambda a: jnp.broadcast_to(a, (blocks, *a.shape)), empty)

    like = jax.eval_shape(reduced, row_blocks, column_blocks, scalars)
    return spread(like[0], _length(row_blocks)), spread(like[1], _length(column_blocks))


def _over(function: Callable, *trees: Tree) -> Tree:
    """Maps over statistics."""
    return jax.tree.map(function, *trees, is_leaf=lambda node: isinstance(node, Statistic))


def _by_row(pairs: Tree) -> Tree:
    return _over(lambda stat: stat.reduce(-1), pairs)


def _by_column(pairs: Tree) -> Tree:
    return _over(lambda stat: stat.reduce(tuple(range(stat[0].ndim - 1))), pairs)


def _merge(a: Tree, b: Tree) -> Tree:
    return _over(lambda one, other: one.merge(other), a, b)


def _pull(pairs: Tree, totals: Tree, gradients: Tree) -> Tree:
    """The gradient of each pair's statistics."""
    pulled = _over(lambda pair, total, gradient: pair.pull(total, gradient), pairs, totals, gradients)
    return jax.tree.map(lambda g, pair: jnp.broadcast_to(g, pair.shape), pulled, pairs)


def _add(a: Tree, b: Tree) -> Tree:
    return jax.tree.map(jnp.add, a, b)


def _add_at(place: Array, a: Array, new: Array) -> Array:
    """Adds to one block in place; a scatter, as the TPU compiler makes it, would run over all of `a` each time."""
    return jax.lax.dynamic_update_index_in_dim(a, a[place] + new, place, 0)


def _zeros(tree: Tree) -> Tree:
    return jax.tree.map(jnp.zeros_like, tree)
