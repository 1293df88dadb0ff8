"""The parser that every command of the package uses."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from cl2cm_jax.errors import UserError


class Arguments(argparse.ArgumentParser):
    """An `argparse` parser whose complaints are one line and whose options are never abbreviated."""

    def __init__(self, **options: Any):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raises what argparse would print with its usage."""
        raise UserError(f"{message}; see {self.prog} --help")
