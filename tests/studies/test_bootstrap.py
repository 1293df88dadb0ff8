from __future__ import annotations

import numpy as np
import pytest

from cl2cm_jax.evaluation.evaluate import mean_sum_recall
from cl2cm_jax.evaluation.retrieval import Ranks
from cl2cm_jax.studies.bootstrap import (
    Estimate,
    RunRanks,
    headroom_share,
    joined,
    paired_difference,
    spread,
    sum_recall,
)

LANGUAGES = ("de", "zh")


def ranks_of_hits(hits: np.ndarray, captions: int = 1) -> Ranks:
    """Ranks 1 where an image's queries hit, else 100: each hit image adds 3 recalls in either direction."""
    rank = np.where(hits, 1, 100)
    image = np.arange(len(hits))
    return Ranks(
        text_to_vision=np.repeat(rank, captions),
        vision_to_text=rank,
        text_image=np.repeat(image, captions),
        vision_image=image,
        text_to_vision_ap=np.repeat(1 / rank, captions),
        vision_to_text_ap=1 / rank,
    )


def run(seed: int, hits: np.ndarray, captions: int = 1) -> RunRanks:
    return RunRanks(seed, {language: ranks_of_hits(hits, captions) for language in LANGUAGES})


def share(size: int, hit: int) -> np.ndarray:
    return np.arange(size) < hit


def test_known_difference_is_recovered() -> None:
    # 60 % and 50 % of the images hit: 10 points in each of six recalls.
    treated = [run(seed, share(200, 120)) for seed in range(3)]
    baseline = [run(seed, share(200, 100)) for seed in range(3)]
    difference = paired_difference(treated, baseline, languages=LANGUAGES)
    assert difference.mean == pytest.approx(60)
    assert difference.low < 60 < difference.high
    assert difference.excludes_zero
    # The same 20 of 200 images differ for every seed: the standard error is that of one binomial share.
    assert (difference.high - difference.low) / 3.92 == pytest.approx(600 * np.sqrt(0.1 * 0.9 / 200), rel=0.1)
    assert mean_sum_recall(treated[0].languages, LANGUAGES) == pytest.approx(360)


def test_identical_runs_differ_by_exactly_nothing() -> None:
    runs = [run(seed, np.random.default_rng(seed).random(50) < 0.5) for seed in range(4)]
    difference = paired_difference(runs, list(reversed(runs)), languages=LANGUAGES)
    assert difference == Estimate(0.0, 0.0, 0.0)
    assert not difference.excludes_zero


def test_captions_of_an_image_are_one_draw() -> None:
    """Ten copies of every caption tell no more than one."""
    treated, baseline = share(60, 33), share(60, 27)
    one = paired_difference([run(0, treated)], [run(0, baseline)], languages=LANGUAGES)
    ten = paired_difference([run(0, treated, 10)], [run(0, baseline, 10)], languages=LANGUAGES)
    assert ten == pytest.approx(one)


def test_the_draw_is_repeatable_and_has_its_own_seed() -> None:
    sides = [run(0, share(40, 25))], [run(0, share(40, 20))]
    intervals = [paired_difference(*sides, languages=LANGUAGES, resamples=40, seed=seed) for seed in (0, 0, 1, 2, 3)]
    assert intervals[0] == intervals[1]
    assert len(set(intervals)) > 1


def test_what_is_not_paired_is_refused() -> None:
    one, other = run(0, share(10, 5)), run(1, share(10, 5))
    for wrong in ([other], [one, other], []):
        with pytest.raises(ValueError, match="same seeds"):
            paired_difference([one], wrong, languages=LANGUAGES)
    with pytest.raises(ValueError, match="same test queries"):
        paired_difference([one], [run(0, share(11, 5))], languages=LANGUAGES)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """Images differ in difficulty, and seeds share them; the true difference is 0.1 of the queries, 60 points."""
    generator = np.random.default_rng(0)
    covered, trials, seeds, images = 0, 120, 4, 80
    for trial in range(trials):
        gain = generator.choice([-0.3, 0.1, 0.5], size=images)  # mean 0.1, shared by all seeds
        treated = [run(s, generator.random(images) < 0.4 + gain) for s in range(seeds)]
        baseline = [run(s, generator.random(images) < 0.4) for s in range(seeds)]
        difference = paired_difference(treated, baseline, languages=LANGUAGES, resamples=300, seed=trial)
        covered += difference.low <= 60 <= difference.high
    assert covered / trials > 0.9


