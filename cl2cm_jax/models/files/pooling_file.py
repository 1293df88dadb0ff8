"""1_Pooling/config.json of a sentence-transformers folder: how a sentence vector is made of the tokens' states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cl2cm_jax.errors import UserError
from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.layers.pooling import Pool

_NAME = "1_Pooling/config.json"
# flags of versions before 6 -> modes of version 6, of which these are supported
_POOLS: dict[str, Pool] = {"cls_token": "cls", "mean_tokens": "mean", "lasttoken": "lasttoken"}


def read_pool(folder: Path, *, default: Pool) -> Pool:
    """The pooling of a model folder; `default` where it names none.

    Raises:
      UserError: it pools in another way, or has a dense layer after the pooling.
    """
    if (folder / "2_Dense").exists():
        raise UserError(f"model folder {folder} has a dense layer after the pooling (2_Dense), which is not supported")
    if not (folder / _NAME).is_file():
        return default
    pooling = hub_folder.read_json(folder, _NAME)
    chosen = pooling.get("pooling_mode")  # since sentence-transformers 6; older versions write a flag for each mode
    if chosen is None:
        flags = (name.removeprefix("pooling_mode_") for name, on in pooling.items() if on)
        chosen = sorted(_POOLS.get(name, name) for name in flags if f"pooling_mode_{name}" in pooling)
    modes = chosen if isinstance(chosen, list) else [chosen]
    for pool in _POOLS.values():
        if modes == [pool]:
            return pool
    named = " and ".join(map(str, modes)) or "none"
    raise UserError(
        f"model folder {folder}: {_NAME} pools by {named}, which is not supported; mean, cls and lasttoken are"
    )


def write_pool(folder: Path, pool: Pool, *, dim: int) -> None:
    """Writes the pooling of states of size `dim` into a model folder, as all versions read it."""
    content: dict[str, Any] = {"word_embedding_dimension": dim}
    content |= {f"pooling_mode_{name}": pool == mode for name, mode in _POOLS.items()}
    hub_folder.write_json(folder / _NAME, content)
