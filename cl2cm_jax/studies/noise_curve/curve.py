"""Retrieval over the share of wrong translations: a table by language, and a chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cl2cm_jax.evaluation.table import RULE, Table
from cl2cm_jax.studies import charts
from cl2cm_jax.studies.bootstrap import Estimate, format_difference

COLOURS = ("#6e7781", "#0969da", "#1a7f37", "#bc6c00")


class Curve(NamedTuple):
    """One row of the ablation over the noise."""

    name: str
    levels: Mapping[str, tuple[Estimate, ...]]  # SumR at each share, {"mean of 4 targets": ..., "es": ...}
    differences: Mapping[str, tuple[Estimate, ...]]  # the same, to the first curve; empty for the first curve

    def as_dict(self) -> dict[str, Any]:
        """The curve for noise_curve.json."""

        def plain(groups: Mapping[str, tuple[Estimate, ...]]) -> dict[str, list[dict[str, float]]]:
            return {group: [value._asdict() for value in values] for group, values in groups.items()}

        return {"name": self.name, "levels": plain(self.levels), "differences": plain(self.differences)}


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
    path: Path, curves: Sequence[Curve], *, noises: Sequence[float], group: str, title: str, note: str
) -> None:
    """Draws SumR of a group over the noise as a PNG, with `note` below `title`: a line and a 95 % band per curve."""
    figure, left = charts.figure(8.6, 5.2), 0.085
    axes = figure.add_axes((left, 0.13, 0.88, 0.62))
    for curve, colour in zip(curves, COLOURS, strict=False):
        mean, low, high = zip(*curve.levels[group], strict=True)
        axes.fill_between(noises, low, high, color=colour, alpha=0.14, linewidth=0)
        axes.plot(noises, mean, color=colour, linewidth=2.2, marker="o", markeredgecolor="white", label=curve.name)
    axes.set_xticks(noises, [f"{noise:.0%}" for noise in noises])
    axes.set_xlabel("share of the training translations that are wrong", loc="left", color=charts.SOFT)
    axes.grid(axis="y", color=charts.GRID)
    axes.margins(x=0.01)
    axes.tick_params(length=0, labelcolor=charts.SOFT)
    axes.spines[:].set_visible(False)
    columns = len(curves) if sum(len(curve.name) for curve in curves) < 90 else 2
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.01), ncols=columns, frameon=False, borderaxespad=0)
    figure.text(left, 0.925, title, font=charts.font(title, size=15), color=charts.INK)
    figure.text(left, 0.88, note, font=charts.font(note, size=9.5), color=charts.SOFT)
    charts.save(figure, path)
