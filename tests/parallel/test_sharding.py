from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from cl2cm_jax.models.configured import text_spec
from cl2cm_jax.parallel.mesh import make_mesh
from cl2cm_jax.parallel.sharding import (
    abstract,
    batch_sharding,
    partition_spec,
    path_name,
    put_batch,
    replicated,
    tree_shardings,
)


@pytest.fixture(name="mesh", scope="module")
def _mesh():
    return make_mesh(data=2, fsdp=2, tensor=2)


@pytest.mark.parametrize(
    ("path", "shape", "spec"),
    [
        ("params/text/in/kernel", (4, 6), P("fsdp", "tensor")),
        ("params/text/out/kernel", (4, 6), P("tensor", "fsdp")),
        ("params/layers/kernel", (3, 4, 6), P(None, "fsdp", "tensor")),
        ("params/conv/kernel", (3, 3, 4, 6), P(None, None, "fsdp", "tensor")),
        ("params/layers/attended/kernel", (3, 4, 6), P(None, "tensor", "fsdp")),
        ("params/words/embedding", (10, 4), P("tensor", "fsdp")),
        ("params/words/embedding", (11, 4), P(None, ("fsdp", "tensor"))),
        ("params/text/in/bias", (6,), P()),
        ("params/text/in/kernel", (5, 6), P(None, "tensor")),
        ("params/text/in/kernel", (5, 8), P(None, ("tensor", "fsdp"))),
        ("params/text/in/kernel", (5, 7), P()),
        ("opt/0/v_row/kernel", (4,), P()),
    ],
)
def test_default_rules(mesh, path, shape, spec):
    assert partition_spec(path, shape, mesh) == spec


@pytest.mark.parametrize("family", ["bert", "clip_text", "modernbert", "qwen3"])
def test_every_matrix_of_a_text_model_is_split(mesh, family):
    """Over both axes; those that end a block the other way round, so that the activations between stay split."""
    params = text_spec(family).abstract(None, {})[0].params
    places, _ = jax.tree_util.tree_flatten_with_path(tree_shardings(params, mesh))
    specs = {path_name(path): place.spec for path, place in places}
    ends = ("attended", "down")
    for name, spec in specs.items():
        *_, part, leaf = name.split("/")
        if leaf == "kernel":
            assert tuple(spec)[-2:] == (("tensor", "fsdp") if part in ends else ("fsdp", "tensor")), name
        assert leaf != "embedding" or {"tensor", "fsdp"} <= set(jax.tree.leaves(tuple(spec))), name


def test_first_matching_rule_wins_and_axes_can_be_joined(mesh):
    rules = [(r"text/.*kernel$", P(("fsdp", "tensor"))), (r"kernel$", P("fsdp", "tensor"))]
    assert partition_spec("text/a/kernel", (3, 8), mesh, rules=rules) == P(None, ("fsdp", "tensor"))
    assert partition_spec("text/a/kernel", (3, 6), mesh, rules=rules) == P()
    assert partition_spec("vision/a/kernel", (4, 6), mesh, rules=rules) == P("fsdp", "tensor")


def test_moments_and_average_follow_their_parameter(mesh):
    params = {"text": {"kernel": jnp.ones((4, 6)), "bias": jnp.ones(6)}}
    state = {"params": params, "ema": params, "opt": optax.adamw(1e-3).init(params), "step": jnp.zeros((), jnp.int32)}
    places = tree_shardings(state, mesh)
    kernel = places["params"]["text"]["kernel"].spec
    assert kernel == P("fsdp", "tensor")
    assert places["ema"]["text"]["kernel"].spec == kernel
    assert places["opt"][0].mu["text"]["kernel"].spec == kernel
    assert places["opt"][0].nu["text"]["kernel"].spec == kernel
    assert places["step"].spec == places["opt"][0].count.spec == P()


def test_parameters_are_initialised_sharded(mesh):
    def init():
        return {"kernel": jnp.ones((4, 6)), "bias": jnp.zeros(6)}

    shapes = jax.eval_shape(init)
    places = tree_shardings(shapes, mesh)
    params = jax.jit(init, out_shardings=places)()
    assert params["kernel"].addressable_shards[0].data.shape == (2, 3)
    target = abstract(shapes, places)
    assert target["kernel"].sharding == places["kernel"] and target["kernel"].dtype == jnp.float32


def test_a_batch_is_split_over_data_and_fsdp_only(mesh):
    rows = np.arange(8 * 3, dtype=np.float32).reshape(8, 3)
    batch = put_batch({"vision": {"features": rows}, "is_valid": np.ones(8, bool)}, mesh)
    features = batch["vision"]["features"]
    assert features.sharding.is_equivalent_to(batch_sharding(mesh), 2)
    assert features.addressable_shards[0].data.shape == (2, 3) and batch["is_valid"].dtype == bool
    np.testing.assert_array_equal(np.asarray(features), rows)


def test_eight_devices_compute_what_one_does(mesh):
    x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    w = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
    place = tree_shardings({"kernel": w}, mesh)["kernel"]
    gradient = jax.jit(jax.grad(lambda w, x: jnp.tanh(x @ w).sum()), out_shardings=replicated(mesh))
    sharded = gradient(jax.device_put(w, place), put_batch(x, mesh))
    single = jax.grad(lambda w, x: jnp.tanh(x @ w).sum())(jnp.asarray(w), jnp.asarray(x))
    np.testing.assert_allclose(np.asarray(sharded), np.asarray(single), rtol=1e-5, atol=1e-6)
