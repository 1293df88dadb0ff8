"""Towers: padding has no effect, vectors have length 1, and a residual head starts at the backbone's sentence."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cl2cm_jax.models.functional import Functional, Params
from cl2cm_jax.models.towers import SequenceEncoder, Text, TextTower, TowerSize, VisionTower

SIZE = TowerSize(features=6, hidden=8, heads=2, dim=6, max_length=5)
KINDS = [(kind, pool) for kind in ("linear", "attention") for pool in ("backbone", "mean", "both")]


@functools.cache
def tower(kind: str, pool: str, *, residual: bool = False) -> Callable[[Text], Text]:
    network = Functional(lambda rngs: TextTower(SIZE, kind=kind, pool=pool, residual=residual, rngs=rngs))
    params = network.init(jax.random.key(0))
    return jax.jit(lambda text: network.bind(params)(text))


def text(*, seed: int = 0, lengths: tuple[int, ...] = (3, 1, 5)) -> Text:
    random = np.random.default_rng(seed)
    sentence = random.normal(size=(len(lengths), 6)).astype(np.float32)
    words = random.normal(size=(len(lengths), 5, 6)).astype(np.float32)
    return Text(jnp.asarray(sentence), jnp.asarray(words), jnp.arange(5) < jnp.asarray(lengths)[:, None])


def filled(x: Text, value: float) -> Text:
    """The same captions with another content of the padding."""
    assert x.words is not None and x.mask is not None
    return x._replace(words=jnp.where(x.mask[..., None], x.words, value))


@pytest.mark.parametrize(("kind", "pool"), KINDS)
def test_padding_does_not_change_a_caption(kind: str, pool: str) -> None:
    network, x = tower(kind, pool), text()
    one, other = network(filled(x, 0.0)), network(filled(x, 7.0))
    np.testing.assert_allclose(one.sentence, other.sentence, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(one.sentence, axis=1), 1.0, atol=1e-5)
    assert one.sentence.shape == (3, 6)
    if one.words is not None:
        assert other.words is not None and x.mask is not None
        assert one.words.shape == (3, 5, 6)
        np.testing.assert_allclose(one.words[x.mask], other.words[x.mask], atol=1e-6)


@pytest.mark.parametrize("kind", ["linear", "attention"])
def test_longer_padding_changes_nothing(kind: str) -> None:
    network, x = tower(kind, "mean"), text(lengths=(3, 1, 2))
    assert x.words is not None and x.mask is not None
    short = x._replace(words=x.words[:, :3], mask=x.mask[:, :3])
    np.testing.assert_allclose(network(x).sentence, network(short).sentence, atol=1e-6)


@pytest.mark.parametrize(("kind", "pool"), KINDS)
def test_padding_has_no_gradient_and_no_nan(kind: str, pool: str) -> None:
    network, x = tower(kind, pool), text(lengths=(3, 1, 0))  # the last caption has no word at all

    def loss(words: jax.Array) -> jax.Array:
        return (network(x._replace(words=words)).sentence * jnp.arange(6.0)).sum()

    assert x.words is not None and x.mask is not None
    gradient = np.asarray(jax.jit(jax.grad(loss))(x.words))
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient[~np.asarray(x.mask)], 0.0, atol=1e-6)


@pytest.mark.parametrize("kind", ["linear", "attention"])
@pytest.mark.parametrize("pool", ["backbone", "both"])
def test_a_residual_head_starts_at_the_backbone(kind: str, pool: str) -> None:
    x = text()
    expected = x.sentence / jnp.linalg.norm(x.sentence, axis=1, keepdims=True)
    np.testing.assert_allclose(tower(kind, pool, residual=True)(x).sentence, expected, atol=1e-6)
    assert not np.allclose(tower(kind, pool)(x).sentence, expected, atol=1e-2)


def test_a_residual_head_has_a_gradient_for_its_words() -> None:
    network = Functional(lambda rngs: TextTower(SIZE, kind="attention", pool="both", residual=True, rngs=rngs))

    def loss(params: Params) -> jax.Array:
        return (network.bind(params)(text()).sentence * jnp.arange(6.0)).sum()

    gradients = jax.jit(jax.grad(loss))(network.init(jax.random.key(0)))
    assert float(jnp.abs(gradients["words_scale"])) > 1e-4


def test_only_towers_that_read_words_need_them() -> None:
    x = text()
    assert tower("linear", "backbone")(Text(x.sentence)).words is None
    words = tower("attention", "backbone")(x).words
    assert words is not None and words.shape == (3, 5, 6)


def test_attention_sees_the_order_of_words_and_their_mean_does_not() -> None:
    x = text(lengths=(5, 5, 5))
    assert x.words is not None
    turned = x._replace(words=x.words[:, ::-1])
    np.testing.assert_allclose(tower("linear", "mean")(x).sentence, tower("linear", "mean")(turned).sentence, atol=1e-6)
    attention = tower("attention", "mean")
    assert not np.allclose(attention(x).sentence, attention(turned).sentence, atol=1e-4)


@pytest.mark.parametrize("kind", ["linear", "attention"])
def test_missing_frames_do_not_change_an_image(kind: str) -> None:
    tower = Functional(lambda rngs: VisionTower(SIZE._replace(dim=4), kind=kind, rngs=rngs))
    params = tower.init(jax.random.key(0))
    network = jax.jit(lambda frames, mask: tower.bind(params)(frames, mask))
    frames = text().words
    mask = text().mask
    assert frames is not None and mask is not None
    one, other = (network(jnp.where(mask[..., None], frames, value), mask) for value in (0.0, -3.0))
    np.testing.assert_allclose(one, other, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1.0, atol=1e-5)


def test_rows_of_a_batch_do_not_see_each_other() -> None:
    encoder, x = Functional(lambda rngs: SequenceEncoder(SIZE, rngs=rngs)), text()
    params = encoder.init(jax.random.key(0))
    network = jax.jit(lambda words, mask: encoder.bind(params)(words, mask))
    assert x.words is not None and x.mask is not None
    together = network(x.words, x.mask)
    np.testing.assert_allclose(network(x.words[1:2], x.mask[1:2]), together[1:2], atol=1e-6)
