"""Backbones behind what prepares their inputs: pictures and captions in, features out.

Source: ours.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from cl2cm_jax.config import cut_layer, reads_frozen
from cl2cm_jax.data.corpus import CaptionFeatures, Ragged
from cl2cm_jax.data.images import scaled
from cl2cm_jax.data.tokenise import tokenizer, without_case_and_accents
from cl2cm_jax.errors import UserError
from cl2cm_jax.models.backbones import TextBackbone, VisionBackbone
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.trained_layers import check_text_layers

TEXT_BATCH = 64  # small batches of captions of about one length stay in a CPU's caches
LENGTHS = (8, 16, 32, 64, 128, 256, 512)  # padded lengths, so that few shapes are compiled


class ImageEncoder:
    """A vision backbone over pictures; prepared and compiled once, then called as often as needed."""

    def __init__(self, backbone: VisionBackbone, *, pool: str):
        self._backbone, self._prepare = backbone, backbone.preprocess
        self._dim = backbone.dim if pool == "tokens" or not backbone.pooled else backbone.pooled

        def forward(params: dict, batch: jax.Array) -> jax.Array:
            output = backbone.apply(params, batch)
            return output.features if pool == "tokens" or output.pooled is None else output.pooled[:, None]

        self._forward = jax.jit(forward)

    def __call__(self, images: Iterable[np.ndarray], *, params: Params | None = None) -> np.ndarray:
        """Maps uint8 pictures (H, W, 3) of any sizes to features (n, F, d) float32; `params` replace the backbone's."""
        rows: list[np.ndarray] = []
        waiting: list[np.ndarray] = []
        p = self._prepare
        for image in images:
            waiting.append(scaled(image, p.image_size, shorter_side=p.shorter_side, filter=p.filter))
            if len(waiting) == self._backbone.batch_size:
                rows.append(self._run(waiting, params))
                waiting = []
        if waiting:
            rows.append(self._run(waiting, params))
        return np.concatenate(rows) if rows else np.zeros((0, 1, self._dim), np.float32)

    def clips(self, clips: Iterable[Iterable[np.ndarray]]) -> list[np.ndarray]:
        """Maps n clips of pictures as above, read one after the other, to their features (F_i, d) float32."""
        lengths: list[int] = []

        def frames() -> Iterator[np.ndarray]:
            for clip in clips:
                lengths.append(0)
                for frame in clip:
                    lengths[-1] += 1
                    yield frame

        features = self(frames())  # batches across clips
        return [part.reshape(-1, features.shape[2]) for part in np.split(features, np.cumsum(lengths)[:-1])]

    def _run(self, images: list[np.ndarray], params: Params | None) -> np.ndarray:
        """One batch, filled up with its last picture."""
        batch = np.stack(images + images[-1:] * (self._backbone.batch_size - len(images)))
        params = self._backbone.params if params is None else params
        return np.asarray(self._forward(params, self._prepare(batch)))[: len(images)]


