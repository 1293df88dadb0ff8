import jax.numpy as jnp
import numpy as np
import pytest

from cl2cm_jax.maths.confidence import GRID, TOO_FEW, UNJUDGED, calibrate, posterior, standard_scores, uncalibrated


def _scores(random, share, *, right=5.0, n=1500):
    wrong = random.random(n) < share
    return np.where(wrong, random.normal(0, 1, n), random.normal(right, 1.5, n)), wrong


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4, 0.7])
def test_the_share_of_wrong_pairs_is_recovered_and_get_small_weights(share):
    random = np.random.default_rng(0)
    pairs, wrong = _scores(random, share)
    fitted = calibrate(training=[pairs], right=[random.normal(5, 1.5, 250)], wrong=[random.normal(0, 1, 1500)])
    assert abs(float(fitted.wrong_share[0]) - share) < 0.04
    weight = np.asarray(posterior(jnp.asarray(pairs), jnp.zeros(len(pairs), int), fitted))
    assert weight[~wrong].mean() > 0.93
    if share:
        assert weight[wrong].mean() < 0.25


def test_a_language_that_the_teacher_does_not_know_keeps_equal_weights():
    random = np.random.default_rng(1)
    fitted = calibrate(
        training=[random.normal(0, 1, 1500)], right=[random.normal(0, 1, 300)], wrong=[random.normal(0, 1, 1500)]
    )
    inside = np.abs(GRID) < 1.5
    assert np.ptp(fitted.weight[0][inside]) < 0.25


def test_a_higher_score_never_weighs_less():
    random = np.random.default_rng(2)
    pairs, _ = _scores(random, 0.5)
    fitted = calibrate(training=[pairs], right=[random.normal(5, 3, 100)], wrong=[random.normal(0, 1, 500)])
    assert (np.diff(fitted.weight[0]) >= 0).all() and fitted.weight[0][-1] == 1


def test_too_few_pairs_or_none_leave_the_weights_at_one():
    few = np.zeros(3)
    found = calibrate(training=[few], right=[few], wrong=[few])
    assert (found.weight == 1).all() and found.wrong_share[0] == TOO_FEW
    assert (uncalibrated(2).weight == 1).all()


def test_scores_stand_out_for_right_pairs_and_ignore_padding():
    random = np.random.default_rng(3)
    x = random.normal(size=(24, 16))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = np.concatenate([x[:12], np.roll(x[12:], 1, axis=0)])
    valid = np.ones(24, bool)
    scores = np.asarray(standard_scores(jnp.asarray(x), jnp.asarray(y), is_valid=jnp.asarray(valid)))
    assert scores[:12].min() > 2 > scores[12:].max()
    padded = np.concatenate([x, random.normal(size=(8, 16)) * 9]), np.concatenate([y, random.normal(size=(8, 16)) * 9])
    again = standard_scores(*map(jnp.asarray, padded), is_valid=jnp.arange(32) < 24)
    np.testing.assert_allclose(np.asarray(again)[:24], scores, atol=1e-4)


def test_a_language_whose_pairs_all_look_wrong_keeps_weight_one():
    random = np.random.default_rng(0)
    mismatched = random.normal(size=400)
    for training, right in (
        (random.normal(size=400), random.normal(size=80)),  # the encoder does not know the language
        (random.normal(size=400), random.normal(5.0, size=80)),  # nor its training captions, so it seems
    ):
        found = calibrate(training=[training], right=[right], wrong=[mismatched])
        assert found.wrong_share[0] == UNJUDGED
        assert (found.weight[0] == 1).all()


@pytest.mark.parametrize("training", np.linspace(-3, 4, 15))
@pytest.mark.parametrize("right", [1.2, 3.0, 5.0])
def test_no_language_is_left_out_of_the_training(training: float, right: float) -> None:
    random = np.random.default_rng(0)
    pairs = random.normal(training, 0.3, size=400)
    found = calibrate(training=[pairs], right=[random.normal(right, 1.0, 80)], wrong=[random.normal(size=400)])
    weight = np.asarray(posterior(jnp.asarray(pairs), jnp.zeros(len(pairs), int), found))
    assert weight.mean() > 0.15
