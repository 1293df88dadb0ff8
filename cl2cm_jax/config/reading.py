"""Configurations from config files, from command-line overrides and from a workdir's config.json."""

from __future__ import annotations

import runpy
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from cl2cm_jax.config.backbones import choose_text_backbone
from cl2cm_jax.config.checks import check_type, validate
from cl2cm_jax.config.config_files import config_file, shipped_names
from cl2cm_jax.config.declarations import wrong_type
from cl2cm_jax.config.fields import LANGUAGES, OLD_NAMES, current_names, defaults
from cl2cm_jax.config.flat import flatten, nearest
from cl2cm_jax.config.plugins import load_plugin
from cl2cm_jax.config.terms import PACKAGE, declared_fields
from cl2cm_jax.errors import UserError, one_line


def read(path: str, overrides: dict[str, str] | None = None) -> ConfigDict:
    """Runs the `get_config(argument="")` of a config file `path` or `path:argument`, sets fields and validates.

    `path` may also name a config of this package; `overrides` are field names and text, as on the command line.
    """
    name, _, argument = path.partition(":")
    file = config_file(name)
    if not file.is_file():
        near = nearest(file.stem, shipped_names())
        raise UserError(f"--config={path}: no such file{near}; name one, or one of {', '.join(shipped_names())}")
    try:
        get_config = runpy.run_path(str(file)).get("get_config")
        if get_config is None:
            raise UserError(f"--config={path}: the file has no get_config(); name one such as those in configs/")
        config: ConfigDict = get_config(argument) if argument else get_config()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"--config={path} cannot be run ({type(error).__name__}: {one_line(error)}); fix it") from error
    for old, new in OLD_NAMES.items():
        section, leaf = _locate(config, old)
        if leaf in section:
            section[new.rpartition(".")[2]] = section[leaf]
            delattr(section, leaf)
    config = override_all(config, overrides or {})
    for module in config.terms:  # here, and not in `validate`: the configuration of a bundle must import nothing
        load_plugin(PACKAGE, module, "term", field="config.terms")
    return config


def override_all(config: ConfigDict, overrides: dict[str, str]) -> ConfigDict:
    """Sets fields from text and validates; returns the same config."""
    for name in sorted(overrides, key=lambda name: name != "terms"):  # first, as they add fields to config.weights
        override(config, name, overrides[name])
    flat = flatten(config)
    for name, value in current_names({name: flat[name] for name in LANGUAGES if name in flat}).items():
        section, leaf = _locate(config, name)
        section[leaf] = value
    choose_text_backbone(config)
    return validate(config)


def override(config: ConfigDict, name: str, text: str) -> None:
    """Sets one field from text, by its type; raises UserError if the field is unknown or the text does not parse."""
    known = {name: field.default for name, field in declared_fields(config.get("terms", ())).items()}
    flat, name = known | flatten(config), OLD_NAMES.get(name, name)
    if name not in flat:
        if first := next((known for known in flat if known.startswith(f"{name}.")), None):
            raise UserError(f"config.{name} is a group of fields; set one of them, e.g. config.{first}")
        raise UserError(f"config.{name} is not a field{nearest(name, list(flat))}")
    section, leaf = _locate(config, name)
    section[leaf] = _parse(name, text, flat[name])


def from_flat(flat: Mapping[str, Any], *, own_modules: bool = True) -> ConfigDict:
    """A config from its flattened form, as in a workdir's config.json; missing fields get their default.

    Without `own_modules`, for a configuration of unknown origin, modules outside the package are refused, not imported.

    Raises:
      UserError: a field is unknown or wrong.
    """
    config, known = defaults(), declared_fields(flat.get("terms", ()))
    # runs of earlier versions had no prompt unless they name one
    for name, value in ({"text.prompt": ""} | current_names(flat)).items():
        if name not in known:
            raise UserError(f"config.{name} is not a field{nearest(name, list(known))}")
        check_type(name, value, known[name].default)  # first, as it may be nested to any depth
        if known[name].package and not own_modules and "." in str(value):
            raise UserError(f"config.{name}={value!r} is a module outside this package; use a built-in one here")
        section, leaf = _locate(config, name)
        with section.ignore_type():  # a whole number for a float
            section[leaf] = tuple(value) if isinstance(value, list) else value
    return validate(config)


def _locate(config: ConfigDict, name: str) -> tuple[ConfigDict, str]:
    """The group that a field is in, and its name there."""
    *groups, leaf = name.split(".")
    for group in groups:
        config = config[group]
    return config, leaf


def _parse(name: str, text: str, present: Any) -> object:
    try:
        if isinstance(present, bool):
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if isinstance(present, tuple | list):
            return tuple(item.strip(" '\"") for item in text.strip("()[] ").split(",") if item.strip(" '\""))
        return type(present)(text)
    except (ValueError, KeyError) as error:
        raise wrong_type(name, text, type(present)) from error
