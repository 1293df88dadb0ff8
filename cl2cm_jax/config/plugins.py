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

ANY = "transformers"  # the backbone that runs models which no other backbone reads


def plugin_names(package: str) -> tuple[str, ...]:
    """Names of the built-in plugins of a package, sorted; none of them is imported."""
    modules = pkgutil.iter_modules(importlib.import_module(package).__path__)
    return tuple(sorted(module.name for module in modules if not module.ispkg and module.name[0] != "_"))


def check_plugin(package: str, name: str, *, field: str, extra: tuple[str, ...] = ()) -> None:
    """Refuses a malformed name, and one without a dot that is not a module of the package; imports no plugin.

    A dotted name is looked up when the plugin is loaded, so that a model can be searched where the data set or the loss
    term that it was trained with is not installed.

    Args:
      package: of the built-in plugins, "cl2cm_jax.data.sets".
      name: the chosen one.
      field: named in the error, "config.data.name".
      extra: further names that are allowed, such as "precomputed".

    Raises:
      UserError: there is no such plugin.
    """
    known = (*plugin_names(package), *extra)
    if name in known or ("." in name and all(part.isidentifier() for part in name.split("."))):
        return
    hint = nearest(name, list(known))
    if "did you mean" not in hint:
        hint += ", or the dotted name of a module of yours"
        hint += f"; {ANY!r} runs a folder of any other model, frozen" if ANY in known else ""
    raise UserError(f"{field}={name!r} is unknown{hint}")


def load_plugin(package: str, name: str, attribute: str, *, field: str) -> Any:
    """The attribute of the named module that makes it a plugin of its kind.

    Raises:
      UserError: there is no such module, or it lacks the attribute.
    """
    check_plugin(package, name, field=field)
    module_name = name if "." in name else f"{package}.{name}"
    try:
        found = importlib.util.find_spec(module_name) is not None
    except ModuleNotFoundError:  # the package that the dotted name begins with
        found = False
    if not found:
        raise UserError(f"{field}={name!r} is unknown: there is no such module; put its folder on PYTHONPATH")
    module = importlib.import_module(module_name)
    if not hasattr(module, attribute):
        raise UserError(f"{field}={name!r}: the module {module.__name__} does not define {attribute}")
    return getattr(module, attribute)
