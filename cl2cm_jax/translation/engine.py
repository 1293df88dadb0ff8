"""What an engine is given, and what it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Item(NamedTuple):
    """One caption to translate."""

    number: int  # among all captions in the source language of the file, in their order, from 0
    name: str  # the image of its translation, or the cap_id
    text: str
    split: str  # "" where the file does not say


class Engine(Protocol):
    """Translates captions. Provenance is `name`, `model` and `version`; a job goes on if the first two are equal."""

    name: str
    model: str
    version: str
    by_sentence: bool  # equal sentences have equal translations, so one of them is enough

    def translate(self, items: Sequence[Item]) -> list[str]:
        """The translations, in the order of `items`; "" where there is none.

        Raises:
          UserError: the engine failed.
        """
        ...
