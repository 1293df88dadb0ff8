"""One split in memory: frozen features of its images and captions, ready for the pipeline and for evaluation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cl2cm_jax.errors import UserError


@dataclass(frozen=True)
class Ragged:
    """The words of m captions, end to end."""

    values: np.ndarray  # (t, d) float16
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

    def padded(self, rows: np.ndarray, *, max_words: int) -> tuple[np.ndarray, np.ndarray]:
        """The captions `rows` (k,) as (k, L, d) float32, 0 where nothing is, and their mask (k, L) of real words.

        L is `max_words`; what is longer is cut.
        """
        starts, lengths = self.offsets[:-1][rows], np.diff(self.offsets)[rows]
        columns = np.arange(max_words)
        inside = columns < lengths[:, None]
        where = np.where(inside, starts[:, None] + columns, 0)
        if not len(self.values):
            return np.zeros((len(rows), max_words, self.values.shape[1]), np.float32), inside
        words = np.where(inside[..., None], self.values[where], 0).astype(np.float32)
        return words, inside & self.is_word[where]


@dataclass(frozen=True)
class Corpus:
    """The images and captions of one split; n images, m captions, arrays in memory or memory-mapped."""

    name: str  # of the split
    languages: tuple[str, ...]
    image_ids: np.ndarray  # (n,) str
    groups: np.ndarray  # (n,) str, "headline" or a group that is evaluated apart
    paths: list[str]  # n, "" where there is no file
    vision: np.ndarray  # (n, F, dv) float32
    vision_mask: np.ndarray  # (n, F) bool
    caption_text: list[str]  # m
    caption_image: np.ndarray  # (m,) int32, row of the image
    caption_language: np.ndarray  # (m,) int32, index into `languages`
    caption_origin: np.ndarray  # (m,) str, "human", "machine" or "human_noised"
    sentences: np.ndarray  # (m, dt) float32
    words: Ragged  # of the m captions

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
        rows = self.captions_of(language)[::-1]  # backwards, so that an image's first caption is written last
        first[self.caption_image[rows]] = rows
        return first

    def select_images(self, mask: np.ndarray) -> Corpus:
        """The images where `mask` (n,) is True, with their captions; rows are counted anew."""
        images = np.flatnonzero(mask)
        new_row = np.cumsum(mask) - 1
        captions = np.flatnonzero(mask[self.caption_image])
        return replace(
            self,
            image_ids=self.image_ids[images],
            groups=self.groups[images],
            paths=[self.paths[row] for row in images],
            vision=self.vision[images],
            vision_mask=self.vision_mask[images],
            caption_text=[self.caption_text[row] for row in captions],
            caption_image=new_row[self.caption_image[captions]].astype(np.int32),
            caption_language=self.caption_language[captions],
            caption_origin=self.caption_origin[captions],
            sentences=self.sentences[captions],
            words=self.words.select(captions),
        )
