"""Frozen backbones with their preprocessing: pictures and captions in, features out."""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from numpy.typing import DTypeLike

from cl2cm_jax.config import cut_layer, reads_frozen
from cl2cm_jax.data.corpus import CaptionFeatures, Ragged
from cl2cm_jax.data.media.images import scaled
from cl2cm_jax.errors import UserError
from cl2cm_jax.features.reuse import Row, copied
from cl2cm_jax.models.backbone import TextBackbone, VisionBackbone, with_rows
from cl2cm_jax.models.configured import text_prompt
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.tokenizers import TokenBatch, prepared
from cl2cm_jax.models.trained_layers import check_text_layers
from cl2cm_jax.parallel.sharding import Spread, spread
from cl2cm_jax.runtime.storage import InMemory

MARGIN = 2  # decoded to twice the needed size, a picture differs by a grey level or so once it is resized
TEXT_BATCH = 64  # captions per device; small batches of similar length stay in a CPU's caches
CAPTIONS = "captions"  # the job of filling arrays with their features
FEW_PIECES = 5  # of which single letters say nothing
MANY_LETTERS = 0.6  # share of single letters among the pieces of a text in a language that the encoder does not know
LENGTHS = (8, 16, 32, 64, 128, 256, 512)  # padded lengths, so that few shapes are compiled


