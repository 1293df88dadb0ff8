"""mteb's retrieval protocol on local data: a task per direction with one subset per language, and a model adapter.

task = retrieval_task(data, direction="text_to_vision")
mteb.evaluate(MtebEncoder(model), task, cache=None)

Nothing is downloaded, and no cache of results is used. Source: mteb 2 (Apache-2.0) for the interfaces that it calls.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from cl2cm_jax.evaluation.retrieval import DIRECTIONS, RECALL_AT
from cl2cm_jax.studies.external_eval.captioned import Captioned, TwoTowers
from cl2cm_jax.studies.external_eval.packages import package

DEPTH = 1000  # length at which mteb cuts a ranking
MODULES = ("mteb", "datasets")  # that this module imports
_OURS = {f"hit_rate_at_{k}": f"R@{k}" for k in RECALL_AT} | {f"map_at_{DEPTH}": "mAP"}
_NAMES = (*_OURS, "recall_at_10", "ndcg_at_10")
# Names of `evaluate`, and the metrics of ours that they correspond to ("": none).
SCORES = {f"{d}/{name}": f"{d}/{_OURS[name]}" if name in _OURS else "" for d in DIRECTIONS for name in _NAMES}
_SPLIT = "test"
_BATCH = 64


class MtebEncoder:
    """A model as mteb's `EncoderProtocol`; mteb's results contain `name` and the hash of the weights."""

    def __init__(self, model: TwoTowers, *, name: str = "cl2cm_jax/bundle"):
        self._model, self._name = model, name

    @cached_property
    def mteb_model_meta(self) -> Any:
        """The metadata of the model in mteb's results."""
        facts = {
            "name": self._name,
            "revision": self._model.weights,
            "modalities": ["text", "image"],
            "embed_dim": self._model.dim,
            "framework": ["JAX"],
        }
        return package("mteb.models.model_meta").ModelMeta.create_empty(overwrites=facts)

    def encode(self, inputs: Any, **options: Any) -> np.ndarray:
        """Vectors (N, D) float32 of a data loader's batches, which have "image" (Pillow images) or "text" (strings)."""
        del options  # prompts and the task's name, which the model does not use
        parts = [
            self._model.encode_image(batch["image"]) if "image" in batch else self._model.encode_text(batch["text"])
            for batch in inputs
        ]
        return np.concatenate(parts)

    def similarity(self, embeddings1: np.ndarray, embeddings2: np.ndarray) -> np.ndarray:
        """Cosines (M, N) of all pairs of unit vectors."""
        return np.asarray(embeddings1) @ np.asarray(embeddings2).T

    def similarity_pairwise(self, embeddings1: np.ndarray, embeddings2: np.ndarray) -> np.ndarray:
        """Cosines (N,) of corresponding rows."""
        return np.sum(np.asarray(embeddings1) * np.asarray(embeddings2), axis=1)


def retrieval_task(data: Captioned, *, direction: str) -> Any:
    """An `AbsTaskRetrieval` of mteb on local data in a direction, "text_to_vision" or "vision_to_text"."""
    kind = "t2i" if direction == "text_to_vision" else "i2t"
    subsets = {language: {_SPLIT: _subset(data, language, direction)} for language in data.captions}

    class LocalRetrieval(package("mteb.abstasks").AbsTaskRetrieval):
        metadata = package("mteb.abstasks.task_metadata").TaskMetadata(
            name=f"Local{kind.upper()}Retrieval",
            description="Local images and captions.",
            dataset={"path": "local", "revision": "local"},
            type="Any2AnyMultilingualRetrieval",
            category=kind,
            modalities=["text", "image"],
            eval_splits=[_SPLIT],
            eval_langs={language: ["und"] for language in data.captions},  # subsets are named as the data name them
            main_score="ndcg_at_10",
        )

        def load_data(self, num_proc: int | None = None, **options: Any) -> None:
            del num_proc, options
            self.dataset = subsets
            self.data_loaded = True

    return LocalRetrieval()


def evaluate(model: TwoTowers, data: Captioned) -> dict[str, dict[str, float]]:
    """By language, the `SCORES` of mteb in percent, named as "text_to_vision/hit_rate_at_1"."""
    found: dict[str, dict[str, float]] = {language: {} for language in data.captions}
    for direction in DIRECTIONS:
        results = package("mteb").evaluate(
            MtebEncoder(model),
            retrieval_task(data, direction=direction),
            cache=None,
            co2_tracker=False,
            encode_kwargs={"batch_size": _BATCH, "show_progress_bar": False},
            show_progress_bar=False,
        )
        subsets = {scores["hf_subset"]: scores for scores in results.task_results[0].scores[_SPLIT]}
        for language, own in found.items():
            own |= {f"{direction}/{name}": 100 * subsets[language][name] for name in _NAMES}
    return found


def other_protocol(metric: str, data: Captioned, language: str) -> str:
    """Why a metric of ours is not compared on these data; "" if it is."""
    to_vision, is_map = metric.startswith("text_to_vision/"), metric.endswith("/mAP")
    gallery = len(data.images if to_vision else data.captions[language].texts)
    return f"cut at rank {DEPTH}" if is_map and gallery > DEPTH else ""


def _subset(data: Captioned, language: str, direction: str) -> dict[str, Any]:
    """One language as mteb's corpus, queries and relevant documents."""
    datasets = package("datasets")
    captions = data.captions[language]
    image_ids = [f"image{row:08d}" for row in range(len(data.images))]
    caption_ids = [f"caption{row:08d}" for row in range(len(captions.texts))]
    string = datasets.Value("string")
    images = datasets.Dataset.from_dict(
        {"id": image_ids, "image": [str(path) for path in data.images]},
        features=datasets.Features({"id": string, "image": datasets.Image()}),
    )
    texts = datasets.Dataset.from_dict(
        {"id": caption_ids, "text": captions.texts}, features=datasets.Features({"id": string, "text": string})
    )
    to_vision = direction == "text_to_vision"
    relevant: dict[str, dict[str, int]] = {}
    for caption, row in zip(caption_ids, captions.image, strict=True):
        query, document = (caption, image_ids[row]) if to_vision else (image_ids[row], caption)
        relevant.setdefault(query, {})[document] = 1
    corpus, queries = (images, texts) if to_vision else (texts, images)
    return {"corpus": corpus, "queries": queries, "relevant_docs": relevant, "top_ranked": None}
