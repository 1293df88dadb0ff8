from __future__ import annotations

import numpy as np
import pytest
from support.flipped_bits import flipped_bits

from cl2cm_jax.errors import UserError
from cl2cm_jax.evaluation.retrieval import (
    Ranks,
    first_captions,
    fuse_queries,
    load_ranks,
    metrics,
    retrieval_ranks,
    save_ranks,
)

# Three images along the axes. Captions 0 and 1 are of image 0, 2 of image 1, 3 of image 2; scores are the coordinates.
VISION = np.eye(3, dtype=np.float32)
TEXT = np.array([[0.9, 0.1, 0.0], [0.1, 0.8, 0.2], [0.7, 0.6, 0.1], [0.3, 0.2, 0.5]], np.float32)
TEXT_IMAGE = np.array([0, 0, 1, 2])


def test_a_hand_made_table_in_both_directions() -> None:
    ranks = retrieval_ranks(TEXT, VISION, text_image=TEXT_IMAGE)
    # Caption 1 prefers images 1 and 2 to its own; caption 2 prefers image 0.
    assert ranks.text_to_vision.tolist() == [1, 3, 2, 1]
    # Image 0: caption 0 is best. Image 1: caption 1 (of image 0) beats caption 2. Image 2: caption 3 is best.
    assert ranks.vision_to_text.tolist() == [1, 2, 1]

    named = metrics(ranks)
    assert named["text_to_vision/R@1"] == 50
    assert named["vision_to_text/R@1"] == pytest.approx(200 / 3)
    assert named["text_to_vision/median_rank"] == 1.5
    assert named["text_to_vision/mean_rank"] == 1.75
    assert named["text_to_vision/mAP"] == pytest.approx(100 * (1 + 1 / 3 + 1 / 2 + 1) / 4)
    # Image 0 has two positives: caption 0 at 1; caption 1 behind captions 2 and 3 among the rest, so at 2 + 2.
    assert ranks.vision_to_text_ap[0] == pytest.approx((1 / 1 + 2 / 4) / 2)
    assert named["SumR"] == pytest.approx(50 + 100 + 100 + 200 / 3 + 100 + 100)
    assert named["mR"] == pytest.approx(named["SumR"] / 6)


def test_first_caption_protocol_drops_the_others() -> None:
    ranks = retrieval_ranks(TEXT, VISION, text_image=TEXT_IMAGE, captions_per_image="first")
    assert ranks.text_to_vision.tolist() == [1, 2, 1]
    assert ranks.vision_to_text.tolist() == [1, 1, 1]
    assert first_captions(np.array([2, 0, 2, 1, 0])).tolist() == [0, 1, 3]


def test_the_two_caption_protocols_differ_in_both_directions() -> None:
    every, first = (
        metrics(retrieval_ranks(TEXT, VISION, text_image=TEXT_IMAGE, captions_per_image=captions))
        for captions in ("all", "first")
    )
    for name in ("text_to_vision/R@1", "vision_to_text/R@1", "text_to_vision/mAP", "vision_to_text/mAP", "SumR"):
        assert every[name] != first[name], name


@pytest.mark.parametrize("block", [4, 1024])
@pytest.mark.parametrize("captions", ["all", "first"])
def test_metrics_equal_those_of_sorted_scores(block, captions) -> None:
    random = np.random.default_rng(3)
    vision, image = random.normal(size=(11, 6)), random.permutation(np.r_[np.arange(9), random.integers(0, 9, 21)])
    text = random.normal(size=(30, 6))
    ranks = retrieval_ranks(
        text.astype(np.float32), vision.astype(np.float32), text_image=image, captions_per_image=captions, block=block
    )
    if captions == "first":
        kept = [row for row in range(30) if row == list(image).index(image[row])]
        text, image = text[kept], image[kept]
    rows = {
        "text_to_vision": [(text @ vision.T)[row] for row in range(len(text))],
        "vision_to_text": [(vision @ text.T)[row] for row in sorted(set(image))],
    }
    right = {
        "text_to_vision": [np.arange(11) == image[row] for row in range(len(text))],
        "vision_to_text": [image == row for row in sorted(set(image))],
    }
    named = metrics(ranks)
    for direction in rows:
        hits = [hit[np.argsort(-score)] for score, hit in zip(rows[direction], right[direction], strict=True)]
        best = np.array([np.flatnonzero(hit)[0] + 1 for hit in hits])
        precision = [np.mean([hit[: k + 1].mean() for k in np.flatnonzero(hit)]) for hit in hits]
        assert named[f"{direction}/R@5"] == pytest.approx(100 * np.mean(best <= 5))
        assert named[f"{direction}/median_rank"] == np.median(best)
        assert named[f"{direction}/mean_rank"] == pytest.approx(np.mean(best))
        assert named[f"{direction}/mAP"] == pytest.approx(100 * np.mean(precision))


