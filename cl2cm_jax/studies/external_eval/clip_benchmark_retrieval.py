"""clip-benchmark's zero-shot retrieval on local data: a loader of pictures with their captions, and its model.

zeroshot_retrieval.evaluate(ClipModel(model), loader(data, "de"), as_batch, "cpu", amp=False, recall_k_list=[1, 5, 10])

Its metric is imported from its own module, which needs torch and tqdm alone; its data sets and models, which need
torchvision and open_clip, are not used. Source: clip-benchmark (MIT) for what it asks for; the rest is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cl2cm_jax.evaluation.retrieval import RECALL_AT
from cl2cm_jax.studies.external_eval.captioned import Captioned, TwoTowers
from cl2cm_jax.studies.external_eval.packages import package

MODULES = ("torch", "clip_benchmark.metrics.zeroshot_retrieval")  # what it is imported from
SCORES = ("image_retrieval_recall", "text_retrieval_recall")
_BATCH = 64
_DEVICE = "cpu"  # of its own arithmetic; the model runs where JAX does


class Batch(list):
    """Pictures or texts as they are, with the one method of a tensor that clip-benchmark calls on a batch."""

    def to(self, device: str) -> Batch:
        """Itself: the model moves what it computes with."""
        del device
        return self


as_batch = Batch  # what clip-benchmark calls a tokenizer: the model has its own


class PicturesWithCaptions:
    """A data set as torch's `DataLoader` reads it: N pairs of a picture's path and its captions in one language."""

    def __init__(self, data: Captioned, language: str):
        self._pictures, self._texts = [str(path) for path in data.pictures], data.texts_of(language)

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, row: int) -> tuple[str, list[str]]:
        return self._pictures[row], self._texts[row]


def loader(data: Captioned, language: str, *, batch_size: int = _BATCH) -> Any:
    """A torch `DataLoader` of batches (pictures, captions of each)."""
    return package("torch.utils.data").DataLoader(
        PicturesWithCaptions(data, language), batch_size=batch_size, shuffle=False, collate_fn=_collated
    )


class ClipModel:
    """A model with `encode_image` and `encode_text` that give torch tensors (N, D) float32."""

    def __init__(self, model: TwoTowers):
        self._model = model

    def encode_image(self, images: Sequence[str]) -> Any:
        return self._tensor(self._model.encode_image(images))

    def encode_text(self, texts: Sequence[str]) -> Any:
        return self._tensor(self._model.encode_text(texts))

    @staticmethod
    def _tensor(vectors: np.ndarray) -> Any:
        return package("torch").from_numpy(np.array(vectors))


def evaluate(model: TwoTowers, data: Captioned) -> dict[str, dict[str, float]]:
    """By language, clip-benchmark's scores in percent, named as "image_retrieval_recall@1".

    A k that is more than the pictures, or than the captions of a language, is left out: it would fail there.
    """
    metric = package("clip_benchmark.metrics.zeroshot_retrieval")
    found = {}
    for language, captions in data.captions.items():
        most = min(len(data.pictures), len(captions.texts))
        counted = [k for k in RECALL_AT if k <= most]
        scores = metric.evaluate(
            ClipModel(model),
            loader(data, language),
            as_batch,
            _DEVICE,
            amp=False,
            recall_k_list=counted,
        )
        found[language] = {f"{name}@{k}": 100 * scores[f"{name}@{k}"] for name in SCORES for k in counted}
    return found


def _collated(pairs: Sequence[tuple[str, list[str]]]) -> tuple[Batch, list[list[str]]]:
    return Batch(picture for picture, _ in pairs), [texts for _, texts in pairs]
