"""One split in memory: frozen features of its images and captions, ready for the pipeline and for evaluation.

Runs that train on other captions share its arrays: a caption that is left out keeps its row and loses its language
(`caption_language` is -1), so `Corpus.captions_of` does not find it. Training: `data.train_origin` (paper:
translations) and `data.train_share`. Validation and test: where a target language has human captions, these alone;
machine translations only where there are no others (paper). The source language stays as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from cl2cm_jax.errors import UserError

LEFT_OUT = -1  # the language of a caption that is not used
ANY, HUMAN = "any", "human"  # origins of captions
_REMEDY = {
    "machine": "translate the source captions (cl2cm translate), or use 'any'",
    "human": "add human captions, or use 'any'",
}


def translation_tag(language: str, source: str) -> str:
    """The language name of captions in `language` that are machine-translated to `source`, e.g. "de2en"."""
    return f"{language}2{source}"


@dataclass(frozen=True)
class Ragged:
    """The words of m captions, end to end."""

    values: np.ndarray  # (t, d) float16, or int32
    offsets: np.ndarray  # (m + 1,) int64; caption i is values[offsets[i]:offsets[i + 1]]
    is_word: np.ndarray  # (t,) bool; False at special tokens

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def select(self, rows: np.ndarray) -> Ragged:
        """The captions `rows` (k,), in that order."""
        starts, lengths = self.offsets[:-1][rows], np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        where = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        return Ragged(values=self.values[where], offsets=offsets, is_word=self.is_word[where])

    @staticmethod
    def joined(parts: Sequence[Ragged]) -> Ragged:
        """The captions of several, one after the other."""
        starts = np.cumsum([0, *(part.offsets[-1] for part in parts)])
        offsets = [part.offsets[:-1] + start for part, start in zip(parts, starts, strict=False)]
        return Ragged(
            values=np.concatenate([part.values for part in parts]),
            offsets=np.concatenate([*offsets, starts[-1:]]).astype(np.int64),
            is_word=np.concatenate([part.is_word for part in parts]),
        )

    def padded(self, rows: np.ndarray, *, max_words: int) -> tuple[np.ndarray, np.ndarray]:
        """The captions `rows` (k,) padded with 0 to (k, L, d) float32, and their mask (k, L) of real words.

        L is `max_words`; longer captions are truncated.
        """
        inside, where = self._places(rows, max_words)
        if not len(self.values):
            return np.zeros((len(rows), max_words, self.values.shape[1]), np.float32), inside
        words = np.where(inside[..., None], self.values[where], 0).astype(np.float32)
        return words, inside & self.is_word[where]

    def states(self, rows: np.ndarray, *, max_tokens: int) -> dict[str, np.ndarray]:
        """The captions `rows` (k,) as inputs of a backbone's trained layers.

        Returns:
          "states" (k, L, d) in their own dtype, "tokens" (k, L) bool of real tokens, "mask" (k, L) bool of words, which
          special tokens are not. L is `max_tokens`.
        """
        inside, where = self._places(rows, max_tokens)
        states = np.where(inside[..., None], self.values[where], np.zeros((), self.values.dtype))
        return {"states": states, "tokens": inside, "mask": inside & self.is_word[where]}

    def _places(self, rows: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """A mask (k, L) of real tokens, and the position of each in `values`, 0 elsewhere."""
        starts, lengths = self.offsets[:-1][rows], np.diff(self.offsets)[rows]
        columns = np.arange(length)
        inside = columns < lengths[:, None]
        return inside, np.where(inside, starts[:, None] + columns, 0)


class CaptionFeatures(NamedTuple):
    """Outputs of the text backbone for m captions.

    Attributes:
      sentences: (m, dt) float32.
      words: of the m captions, if a network uses them.
      states: inputs of trained layers of the backbone, if there are any.
    """

    sentences: np.ndarray
    words: Ragged
    states: Ragged | None = None


@dataclass(frozen=True)
class Corpus:
    """The images and captions of one split; n images, m captions, arrays in memory or memory-mapped."""

    name: str  # of the split
    languages: tuple[str, ...]
    image_ids: np.ndarray  # (n,) str
    groups: np.ndarray  # (n,) str, "headline" or a group that is evaluated separately
    paths: list[str]  # n, "" where there is no file
    vision: np.ndarray  # (n, F, dv) float32; (n, 1, 32) uint8, digests of the pictures that are read in training
    vision_mask: np.ndarray  # (n, F) bool
    caption_text: list[str]  # m
    caption_image: np.ndarray  # (m,) int32, row of the image
    caption_language: np.ndarray  # (m,) int32, index into `languages`, or LEFT_OUT
    caption_origin: np.ndarray  # (m,) str, "human", "machine" or "human_noised"
    sentences: np.ndarray  # (m, dt) float32
    words: Ragged  # of the m captions
    states: Ragged | None = None  # of the m captions: inputs of trained layers of the text backbone
    content: str = ""  # hash of the pictures or features as the data set holds them, "" where it is not known

    @property
    def text(self) -> CaptionFeatures:
        """Sentences, words and states of the m captions."""
        return CaptionFeatures(self.sentences, self.words, self.states)

    def language_index(self, language: str) -> int:
        """The index of a language in `languages`; raises UserError."""
        if language not in self.languages:
            known = ", ".join(self.languages)
            raise UserError(f"language {language!r} is not in the data, which has {known}; name one of these")
        return self.languages.index(language)

    def captions_of(self, language: str) -> np.ndarray:
        """Rows (k,) of the captions in a language, in order; raises UserError."""
        return np.flatnonzero(self.caption_language == self.language_index(language))

    def first_captions_of(self, language: str) -> np.ndarray:
        """Row (n,) of each image's first caption in a language, -1 where it has none."""
        first = np.full(len(self.image_ids), -1)
        rows = self.captions_of(language)[::-1]  # backwards: an image's first caption is written last
        first[self.caption_image[rows]] = rows
        return first

    def translations_of(self, language: str, source: str) -> np.ndarray:
        """Row (k,) of the translation to `source` of each caption in a language, in the order of `captions_of`.

        The j-th caption in "de2en" of an image is the translation of its j-th caption in "de".

        Raises:
          UserError: no such captions, or not as many as the image has in the language.
        """
        tag = translation_tag(language, source)
        rows, translations = self.captions_of(language), self.captions_of(tag)
        captions, translated = (
            np.bincount(self.caption_image[some], minlength=len(self.image_ids)) for some in (rows, translations)
        )
        if (captions != translated).any():
            image = np.flatnonzero(captions != translated)[0]
            raise UserError(
                f"the {self.name} split, image {str(self.image_ids[image])!r}: {captions[image]} captions in "
                f"{language!r} but {translated[image]} in {tag!r}; config.evaluation.query='fused' needs the "
                "translation of each, in the same order",
                id="translated-queries",
            )
        aligned = np.empty_like(rows)
        order, other = (np.argsort(self.caption_image[some], kind="stable") for some in (rows, translations))
        aligned[order] = translations[other]
        return aligned

    def with_captions_of(self, other: Corpus) -> Corpus:
        """The same images, with the captions of another corpus added, in further languages.

        Raises:
          ValueError: it has other images, or a language is in both.
        """
        if not np.array_equal(self.image_ids, other.image_ids) or set(self.languages) & set(other.languages):
            raise ValueError("added captions must be of the same images and in further languages")
        language = np.where(other.caption_language == LEFT_OUT, LEFT_OUT, other.caption_language + len(self.languages))
        return replace(
            self,
            languages=(*self.languages, *other.languages),
            caption_text=[*self.caption_text, *other.caption_text],
            caption_image=np.concatenate([self.caption_image, other.caption_image]),
            caption_language=np.concatenate([self.caption_language, language]).astype(np.int32),
            caption_origin=np.concatenate([self.caption_origin, other.caption_origin]),
            sentences=np.concatenate([self.sentences, other.sentences]),
            words=Ragged.joined([self.words, other.words]),
            states=None if self.states is None or other.states is None else Ragged.joined([self.states, other.states]),
        )

    def select_captions(self, mask: np.ndarray) -> Corpus:
        """All images, with the captions where `mask` (m,) is True."""
        captions = np.flatnonzero(mask)
        return replace(
            self,
            caption_text=[self.caption_text[row] for row in captions],
            caption_image=self.caption_image[captions],
            caption_language=self.caption_language[captions],
            caption_origin=self.caption_origin[captions],
            sentences=self.sentences[captions],
            words=self.words.select(captions),
            states=self.states and self.states.select(captions),
        )

    def select_images(self, mask: np.ndarray) -> Corpus:
        """The images where `mask` (n,) is True, with their captions."""
        images = np.flatnonzero(mask)
        new_row = np.cumsum(mask) - 1
        kept = self.select_captions(mask[self.caption_image])
        return replace(
            kept,
            image_ids=self.image_ids[images],
            groups=self.groups[images],
            paths=[self.paths[row] for row in images],
            vision=self.vision[images],
            vision_mask=self.vision_mask[images],
            caption_image=new_row[kept.caption_image].astype(np.int32),
        )