def test_an_image_without_captions_is_in_the_gallery_but_not_a_query() -> None:
    ranks = retrieval_ranks(TEXT[1:3], VISION, text_image=TEXT_IMAGE[1:3])
    assert ranks.vision_image.tolist() == [0, 1]
    assert ranks.text_to_vision.tolist() == [3, 2]
    assert len(ranks.vision_to_text) == 2


def test_ties_are_pessimistic() -> None:
    ranks = retrieval_ranks(np.ones((4, 3), np.float32), VISION * 0 + 1, text_image=TEXT_IMAGE)
    assert ranks.text_to_vision.tolist() == [3] * 4
    assert ranks.vision_to_text.tolist() == [3, 4, 4]  # image 0 has two right answers among four captions
    named = metrics(ranks)
    assert named["text_to_vision/R@1"] == named["vision_to_text/R@1"] == 0
    assert named["text_to_vision/mAP"] == pytest.approx(100 / 3)
    assert named["vision_to_text/mAP"] == pytest.approx(100 * ((1 / 3 + 2 / 4) / 2 + 1 / 4 + 1 / 4) / 3)
    assert (named["text_to_vision/median_rank"], named["vision_to_text/median_rank"]) == (3, 4)


def test_order_of_the_gallery_and_the_block_do_not_matter() -> None:
    order = np.array([2, 0, 1])
    moved = np.argsort(order)[TEXT_IMAGE]
    plain = retrieval_ranks(TEXT, VISION, text_image=TEXT_IMAGE)
    shuffled = retrieval_ranks(TEXT, VISION[order], text_image=moved, block=2)
    assert shuffled.text_to_vision.tolist() == plain.text_to_vision.tolist()
    assert sorted(shuffled.vision_to_text) == sorted(plain.vision_to_text)


def test_nan_is_an_error() -> None:
    with pytest.raises(ValueError):
        retrieval_ranks(TEXT * np.nan, VISION, text_image=TEXT_IMAGE)


def test_fused_query_fuses_scores() -> None:
    translated = TEXT[::-1]
    fused = fuse_queries(TEXT, translated, weight=0.25)
    np.testing.assert_allclose(fused @ VISION.T, 0.25 * translated @ VISION.T + 0.75 * TEXT @ VISION.T, rtol=1e-6)


def test_ranks_round_trip(tmp_path) -> None:
    ranks = {
        "de": retrieval_ranks(TEXT, VISION, text_image=TEXT_IMAGE),
        "zh": retrieval_ranks(TEXT[:2], VISION, text_image=TEXT_IMAGE[:2]),
    }
    save_ranks(tmp_path / "deep" / "ranks.npz", ranks)
    loaded = load_ranks(tmp_path / "deep" / "ranks.npz")
    assert list(loaded) == ["de", "zh"]
    for language in ranks:
        for field in Ranks._fields:
            np.testing.assert_array_equal(getattr(loaded[language], field), getattr(ranks[language], field))
    assert {path.name for path in (tmp_path / "deep").glob("[!.]*")} == {"ranks.npz", "checksums.json"}


def test_flipped_bits_of_ranks_are_seen_or_change_nothing(tmp_path) -> None:
    path, ranks = tmp_path / "ranks.npz", {"de": retrieval_ranks(TEXT, VISION, text_image=TEXT_IMAGE)}
    save_ranks(path, ranks)
    refused = 0
    for _ in flipped_bits(path, count=200):
        try:
            loaded = load_ranks(path)
        except UserError as error:
            refused += 1
            assert "ranks.npz" in str(error)
        else:
            assert list(loaded) == ["de"]
            for found, written in zip(loaded["de"], ranks["de"], strict=True):
                np.testing.assert_array_equal(found, written)
    assert refused > 100
