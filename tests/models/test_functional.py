"""Modules as functions of a dict of parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cl2cm_jax.models.functional import Functional


def linear() -> Functional[nnx.Linear]:
    return Functional(lambda rngs: nnx.Linear(3, 2, rngs=rngs))


def test_parameters_are_a_plain_dict_that_depends_on_the_key_alone() -> None:
    first, again, other = (linear().init(jax.random.key(seed)) for seed in (0, 0, 1))
    assert type(first) is dict and set(first) == {"kernel", "bias"}
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(first))
    np.testing.assert_array_equal(first["kernel"], again["kernel"])
    assert not np.array_equal(first["kernel"], other["kernel"])


def test_a_bound_module_computes_with_the_parameters_given() -> None:
    x = jnp.arange(6.0).reshape(2, 3)
    params = {"kernel": jnp.full((3, 2), 2.0), "bias": jnp.array([1.0, -1.0])}
    expected = x @ params["kernel"] + params["bias"]
    np.testing.assert_array_equal(linear().bind(params)(x), expected)


def test_bound_modules_are_independent() -> None:
    network, x = linear(), jnp.ones((1, 3))
    one, two = ({"kernel": jnp.full((3, 2), value), "bias": jnp.zeros(2)} for value in (1.0, 5.0))
    before = network.bind(one)(x)
    network.bind(two)
    np.testing.assert_array_equal(network.bind(one)(x), before)


def test_gradients_have_the_shape_of_the_parameters() -> None:
    network, x = linear(), jnp.ones((4, 3))
    params = network.init(jax.random.key(0))
    gradients = jax.jit(jax.grad(lambda p: network.bind(p)(x).sum()))(params)
    assert jax.tree.structure(gradients) == jax.tree.structure(params)
    np.testing.assert_array_equal(gradients["kernel"], np.full((3, 2), 4.0))
