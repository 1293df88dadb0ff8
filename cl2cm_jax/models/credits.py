"""Name, licence and publisher of pretrained weights, as their package or model folder states them."""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass
from pathlib import Path

from cl2cm_jax.models import hub_folder

UNKNOWN = "unknown"  # licence of a model folder that does not state it
_LICENCE_FILES = ("LICENSE", "NOTICE")


@dataclass(frozen=True, kw_only=True)
class Credits:
    """Where pretrained weights come from.

    Attributes:
      name: of the model.
      licence: its identifier on the hub ("apache-2.0"), or `UNKNOWN`.
      publisher: who published it, and where.
      base_model: its id on the hub; "" if it came from elsewhere.
      texts: files with its licence and notices.
    """

    name: str
    licence: str
    publisher: str
    base_model: str = ""
    texts: tuple[Path, ...] = ()


def package_credits(name: str, *, package: str, publisher: str, licence: str, base_model: str = "") -> Credits:
    """Credits of weights that an installed package brings; without licence files where it is not installed."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    texts = tuple(Path(str(file.locate())) for file in files if file.name.startswith(_LICENCE_FILES))
    publisher = f"{publisher} (`{package}`)"
    return Credits(name=name, licence=licence, publisher=publisher, base_model=base_model, texts=texts)


def folder_credits(path: str | Path, folder: Path) -> Credits:
    """Credits of a model folder; `path` is how the configuration names it, a folder or a hub id."""
    base_model = str(path).partition("@")[0] if hub_folder.is_hub_id(str(path)) else ""
    return Credits(
        name=base_model or f"the model folder {Path(path).name}",
        licence=_stated_licence(folder),
        publisher=base_model or "see its folder",
        base_model=base_model,
        texts=tuple(sorted(file for name in _LICENCE_FILES for file in folder.glob(f"{name}*"))),
    )


def _stated_licence(folder: Path) -> str:
    """The licence in the YAML front matter of a model folder's card."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    front = re.match(r"---\n(.*?)\n---", text, flags=re.DOTALL)
    named = re.search(r"^license:\s*([\w.-]+)\s*$", front[1], flags=re.MULTILINE) if front else None
    return named[1].lower() if named else UNKNOWN
