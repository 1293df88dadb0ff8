"""The data sets: one module for each, found by its name in `config.data.name`.

A set's module defines `dataset(data)`, which makes a `CaptionSet` of `config.data`; one of your own is a dotted name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from cl2cm_jax.config.plugins import load_plugin

if TYPE_CHECKING:
    from cl2cm_jax.data.stored_sets import StoredSet


def stored_set(data: ConfigDict) -> StoredSet:
    """The set that `config.data` names; `stored_sets.prepare` builds it.

    Raises:
      UserError: there is no such set, or an input of it is not named or not there.
    """
    dataset = load_plugin(__name__, data.name, "dataset", field="config.data.name")
    from cl2cm_jax.data.stored_sets import StoredSet  # slow to import

    return StoredSet(dataset(data), data_dir=data.dir)
