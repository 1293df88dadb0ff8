"""Captions that share rows come out as those that have one each."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cl2cm_jax.data.packing import pack
from cl2cm_jax.models.backbone import TailOptions, TextOutput, Tunable
from cl2cm_jax.models.backbones.text.bert import load, read_shape
from cl2cm_jax.models.configured import text_spec
from cl2cm_jax.models.layers import bert
from cl2cm_jax.models.layers.packing import Packing
from cl2cm_jax.models.layers.transformer import cut_layers
from cl2cm_jax.models.text_folder import FolderSpec

GOLDEN = Path(__file__).parents[2] / "golden"
LENGTH = 12
FAMILIES = ("bert", "xlm-roberta", "modernbert", "qwen3")
# Of family, pooling, first layer and number of groups, any two values meet in one case.
CASES = [
    (family, pool, (-1, 0, 1)[(row + column) % 3], (1, 2, 4)[(2 * row + column) % 3])
    for row, family in enumerate(FAMILIES)
    for column, pool in enumerate(("mean", "cls", "lasttoken"))
] + [("dual_clip", "eos", first, groups) for first, groups in ((-1, 1), (0, 2), (1, 4))]


def captions() -> tuple[np.ndarray, np.ndarray]:
    """Ids (16, L) and mask of captions of 0 to L tokens."""
    random = np.random.default_rng(0)
    mask = np.arange(LENGTH) < np.array([12, 11, 0, *random.integers(2, 9, 13)])[:, None]
    return np.where(mask, random.integers(4, 50, mask.shape), 0).astype(np.int32), mask


class Case(NamedTuple):
    """A model cut at a layer, and captions in rows of their own or packed."""

    tunable: Tunable
    above: dict
    states: jax.Array
    mask: np.ndarray
    packing: Packing


def case(family: str, *, groups: int, first: int, pool: str) -> Case:
    name = {"xlm-roberta": "bert", "dual_clip": "clip_text"}.get(family, family)
    spec, folder = text_spec(name), GOLDEN / family
    assert isinstance(spec, FolderSpec)
    shape = spec.read_shape(folder)._replace(pool=pool)
    tunable = spec.abstract_of(shape, folder).tunable
    assert tunable is not None
    below, above = tunable.cut(spec.read_params(folder, shape), first)
    ids, mask = captions()
    states = jnp.asarray(ids[..., None]) if first < 0 else tunable.prefix(below, ids, mask)
    packing = Packing(**pack(mask.sum(1).reshape(8, 2), length=LENGTH, groups=groups))
    assert packing.take.shape[1] < len(ids) // groups
    return Case(tunable, above, states, mask, packing)


def check(packed: TextOutput, alone: TextOutput, mask: np.ndarray) -> None:
    real = mask.any(1)
    np.testing.assert_array_equal(packed.mask, alone.mask)
    np.testing.assert_allclose(packed.words, alone.words, atol=1e-5)
    np.testing.assert_allclose(packed.sentence[real], alone.sentence[real], atol=1e-5)
    assert np.isfinite(packed.sentence).all() and not np.asarray(packed.words)[~mask].any()


@pytest.mark.parametrize(("family", "pool", "first", "groups"), CASES)
def test_values_and_gradients(family: str, pool: str, first: int, groups: int) -> None:
    tunable, above, states, mask, packing = case(family, groups=groups, first=first, pool=pool)
    weights = jax.random.normal(jax.random.key(1), (*mask.shape, 20))
    real = mask.any(1)
    options = TailOptions(dropout=0.3)

    @jax.jit
    def run(above, packing):
        def loss(above):
            output = tunable.tail(above, states, mask, packing=packing, key=jax.random.key(2), options=options)
            words, sentence = (weights[..., : x.shape[-1]] for x in (output.words, output.sentence))
            return (output.words * words).sum() + (output.sentence * sentence[:, 0])[real].sum(), output

        return jax.value_and_grad(loss, has_aux=True)(above)

    (_, alone), expected = run(above, None)
    (_, packed), gradients = run(above, packing)
    check(packed, alone, mask)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4), gradients, expected)


@pytest.mark.parametrize(
    ("family", "first", "pool"), [("modernbert", 2, "lasttoken"), ("qwen3", 2, "lasttoken"), ("dual_clip", 1, "eos")]
)
def test_windows_and_causal_attention_end_at_the_caption(family: str, first: int, pool: str) -> None:
    tunable, above, states, mask, packing = case(family, groups=2, first=first, pool=pool)
    packed, alone = (tunable.tail(above, states, mask, packing=rows) for rows in (packing, None))
    check(packed, alone, mask)


def test_dropout_belongs_to_tokens() -> None:
    """With one key each token has a mask of its own, and about the asked share is dropped."""
    shape = read_shape(GOLDEN / "bert")
    _, above = cut_layers(load(GOLDEN / "bert", shape), 0)
    mask = np.ones((32, LENGTH), bool)
    states = jnp.ones((*mask.shape, shape.hidden))
    plain, dropped = (
        bert.tail(above, states, mask, shape=shape, key=key, options=TailOptions(dropout=0.5)).words
        for key in (None, jax.random.key(0))
    )
    assert np.ptp(plain, axis=(0, 1)).max() < 1e-5, "all tokens are alike without dropout"
    assert len(np.unique(np.asarray(dropped).reshape(-1, shape.hidden)[:, 0])) > 0.95 * mask.size
