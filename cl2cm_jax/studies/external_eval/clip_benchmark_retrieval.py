"""clip-benchmark's zero-shot retrieval on local data: a loader of images with their captions, and a model adapter.

zeroshot_retrieval.evaluate(ClipModel(model), loader(data, "de"), as_batch, "cpu", amp=False, recall_k_list=[1, 5, 10])

Only the module of its metric is imported, which needs torch and tqdm; its data sets and models, which need torchvision
and open_clip, are not used. Source: clip-benchmark (MIT) for the interfaces that it calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cl2cm_jax.evaluation.retrieval import DIRECTIONS, RECALL_AT
from cl2cm_jax.studies.external_eval.captioned import Captioned, TwoTowers
from cl2cm_jax.studies.external_eval.packages import package

MODULES = ("torch", "clip_benchmark.metrics.zeroshot_retrieval")  # that this module imports
_KINDS = ("image_retrieval_recall", "text_retrieval_recall")  # named by what is retrieved; our directions by from-to
# Names of `evaluate`, and the metrics of ours that they correspond to.
SCORES = {f"{kind}@{k}": f"{d}/R@{k}" for kind, d in zip(_KINDS, DIRECTIONS, strict=True) for k in RECALL_AT}
_BATCH = 64
_DEVICE = "cpu"  # of clip-benchmark's arithmetic; the model runs on JAX's device


class Batch(list):
    """Images or texts, with the one tensor method that clip-benchmark calls on a batch."""

    def to(self, device: str) -> Batch:
        """Itself: the model moves its own arrays."""
        del device
        return self


as_batch = Batch  # passed as clip-benchmark's tokenizer: the model has its own


def loader(data: Captioned, language: str, *, batch_size: int = _BATCH) -> Any:
    """A torch `DataLoader` of batches (image paths, captions of each image in one language)."""
    pairs = list(zip(map(str, data.images), data.texts_of(language), strict=True))
    return package("torch.utils.data").DataLoader(pairs, batch_size=batch_size, shuffle=False, collate_fn=_collated)


def _collated(pairs: Sequence[tuple[str, list[str]]]) -> tuple[Batch, list[list[str]]]:
    return Batch(image for image, _ in pairs), [texts for _, texts in pairs]


class ClipModel:
    """A model whose `encode_image` and `encode_text` return torch tensors (N, D) float32."""

    def __init__(self, model: TwoTowers):
        self._model = model

    def encode_image(self, images: Sequence[str]) -> Any:
        return package("torch").from_numpy(np.array(self._model.encode_image(images)))

    def encode_text(self, texts: Sequence[str]) -> Any:
        return package("torch").from_numpy(np.array(self._model.encode_text(texts)))


def evaluate(model: TwoTowers, data: Captioned) -> dict[str, dict[str, float]]:
    """By language, clip-benchmark's scores in percent, named as "image_retrieval_recall@1".

    Recalls at more than the number of images or captions are left out, as clip-benchmark fails on them.
    """
    metric = package("clip_benchmark.metrics.zeroshot_retrieval")
    found = {}
    for language, captions in data.captions.items():
        cutoffs = [k for k in RECALL_AT if k <= min(len(data.images), len(captions.texts))]
        scores = metric.evaluate(
            ClipModel(model), loader(data, language), as_batch, _DEVICE, amp=False, recall_k_list=cutoffs
        )
        found[language] = {f"{name}@{k}": 100 * scores[f"{name}@{k}"] for name in _KINDS for k in cutoffs}
    return found


def other_protocol(metric: str, data: Captioned, language: str) -> str:
    """Why a metric of ours is not compared on these data; "" if it is."""
    all_have_captions = len(set(data.captions[language].image)) == len(data.images)
    return "" if all_have_captions or metric.startswith("text_to_vision/") else "counts images without caption"
