"""The parser that every command of the package uses."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from cl2cm_jax.errors import UserError

PLACE = "place"  # a `type` for `add_argument`: a path as text, or a hub id, an address or a name


class Arguments(argparse.ArgumentParser):
    """An `argparse` parser with one-line errors and without abbreviated options; "~" in a path is the home folder."""

    def __init__(self, **options: Any):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)
        self.register("type", Path, lambda text: Path(_place(text)))
        self.register("type", PLACE, _place)

    def error(self, message: str) -> NoReturn:
        """Raises the error as UserError, without the usage."""
        raise UserError(f"{message}; see {self.prog} --help")


def _place(text: str) -> str:
    """A path with "~", which a shell leaves in --out=~/x, as the home folder; an empty one would be the present one."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; name a place (is it from a variable that is not set?)")
    return os.path.expanduser(text)


def add_model_option(parser: argparse.ArgumentParser, *, help: str = "", old_name: str = "") -> None:
    """Adds the option --model, which every command that reads a trained model has.

    Args:
      parser: of the command.
      help: in place of the usual text.
      old_name: another name that is still accepted and not shown, "--workdir".
    """
    help = help or "a trained model: the workdir of a finished run, a bundle, or a hub id (org/name)"
    names = ["--model", old_name] if old_name else ["--model"]
    action = parser.add_argument(*names, required=True, metavar="MODEL", help=help, dest="model", type=PLACE)
    action.option_strings = ["--model"]  # what help and errors show


def positive(text: str) -> int:
    """A `type` for `add_argument`: a whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def resume_command(verb: str, arguments: Sequence[str]) -> str:
    """The command that resumes a stopped run: the same one."""
    return shlex.join(["cl2cm", verb, *arguments])


def split_flags(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """Separates `--config.a.b=v` (or `--config.a.b v`) from the other command-line arguments."""
    rest: list[str] = []
    overrides: dict[str, str] = {}
    pending = iter(arguments)
    for argument in pending:
        if not argument.startswith("--config."):
            rest.append(argument)
            continue
        name, equals, text = argument.removeprefix("--config.").partition("=")
        if not equals:
            text = next(pending, "")
            if not text or text.startswith("--"):
                raise UserError(f"--config.{name} needs a value, e.g. --config.{name}=...")
        overrides[name] = text
    return rest, overrides
