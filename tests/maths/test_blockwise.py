"""Blockwise losses equal the dense ones: on one device, with uneven blocks, and over a mesh."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from cl2cm_jax.maths import blockwise, confidence, contrastive, distillation
from cl2cm_jax.maths.contrastive import Side
from cl2cm_jax.maths.masking import Term, zero_invalid
from cl2cm_jax.maths.pair_reduction import Block, Tree, reduce_pairs
from cl2cm_jax.maths.similarity import normalize, scores

ROWS, COLUMNS = 24, 40

Arrays = dict[str, jax.Array]


def arrays(rows: int = ROWS, columns: int = COLUMNS, d: int = 6) -> Arrays:
    """Two sides with shared images, invalid rows that hold NaN, weights, and a row that exists twice."""
    keys = jax.random.split(jax.random.key(0), 4)
    x, y = normalize(jax.random.normal(keys[0], (rows, d))), normalize(jax.random.normal(keys[1], (columns, d)))
    x_valid, y_valid = jnp.arange(rows) % 7 != 3, jnp.arange(columns) % 5 != 4
    return {
        "x": jnp.where(x_valid[:, None], x.at[1].set(x[0]), jnp.nan),
        "y": jnp.where(y_valid[:, None], y.at[-2].set(y[0]), jnp.nan),
        "teacher_x": jnp.where(x_valid[:, None], normalize(jax.random.normal(keys[2], (rows, d + 1))), jnp.nan),
        "teacher_y": jnp.where(y_valid[:, None], normalize(jax.random.normal(keys[3], (columns, d + 1))), jnp.nan),
        "x_image": jnp.arange(rows) // 2,
        "y_image": jnp.arange(columns)[::-1] % (rows // 2 + 3),
        "x_valid": x_valid,
        "y_valid": y_valid,
        "x_weight": jnp.arange(rows) % 3 / 2,
        "y_weight": jnp.arange(columns) % 4 / 3,
    }


def sides(a: Arrays) -> tuple[Side, Side]:
    return (
        Side(a["x"], a["x_image"], a["x_valid"], a["x_weight"]),
        Side(a["y"], a["y_image"], a["y_valid"], a["y_weight"]),
    )


def by_blocks(a: Arrays, pairs: Callable[..., tuple[Tree, Tree]], *, block: int, **tiles: Any) -> tuple[Tree, Tree]:
    """Statistics of both sides of `a` in a sweep of one loss, `pairs` of (score, same, pair, x, y, (scale, bias))."""

    def side(side: Side) -> Block:
        identity = side._replace(vectors=()), jnp.arange(len(side.vectors))
        return Block(zero_invalid(side.vectors, side.is_valid), jax.lax.stop_gradient(identity))

    def tile(x: Block, y: Block, scalars: Tree) -> tuple[Tree, Tree]:
        same, pair = contrastive.pairs(x.fixed[0], y.fixed[0])
        return pairs(scores(x.moving, y.moving), same, pair, x.fixed, y.fixed, scalars)

    x, y = map(side, sides(a))
    return reduce_pairs(tile, x, y, (a["scale"], a["bias"]), block=block, **tiles)


def infonce(module: Any, a: Arrays, **tiles: Any) -> Term:
    if module is contrastive:
        return contrastive.infonce(*sides(a), temperature=a["scale"], positive_weight=a["y_weight"])

    def pairs(score: jax.Array, same: jax.Array, pair: jax.Array, x: Tree, y: Tree, scalars: Tree) -> Any:
        weight = y[0].weight
        return blockwise.infonce_pairs(score, same, pair, temperature=scalars[0], positive_weight=weight)

    return blockwise.infonce_term(*by_blocks(a, pairs, **tiles), a["x_weight"], a["y_weight"])


def triplet(module: Any, a: Arrays, **tiles: Any) -> Term:
    margin = 0.5 * a["scale"]
    if module is contrastive:
        return contrastive.triplet(*sides(a), margin=margin)

    def pairs(score: jax.Array, same: jax.Array, pair: jax.Array, x: Tree, y: Tree, scalars: Tree) -> Any:
        return blockwise.triplet_pairs(score, same, pair, x_index=x[1][:, None], y_index=y[1])

    return blockwise.triplet_term(*by_blocks(a, pairs, **tiles), a["x_weight"], a["y_weight"], margin=margin)


def sigmoid(module: Any, a: Arrays, **tiles: Any) -> Term:
    if module is contrastive:
        return contrastive.sigmoid(*sides(a), scale=a["scale"], bias=a["bias"])

    def pairs(score: jax.Array, same: jax.Array, pair: jax.Array, x: Tree, y: Tree, scalars: Tree) -> Any:
        weight = (x[0].weight[:, None] + y[0].weight) / 2
        return blockwise.sigmoid_pairs(score, same, pair, scale=scalars[0], bias=scalars[1], weight=weight)

    return blockwise.sigmoid_term(by_blocks(a, pairs, **tiles)[0], a["x_valid"])


def relational_kl(module: Any, a: Arrays, *, exclude_diagonal: bool = False, **tiles: Any) -> Term:
    if module is contrastive:
        module = distillation
    return module.relational_kl(
        teacher=(a["teacher_x"], a["teacher_y"]),
        student=(a["x"], a["y"]),
        is_valid=(a["x_valid"], a["y_valid"]),
        temperature=0.1,
        student_temperature=a["scale"],
        exclude_diagonal=exclude_diagonal,
        **tiles,
    )


LOSSES: dict[str, Callable[..., Term]] = {
    "infonce": infonce,
    "triplet": triplet,
    "sigmoid": sigmoid,
    "relational_kl": relational_kl,
    "relational_kl_off_diagonal": partial(relational_kl, exclude_diagonal=True),
}
LEARNT = ("x", "y", "scale", "bias")


def value_and_gradients(loss: Callable[[Arrays], Term], a: Arrays) -> tuple[Term, Arrays]:
    """The term, and the gradients of its mean, of all that is learnt."""

    @jax.jit
    def compute(learnt: Arrays, rest: Arrays) -> tuple[Term, Arrays]:
        def mean(learnt: Arrays) -> tuple[jax.Array, Term]:
            term = loss(rest | learnt)
            return term.mean, term

        gradients, term = jax.grad(mean, has_aux=True)(learnt)
        return term, gradients

    return compute({k: a[k] for k in LEARNT}, {k: v for k, v in a.items() if k not in LEARNT})


def assert_same(got: tuple[Term, Arrays], want: tuple[Term, Arrays]) -> None:
    np.testing.assert_allclose(got[0].sum, want[0].sum, rtol=2e-6)
    assert got[0].count == want[0].count
    for name in LEARNT:
        np.testing.assert_allclose(got[1][name], want[1][name], rtol=1e-5, atol=2e-6, err_msg=name)


@pytest.fixture(scope="module")
def data() -> Arrays:
    return arrays() | {"scale": jnp.float32(0.3), "bias": jnp.float32(-1.0)}


@pytest.fixture(scope="module")
def dense(data: Arrays) -> dict[str, tuple[Term, Arrays]]:
    return {name: value_and_gradients(partial(loss, contrastive), data) for name, loss in LOSSES.items()}


@pytest.mark.parametrize("block", [7, 16, 1024])
@pytest.mark.parametrize("name", LOSSES)
def test_blocks_on_one_device_equal_the_dense_form(name, block, data, dense):
    got = value_and_gradients(partial(LOSSES[name], blockwise, block=block), data)
    assert jnp.abs(got[1]["x"]).max() > 1e-3
    assert_same(got, dense[name])


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "exchange"), [((8, 1, 1), "ring"), ((2, 2, 2), "gather")])
@pytest.mark.parametrize("name", LOSSES)
def test_eight_devices_equal_one(name, shape, exchange, data, dense):
    mesh = jax.make_mesh(shape, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    axis = ("data", "fsdp")
    split = NamedSharding(mesh, PartitionSpec(axis))
    placed = {k: jax.device_put(v, split) if v.ndim else v for k, v in data.items()}
    loss = partial(LOSSES[name], blockwise, block=2, mesh=mesh, axis=axis, exchange=exchange)
    assert_same(value_and_gradients(loss, placed), dense[name])


@pytest.mark.parametrize(("devices", "exchange"), [(1, "ring"), (8, "ring"), (8, "gather")])
def test_blockwise_confidence_equals_the_dense_form(devices, exchange):
    """Similar vectors, as a teacher's are: sums of squares that are not centred would cancel."""
    random = np.random.default_rng(0)
    x = normalize(jnp.asarray(1 + 0.4 * random.normal(size=(40, 16)), jnp.float32))
    y = normalize(x + jnp.asarray(0.1 * random.normal(size=(40, 16)), jnp.float32))
    valid = jnp.arange(40) % 7 != 3
    x, y = (jnp.where(valid[:, None], side, jnp.nan) for side in (x, y))
    tiles: dict[str, Any] = {"block": 3, "exchange": exchange}
    if devices > 1:
        tiles["mesh"] = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
    # at the higher temperature what a ragged last tile is padded with would count
    cases = ("standard_scores", {}), *(("softmax_confidence", {"temperature": t}) for t in (0.05, 0.5))
    for name, more in cases:
        want, got = (
            jax.jit(partial(getattr(module, name), is_valid=valid, **more, **given))(x, y)
            for module, given in ((confidence, {}), (blockwise, tiles))
        )
        np.testing.assert_allclose(got[valid], want[valid], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("devices", "exchange"), [(1, "ring"), (8, "ring"), (8, "gather")])
