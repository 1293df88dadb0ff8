"""The cost model on programs compiled for the CPU."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from cl2cm_jax.studies.tpu_estimate import cost, hlo

LAYERS, ROWS, WIDTH = 6, 8, 32


def schedule_of(function, *arguments):
    text = jax.jit(function).lower(*arguments).compile().as_text()
    return cost.events(hlo.parse(text))


def one(x, w):
    return jnp.tanh(x @ w), None


def scanned(x, stack):
    return jax.lax.scan(one, x, stack)[0]


def unrolled(x, stack):
    for i in range(LAYERS):
        x = one(x, stack[i])[0]
    return x


@pytest.fixture
def inputs():
    return jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32), jax.ShapeDtypeStruct((LAYERS, WIDTH, WIDTH), jnp.float32)


def test_a_scan_costs_as_much_as_its_unrolled_form(inputs):
    forward = 2 * LAYERS * ROWS * WIDTH**2
    found = {f: cost.total(schedule_of(f, *inputs)) for f in (scanned, unrolled)}
    assert found[scanned].flops == found[unrolled].flops == forward
    once = jax.jit(scanned).lower(*inputs).compile().cost_analysis()
    assert once is not None and once["flops"] < forward, (
        "XLA counts the loop body once; otherwise our cost model is not needed"
    )
    # each iteration reads one slice of the stack, not the whole stack
    weights = 4 * LAYERS * WIDTH**2
    assert weights <= found[unrolled].size < found[scanned].size < 6 * weights


def test_gradients_and_nested_scans_cost_as_much_as_unrolled(inputs):
    def loss(run):
        return jax.grad(lambda x, stack: jnp.sum(run(x, stack) ** 2), argnums=(0, 1))

    forward = 2 * LAYERS * ROWS * WIDTH**2
    for run in (scanned, unrolled):
        assert cost.total(schedule_of(loss(run), *inputs)).flops == 3 * forward

    def nested(x, stack):
        return jax.lax.fori_loop(0, 4, lambda _, x: scanned(x, stack), x)

    schedule = schedule_of(nested, *inputs)
    assert cost.total(schedule).flops == 4 * forward and cost.unknown_loops(schedule) == 0


def test_batched_products_and_a_loop_of_unknown_trip_count():
    a, b = (jax.ShapeDtypeStruct((3, 5, *rest), jnp.float32) for rest in ((7, 8), (8, 9)))
    assert cost.total(schedule_of(jnp.matmul, a, b)).flops == 2 * 3 * 5 * 7 * 8 * 9

    def until(x):
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 10, lambda x: x @ x, x)

    schedule = schedule_of(until, jax.ShapeDtypeStruct((4, 4), jnp.float32))
    assert cost.unknown_loops(schedule) == 1 and cost.total(schedule).flops == 2 * 4**3


def test_collectives_of_a_sharded_program_in_a_loop():
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))

    def gradient(stack, x):
        return jax.grad(lambda stack: jnp.mean(scanned(x, stack) ** 2))(stack)

    stack = jax.ShapeDtypeStruct((LAYERS, WIDTH, WIDTH), jnp.float32, sharding=whole)
    x = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32, sharding=split)
    compiled = jax.jit(gradient, out_shardings=whole).lower(stack, x).compile()
    module = hlo.parse(compiled.as_text())
    found = cost.collectives(cost.events(module))
    assert (
        module.partitions == 8 and {c.kind for _, c in found} == {"all-reduce"} and {c.group for _, c in found} == {4}
    )
    assert sum(times * c.size for times, c in found) == 4 * LAYERS * WIDTH**2
