"""The interface of a translation engine, and how one is chosen by name.

An engine is a module of `cl2cm_jax.translation.engines`, or any importable module by its dotted name. It defines

    OPTIONS    its command-line options, with their arguments for argparse: {"--pair": {"help": "..."}}
    create     a function: (options of the command line, all captions) -> `Engine`
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from cl2cm_jax.config.plugins import load_plugin, plugin_names

ENGINES = "cl2cm_jax.translation.engines"


class Item(NamedTuple):
    """One caption to translate."""

    number: int  # among all captions in the source language of the file, in their order, from 0
    name: str  # the image of its translation, or the cap_id
    text: str
    split: str  # "" if the file has none


class Engine(Protocol):
    """Translates captions. `name`, `model` and `version` go to the provenance; a job resumes if the first two match."""

    name: str
    model: str
    version: str
    by_sentence: bool  # equal sentences have equal translations, so each is translated once

    def translate(self, items: Sequence[Item]) -> list[str]:
        """The translations, in the order of `items`; "" for a caption without one.

        Raises:
          UserError: the engine failed.
        """
        ...


def engine_options(chosen: str) -> dict[str, dict[str, dict[str, Any]]]:
    """OPTIONS of the built-in engines and of the chosen one ("" is none), by engine.

    Raises:
      UserError: there is no such engine.
    """
    names = dict.fromkeys([*plugin_names(ENGINES), *filter(None, [chosen])])
    return {name: load_plugin(ENGINES, name, "OPTIONS", field="--engine") for name in names}


def create_engine(options: argparse.Namespace, items: Sequence[Item]) -> Engine:
    """The engine of the command line.

    Raises:
      UserError: it is not installed, or an option is wrong.
    """
    return load_plugin(ENGINES, options.engine, "create", field="--engine")(options, items)
