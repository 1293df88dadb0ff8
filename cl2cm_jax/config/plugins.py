"""Plugins: data sets, loss terms, evaluators, backbones and translation engines, chosen by name.

A name without a dot is a module of the package for its kind: `emoji` is `cl2cm_jax.data.sets.emoji`. A name with a dot
is any importable module, such as `my_project.colours`. Modules that start with an underscore are not plugins.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from typing import Any

from cl2cm_jax.config.flat import nearest
from cl2cm_jax.errors import UserError


def plugin_names(package: str) -> tuple[str, ...]:
    """Names of the built-in plugins of a package, sorted; none of them is imported."""
    modules = pkgutil.iter_modules(importlib.import_module(package).__path__)
    return tuple(sorted(module.name for module in modules if not module.ispkg and module.name[0] != "_"))


def check_plugin(package: str, name: str, *, field: str, extra: tuple[str, ...] = ()) -> None:
    """Raises UserError if a name is no module; imports no plugin, so that optional dependencies may be missing.

    Args:
      package: of the built-in plugins, "cl2cm_jax.data.sets".
      name: the chosen one.
      field: named in the error, "config.data.name".
      extra: further names that are allowed, such as "precomputed".
    """
    known = (*plugin_names(package), *extra)
    if name in known:
        return
    try:
        found = "." in name and importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        found = False
    if not found:
        raise UserError(
            f"{field}={name!r} is unknown{nearest(name, known, listed=False)}; use one of {', '.join(known)}, "
            "or the dotted name of a module of yours"
        )


def load_plugin(package: str, name: str, attribute: str, *, field: str) -> Any:
    """An attribute of the named module; raises UserError if there is no such module, or it lacks the attribute."""
    check_plugin(package, name, field=field)
    module = importlib.import_module(name if "." in name else f"{package}.{name}")
    if not hasattr(module, attribute):
        raise UserError(f"{field}={name!r}: the module {module.__name__} does not define {attribute}")
    return getattr(module, attribute)