class TextEncoder:
    """A text backbone behind its tokenizer; prepared once, then called as often as needed.

    Args:
      backbone: with its weights.
      max_tokens: longer captions are cut.
      first: the layer where the networks' own ones begin, whose states are wanted too; -1: token ids; None: none.
      frozen: whether anyone reads the frozen backbone's own words and sentences.
      lowercase: take captions `without_case_and_accents`.

    Raises:
      UserError: the backbone takes no captions of that length.
    """

    def __init__(
        self,
        backbone: TextBackbone,
        *,
        max_tokens: int,
        first: int | None = None,
        frozen: bool = True,
        lowercase: bool = False,
    ):
        if backbone.max_tokens is not None and max_tokens > backbone.max_tokens:
            raise UserError(
                f"config.text.max_tokens={max_tokens} is more than the {backbone.max_tokens} that the backbone takes"
            )
        self._dim, self._first, self._lowercase = backbone.dim, first, lowercase
        self._tokenize = tokenizer(
            backbone.tokenizer, max_tokens=max_tokens, path=backbone.tokenizer_path, vocabulary=backbone.vocabulary
        )
        self._prefix, rest = None, functools.partial(jax.jit(backbone.apply), backbone.params)
        if first is not None and first >= 0:
            assert backbone.tunable is not None
            below, above = backbone.tunable.cut(backbone.params, first)
            self._prefix = functools.partial(jax.jit(backbone.tunable.prefix), below)
            rest = functools.partial(jax.jit(backbone.tunable.tail), above)
        self._rest = rest if frozen else None  # from the states where the model is cut, else from the ids

    def __call__(self, texts: Sequence[str]) -> CaptionFeatures:
        """Maps m texts to sentences (m, d) float32, words float16, and states float16 (ids int32) if asked for.

        Words come without special tokens if there are no states, else with them, so that both have one layout.
        """
        tokens = self._tokenize([without_case_and_accents(text) for text in texts] if self._lowercase else texts)
        dim = self._dim
        lengths = tokens.mask.sum(1)
        sentences = np.zeros((len(texts), dim), np.float32)
        words: list[np.ndarray] = [np.zeros((0, dim), np.float16)] * len(texts)
        states: list[np.ndarray] = list(words)
        order = np.argsort(lengths, kind="stable")
        for start in range(0, len(order), TEXT_BATCH):
            rows = order[start : start + TEXT_BATCH]
            length = next(size for size in LENGTHS if size >= lengths[rows].max())
            ids, mask = (_fit(x[rows], TEXT_BATCH, length) for x in tokens)
            begun = ids if self._prefix is None else self._prefix(ids, mask)
            if self._rest is not None:
                output = self._rest(begun, mask)
                sentences[rows] = np.asarray(output.sentence)[: len(rows)]
                keep = np.asarray(output.mask) if self._first is None else mask
                for row, state, kept in zip(rows, np.asarray(output.words), keep, strict=False):
                    words[row] = state[kept].astype(np.float16)
            if self._first is not None:
                own = ids[..., None] if self._prefix is None else np.asarray(begun).astype(np.float16)
                for row, state, kept in zip(rows, own, mask, strict=False):
                    states[row] = state[kept]
        marked = self._first is not None
        return CaptionFeatures(
            sentences, _ragged(words, dim, marked=marked), _ragged(states, dim, marked=True) if marked else None
        )


def _ragged(rows: list[np.ndarray], dim: int, *, marked: bool) -> Ragged:
    """Joins rows (L_i, d); `marked` ones begin and end with a special token."""
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    values = np.concatenate(rows) if rows else np.zeros((0, dim), np.float16)
    is_word = np.ones(len(values), bool)
    if marked and len(values):
        filled = np.diff(offsets) > 0
        is_word[offsets[:-1][filled]] = is_word[offsets[1:][filled] - 1] = False
    return Ragged(values=values, offsets=offsets, is_word=is_word)


def _fit(x: np.ndarray, rows: int, length: int) -> np.ndarray:
    """Cuts or pads (n, L) with zeros to (rows, length)."""
    out = np.zeros((rows, length), x.dtype)
    cut = x[:, :length]
    out[: len(cut), : cut.shape[1]] = cut
    return out


def text_encoder(config: ConfigDict, backbone: TextBackbone) -> TextEncoder:
    """The encoder that yields what the configured networks read.

    Raises:
      UserError: the backbone has not the layers that the configuration names, or takes no captions of that length.
    """
    check_text_layers(config, backbone)
    return TextEncoder(
        backbone,
        max_tokens=config.text.max_tokens,
        first=cut_layer(config),
        frozen=reads_frozen(config),
        lowercase=config.text.lowercase,
    )


def padded_frames(features: Sequence[np.ndarray], *, least: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Joins features (F_i, d) to (n, F, d) float32, 0 where a row has fewer frames, and their numbers (n,) int32.

    F is that of the longest, but at least `least`.
    """
    frames = np.array([len(feature) for feature in features], np.int32)
    joined = np.zeros((len(features), max(least, frames.max()), features[0].shape[1]), np.float32)
    for row, feature in zip(joined, features, strict=True):
        row[: len(feature)] = feature
    return joined, frames
