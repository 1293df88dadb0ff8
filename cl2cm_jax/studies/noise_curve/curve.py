"""Retrieval over the share of wrong translations: a table by language, and a picture drawn with Pillow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageColor, ImageDraw

from cl2cm_jax.evaluation.fonts import font_for
from cl2cm_jax.evaluation.picture import INK, LINE, SOFT
from cl2cm_jax.evaluation.table import RULE, Table
from cl2cm_jax.runtime.atomic import replacing
from cl2cm_jax.studies.ablation.table import format_difference
from cl2cm_jax.studies.bootstrap import Difference, Level

COLOURS = ("#6e7781", "#0969da", "#1a7f37", "#bc6c00")
SCALE = 2  # drawn twice as large and scaled down, which smooths the lines
WIDTH, HEIGHT = 860, 520
LEFT, RIGHT, TOP, BOTTOM = 74, 40, 112, 66


class Curve(NamedTuple):
    """One row of the ablation over the noise: SumR with its interval at each share, by language or group of them.

    Attributes:
      name: of the row.
      levels: {"mean of 4 targets": (Level, ...), "es": ...}, one Level a share.
      differences: the same to the first curve; empty for that one.
    """

    name: str
    levels: Mapping[str, tuple[Level, ...]]
    differences: Mapping[str, tuple[Difference, ...]]


def curve_table(curves: Sequence[Curve], *, noises: Sequence[float], seeds: int, protocol: str) -> Table:
    """SumR of each language at each share of wrong translations, and the differences to the first curve."""
    body: list[tuple[str, ...]] = []
    for language in curves[0].levels:
        body += [RULE] if body else []
        for curve in curves:
            cells = (f"{level.mean:.1f} [{level.low:.1f}, {level.high:.1f}]" for level in curve.levels[language])
            body.append((f"{language}: {curve.name}", *cells))
            if curve.differences:
                body.append((f"{language}: difference", *map(format_difference, curve.differences[language])))
    return Table(
        f"SumR over the share of wrong translations: {' and '.join(curve.name for curve in curves)}",
        ("", *(f"{noise:.0%}" for noise in noises)),
        tuple(body),
        (
            f"mean of {seeds} seed{'s' * (seeds != 1)} [95 %: bootstrap over seeds and images]; difference: to "
            f"{curves[0].name!r}, paired by seed and test image; * marks an interval that excludes 0",
            protocol,
        ),
    )


def draw_curves(
    path: Path, curves: Sequence[Curve], *, noises: Sequence[float], language: str, title: str, note: str
) -> None:
    """Draws SumR over the noise, a line with its 95 % band for each curve; writes a PNG.

    Args:
      path: the PNG, written whole or not at all.
      curves: at most as many as there are colours.
      noises: shares in [0, 1], rising.
      language: which of the curves' levels.
      title: what the picture shows.
      note: one line below it.
    """
    levels = [level for curve in curves for level in curve.levels[language]]
    low, high = min(level.low for level in levels), max(level.high for level in levels)
    step = next(step for step in (5, 10, 20, 50, 100, 200) if (high - low) / step <= 7)
    bottom, top = int(low // step) * step, int(-(-high // step)) * step
    canvas = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), "white")
    plot = _Plot(ImageDraw.Draw(canvas, "RGBA"), (min(noises), max(max(noises), min(noises) + 0.01)), (bottom, top))
    plot.write(LEFT, 40, title, size=22, fill=INK)
    plot.write(LEFT, 64, note, size=13, fill=SOFT)
    for value in range(bottom, top + 1, step):
        plot.rule(value)
    for noise in noises:
        plot.write(plot.x(noise), HEIGHT - BOTTOM + 22, f"{noise:.0%}", size=14, fill=SOFT, anchor="ms")
    plot.write(LEFT, HEIGHT - 14, "share of the training translations that are wrong", size=14, fill=SOFT)
    x = LEFT
    for curve, colour in zip(curves, COLOURS, strict=False):
        plot.curve(noises, curve.levels[language], colour)
        x = plot.legend(x, curve.name, colour)
    with replacing(path) as temporary:
        canvas.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).save(temporary, format="PNG", optimize=True)


class _Plot:
    """Places and strokes of the picture; all arguments are in its own pixels, before scaling."""

    def __init__(self, draw: ImageDraw.ImageDraw, across: tuple[float, float], up: tuple[float, float]):
        self._draw, self._across, self._up = draw, across, up

    def x(self, noise: float) -> float:
        start, end = self._across
        return LEFT + (noise - start) / (end - start) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        bottom, top = self._up
        return HEIGHT - BOTTOM - (value - bottom) / (top - bottom) * (HEIGHT - TOP - BOTTOM)

    def rule(self, value: float) -> None:
        y = self.y(value)
        self._line([(LEFT, y), (WIDTH - RIGHT, y)], LINE, 1)
        self.write(LEFT - 10, y, f"{value:g}", size=14, fill=SOFT, anchor="rm")

    def curve(self, noises: Sequence[float], levels: Sequence[Level], colour: str) -> None:
        above = [(self.x(noise), self.y(level.high)) for noise, level in zip(noises, levels, strict=True)]
        below = [(self.x(noise), self.y(level.low)) for noise, level in zip(noises, levels, strict=True)]
        middle = [(self.x(noise), self.y(level.mean)) for noise, level in zip(noises, levels, strict=True)]
        band = [(x * SCALE, y * SCALE) for x, y in above + below[::-1]]
        self._draw.polygon(band, fill=(*ImageColor.getrgb(colour)[:3], 36))
        self._line(middle, colour, 3)
        for x, y in middle:
            box = ((x - 4) * SCALE, (y - 4) * SCALE, (x + 4) * SCALE, (y + 4) * SCALE)
            self._draw.ellipse(box, fill=colour, outline="white", width=SCALE)

    def legend(self, x: float, name: str, colour: str) -> float:
        """Writes a name beside its colour; returns where the next one may start."""
        self._line([(x, 88), (x + 24, 88)], colour, 4)
        self.write(x + 32, 93, name, size=14, fill=INK)
        return x + 32 + self._draw.textlength(name, font=font_for(name, size=14 * SCALE)) / SCALE + 32

    def write(self, x: float, y: float, text: str, *, size: int, fill: str, anchor: str = "ls") -> None:
        font = font_for(text, size=size * SCALE)
        self._draw.text((x * SCALE, y * SCALE), text, font=font, fill=fill, anchor=anchor)

    def _line(self, points: Sequence[tuple[float, float]], colour: str, width: int) -> None:
        self._draw.line([(x * SCALE, y * SCALE) for x, y in points], fill=colour, width=width * SCALE, joint="curve")
