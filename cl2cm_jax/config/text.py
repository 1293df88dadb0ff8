"""Configurations from files, from the command line's text and from a workdir's config.json."""

from __future__ import annotations

import os
import runpy
from typing import Any

from ml_collections import ConfigDict

from cl2cm_jax.config.checks import validate
from cl2cm_jax.config.fields import defaults
from cl2cm_jax.config.flat import flatten, nearest
from cl2cm_jax.config.plugins import load_plugin
from cl2cm_jax.config.terms import PACKAGE, all_fields
from cl2cm_jax.errors import UserError


def read(path: str, overrides: dict[str, str] | None = None) -> ConfigDict:
    """Runs a config file's `get_config()`, applies text overrides and validates.

    (`ml_collections.config_flags` parses the same syntax but answers a mistyped field with a traceback.)

    Args:
      path: a Python file with `get_config(argument="")`; `path:argument` passes the argument.
      overrides: field name to text, as typed on the command line.
    """
    file, _, argument = path.partition(":")
    if not os.path.isfile(file):
        raise UserError(f"--config={path}: no such file; see configs/ for those that exist")
    try:
        get_config = runpy.run_path(file).get("get_config")
        if get_config is None:
            raise UserError(f"--config={path}: the file has no get_config(); name one such as those in configs/")
        config: ConfigDict = get_config(argument) if argument else get_config()
    except UserError:
        raise
    except Exception as error:
        line = str(error).splitlines()[0] if str(error) else ""
        raise UserError(f"--config={path} cannot be run ({type(error).__name__}: {line}); mend it") from error
    config = override_all(config, overrides or {})
    for module in config.terms:  # here, and not in `validate`: a bundle's configuration must import nothing
        load_plugin(PACKAGE, module, "term", field="config.terms")
    return config


def override_all(config: ConfigDict, overrides: dict[str, str]) -> ConfigDict:
    """Sets fields from text and validates; returns the same config."""
    for name in sorted(overrides, key=lambda name: name != "terms"):  # first, as they add fields to config.weights
        override(config, name, overrides[name])
    return validate(config)


def override(config: ConfigDict, name: str, text: str) -> None:
    """Sets one field from text, parsed by the type of the field's present value.

    Raises:
      UserError: the field is unknown ("did you mean") or the text does not parse.
    """
    flat = flatten(config)
    flat = all_fields(flat, flat.get("terms", ()))
    if name not in flat:
        if any(known.startswith(f"{name}.") for known in flat):
            raise UserError(f"config.{name} is a group of fields; set one of them, e.g. config.{_first(flat, name)}")
        raise UserError(f"config.{name} is not a field{nearest(name, list(flat))}")
    section, leaf = _place(config, name)
    section[leaf] = _parse(name, text, flat[name])


def _place(config: ConfigDict, name: str) -> tuple[ConfigDict, str]:
    """The group that a field is in, and its name there."""
    *groups, leaf = name.split(".")
    section = config
    for group in groups:
        section = section[group]
    return section, leaf


def _first(flat: dict[str, object], group: str) -> str:
    return next(name for name in flat if name.startswith(f"{group}."))


def _parse(name: str, text: str, present: Any) -> object:
    try:
        if isinstance(present, bool):
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if isinstance(present, tuple | list):
            return tuple(item.strip(" '\"") for item in text.strip("()[] ").split(",") if item.strip(" '\""))
        return type(present)(text)
    except (ValueError, KeyError) as error:
        wanted = {"int": "a whole number", "float": "a number", "bool": "True or False"}[type(present).__name__]
        raise UserError(f"config.{name}={text!r} must be {wanted}") from error


def from_flat(flat: dict[str, object]) -> ConfigDict:
    """A config from its flattened form, as a workdir's config.json holds it; fields it lacks keep their default.

    Raises:
      UserError: a field is unknown or wrong.
    """
    config = defaults()
    known = all_fields(flatten(config), flat.get("terms", ()))
    for name, value in flat.items():
        if name not in known:
            raise UserError(f"config.{name} is not a field{nearest(name, list(known))}")
        section, leaf = _place(config, name)
        with section.ignore_type():  # `validate` says what is wrong
            section[leaf] = tuple(value) if isinstance(value, list) else value
    return validate(config)
