"""A text model that is cut behind a layer: below frozen and cached, above trained."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cl2cm_jax.models.backbone import TailOptions
from cl2cm_jax.models.configured import text_backbone

GOLDEN = Path(__file__).parents[1] / "golden"
FAMILIES = ("bert", "modernbert", "qwen3")


@pytest.fixture(scope="module", params=FAMILIES)
def backbone(request):
    return text_backbone(request.param, GOLDEN / request.param)


@pytest.fixture(scope="module")
def captions():
    with np.load(GOLDEN / "bert" / "outputs.npz") as golden:
        return jnp.asarray(golden["ids"]), jnp.asarray(golden["mask"])


def states_of(backbone, first, ids, mask):
    below, above = backbone.tunable.cut(backbone.params, first)
    return above, ids[..., None] if first < 0 else backbone.tunable.prefix(below, ids, mask)


@pytest.mark.parametrize("first", [-1, 0, 1, 2, 3])
def test_a_cut_model_equals_the_whole(backbone, captions, first):
    whole = backbone.apply(backbone.params, *captions)
    above, states = states_of(backbone, first, *captions)
    parts = backbone.tunable.tail(above, states, captions[1])
    for ours, theirs in zip(parts, whole, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_only_the_layers_above_have_parameters(backbone):
    below, above = backbone.tunable.cut(backbone.params, 1)
    assert {len(leaf) for leaf in jax.tree.leaves(above["layers"])} == {backbone.tunable.layers - 1}
    assert "embeddings" not in above
    assert {len(leaf) for leaf in jax.tree.leaves(below["layers"])} == {1}
    nothing, everything = backbone.tunable.cut(backbone.params, -1)
    assert nothing == {} and jax.tree.leaves(everything) == jax.tree.leaves(backbone.params)


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        ("bert", TailOptions(scan=False)),
        ("bert", TailOptions(remat=True)),
        *((family, TailOptions(remat=True, scan=False)) for family in FAMILIES),
    ],
    indirect=["backbone"],
)
def test_scan_and_remat_do_not_change_gradients(backbone, captions, options):
    above, states = states_of(backbone, 1, *captions)

    def gradient(options):
        return jax.grad(lambda p: (backbone.tunable.tail(p, states, captions[1], options=options).words ** 3).sum())(
            above
        )

    def close(ours, theirs):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)

    jax.tree.map(close, gradient(options), gradient(TailOptions()))


@pytest.mark.parametrize(
    ("backbone", "scan"), [("bert", True), ("bert", False), ("qwen3", True)], indirect=["backbone"]
)
def test_dropout_needs_a_key_and_follows_it(backbone, captions, scan):
    above, states = states_of(backbone, 1, *captions)

    def run(key, dropout=0.3):
        options = TailOptions(dropout=dropout, scan=scan)
        key = None if key is None else jax.random.key(key)
        return np.asarray(backbone.tunable.tail(above, states, captions[1], key=key, options=options).sentence)

    np.testing.assert_array_equal(run(1), run(1))
    assert np.abs(run(1) - run(2)).max() > 1e-3 and np.abs(run(1) - run(None)).max() > 1e-3
    np.testing.assert_array_equal(run(None), run(1, dropout=0.0))


def test_bfloat16_is_close_to_float32(backbone, captions):
    above, states = states_of(backbone, 1, *captions)
    half = backbone.tunable.tail(above, states, captions[1], options=TailOptions(dtype="bfloat16"))
    assert half.sentence.dtype == jnp.float32
    cosine = (half.sentence * backbone.apply(backbone.params, *captions).sentence).sum(-1)
    assert cosine.min() > 0.999