def padded_length(text: CaptionFeatures, rows: np.ndarray, *, max_length: int, multiple: int) -> int:
    """L for the captions `rows`: that of the longest, rounded up to a multiple (0: always `max_length`)."""
    if not multiple:
        return max_length
    longest = int(_lengths(text)[rows].max(initial=1))
    return min(max_length, -(-longest // multiple) * multiple)


def by_length(text: CaptionFeatures, rows: np.ndarray) -> np.ndarray:
    """Positions (k,) in `rows` in the order of their captions' lengths."""
    return np.argsort(_lengths(text)[rows], kind="stable")


def _lengths(text: CaptionFeatures) -> np.ndarray:
    return np.diff((text.words if text.states is None else text.states).offsets)


def text_inputs(text: CaptionFeatures, rows: np.ndarray, *, length: int, with_words: bool) -> dict[str, Any]:
    """The captions `rows` (k,) as inputs of the networks.

    Returns:
      "sentence" (k, dt) float32 and, with words, "words" (k, L, dt) float32 and "mask" (k, L) bool; with states also
      "states" (k, L, d), "tokens" (k, L) and "mask" (k, L), see `Ragged.states`.
    """
    inputs = {"sentence": np.asarray(text.sentences[rows], np.float32)}
    if with_words:
        inputs["words"], inputs["mask"] = text.words.padded(rows, max_words=length)
    if text.states is not None:
        inputs |= text.states.states(rows, max_tokens=length)
    return inputs


def trained_on(corpus: Corpus, *, origin: str, targets: Sequence[str], share: float) -> Corpus:
    """The training split with the chosen captions.

    Args:
      corpus: the training split.
      origin: "any", "machine" or "human": origin of the captions in the target languages that are kept.
      targets: the target languages.
      share: of the images whose captions are kept, in (0, 1].

    Raises:
      UserError: a target language has no caption of that origin, or none on the share of the images.
    """
    for target in targets if origin != ANY else ():
        rows = corpus.captions_of(target)
        others = rows[corpus.caption_origin[rows] != origin]
        if len(others) == len(rows):
            there = ", ".join(sorted(set(corpus.caption_origin[rows].tolist())))
            raise UserError(
                f"config.data.train_origin={origin!r}: the {corpus.name} split has no such caption in {target!r}, "
                f"but {there}; {_REMEDY[origin]}, or leave the language out of config.data.targets"
            )
        corpus = _without(corpus, others)
    if share == 1.0:
        return corpus
    corpus = _without(corpus, np.flatnonzero(~_chosen(corpus.image_ids, share)[corpus.caption_image]))
    for target in targets:
        if not len(corpus.captions_of(target)):
            raise UserError(
                f"config.data.train_share={share}: no picture of that share of the {corpus.name} split has a caption "
                f"in {target!r}; raise it"
            )
    return corpus


def evaluated_on(corpus: Corpus, *, targets: Sequence[str]) -> Corpus:
    """A validation or test split with the human captions of each target language, or with all if it has none."""
    for target in targets:
        rows = corpus.captions_of(target)
        others = rows[corpus.caption_origin[rows] != HUMAN]
        if len(others) < len(rows):
            corpus = _without(corpus, others)
    return corpus


def _without(corpus: Corpus, rows: np.ndarray) -> Corpus:
    """The corpus without the captions `rows` (k,)."""
    if not len(rows):
        return corpus
    language = corpus.caption_language.copy()
    language[rows] = LEFT_OUT
    return replace(corpus, caption_language=language)


def _chosen(image_ids: np.ndarray, share: float) -> np.ndarray:
    """A mask (n,) of the images in the share, at least one: the first by a hash of ids, so shares are nested."""
    order = sorted(range(len(image_ids)), key=lambda row: hashlib.sha256(str(image_ids[row]).encode()).digest())
    chosen = np.zeros(len(image_ids), bool)
    chosen[order[: max(1, round(share * len(order)))]] = True
    return chosen
