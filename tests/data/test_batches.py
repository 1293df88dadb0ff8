"""Batches are a function of the step."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tensorflow")

from cl2cm_jax.data.batches import batches, evaluation_batches, trainable_images
from cl2cm_jax.data.corpus import Corpus
from cl2cm_jax.data.media.crops import Crops, cropped
from cl2cm_jax.data.media.images import decode
from cl2cm_jax.data.stored_pictures import Picture, sha256_of
from cl2cm_jax.errors import UserError

SETTINGS: dict[str, Any] = {
    "batch_size": 3,
    "seed": 5,
    "source": "en",
    "targets": ("de", "fr"),
    "targets_per_image": 1,
    "with_words": True,
    "max_words": 3,
}


def draw(corpus: Corpus, count: int, *, start_step: int = 0, **changes: Any) -> list[dict[str, Any]]:
    return list(itertools.islice(batches(corpus, start_step=start_step, **SETTINGS | changes), count))


def leaves(batch: dict[str, Any]) -> dict[str, np.ndarray]:
    flat = {}
    for name, value in batch.items():
        flat |= {f"{name}/{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def assert_equal(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert leaves(left).keys() == leaves(right).keys()
    for name, value in leaves(left).items():
        np.testing.assert_array_equal(value, leaves(right)[name], err_msg=name)


def test_starting_at_a_step_equals_replaying(corpus: Corpus) -> None:
    replayed = draw(corpus, 8)
    for start in (1, 3, 5, 7):  # 3 batches an epoch: within and at the edge
        assert_equal(draw(corpus, 1, start_step=start)[0], replayed[start])


def test_same_seed_same_batches_other_seed_other_batches(corpus: Corpus) -> None:
    for left, right in zip(draw(corpus, 4), draw(corpus, 4), strict=True):
        assert_equal(left, right)
    orders = [np.concatenate([b["image_id"] for b in draw(corpus, 3, seed=seed)]).tolist() for seed in (5, 6)]
    assert orders[0] != orders[1]


def test_an_epoch_is_a_permutation_and_epochs_differ(corpus: Corpus) -> None:
    drawn = [b["image_id"].tolist() for b in draw(corpus, 6)]
    epochs = [sum(drawn[:3], []), sum(drawn[3:], [])]
    assert sorted(epochs[0]) == sorted(epochs[1]) == trainable_images(corpus, source="en").tolist() == list(range(9))
    assert epochs[0] != epochs[1]


def test_shapes_and_types(corpus: Corpus) -> None:
    batch = draw(corpus, 1, targets_per_image=-1)[0]
    found = {name: (value.shape, value.dtype.name) for name, value in leaves(batch).items()}
    assert found == {
        "vision/features": ((3, 2, 3), "float32"),
        "vision/mask": ((3, 2), "bool"),
        "source/sentence": ((3, 5), "float32"),
        "source/words": ((3, 3, 5), "float32"),
        "source/mask": ((3, 3), "bool"),
        "target/sentence": ((3, 2, 5), "float32"),
        "target/words": ((3, 2, 3, 5), "float32"),
        "target/mask": ((3, 2, 3), "bool"),
        "target_language": ((3, 2), "int32"),
        "target_is_valid": ((3, 2), "bool"),
        "source_caption": ((3,), "int32"),
        "target_caption": ((3, 2), "int32"),
        "image_id": ((3,), "int32"),
        "is_valid": ((3,), "bool"),
    }
    assert "words" not in draw(corpus, 1, with_words=False)[0]["source"]


def test_captions_belong_to_the_image_and_the_language(corpus: Corpus) -> None:
    sources, targets = set(), set()
    for batch in draw(corpus, 30):
        source, target, valid = batch["source_caption"], batch["target_caption"][:, 0], batch["target_is_valid"][:, 0]
        np.testing.assert_array_equal(corpus.caption_image[source], batch["image_id"])
        assert (corpus.caption_language[source] == 0).all()
        np.testing.assert_array_equal(corpus.caption_image[target[valid]], batch["image_id"][valid])
        np.testing.assert_array_equal(corpus.caption_language[target], batch["target_language"][:, 0])
        np.testing.assert_array_equal(batch["source"]["sentence"][:, 0], source)
        np.testing.assert_array_equal(batch["target"]["sentence"][:, 0, 0], target)
        np.testing.assert_array_equal(batch["target"]["words"][:, 0, 0, 0], target)
        sources |= set(source.tolist())
        targets |= set(target.tolist())
        assert valid.all()  # with K = 1 image 3, which lacks French, always brings German
    assert sources == set(corpus.captions_of("en").tolist())
    assert targets == set(corpus.captions_of("de")[:9].tolist() + corpus.captions_of("fr")[:8].tolist())


def test_a_lacking_target_is_invalid_and_zero(corpus: Corpus) -> None:
    for batch in draw(corpus, 3, targets_per_image=-1):
        lacking = (batch["image_id"][:, None] == 3) & (batch["target_language"] == 2)
        np.testing.assert_array_equal(batch["target_is_valid"], ~lacking)
        assert (batch["target_caption"][lacking] == -1).all()
        assert not batch["target"]["sentence"][lacking].any()
        assert not batch["target"]["words"][lacking].any()
        assert not batch["target"]["mask"][lacking].any()
        np.testing.assert_array_equal(batch["target_language"], [[1, 2]] * 3)


def test_target_languages_are_distinct(corpus: Corpus) -> None:
    for batch in draw(corpus, 5, targets_per_image=2):
        assert (np.sort(batch["target_language"], axis=1) == [1, 2]).all()


def test_refuses_what_cannot_be(corpus: Corpus) -> None:
    with pytest.raises(UserError, match=r"batch_size=16 is more than the 9 images"):
        draw(corpus, 1, batch_size=16)
    with pytest.raises(UserError, match="targets_per_image=3"):
        draw(corpus, 1, targets_per_image=3)
    with pytest.raises(UserError, match="'xx' is not in the data"):
        draw(corpus, 1, targets=("xx",))


def test_evaluation_pads_the_last_batch() -> None:
    found = list(evaluation_batches(5, batch_size=2))
    assert [batch.rows.tolist() for batch in found] == [[0, 1], [2, 3], [4, 0]]
    assert found[-1].is_valid.tolist() == [True, False]


CROPS = Crops(size=4, shorter_side=4, filter="bicubic", minimum=0.4, flip=True)


@pytest.fixture
def photographed(corpus: Corpus, pictures: Path) -> Corpus:
    """The corpus with files: noise, so that no two crops are alike."""
    random, paths = np.random.default_rng(0), sorted(pictures.iterdir())
    for path in paths:
        Image.fromarray(random.integers(0, 255, (9, 12, 3), dtype=np.uint8)).save(path)
    digests = [Picture(sha256_of([path.read_bytes()])).digest for path in paths]
    vision = np.array([np.frombuffer(digest, np.uint8) for digest in digests])[:, None]
    return replace(corpus, paths=[str(path) for path in paths], vision=vision)


def test_pictures_take_the_place_of_features(photographed: Corpus) -> None:
    batch = draw(photographed, 1, crops=CROPS)[0]
    assert {name for name in leaves(batch) if name.startswith("vision")} == {"vision/pixels"}
    assert batch["vision"]["pixels"].shape == (3, 4, 4, 3) and batch["vision"]["pixels"].dtype == np.uint8
    whole = draw(photographed, 1, crops=CROPS._replace(minimum=1.0, flip=False))[0]
    for row, pixels in zip(whole["image_id"], whole["vision"]["pixels"], strict=True):
        expected = cropped(decode(photographed.paths[row]), CROPS._replace(minimum=1.0, flip=False), chance=np.ones(5))
        np.testing.assert_array_equal(pixels, expected)
    plain = draw(photographed, 1)[0]  # of digests
    assert_equal({**batch, "vision": 0}, {**plain, "vision": 0})


def test_crops_resume_and_differ_between_epochs_and_seeds(photographed: Corpus) -> None:
    replayed = draw(photographed, 6, crops=CROPS)
    for start in (2, 4):
        assert_equal(draw(photographed, 1, start_step=start, crops=CROPS)[0], replayed[start])

    def of_image(batches: list[dict[str, Any]], image: int) -> np.ndarray:
        return next(b["vision"]["pixels"][row] for b in batches for row in np.flatnonzero(b["image_id"] == image))

    other = draw(photographed, 3, crops=CROPS, seed=6)
    for image in range(9):
        first = of_image(replayed[:3], image)
        assert not np.array_equal(first, of_image(replayed[3:], image))
        assert not np.array_equal(first, of_image(other, image))


def test_pictures_without_a_file_are_refused(corpus: Corpus, photographed: Corpus) -> None:
    with pytest.raises(UserError, match="'image0' of split 'train' is not a file on disk"):
        draw(corpus, 1, crops=CROPS)
    Image.new("RGB", (12, 9)).save(photographed.paths[4])
    with pytest.raises(UserError, match=r"^\S*/e\.png is not the picture that the data set was built from; put that"):
        draw(photographed, 3, crops=CROPS)
    Path(photographed.paths[4]).unlink()
    with pytest.raises(UserError, match=r"^\S*/e\.png does not exist"):
        draw(photographed, 3, crops=CROPS)
