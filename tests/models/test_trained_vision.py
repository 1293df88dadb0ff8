"""A CLIP or SigLIP tower that is cut behind a layer: below frozen, above trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cl2cm_jax.models.backbone import TailOptions, Tunable, VisionBackbone
from cl2cm_jax.models.configured import vision_backbone

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module", params=["clip", "siglip"])
def backbone(request: pytest.FixtureRequest) -> VisionBackbone:
    return vision_backbone("clip_vit", GOLDEN / request.param)


@pytest.fixture(scope="module")
def pictures() -> jax.Array:
    return jax.random.normal(jax.random.key(0), (2, 24, 24, 3))


def tunable_of(backbone: VisionBackbone) -> Tunable:
    assert backbone.tunable is not None
    return backbone.tunable


def cut(backbone: VisionBackbone, first: int, pictures: jax.Array, *, pooled: bool = True) -> tuple[dict, jax.Array]:
    tunable = tunable_of(backbone)
    below, above = tunable.cut(backbone.params, first, pooled=pooled)
    return above, pictures if first < 0 else tunable.prefix(below, pictures)


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("first", [-1, 0, 1, 2])
def test_a_cut_model_equals_the_whole(backbone: VisionBackbone, pictures: jax.Array, first: int, pooled: bool) -> None:
    whole = backbone.apply(backbone.params, pictures)
    above, states = cut(backbone, first, pictures, pooled=pooled)
    parts = tunable_of(backbone).tail(above, states, pooled=pooled)
    np.testing.assert_allclose(parts.features, whole.features, atol=1e-5)
    np.testing.assert_array_equal(parts.mask, whole.mask)
    if pooled:
        np.testing.assert_allclose(parts.pooled, whole.pooled, atol=1e-5)
    else:
        assert parts.pooled is None


def test_only_the_layers_above_have_parameters(backbone: VisionBackbone) -> None:
    below, above = tunable_of(backbone).cut(backbone.params, 1, pooled=True)
    assert set(above) == {"layers", "pool"} and set(below) == {"embeddings", "layers"}
    assert {len(leaf) for part in (above, below) for leaf in jax.tree.leaves(part["layers"])} == {1}
    nothing, everything = tunable_of(backbone).cut(backbone.params, -1, pooled=True)
    assert nothing == {} and jax.tree.structure(everything) == jax.tree.structure(backbone.params)


@pytest.mark.parametrize("pooled", [True, False])
def test_every_parameter_above_has_a_gradient(backbone: VisionBackbone, pictures: jax.Array, pooled: bool) -> None:
    above, states = cut(backbone, 1, pictures, pooled=pooled)

    def loss(params: dict) -> jax.Array:
        output = tunable_of(backbone).tail(params, states, pooled=pooled)
        return ((output.pooled if pooled else output.features) ** 3).sum()  # pyright: ignore[reportOptionalOperand, reportOptionalMemberAccess]

    sizes = jax.tree_util.tree_leaves_with_path(jax.tree.map(lambda x: float(jnp.abs(x).max()), jax.grad(loss)(above)))
    # a key's bias moves all scores of a query alike, so its gradient is 0 but for rounding
    assert [path for path, size in sizes if size == 0 and "key" not in str(path)] == []


def gradients(backbone: VisionBackbone, pictures: jax.Array) -> Callable[[TailOptions], Any]:
    above, states = cut(backbone, 0, pictures)

    def gradient(options: TailOptions) -> Any:
        return jax.grad(lambda p: (tunable_of(backbone).tail(p, states, options=options).pooled ** 3).sum())(above)  # pyright: ignore[reportOptionalOperand, reportOptionalMemberAccess]

    return gradient


@pytest.mark.parametrize("options", [TailOptions(scan=False), TailOptions(remat=True), TailOptions(0.0, True, False)])
def test_scan_and_remat_do_not_change_gradients(
    backbone: VisionBackbone, pictures: jax.Array, options: TailOptions
) -> None:
    gradient = gradients(backbone, pictures)

    def close(ours: jax.Array, theirs: jax.Array) -> None:
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)

    jax.tree.map(close, gradient(options), gradient(TailOptions()))


def test_bfloat16_is_close_to_float32(backbone: VisionBackbone, pictures: jax.Array) -> None:
    tunable, half = tunable_of(backbone), TailOptions(dtype="bfloat16")
    below, above = tunable.cut(backbone.params, 1, pooled=True)
    states = tunable.prefix(below, pictures, options=half)
    assert states.dtype == jnp.bfloat16
    ours, exact = tunable.tail(above, states, options=half).pooled, backbone.apply(backbone.params, pictures).pooled
    assert ours.dtype == jnp.float32 and exact is not None  # pyright: ignore[reportOptionalOperand, reportOptionalMemberAccess]
    cosine = (ours * exact).sum(-1) / jnp.linalg.norm(ours, axis=-1) / jnp.linalg.norm(exact, axis=-1)  # pyright: ignore[reportOptionalOperand, reportOptionalMemberAccess]
    assert cosine.min() > 0.999
