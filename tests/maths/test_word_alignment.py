from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from cl2cm_jax.maths.similarity import normalize
from cl2cm_jax.maths.word_alignment import (
    candidate_contrast,
    late_interaction,
    mean_word_cosine,
    mutual_links,
    self_labelled,
    transport_cost,
    transport_score,
)

# Word 0 of the source and word 1 of the target choose each other, so do 1 and 0. Word 2 of the source chooses word 1,
# which prefers word 0; nobody chooses word 2 of the target. The fourth column is padding with a tempting mass.
PLAN = jnp.array([[[0.02, 0.30, 0.01, 0.9], [0.20, 0.03, 0.10, 0.9], [0.10, 0.15, 0.09, 0.9]]])
SOURCE, TARGET = jnp.ones((1, 3), bool), jnp.array([[True, True, True, False]])
VALID = jnp.ones(1, bool)


def test_transport_cost_averages_over_valid_pairs_with_mass():
    plan = jnp.array([[[0.5, 0.0], [0.0, 0.5]], [[0.25, 0.25], [0.25, 0.25]], [[0.0, 0.0], [0.0, 0.0]]])
    cost = jnp.array([[[1.0, 9.0], [9.0, 2.0]], [[7.0, 7.0], [7.0, 7.0]], [[jnp.nan] * 2] * 2])
    is_valid = jnp.array([True, False, True])
    term = transport_cost(plan, cost, is_valid=is_valid)
    assert (term.sum, term.count) == (1.5, 1)
    by_plan, by_cost = jax.grad(lambda *a: transport_cost(*a, is_valid=is_valid).sum, (0, 1))(plan, cost)
    np.testing.assert_array_equal(by_plan, 0)
    np.testing.assert_array_equal(by_cost, plan.at[1].set(0))


def test_mutual_links_of_a_plan_made_by_hand():
    assert np.argwhere(mutual_links(PLAN, SOURCE, TARGET)[0]).tolist() == [[0, 1], [1, 0]]


def test_normalising_rows_and_columns_would_not_change_the_links():
    plan = np.asarray(PLAN[0, :, :3])
    by_row, by_column = plan / plan.sum(1, keepdims=True), plan / plan.sum(0)
    labels_s, labels_t = by_row.argmax(1), by_column.argmax(0)
    mutual = [[m, n] for m, n in enumerate(labels_s) if labels_t[n] == m]
    assert np.argwhere(mutual_links(PLAN, SOURCE, TARGET)[0]).tolist() == mutual


def test_links_of_a_constant_plan_and_of_an_empty_one():
    masks = jnp.ones((1, 2), bool), jnp.ones((1, 3), bool)
    assert np.argwhere(mutual_links(jnp.ones((1, 2, 3)), *masks)[0]).tolist() == [[0, 0]]
    assert not mutual_links(jnp.zeros((1, 2, 3)), *masks).any()


def test_self_labelled_equals_the_value_computed_by_hand():
    logits = jax.random.normal(jax.random.key(0), (1, 3, 4))
    z = np.asarray(logits[0, :, :3], np.float64)
    links = [(0, 1), (1, 0)]
    want = sum((np.log(np.exp(z[m]).sum()) + np.log(np.exp(z[:, n]).sum())) / 2 - z[m, n] for m, n in links)
    term = self_labelled(logits, PLAN, source_mask=SOURCE, target_mask=TARGET, is_valid=VALID)
    np.testing.assert_allclose(term.sum, want, rtol=1e-5)
    assert term.count == 2


def test_self_labelled_ignores_padding_and_invalid_pairs():
    def loss(logits, plan):
        return self_labelled(logits, plan, source_mask=SOURCE, target_mask=TARGET, is_valid=VALID).sum

    by_logits, by_plan = jax.grad(loss, (0, 1))(jnp.zeros((1, 3, 4)).at[:, :, 3].set(jnp.nan), PLAN)
    np.testing.assert_array_equal(by_logits[:, :, 3], 0)
    assert np.isfinite(by_logits).all() and jnp.abs(by_logits).max() > 0
    np.testing.assert_array_equal(by_plan, 0)
    term = self_labelled(jnp.ones((1, 3, 4)), PLAN, source_mask=SOURCE, target_mask=TARGET, is_valid=~VALID)
    assert (term.sum, term.count, term.mean) == (0, 0, 0)


