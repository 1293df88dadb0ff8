from __future__ import annotations

import jax
import jax.numpy as jnp

from cl2cm_jax.parallel.mesh import make_mesh
from cl2cm_jax.parallel.sharding import abstract, tree_shardings
from cl2cm_jax.runtime.overview import overview


def test_rows_and_totals():
    lines = overview({"text": {"kernel": jnp.ones((400, 6)), "bias": jnp.ones(6, jnp.bfloat16)}}).splitlines()
    assert lines[0].split() == ["path", "shape", "dtype", "parameters", "bytes", "sharding"]
    assert lines[1].split() == ["text/bias", "(6,)", "bfloat16", "6", "12", "replicated"]
    assert lines[2].split() == ["text/kernel", "(400,", "6)", "float32", "2,400", "9,600", "replicated"]
    assert lines[3].split() == ["total", "2,406", "9,612"]


def test_sharding_of_abstract_shapes():
    shapes = {"kernel": jax.ShapeDtypeStruct((3, 4, 6), jnp.float32)}
    placed = abstract(shapes, tree_shardings(shapes, make_mesh(data=2, fsdp=2, tensor=2)))
    assert overview(placed).splitlines()[1].endswith("whole x fsdp x tensor")
