"""What of the captions of a data set the text encoder does not read, counted by kind and language."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from cl2cm_jax.features.encoders import TextLosses
from cl2cm_jax.text.languages import counted, is_translation

CAPTION_COUNTS = "captions"  # their name in done.json


class CaptionCounts(NamedTuple):
    """Captions of a split by language: those that are read, and those of which something is lost.

    Attributes:
      read: encoded.
      cut: longer than the encoder reads.
      unknown: with pieces that are unknown to the tokenizer.
      left_out: in a language that is not configured.
    """

    read: dict[str, int]
    cut: dict[str, int]
    unknown: dict[str, int]
    left_out: dict[str, int]


def count_captions(read: Sequence[str], losses: TextLosses, *, left_out: Iterable[str]) -> CaptionCounts:
    """Counts the captions of a split: the languages of those that are read, with their losses, and of the others."""
    others = (language for language in left_out if not is_translation(language))  # these are for fused queries
    kinds = (read, itertools.compress(read, losses.is_cut), itertools.compress(read, losses.unknown > 0), others)
    return CaptionCounts(*(dict(Counter(kind)) for kind in kinds))


def lost_captions(folder: Path, *, max_tokens: int, backbone: str) -> list[str]:
    """One line for each kind of loss in a feature cache; [] if there is none, or the cache is of an earlier version."""
    try:
        splits = json.loads((folder / "done.json").read_bytes())[CAPTION_COUNTS].values()
        counts = zip(*(CaptionCounts(**split) for split in splits), strict=True)
        read, cut, unknown, left_out = (sum(map(Counter, kind), Counter()) for kind in counts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []

    def of_all(lost: Counter[str]) -> str:
        return ", ".join(f"{language} {number:,} of {read[language]:,}" for language, number in lost.most_common())

    cut_at = f"config.text.max_tokens={max_tokens}"
    lines = {
        f"captions left out, because config.data names no such language: {counted(left_out)}": left_out,
        f"captions cut after {cut_at} word pieces, whose end is not read: {of_all(cut)}": cut,
        f"captions with word pieces that config.text.backbone={backbone!r} does not know: {of_all(unknown)}": unknown,
    }
    return [line for line, lost in lines.items() if lost]
