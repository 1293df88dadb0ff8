"""Charts by matplotlib, an optional package: its import, the style of the charts, and fonts of many scripts."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from cl2cm_jax.errors import not_installed
from cl2cm_jax.evaluation.fonts import font_for
from cl2cm_jax.runtime.atomic import replacing

INK, SOFT, GRID, FRAME = "#1f2328", "#6e7781", "#d8dee4", "#bc6c00"
DPI = 100


def require_matplotlib() -> None:
    """Refuses to go on without matplotlib, for a study that trains for hours before it draws.

    Raises:
      UserError: matplotlib is not installed.
    """
    try:
        importlib.import_module("matplotlib")
    except ModuleNotFoundError as error:
        run = "pip install matplotlib, or in a checkout -e '.[studies]'"
        raise not_installed(error.name, run=run) from error


def figure(width: float, height: float) -> Any:
    """A matplotlib figure of that size in inches, with a white background."""
    require_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, facecolor="white")


def font(text: str, *, size: float) -> Any:
    """Font properties of that size in points, for all scripts of the text where an installed font has them."""
    from matplotlib.font_manager import FontProperties

    path = getattr(font_for(text, size=12), "path", None)
    return FontProperties(fname=path if isinstance(path, str) else None, size=size)


def text_width(text: str, *, size: float) -> float:
    """Width in inches of text of that size in points."""
    from matplotlib.textpath import TextPath

    return TextPath((0, 0), text, prop=font(text, size=size)).get_extents().width / 72 if text.strip() else 0.0


def save(chart: Any, path: Path) -> None:
    """Writes a figure as PNG; an interrupted write leaves no file."""
    with replacing(path) as temporary:
        chart.savefig(temporary, format="png")
