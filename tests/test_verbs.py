"""The list of verbs: `cl2cm`, `python -m cl2cm_jax`, and the old names of the commands."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil

import pytest
from support.command import call

from cl2cm_jax import __main__, __version__, old_commands
from cl2cm_jax.__main__ import VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_shows_its_options(verb: str) -> None:
    module = importlib.import_module(f"cl2cm_jax.{VERBS[verb].module}")
    assert callable(module.main) and callable(module.parse)
    shown = call(__main__.main, verb, "--help")
    assert shown.code == 0 and f"usage: cl2cm {verb}" in shown.out.replace("python -m cl2cm_jax.main", "cl2cm train")


@pytest.mark.parametrize("arguments", [(), ("--help",), ("help",)])
def test_all_verbs_are_listed(arguments: tuple[str, ...]) -> None:
    shown = call(__main__.main, *arguments)
    assert shown.code == 0
    assert all(f"  {name} " in shown.out and verb.help in shown.out for name, verb in VERBS.items())


def test_the_version_and_an_unknown_verb() -> None:
    assert call(__main__.main, "--version").out == f"cl2cm_jax {__version__}\n"
    failed = call(__main__.main, "serch")
    assert failed.code == 2 and "did you mean 'search'?" in failed.err


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(old_commands.__path__)])
def test_an_old_command_is_a_verb(name: str) -> None:
    command = importlib.import_module(f"cl2cm_jax.{name}")
    assert command.main.__module__ in {f"cl2cm_jax.{verb.module}" for verb in VERBS.values()}
