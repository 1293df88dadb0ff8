"""Backbones that JAX does not run: called with arrays of numpy, outside of `jax.jit`."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
from support.tiny_models import write_tiny_bert

from cl2cm_jax.errors import UserError
from cl2cm_jax.features.encoders import ImageEncoder, TextEncoder
from cl2cm_jax.models.backbone import TextBackbone, TextOutput, VisionBackbone, VisionOutput
from cl2cm_jax.models.configured import text_backbone, vision_backbone
from cl2cm_jax.models.preprocess import Preprocess
from cl2cm_jax.models.tokenizers import padded


class Lengths:
    """A tokenizer: one id for each word, its length."""

    def __init__(self, max_tokens: int) -> None:
        self.limit = max_tokens - 2

    def words(self, text: str) -> list[str]:
        return text.split()[: self.limit]

    def __call__(self, texts: Any) -> Any:
        return padded([[1, *map(len, self.words(text)), 1] for text in texts])


class AnyText(TextBackbone):
    traced = False


class AnyVision(VisionBackbone):
    traced = False


def test_texts_are_numpy_arrays() -> None:
    def apply(params: Any, ids: Any, mask: Any) -> TextOutput:
        assert type(ids) is type(mask) is np.ndarray
        words = (ids * mask)[..., None] * params["scale"]
        return TextOutput(words=words, mask=mask, sentence=words.sum(1))

    backbone = AnyText(dim=2, params={"scale": np.array([1.0, 2.0])}, apply=apply, tokenizer=Lengths)
    found = TextEncoder(backbone, max_tokens=6)(["a red dog", "cars"])
    np.testing.assert_array_equal(found.sentences, [[9, 18], [6, 12]])
    np.testing.assert_array_equal(found.words.values, [[1, 2], [3, 6], [3, 6], [4, 8]])


def test_pictures_are_prepared_by_the_backbone() -> None:
    def apply(params: Any, images: Any) -> VisionOutput:
        assert type(images) is np.ndarray and images.shape == (4, 1, 1, 3)
        states = np.repeat(images[:, 0], 2, axis=1)
        return VisionOutput(features=states, mask=np.ones(states.shape[:2], bool), pooled=images[:, 0, 0])

    plain = Preprocess(image_size=1, shorter_side=None, filter="bicubic", mean=(0, 0, 0), scale=(1, 1, 1))
    backbone = AnyVision(
        frames=2,
        dim=3,
        pooled=3,
        params={},
        apply=apply,
        preprocess=plain,
        batch_size=4,
        resize=lambda picture: picture.mean((0, 1), keepdims=True) / 2,
    )
    pictures = [np.full((size, 3, 3), 10 * size, np.uint8) for size in range(1, 7)]  # of two batches
    expected = np.repeat(5.0 * np.arange(1, 7)[:, None], 3, axis=1)
    np.testing.assert_array_equal(ImageEncoder(backbone, pool="backbone")(pictures)[:, 0], expected)
    assert ImageEncoder(backbone, pool="tokens")(pictures).shape == (6, 2, 3)


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch is installed")
def test_without_torch_one_line_says_what_to_install(tmp_path: Any) -> None:
    folder = write_tiny_bert(tmp_path / "bert")
    for load in (text_backbone, vision_backbone):
        with pytest.raises(UserError, match="package torch is not installed; run: pip install torch transformers"):
            load("transformers", folder)