@pytest.mark.parametrize("name", LOSSES)
def test_no_matrix_of_all_pairs_is_ever_compiled(name, devices, exchange):
    a = arrays(512, 512) | {"scale": jnp.float32(0.3), "bias": jnp.float32(-1.0)}
    tiles: dict[str, Any] = dict(block=64, exchange=exchange)
    if devices > 1:
        mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
        a = {k: jax.device_put(v, NamedSharding(mesh, PartitionSpec("data"))) if v.ndim else v for k, v in a.items()}
        tiles["mesh"] = mesh

    def largest(loss: Callable[[Arrays], Term]) -> int:
        compiled = jax.jit(jax.grad(lambda x: loss(a | {"x": x}).mean)).lower(a["x"]).compile()
        shapes = re.findall(r"(?:f|s|u|pred)\d*\[([\d,]+)\]", compiled.as_text())
        return max(int(np.prod([int(n) for n in shape.split(",")])) for shape in shapes)

    assert largest(partial(LOSSES[name], blockwise, **tiles)) <= 512 * 64
    if devices == 1:
        assert (
            largest(partial(LOSSES[name], contrastive)) >= 512 * 512
        )  # the dense form shows that the search finds such matrices


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_valid_is_zero_with_a_finite_gradient(name, data):
    nothing = data | {"x_valid": jnp.zeros(ROWS, bool), "y_valid": jnp.zeros(COLUMNS, bool)}
    term, gradients = value_and_gradients(partial(LOSSES[name], blockwise, block=16), nothing)
    assert (term.sum, term.count) == (0, 0)
    for gradient in gradients.values():
        np.testing.assert_array_equal(gradient, 0)