def test_spread() -> None:
    assert spread([1.0, 3.0]) == (2.0, pytest.approx(np.sqrt(2)))
    assert spread([5.0]) == (5.0, None)


def test_a_level_is_the_mean_of_the_runs_with_the_spread_of_their_images() -> None:
    runs = [run(seed, share(200, 120)) for seed in range(3)]
    level = sum_recall(runs, languages=LANGUAGES)
    assert level.mean == pytest.approx(360)
    assert (level.high - level.low) / 3.92 == pytest.approx(600 * np.sqrt(0.6 * 0.4 / 200), rel=0.1)
    uneven = [run(0, share(10, 2)), run(1, share(10, 4))]
    assert sum_recall(uneven, languages=("de",)).mean == pytest.approx(180)


def test_a_share_of_the_headroom_is_a_ratio_of_paired_differences() -> None:
    baseline = [run(seed, share(200, 80)) for seed in range(3)]
    row = [run(seed, share(200, 90)) for seed in range(3)]
    ceiling = [run(seed, share(200, 120)) for seed in (2, 0, 1)]
    won = headroom_share(row, baseline, ceiling, languages=LANGUAGES)
    assert won is not None and won.mean == pytest.approx(0.25)
    assert won.low < 0.25 < won.high
    # the row's images are among the ceiling's: drawn jointly, the share lies in [0, 1] in every resample
    assert won.low >= 0 and won.high <= 1
    assert headroom_share(ceiling, baseline, ceiling, languages=LANGUAGES) == Estimate(1.0, 1.0, 1.0)


def test_a_share_of_no_headroom_is_not_defined() -> None:
    baseline, row = [run(0, share(1000, 500))], [run(0, share(1000, 510))]
    for ceiling in (499, 501):  # below the baseline; by 0.6 SumR above it, an interval that holds 0
        assert headroom_share(row, baseline, [run(0, share(1000, ceiling))], languages=LANGUAGES) is None
    every = [run(0, np.ones(1000, bool))]
    little = [run(0, share(1000, 999))]
    assert headroom_share(every, little, every, languages=LANGUAGES) is None  # 0.6 SumR


def test_folds_are_joined_without_mixing_their_images() -> None:
    folds = [run(0, share(50, 10)), run(0, share(40, 30)), run(0, share(60, 20))]
    whole = joined(folds)
    ranks = whole.languages["de"]
    assert len(ranks.vision_to_text) == 150 and sorted(ranks.text_image) == list(range(150))
    assert mean_sum_recall(whole.languages, LANGUAGES) == pytest.approx(600 * 60 / 150)
    assert joined([folds[0]]).languages["de"].text_image.tolist() == list(range(50))
    other = joined([run(0, share(50, 0)), run(0, share(40, 0)), run(0, share(60, 0))])
    difference = paired_difference([whole], [other], languages=LANGUAGES)
    assert difference.mean == pytest.approx(240)
    assert (difference.high - difference.low) / 3.92 == pytest.approx(600 * np.sqrt(0.4 * 0.6 / 150), rel=0.1)
    with pytest.raises(ValueError, match="same seed"):
        joined([run(0, share(5, 1)), run(1, share(5, 1))])


def test_intervals_over_folds_cover_the_truth_as_often_as_they_say() -> None:
    """Three folds of 60 images, two seeds; the true difference is 0.1 of the queries, 60 points."""
    generator = np.random.default_rng(1)
    covered, trials = 0, 120
    for trial in range(trials):
        gain = generator.choice([-0.3, 0.1, 0.5], size=(3, 60))

        def of_seed(seed: int, chance: np.ndarray) -> RunRanks:
            return joined([run(seed, generator.random(60) < fold) for fold in chance])

        treated, baseline = ([of_seed(s, 0.4 + add) for s in range(2)] for add in (gain, 0 * gain))
        difference = paired_difference(treated, baseline, languages=LANGUAGES, resamples=300, seed=trial)
        covered += difference.low <= 60 <= difference.high
    assert covered / trials > 0.9
