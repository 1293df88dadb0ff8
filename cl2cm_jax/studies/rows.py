"""Rows of a study's table: the options that choose what is trained, and the folder of each run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from cl2cm_jax.config import nearest
from cl2cm_jax.errors import UserError
from cl2cm_jax.runtime.command_line import PLACE, Arguments, positive


def add_run_options(
    parser: Arguments,
    *,
    rows: Sequence[str],
    workdir: str,
    seeds: int,
    config: str = "",
    aliases: Sequence[str] = (),
    chosen: Sequence[str] = (),
) -> None:
    """Adds --config (required without a default), --workdir and its aliases, --seeds and --rows (default: `chosen`)."""
    default = "(default: %(default)s)"
    about = f"a file in configs/; FILE:ARGUMENT passes it an argument{f' {default}' if config else ''}"
    parser.add_argument("--config", type=PLACE, required=not config, default=config, help=about)
    parser.add_argument("--workdir", *aliases, type=Path, default=Path(workdir), help=f"folder of all runs {default}")
    parser.add_argument("--seeds", type=positive, default=seeds, help=f"number of seeds {default}")
    parser.add_argument(
        "--rows",
        type=row_names(rows, flag="--rows"),
        help=f"names separated by ';' (default: {'; '.join(chosen) or 'all'})",
    )


def row_names(known: Sequence[str], *, flag: str) -> Callable[[str], list[str]]:
    """The `type` of an argument that lists names of rows separated by ";"; raises UserError for an unknown name."""

    def read(text: str) -> list[str]:
        names = separated(text, ";")
        for name in names:
            if name not in known:
                raise UserError(f"{flag}: {name!r} is not a row{nearest(name, list(known))}")
        return names

    return read


def separated(text: str, by: str = ",") -> list[str]:
    """The non-empty parts of a list on the command line."""
    return [part.strip() for part in text.split(by) if part.strip()]


def run_folder(folder: Path, name: str, seed: int) -> Path:
    """The folder of a row's run with a seed: "source only", 0 -> source-only/seed-0."""
    slug = "-".join("".join(c if c.isalnum() else " " for c in name).split()).lower()
    return folder / slug / f"seed-{seed}"
