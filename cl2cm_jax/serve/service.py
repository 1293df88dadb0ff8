"""The search service without HTTP: one model and one index, for many threads."""

from __future__ import annotations

import contextlib
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import lru_cache

import numpy as np

from cl2cm_jax.errors import UserError
from cl2cm_jax.search.entry import Filters, Found
from cl2cm_jax.search.query import encode_queries, nothing_selected, query_notice
from cl2cm_jax.search.stores.memory import MemoryIndex
from cl2cm_jax.search.stores.milvus import Store
from cl2cm_jax.serve.workers import Workers
from cl2cm_jax.trained.model import TrainedModel

MAX_UPLOAD_PIXELS = 50_000_000
_CACHED = 1024  # vectors of queries
AT_ONCE = 16  # queries per call of the encoder


class Service:
    """Answers queries from many threads.

    Args:
      index: made by `model`.
      model: encodes the queries; called by one thread at a time.
      detect: returns the language of a query.
      workers: decode the pictures that are searched with.

    Attributes:
      caption_languages: languages of the index's captions at the start of the service.
    """

    def __init__(
        self,
        index: Store | MemoryIndex,
        model: TrainedModel,
        detect: Callable[[str], str],
        workers: Workers | None = None,
    ):
        self.index, self.model, self.detect = index, model, detect
        self.caption_languages = index.languages()
        self._encoding, self._workers = threading.Lock(), workers or Workers()
        self._waiting: deque[tuple[str, Future[np.ndarray]]] = deque()
        self._text = lru_cache(_CACHED)(self._encode_text)
        self._unread = lru_cache(_CACHED)(lambda query: query_notice(self.model.encoder, query))

    def warm(self) -> None:
        """Compiles the model, so that the first query and the first picture are as fast as later ones."""
        self._text("a")
        with self._encoding, contextlib.suppress(UserError):  # a model of precomputed features reads no pictures
            self.model.encoder.images([[np.zeros((32, 32, 3), np.uint8)]])

    def by_text(self, query: str, *, top: int, filters: Filters) -> list[Found]:
        """The best entries for a text."""
        return self.index.search(self._text(query)[None], top=top, filters=filters)[0]

    def notice(self, query: str, filters: Filters, found: Sequence[Found] = ()) -> str:
        """What of a query and its filters cannot be answered, in one line; "" if nothing, or if pictures were found."""
        if notice := self._unread(query):
            return notice
        return "" if found else nothing_selected(self.index, filters, languages=self.caption_languages)

    def by_picture(self, content: bytes, *, top: int, filters: Filters, until: float = math.inf) -> list[Found]:
        """The best entries for the bytes of a picture, which is not worked on after `until` (of `time.monotonic`).

        Raises:
          ImageError: it is not a picture, damaged, or has more than `MAX_UPLOAD_PIXELS`.
          BusyError: too many are asked for at once.
          UserError: the model cannot read pictures.
        """
        enough = self.model.encoder.enough
        pixels = self._workers.pixels(content, max_pixels=MAX_UPLOAD_PIXELS, enough=enough, until=until)
        with self._encoding:
            vector = self.model.encoder.images([[pixels]])[0]
        if not np.isfinite(vector).all():
            raise UserError("the model's vector of this picture is not finite")
        return self.index.search(vector[None], top=top, filters=filters)[0]

    def similar(self, id: str, *, top: int, filters: Filters) -> list[Found] | None:
        """The entries most similar to the one of an id, without itself; None if there is no such id."""
        vector = self.index.vectors([id]).get(id)
        if vector is None:
            return None
        found = self.index.search(vector[None], top=top + 1, filters=filters)[0]
        return [one for one in found if one.entry.id != id][:top]

    def _encode_text(self, query: str) -> np.ndarray:
        """(D,) float32. The thread that gets the encoder encodes all waiting queries as one batch."""
        future: Future[np.ndarray] = Future()
        self._waiting.append((query, future))
        with self._encoding:
            while not future.done():
                self._encode_batch([self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))])
        return future.result()

    def _encode_batch(self, batch: list[tuple[str, Future[np.ndarray]]]) -> None:
        try:
            vectors = encode_queries(self.model.encoder, [query for query, _ in batch])
        except Exception as error:  # noqa: BLE001  # raised in each waiting thread
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), vector in zip(batch, vectors, strict=True):
            future.set_result(vector)
