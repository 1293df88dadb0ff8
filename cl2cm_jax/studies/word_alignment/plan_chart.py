"""transport_plans.png: how much mass each word of a sentence sends to each word of its translation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cl2cm_jax.evaluation.picture import LANGUAGE_NAMES
from cl2cm_jax.studies import charts

MAPS_PER_LINE = 4
CELL, SIZE = 0.18, 9.5  # inches; points of the letters
DEEP = "#094892"  # a cell that gets all mass of its row; one that gets none is white


class ShownPair(NamedTuple):
    """One sentence pair of the chart."""

    language: str  # of the target sentence
    source: Sequence[str]  # word pieces
    target: Sequence[str]
    plans: Mapping[str, np.ndarray]  # (M, N) by the caption of each map
    linked: np.ndarray  # (k, 2) places that are framed


def label(piece: str) -> str:
    """A word piece as it is shown: "▁dog" is "dog"; a piece that continues a word starts with a hyphen: "-s"."""
    if piece.startswith("▁"):
        return piece[1:] or "_"
    within = piece.removeprefix("##")
    return f"-{within}" if within[:1].isalnum() else within


def draw_plans(path: Path, pairs: Sequence[ShownPair], *, title: str, notes: Sequence[str]) -> None:
    """Draws the plans of each pair as heat maps side by side, with `notes` below, as a PNG."""
    maps = len(pairs[0].plans)
    pairs_per_line = min(len(pairs), max(1, MAPS_PER_LINE // maps))
    lines = [pairs[i : i + pairs_per_line] for i in range(0, len(pairs), pairs_per_line)]
    headings = [_heading(pair, caption) for pair in pairs for caption in pair.plans]
    columns = max(*(len(pair.target) for pair in pairs), *(charts.text_width(h, size=SIZE) / CELL for h in headings))
    rows = [max(len(pair.source) for pair in line) for line in lines]  # equal limits and ratios make equal cells
    figure = charts.figure(
        1.2 + pairs_per_line * maps * (CELL * columns + 0.5), 1.2 + 0.2 * len(notes) + sum(CELL * m + 1.2 for m in rows)
    )
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    figure.suptitle(title, x=0.01, ha="left", font=charts.font(title, size=20), color=charts.INK)
    below = "\n".join(notes)
    figure.supxlabel(below, x=0.01, ha="left", font=charts.font(below, size=11.5), color=charts.SOFT)
    grid = figure.subplots(len(lines), pairs_per_line * maps, squeeze=False, height_ratios=rows)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes_of_line, line, height in zip(grid, lines, rows, strict=True):
        shown = ((pair, caption) for pair in line for caption in pair.plans)
        for axes, (pair, caption) in zip(axes_of_line, shown, strict=False):
            _heat_map(axes, pair, caption)
            axes.set(xlim=(0, columns), ylim=(height, 0), aspect="equal", anchor="NW")
    charts.save(figure, path)


def _heading(pair: ShownPair, caption: str) -> str:
    """The caption of a map; the first one of a pair names the language."""
    is_first = caption == next(iter(pair.plans))
    return f"{LANGUAGE_NAMES.get(pair.language, pair.language)}, {caption}" if is_first else caption


def _heat_map(axes: Any, pair: ShownPair, caption: str) -> None:
    """Draws the share of each source piece's mass that goes to each target piece."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    plan = pair.plans[caption]
    share = plan / np.maximum(plan.sum(axis=1, keepdims=True), 1e-12)
    colours = LinearSegmentedColormap.from_list("mass", ["white", DEEP])
    axes.pcolormesh(share, cmap=colours, vmin=0, vmax=1, edgecolors=charts.GRID, linewidth=0.7)
    for row, column in pair.linked.tolist():
        axes.add_patch(Rectangle((column, row), 1, 1, fill=False, edgecolor=charts.FRAME, linewidth=1.5, clip_on=False))
    axes.set_axis_on()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelcolor=charts.INK)
    axes.xaxis.tick_top()
    above, left = [label(piece) for piece in pair.target], [label(piece) for piece in pair.source]
    axes.set_xticks(np.arange(len(above)) + 0.5, above, rotation=60, ha="left", rotation_mode="anchor")
    is_first = caption == next(iter(pair.plans))
    axes.set_yticks(np.arange(len(left)) + 0.5, left if is_first else [""] * len(left))
    for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        text.set_font(charts.font(text.get_text(), size=SIZE))
    heading = _heading(pair, caption)
    axes.set_title(heading, loc="left", font=charts.font(heading, size=SIZE), color=charts.SOFT)