def test_late_interaction_is_the_mean_of_best_cosines_in_both_directions():
    cosine = np.random.default_rng(0).uniform(-1, 1, (3, 4, 5)).astype(np.float32)
    source = np.arange(4) < np.array([[4], [2], [0]])
    target = np.arange(5) < np.array([[3], [5], [2]])
    want = []
    for c, m, n in zip(cosine, source.sum(1), target.sum(1), strict=True):
        of_source = [max(c[i, :n]) for i in range(m)]
        of_target = [max(c[:m, j]) for j in range(n)] if m else []
        want.append((np.mean(of_source) + np.mean(of_target)) / 2 if m else 0.0)
    hidden = np.where(source[:, :, None] & target[:, None], cosine, np.nan)
    np.testing.assert_allclose(late_interaction(jnp.asarray(hidden), source, target), want, rtol=1e-6)
    gradient = jax.grad(lambda c: late_interaction(c, source, target).sum())(jnp.asarray(hidden))
    assert np.isfinite(gradient).all() and (gradient[2] == 0).all()
    assert (np.asarray(gradient)[np.isnan(hidden)] == 0).all()


def test_a_transport_score_is_one_minus_the_cost_of_the_plan():
    random = np.random.default_rng(1)
    plan = random.uniform(size=(2, 3, 4))
    plan[0] /= plan[0].sum()
    plan[1] = 0
    cosine = jnp.asarray(random.uniform(-1, 1, (2, 3, 4))).at[1].set(jnp.nan)
    score = transport_score(jnp.asarray(plan), cosine)
    np.testing.assert_allclose(score, [1 - (plan[0] * (1 - cosine[0])).sum(), 0], rtol=1e-5)
    by_plan, by_cosine = jax.grad(lambda *a: transport_score(*a).sum(), (0, 1))(jnp.asarray(plan), cosine)
    np.testing.assert_array_equal(by_plan, 0)
    np.testing.assert_allclose(by_cosine, plan, rtol=1e-6)


def test_candidate_contrast_is_a_cross_entropy_over_those_that_count():
    score = np.array([[0.9, 0.1, 0.4], [0.2, 0.8, np.nan], [0.3, 0.3, 0.3], [np.nan] * 3], np.float32)
    positive = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 0, 0]], bool)
    counts = np.array([[1, 1, 1], [1, 1, 0], [1, 1, 1], [0, 0, 0]], bool)
    z = score.astype(np.float64) / 0.5
    first = np.log(np.exp(z[0]).sum()) - (z[0, 0] + z[0, 2]) / 2
    second = np.log(np.exp(z[1, :2]).sum()) - z[1, 1]

    def loss(score):
        return candidate_contrast(score, is_positive=positive, counts=counts, temperature=0.5)

    term = loss(jnp.asarray(score))
    np.testing.assert_allclose(term.sum, first + second, rtol=1e-5)
    assert term.count == 2
    gradient = jax.grad(lambda s: loss(s).sum)(jnp.asarray(score))
    assert np.isfinite(gradient).all() and (gradient[2:] == 0).all()


def test_mean_word_cosine_is_that_of_different_words():
    mask = np.arange(4) < np.array([[4], [3], [1], [0]])
    unit = np.asarray(normalize(jax.random.normal(jax.random.key(2), (4, 4, 6)))) * mask[..., None]
    want = 0.0
    for words, n in ((unit[0], 4), (unit[1], 3)):
        want += np.mean([words[i] @ words[j] for i in range(n) for j in range(n) if i != j])
    term = mean_word_cosine(jnp.asarray(unit), mask)
    np.testing.assert_allclose(term.sum, want, rtol=1e-5)
    assert term.count == 2
    same = jnp.broadcast_to(jnp.asarray(unit[0, :1]), (1, 4, 6))
    np.testing.assert_allclose(mean_word_cosine(same, mask[:1]).mean, 1, rtol=1e-6)
