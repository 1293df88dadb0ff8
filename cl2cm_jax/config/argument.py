"""The argument of a config file: `--config=configs/multi30k.py:lang=de,task=2`."""

from __future__ import annotations

from collections.abc import Sequence

from cl2cm_jax.config.flat import nearest
from cl2cm_jax.errors import UserError


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
