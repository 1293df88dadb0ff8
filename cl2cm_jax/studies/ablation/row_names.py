"""Rows of a table of runs: their names on a command line, and the folders of their runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cl2cm_jax.config import nearest
from cl2cm_jax.errors import UserError


def named_rows(text: str, known: Sequence[str], *, flag: str) -> list[str]:
    """The names in the text of a flag, separated by ";".

    Raises:
      UserError: one is not known.
    """
    named = [name.strip() for name in text.split(";") if name.strip()]
    for name in named:
        if name not in known:
            raise UserError(f"--{flag}: {name!r} is not a row{nearest(name, list(known))}")
    return named


def run_folder(folder: Path, name: str, seed: int) -> Path:
    """Where the run of a row and seed is kept."""
    slug = "-".join("".join(c if c.isalnum() else " " for c in name).split()).lower()
    return folder / slug / f"seed-{seed}"
