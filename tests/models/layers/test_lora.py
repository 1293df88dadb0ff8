"""Low-rank adapters: the product is added to every linear map of the layers, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cl2cm_jax.errors import UserError
from cl2cm_jax.models.configured import text_backbone, vision_backbone
from cl2cm_jax.models.layers.lora import check_rank, init_adapters, merged

GOLDEN = Path(__file__).parents[2] / "golden"
FAMILIES = {"bert": "bert", "modernbert": "modernbert", "qwen3": "qwen3", "dual_siglip": "clip_text"}
FAMILIES |= {"open_clip_xlm": "clip_text", "clip": "clip_vit", "dinov3": "dino"}


def pretrained() -> dict:
    random = np.random.default_rng(0)

    def linear(features: int, size: int) -> dict:
        return {"kernel": random.normal(size=(3, features, size)), "bias": random.normal(size=(3, size))}

    layers = {"query": linear(4, 4), "mlp": {"up": linear(4, 7)}, "norm": {"scale": random.normal(size=(3, 4))}}
    whole = {"embeddings": {"word": {"kernel": random.normal(size=(9, 4))}}, "layers": layers, "pool": {}}
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), whole)


def test_the_model_starts_as_it_is() -> None:
    before = pretrained()
    adapters = init_adapters(jax.random.key(0), before, rank=2)
    shapes = {name: leaf.shape for name, leaf in adapters["layers"]["mlp"]["up"]["kernel"].items()}
    assert shapes == {"lora_a": (3, 4, 2), "lora_b": (3, 2, 7)}
    assert set(adapters) == {"layers"} and set(adapters["layers"]) == {"query", "mlp"}
    after = merged(before, adapters)
    assert jax.tree.structure(after) == jax.tree.structure(before)
    jax.tree.map(np.testing.assert_array_equal, after, before)


def test_the_products_are_added_to_the_linear_maps_of_each_layer() -> None:
    before = pretrained()
    random = np.random.default_rng(1)
    adapters = init_adapters(jax.random.key(0), before, rank=2)
    adapters = jax.tree.map(lambda x: jnp.asarray(random.normal(size=x.shape), jnp.float32), adapters)
    after = merged(before, adapters)
    for name in ("query", "mlp/up"):
        one, other, pair = before["layers"], after["layers"], adapters["layers"]
        for part in name.split("/"):
            one, other, pair = one[part], other[part], pair[part]
        for layer in range(3):
            product = np.asarray(pair["kernel"]["lora_a"][layer]) @ np.asarray(pair["kernel"]["lora_b"][layer])
            np.testing.assert_allclose(other["kernel"][layer], one["kernel"][layer] + product, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(other["bias"], one["bias"])
    np.testing.assert_array_equal(after["layers"]["norm"]["scale"], before["layers"]["norm"]["scale"])
    np.testing.assert_array_equal(after["embeddings"]["word"]["kernel"], before["embeddings"]["word"]["kernel"])


def test_only_the_adapters_have_a_gradient() -> None:
    before = pretrained()
    adapters = init_adapters(jax.random.key(0), before, rank=2)

    def loss(before: dict, adapters: dict) -> jax.Array:
        layers = merged(before, adapters)["layers"]
        return (layers["query"]["kernel"] ** 3).sum() + (layers["mlp"]["up"]["kernel"] ** 2).sum()

    of_weights, of_adapters = jax.grad(loss, argnums=(0, 1))(before, adapters)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(of_weights))
    for part in (of_adapters["layers"]["query"], of_adapters["layers"]["mlp"]["up"]):
        assert np.abs(part["kernel"]["lora_b"]).min() > 0


def test_adapters_that_are_no_smaller_than_the_map_are_refused() -> None:
    check_rank(pretrained(), 1, field="student.text.trainable", value="lora 1")
    with pytest.raises(UserError, match="config.student.text.trainable='lora 2': adapters of rank 2 .* at most 1, or"):
        check_rank(pretrained(), 2, field="student.text.trainable", value="lora 2")


@pytest.mark.parametrize("folder", FAMILIES)
def test_adapters_change_every_layer_of_every_family(folder: str) -> None:
    name = FAMILIES[folder]
    load = vision_backbone if name in ("clip_vit", "dino") else text_backbone
    before = load(name, GOLDEN / folder).params
    adapters = init_adapters(jax.random.key(0), before, rank=2)
    jax.tree.map(np.testing.assert_array_equal, merged(before, adapters), before)
    after = merged(before, jax.tree.map(jnp.ones_like, adapters))
    assert jax.tree.structure(after) == jax.tree.structure(before)
    pairs = zip(*(jax.tree_util.tree_flatten_with_path(tree)[0] for tree in (before, after)), strict=True)
    moved = {jax.tree_util.keystr(path, simple=True, separator="/"): a != b for (path, a), (_, b) in pairs}
    kernels = {place for place in moved if place.startswith("layers/") and place.endswith("kernel")}
    assert len(kernels) >= 6 and {place for place, changed in moved.items() if changed.any()} == kernels
    assert all(moved[place].any(axis=(1, 2)).all() for place in kernels)
