"""The configs that come with the package: `configs/` of a checkout, or their copy in an installed wheel."""

from __future__ import annotations

from pathlib import Path

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
