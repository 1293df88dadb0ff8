"""Embeds whole corpora with one network, for evaluation, calibration and search."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import jax
import numpy as np
from jax.sharding import Mesh

from cl2cm_jax.data.batches import evaluation_batches
from cl2cm_jax.data.corpus import CaptionFeatures, Corpus, by_length, padded_length, text_inputs
from cl2cm_jax.data.media.threads import ahead
from cl2cm_jax.data.stored_pictures import decode_unchanged
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.networks import Networks
from cl2cm_jax.models.towers import Text
from cl2cm_jax.parallel.mesh import batch_shards
from cl2cm_jax.parallel.sharding import put_batch, replicated


class Embedder:
    """Jitted encoders of one configuration; the last batch is padded, so that few shapes are compiled.

    Args:
      networks: student and teacher.
      batch_size: rows per call; rounded up to a multiple of the devices that share a batch.
      max_words: length of the longest caption.
      length_multiple: captions are padded to a multiple of it; 0: to `max_words`.
      mesh: its devices share a batch, and hold the parameters; None for one device.
      image_features: (student, images) -> features (n, F, d), where the student trains layers of the vision backbone.
    """

    def __init__(
        self,
        networks: Networks,
        *,
        batch_size: int,
        max_words: int,
        length_multiple: int,
        mesh: Mesh | None = None,
        image_features: Callable[[Params, Iterable[np.ndarray]], np.ndarray] | None = None,
    ):
        shards = 1 if mesh is None else batch_shards(mesh)
        self.batch_size, self._image_features = -(-batch_size // shards) * shards, image_features
        self._put = (lambda batch: batch) if mesh is None else functools.partial(put_batch, mesh=mesh)
        jit = functools.partial(jax.jit, out_shardings=None if mesh is None else replicated(mesh))
        self._with_words = networks.reads_words
        self._lengths = {"max_length": max_words, "multiple": length_multiple}
        self._vision = jit(networks.encode_vision)

        def text(student: Params, text: Text) -> jax.Array:
            return networks.encode_text(student, networks.text_features("student", student, text))

        def by_teacher(teacher: Params, text: Text) -> jax.Array:
            return networks.encode_teacher(teacher, networks.text_features("teacher", teacher, text)).sentence.swapaxes(
                0, 1
            )

        self._text, self._teacher = jit(text), jit(by_teacher)

    def vision(self, student: Params, features: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Student vectors (n, D) of images with features (n, F, d) and mask (n, F)."""
        batches = evaluation_batches(len(features), batch_size=self.batch_size)
        parts = [(self._vision(student, *self._put((features[b.rows], mask[b.rows]))), b.is_valid) for b in batches]
        return np.concatenate([np.asarray(vectors)[is_valid] for vectors, is_valid in parts])

    def images(self, student: Params, corpus: Corpus) -> np.ndarray:
        """Student vectors (n, D) of a corpus's images, from their features or, with `image_features`, from their files.

        Raises:
          UserError: a file cannot be read.
        """
        if self._image_features is None:
            return self.vision(student, corpus.vision, corpus.vision_mask)
        vectors = []
        for start in range(0, len(corpus.paths), self.batch_size):
            rows = range(start, min(start + self.batch_size, len(corpus.paths)))
            pictures = ahead(functools.partial(decode_unchanged, corpus), rows)
            features = self._image_features(student, pictures)
            vectors.append(self.vision(student, features, np.ones(features.shape[:2], bool)))
        return np.concatenate(vectors)

    def text(self, student: Params, text: CaptionFeatures, rows: np.ndarray) -> np.ndarray:
        """Student vectors (m, D) of the captions `rows` (m,)."""
        return self._captions(lambda batch: self._text(student, batch), text, rows)

    def teacher(self, teacher: Params, text: CaptionFeatures, rows: np.ndarray) -> np.ndarray:
        """Teacher vectors (m, F, D) of the captions `rows` (m,), by each of its F heads."""
        return self._captions(lambda batch: self._teacher(teacher, batch), text, rows)

    def _captions(self, embed: Callable[[Text], jax.Array], text: CaptionFeatures, rows: np.ndarray) -> np.ndarray:
        """Embeds captions, batched by length where it matters."""
        order = by_length(text, rows) if self._with_words or text.states is not None else np.arange(len(rows))
        vectors: np.ndarray | None = None
        for batch in evaluation_batches(len(rows), batch_size=self.batch_size):
            place = order[batch.rows]
            length = padded_length(text, rows[place], **self._lengths)
            inputs = text_inputs(text, rows[place], length=length, with_words=self._with_words)
            embedded = np.asarray(embed(self._put(Text(**inputs))))
            vectors = np.empty((len(rows), *embedded.shape[1:]), embedded.dtype) if vectors is None else vectors
            count = int(batch.is_valid.sum())
            vectors[place[:count]] = embedded[:count]
        assert vectors is not None, "no captions to embed"
        return vectors
