"""Names, modules and weights of the loss terms: the built-in ones, and those that `config.terms` adds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from cl2cm_jax.config.declarations import Field, weight
from cl2cm_jax.config.fields import FIELDS

PACKAGE = "cl2cm_jax.steps.terms"
BUILT_IN = ("source", "target", "sentence", "word", "transfer", "start")


def _name(module: str) -> str:
    return module.rpartition(".")[2]


def term_modules(config: ConfigDict) -> dict[str, str]:
    """Module of each term by the term's name, which is the last part of the module's."""
    return {_name(module): module for module in (*BUILT_IN, *config.terms)}


def weight_texts(config: ConfigDict) -> dict[str, str]:
    """Weight of each term by name; 1.0 for an added term that `config.weights` does not have."""
    return dict.fromkeys(term_modules(config), "1.0") | dict(config.weights.items())


def declared_fields(terms: Any) -> dict[str, Field]:
    """All declared fields, and a weight for each added term; `terms` is the unchecked value of `config.terms`."""
    names = [_name(module) for module in terms if isinstance(module, str)] if isinstance(terms, tuple | list) else []
    return {f"weights.{name}": weight("1.0") for name in names} | FIELDS


def term_contradictions(config: ConfigDict) -> Iterator[str]:
    """Added terms that share their name with another term."""
    names = [*BUILT_IN, *map(_name, config.terms)]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield f"config.terms={tuple(config.terms)}: two loss terms are named {name!r}; rename the module of one"