def test_the_teacher_gets_no_gradient_and_an_equal_student_no_loss(data):
    same = data | {"x": data["teacher_x"], "y": data["teacher_y"], "scale": jnp.float32(0.1)}

    def loss(a: Arrays) -> jax.Array:
        return relational_kl(blockwise, a, block=16).mean

    learnt = ("x", "y", "teacher_x", "teacher_y")
    value, gradients = jax.value_and_grad(lambda part: loss(same | part))({k: same[k] for k in learnt})
    assert value == pytest.approx(0, abs=1e-6)
    np.testing.assert_array_equal(gradients["teacher_x"], 0)
    np.testing.assert_array_equal(gradients["teacher_y"], 0)
    np.testing.assert_allclose(gradients["x"], 0, atol=1e-6)
    np.testing.assert_allclose(gradients["y"], 0, atol=1e-6)


def test_rows_that_the_devices_cannot_share_are_an_error(data):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    short = {k: v[:20] if k.startswith(("x", "teacher_x")) else v for k, v in data.items()}
    with pytest.raises(ValueError, match="20 rows are not divisible by the 8 devices"):
        infonce(blockwise, short, block=16, mesh=mesh)


def test_an_unknown_exchange_is_an_error(data):
    with pytest.raises(ValueError, match="exchange='post' is none of ring, gather"):
        infonce(blockwise, data, block=16, exchange="post")