class ImageEncoder:
    """A vision backbone over pictures, on all devices of this process; compiled once, called as often as needed.

    Attributes:
      frames: of the features of a picture.
      batch: pictures that the devices compute at a time.
      enough: pixels of a picture's shorter side that are enough, see `images.decode`.
    """

    def __init__(self, backbone: VisionBackbone, *, pool: str):
        self._backbone, self._prepare = backbone, backbone.preprocess
        tokens = pool == "tokens" or not backbone.pooled
        self.frames, self._dim = (backbone.frames, backbone.dim) if tokens else (1, backbone.pooled)
        self._spread, run = _devices(backbone, backbone.batch_size)
        self.batch = self._spread.rows
        self.enough = MARGIN * (self._prepare.shorter_side or self._prepare.image_size)
        self._params = self._spread.whole(backbone.params)

        def forward(params: Params, batch: jax.Array) -> jax.Array:
            output = backbone.apply(params, batch)
            return output.features if tokens or output.pooled is None else output.pooled[:, None]

        self._forward = run(forward)
        p = self._prepare
        self._sized = backbone.resize or functools.partial(
            scaled, size=p.image_size, shorter_side=p.shorter_side, filter=p.filter, even=p.even
        )

    def _compile(self) -> None:
        with contextlib.suppress(Exception):  # raised again where it is used
            self._compiled  # noqa: B018

    @functools.cached_property
    def _compiled(self) -> Callable[[Params, jax.Array], jax.Array]:
        """The function of the backbone's own parameters, see `_forward`."""
        p, size = self._prepare, self._prepare.image_size
        pixels = p(np.zeros((self._spread.rows, size, size, 3), np.uint8))
        return self._forward.lower(self._params, self._spread.split(pixels)).compile()

    def __call__(self, images: Iterable[np.ndarray], *, params: Params | None = None) -> np.ndarray:
        """Maps uint8 pictures (H, W, 3) of any sizes to features (n, F, d) float32; `params` replace the backbone's."""
        rows = list(self.each(images, params=params))
        return np.stack(rows) if rows else np.zeros((0, self.frames, self._dim), np.float32)

    def each(self, images: Iterable[np.ndarray], *, params: Params | None = None) -> Iterator[np.ndarray]:
        """The features (F, d) of each picture, as above; pictures are read lazily."""
        given = self._params if params is None else self._spread.whole(params)
        is_compiled = params is None and self._backbone.traced
        compiling = threading.Thread(target=self._compile)
        if is_compiled:
            compiling.start()  # while the first pictures are read
        pictures = map(self._sized, images)
        computing: Sequence[jax.Array] | jax.Array = ()  # a batch, while the pictures of the next are read
        while waiting := list(itertools.islice(pictures, self._spread.rows)):
            filled = np.stack(waiting + waiting[-1:] * (self._spread.rows - len(waiting)))
            batch = self._spread.split(self._prepare(filled))
            if is_compiled:
                compiling.join()
            output = (self._compiled if is_compiled else self._forward)(given, batch)
            features = output[: len(waiting)]
            yield from np.asarray(computing)
            computing = features
        yield from np.asarray(computing)

    def clips(self, clips: Iterable[Iterable[np.ndarray]]) -> Iterator[np.ndarray]:
        """Maps clips of pictures, read lazily, to their features (F_i, d) float32."""
        lengths: deque[int] = deque()  # of the clips that are not yielded yet; all but the last are final

        def frames() -> Iterator[np.ndarray]:
            for clip in clips:
                lengths.append(0)
                for frame in clip:
                    lengths[-1] += 1
                    yield frame

        waiting: list[np.ndarray] = []
        for feature in self.each(frames()):  # batches across clips
            while len(lengths) > 1 and len(waiting) == lengths[0]:
                yield self._joined(waiting)
                waiting, _ = [], lengths.popleft()
            waiting.append(feature)
        for length in lengths:
            yield self._joined(waiting[:length])
            waiting = waiting[length:]

    def _joined(self, frames: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(frames) if frames else np.zeros((0, self._dim), np.float32)


class TextLosses(NamedTuple):
    """What a text encoder does not read of m texts.

    Attributes:
      is_cut: (m,) bool, longer than `max_tokens`.
      unknown: (m,) float, share of the word pieces that are unknown to the tokenizer; 0 where it has no such piece.
    """

    is_cut: np.ndarray
    unknown: np.ndarray


class TextEncoder:
    """A text backbone behind its tokenizer, on all devices of this process; called as often as needed.

    Attributes:
      room: word pieces of a text that are read, without special tokens and prompt.

    Args:
      backbone: with its weights.
      max_tokens: longer captions are truncated, special tokens included; the backbone's `fixed_tokens`, if states of
        its layers are asked for.
      first: the first trained layer, whose inputs are returned as states; -1: token ids as states; None: no states.
      frozen: whether the frozen backbone's words and sentences are used.
      lowercase: removes case and accents.
      prompt: before every caption; its pieces are words of it.
      known: captions of which a batch is copied, if it holds no others; of the same backbone and options.

    Raises:
      UserError: the backbone takes no captions of that length, or the prompt leaves no room for a text.
    """

    def __init__(
        self,
        backbone: TextBackbone,
        *,
        max_tokens: int,
        first: int | None = None,
        frozen: bool = True,
        lowercase: bool = False,
        prompt: str = "",
        known: Mapping[str, Row] | None = None,
    ):
        if backbone.max_tokens is not None and max_tokens > backbone.max_tokens:
            raise UserError(
                f"config.text.max_tokens={max_tokens} is more than the {backbone.max_tokens} that the backbone takes"
            )
        self._fixed = backbone.fixed_tokens if first is not None and first >= 0 else 0
        if self._fixed and max_tokens != self._fixed:
            raise UserError(
                f"config.text.max_tokens={max_tokens}: the backbone computes every text at {self._fixed} tokens, its "
                f"padding included; to train layers of it, use {self._fixed}"
            )
        self._dim, self._sentence = backbone.dim, backbone.sentence_size
        self._first, self._frozen = first, frozen
        self._prepared = functools.partial(prepared, prompt=prompt, lowercase=lowercase)
        self._known = known or {}
        self.max_tokens, self.marks = max_tokens, backbone.marks
        self._longer = functools.cache(functools.partial(backbone.tokenizer, max_tokens=max_tokens + 1))
        self._tokenize = backbone.tokenizer(max_tokens=max_tokens)
        self.room = max_tokens - sum(self.marks) - (len(self._tokenize.words(prompt)) if prompt else 0)
        if self.room < 1:
            raise UserError(
                f"config.text.max_tokens={max_tokens} leaves no room for a text after config.text.prompt={prompt!r}; "
                "use a larger number, or a shorter prompt"
            )
        self._spread, run = _devices(backbone, TEXT_BATCH)
        whole = self._spread.whole
        self._prefix, rest = None, (backbone.apply, backbone.params)  # from the states where it is cut, else the ids
        if first is not None and first >= 0:
            assert backbone.tunable is not None
            below, above = backbone.tunable.cut(backbone.params, first)
            self._prefix = functools.partial(jax.jit(backbone.tunable.prefix), whole(below))
            rest = (backbone.tunable.tail, above)
        self._rest, self._params = (run(rest[0]), whole(rest[1])) if frozen else (None, {})
        self._look_up = backbone.look_up
        assert self._look_up is None or first is None, "what is trained has its table of word pieces"

    def tokens(self, texts: Sequence[str]) -> TokenBatch:
        """The token ids of texts, as the backbone gets them."""
        return self._tokenize([self._prepared(text) for text in texts])

    def losses(self, texts: Sequence[str], tokens: TokenBatch) -> TextLosses:
        """What the encoder does not read of m texts, of which `tokens` are the ids."""
        is_cut, full = np.zeros(len(texts), bool), np.flatnonzero(tokens.mask.sum(1) >= self.max_tokens)
        if len(full):  # others are whole
            longer = self._longer()([self._prepared(texts[row]) for row in full.tolist()])
            is_cut[full] = longer.mask.sum(1) > self.max_tokens
        unknown: int | None = getattr(self._tokenize, "unknown", None)
        is_unknown = np.zeros_like(tokens.mask) if unknown is None else (tokens.ids == unknown) & tokens.mask
        pieces = np.maximum(tokens.mask.sum(1) - sum(self.marks), 1)
        return TextLosses(is_cut, is_unknown.sum(1) / pieces)

    def spelt(self, text: str) -> float:
        """The share of a text's word pieces that are single letters of an alphabet; 0 of a text of few pieces.

        It is large in languages that the tokenizer was not made for, even if it knows all their letters: of emoji names
        over 0.6 in 1 of 3,600 in USE's languages, and in 26 % of the Persian ones.
        """
        pieces = [one for piece in self._tokenize.words(self._prepared(text)) if (one := piece.strip("▁#Ġ"))]
        letters = sum(len(piece) == 1 and _is_of_alphabet(piece) for piece in pieces)
        return letters / len(pieces) if len(pieces) >= FEW_PIECES else 0.0

    def __call__(
        self, texts: Sequence[str], space: InMemory | None = None, *, tokens: TokenBatch | None = None
    ) -> CaptionFeatures:
        """Maps m texts to sentences (m, dt) float32, words float16, and states float16 (ids int32) if requested.

        Words include special tokens if there are states, so that both have one layout.

        Args:
          texts: m of them.
          space: storage of the arrays and of the progress; None keeps them in memory.
          tokens: their ids, if they are known.
        """
        space = InMemory() if space is None else space
        tokens = self.tokens(texts) if tokens is None else tokens
        lengths = tokens.mask.sum(1)
        out, order = self._arrays(space, lengths), np.argsort(lengths, kind="stable")
        rows_a_batch = self._spread.rows

        def written(start: int, stop: int) -> list[np.ndarray]:
            rows, ragged = order[start:stop], (out.words, out.states)
            return [out.sentences[rows], *(one.select(rows).values for one in ragged if one is not None)]

        for start in range(space.done(CAPTIONS, written), len(order), rows_a_batch):
            rows = order[start : start + rows_a_batch]
            if not copied(out, rows, texts, self._known):
                self._fill(out, rows, TokenBatch(*(x[rows] for x in tokens)))
            space.reached(CAPTIONS, min(start + rows_a_batch, len(order)))
        return out

    def _arrays(self, space: InMemory, lengths: np.ndarray) -> CaptionFeatures:
        """Arrays for captions of `lengths` (m,) tokens, special ones included."""
        marked, fixed = self._first is not None, self._fixed
        sentences = space.array("sentences", (len(lengths), self._sentence), np.float32, job=CAPTIONS)
        words, marks = lengths if marked else np.maximum(lengths - sum(self.marks), 0), self.marks if marked else (0, 0)
        if not self._frozen:
            words, fixed = np.zeros_like(lengths), 0
        cell = (self._dim, np.float16)
        kept = _ragged(space, "words", words, *cell, marks=marks, fixed=fixed)
        if not marked:
            return CaptionFeatures(sentences, kept, None)
        cell = (1, np.int32) if self._prefix is None else cell
        return CaptionFeatures(
            sentences, kept, _ragged(space, "states", lengths, *cell, marks=marks, fixed=self._fixed)
        )

    def _fill(self, out: CaptionFeatures, rows: np.ndarray, tokens: TokenBatch) -> None:
        """Runs the backbone over one batch, the captions `rows`."""
        lengths = tokens.mask.sum(1)
        length = next(size for size in LENGTHS if size >= lengths.max())
        ids, mask = (_fit(x, self._spread.rows, length) for x in tokens)
        params = self._params
        if self._look_up is not None:
            params = with_rows(params, self._spread.whole(self._look_up(ids.reshape(-1))))
            ids = np.arange(ids.size, dtype=ids.dtype).reshape(ids.shape)
        ids, mask = self._spread.split((ids, mask))
        begun = ids if self._prefix is None else self._prefix(ids, mask)
        if self._rest is not None:
            output = self._rest(params, begun, mask)
            out.sentences[rows] = np.asarray(output.sentence)[: len(rows)]
            first = 0 if out.states is not None else self.marks[0]  # without the first special token
            _put(out.words, rows, np.asarray(output.words)[:, first:])
        if out.states is not None:
            _put(out.states, rows, np.asarray(begun) if self._prefix is not None else np.asarray(ids)[..., None])


def _devices(backbone: TextBackbone | VisionBackbone, rows: int) -> tuple[Spread, Callable[..., Any]]:
    """How batches of `rows` a device are spread, and how a function of them is compiled; not at all outside of JAX."""
    if backbone.traced:
        return spread(rows), jax.jit
    return Spread(rows, whole=lambda tree: tree, split=lambda tree: tree), lambda function: function


def _is_of_alphabet(char: str) -> bool:
    name = unicodedata.name(char, "")
    return char.isalpha() and not name.startswith(("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "THAI", "LAO"))


def _ragged(
    space: InMemory,
    name: str,
    lengths: np.ndarray,
    dim: int,
    dtype: DTypeLike,
    *,
    marks: tuple[int, int],
    fixed: int = 0,
) -> Ragged:
    """An array for rows (L_i, d) with so many special tokens before and behind, all `fixed` tokens long if not 0."""
    stored = np.full_like(lengths, fixed) if fixed else lengths
    offsets = np.concatenate([[0], np.cumsum(stored)]).astype(np.int64)
    place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], stored)
    is_word = (place >= marks[0]) & (place < np.repeat(lengths - marks[1], stored))
    return Ragged(values=space.array(name, (len(is_word), dim), dtype, job=CAPTIONS), offsets=offsets, is_word=is_word)


def _put(ragged: Ragged, rows: np.ndarray, values: np.ndarray) -> None:
    """Writes values (>= k, L, d) as the captions `rows` (k,); of longer ones the end stays 0."""
    for row, value in zip(rows, values, strict=False):
        begin, end = ragged.offsets[row : row + 2]
        part = value[: end - begin]
        ragged.values[begin : begin + len(part)] = part


def _fit(x: np.ndarray, rows: int, length: int) -> np.ndarray:
    """Cuts or pads (n, L) with zeros to (rows, length)."""
    out = np.zeros((rows, length), x.dtype)
    cut = x[:, :length]
    out[: len(cut), : cut.shape[1]] = cut
    return out


def text_encoder(config: ConfigDict, backbone: TextBackbone, *, known: Mapping[str, Row] | None = None) -> TextEncoder:
    """The encoder of the inputs of the configured networks; `known` captions are copied.

    Raises:
      UserError: the backbone lacks the layers that the configuration names, or is limited to shorter captions.
    """
    check_text_layers(config, backbone)
    return TextEncoder(
        backbone,
        max_tokens=config.text.max_tokens,
        first=cut_layer(config),
        frozen=reads_frozen(config),
        lowercase=config.text.lowercase,
        prompt=text_prompt(config),
        known=known,
    )


def padded_frames(features: Sequence[np.ndarray], *, minimum: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Joins features (F_i, d) to (n, F, d) float32, 0 where a row has fewer frames, and their numbers (n,) int32.

    F is that of the longest, but at least `minimum`.
    """
    frames = np.array([len(feature) for feature in features], np.int32)
    joined = np.zeros((len(features), max(minimum, frames.max()), features[0].shape[1]), np.float32)
    for row, feature in zip(joined, features, strict=True):
        row[: len(feature)] = feature
    return joined, frames
