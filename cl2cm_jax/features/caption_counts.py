"""What of the captions of a data set the text encoder does not read, counted by kind and language."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from cl2cm_jax.features.encoders import MANY_LETTERS, TextEncoder, TextLosses
from cl2cm_jax.text.languages import counted, is_translation

CAPTION_COUNTS = "captions"  # their name in done.json
EXAMINED = 100  # captions of each language and split that are searched for such as are read letter by letter


class CaptionCounts(NamedTuple):
    """Captions of a split by language: those that are read, and those of which something is lost.

    Attributes:
      read: encoded.
      cut: longer than the encoder reads.
      unknown: with pieces that are unknown to the tokenizer.
      left_out: in a language that is not configured.
      spelt: read letter by letter, of the first `EXAMINED`.
    """

    read: dict[str, int]
    cut: dict[str, int]
    unknown: dict[str, int]
    left_out: dict[str, int]
    spelt: Mapping[str, int] = MappingProxyType({})


def count_captions(
    read: Sequence[str], losses: TextLosses, *, left_out: Iterable[str], spelt: Iterable[str] = ()
) -> CaptionCounts:
    """Counts the captions of a split: the languages of those that are read, with their losses, and of the others."""
    others = (language for language in left_out if not is_translation(language))  # these are for fused queries
    kinds = (read, itertools.compress(read, losses.is_cut), itertools.compress(read, losses.unknown > 0), others, spelt)
    return CaptionCounts(*(dict(Counter(kind)) for kind in kinds))


def spelt_captions(encoder: TextEncoder, read: Sequence[str], texts: Sequence[str]) -> Iterator[str]:
    """The language of each caption that is read letter by letter, of the first `EXAMINED` of each language."""
    seen = Counter[str]()
    for language, text in zip(read, texts, strict=True):
        seen[language] += 1
        if seen[language] <= EXAMINED and encoder.spelt(text) >= MANY_LETTERS:
            yield language


def lost_captions(folder: Path, *, max_tokens: int, backbone: str) -> list[str]:
    """One line for each kind of loss in a feature cache; [] if there is none, or the cache is of an earlier version."""
    try:
        splits = json.loads((folder / "done.json").read_bytes())[CAPTION_COUNTS].values()
        found = [CaptionCounts(**split) for split in splits]
        read, cut, unknown, left_out, spelt = (sum(map(Counter, kind), Counter()) for kind in zip(*found, strict=True))
        examined = Counter[str]()
        for split in found:
            examined.update({language: min(count, EXAMINED) for language, count in split.read.items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []

    def of_all(lost: Counter[str], total: Mapping[str, int] = read) -> str:
        return ", ".join(f"{language} {number:,} of {total[language]:,}" for language, number in lost.most_common())

    spelt = Counter({language: number for language, number in spelt.items() if 2 * number >= examined[language]})
    named = f"config.text.backbone={backbone!r}"
    cut_at = f"config.text.max_tokens={max_tokens}"
    lines = {
        f"captions left out, because config.data names no such language: {counted(left_out)}": left_out,
        f"captions cut after {cut_at} word pieces, whose end is not read: {of_all(cut)}": cut,
        f"captions with word pieces that {named} does not know: {of_all(unknown)}": unknown,
        f"captions that {named} reads letter by letter, and so probably in languages that it does not know: "
        f"{of_all(spelt, examined)} examined": spelt,
    }
    return [line for line, lost in lines.items() if lost]
