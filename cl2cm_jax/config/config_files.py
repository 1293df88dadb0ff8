"""Config files: the file that `--config=configs/multi30k.py:lang=de,task=2` names, and its argument.

The configs of this package are in `configs/` of a checkout, and in a copy of that folder in an installed wheel.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cl2cm_jax.config.flat import nearest
from cl2cm_jax.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped_folder() -> Path:
    """The folder with the configs of this package."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def config_file(name: str) -> Path:
    """The file that `--config` names: a path, or where there is no such file, one of the package's own configs.

    "configs/emoji.py", "emoji.py" and "emoji" all name the shipped one.
    """
    path = Path(name)
    if path.is_file() or path.parent not in (Path(), Path("configs")):
        return path
    shipped = shipped_folder() / path.with_suffix(".py").name
    return shipped if shipped.is_file() else path


def shipped_names() -> list[str]:
    """The names of the package's own configs, sorted."""
    return sorted(path.stem for path in shipped_folder().glob("*.py"))


def read_argument(argument: str, **allowed: Sequence[str]) -> dict[str, str]:
    """Reads `key=value,key=value`.

    read_argument("lang=fr", lang=("de", "fr"), task=("2", "1")) == {"lang": "fr", "task": "2"}

    Args:
      argument: the text after the colon, or "".
      **allowed: the values of each key, its default first. Without any, an argument is an error.

    Raises:
      UserError: a key or value is unknown, or a key is there twice.
    """
    chosen: dict[str, str] = {}
    for part in (part.strip() for part in argument.split(",") if argument):
        key, _, value = part.partition("=")
        if not allowed:
            raise UserError(f"config argument {argument!r}: this config takes none; leave out ':{argument}'")
        if key not in allowed:
            example = ",".join(f"{name}={values[0]}" for name, values in allowed.items())
            raise UserError(f"config argument {part!r} is unknown{nearest(key, list(allowed))}, as in ':{example}'")
        if key in chosen:
            raise UserError(f"config argument {argument!r} names {key!r} twice")
        if value not in allowed[key]:
            raise UserError(f"config argument {part!r}: {key} is one of {', '.join(allowed[key])}")
        chosen[key] = value
    return {key: values[0] for key, values in allowed.items()} | chosen
