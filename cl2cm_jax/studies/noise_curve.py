"""Noise curve: retrieval over the share of wrong translations, of the baseline, the full method and English alone.

cl2cm noise-curve --config=configs/stamps.py --workdir=runs/stamps [--noise=0,0.1,...] [--rows=...]

The runs are those of `cl2cm ablate` in the same workdir: finished ones are not trained again. Writes noise_curve.md,
noise_curve.json and noise_curve.png. Rerun an interrupted command to resume.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cl2cm_jax.errors import UserError
from cl2cm_jax.evaluation.report import to_json
from cl2cm_jax.evaluation.table import RULE, Table
from cl2cm_jax.runtime.atomic import write_text
from cl2cm_jax.studies import charts
from cl2cm_jax.studies.ablation import command
from cl2cm_jax.studies.ablation.report import protocol_of
from cl2cm_jax.studies.ablation.runs import Ablation
from cl2cm_jax.studies.ablation.variants import BASELINE, DEFAULT, SOURCE_ONLY
from cl2cm_jax.studies.bootstrap import Estimate, format_difference, paired_difference, sum_recall

ROWS = (BASELINE, DEFAULT, SOURCE_ONLY)
NOISE = "0,0.1,0.2,0.3,0.4,0.5,0.6"
FILES = ("noise_curve.md", "noise_curve.json", "noise_curve.png")
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


def curve_table(curves: Sequence[Curve], *, noises: Sequence[float], seeds: int, protocol: Sequence[str]) -> Table:
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
            *protocol,
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


def parse(arguments: Sequence[str]) -> command.Options:
    """The options, which are those of the ablation, and the config fields that change in every row."""
    options, overrides = command.parse_options(arguments, verb="noise-curve", about=__doc__, noise=NOISE, rows=ROWS)
    options.rows = [BASELINE, *(name for name in options.rows if name != BASELINE)]
    options.noise = sorted(set(options.noise))
    if len(options.rows) > len(COLOURS):
        raise UserError(
            f"--rows names {len(options.rows)} rows with the baseline; the chart has room for at most {len(COLOURS)}"
        )
    return options, overrides


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains missing runs, then prints and writes the table and draws the chart."""
    start = time.perf_counter()
    charts.require_matplotlib()
    ablation = command.train_missing(arguments, verb="noise-curve", parse=parse)
    report(ablation)
    print(f"seconds: {time.perf_counter() - start:.0f}; files: {ablation.workdir}/{', '.join(FILES)}")


def report(ablation: Ablation) -> None:
    """Prints the table and writes the three files; rows that are missing at any noise are left out."""
    config, noises, seeds, d = ablation.config, ablation.noises, ablation.seeds, ablation.config.data
    absent = {name: reason for rows in ablation.absent.values() for name, reason in rows.items()}
    names = [name for name in ablation.names if name not in absent]
    runs = {name: [ablation.test_ranks(name, noise=noise) for noise in noises] for name in names}
    mean = f"mean of {len(d.targets)} target{'s' * (len(d.targets) != 1)}"
    groups = {mean: d.targets} | {language: (language,) for language in (d.source, *d.targets, *d.reported)}
    curves = []
    for name in names:
        levels, differences = {}, {}
        for group, languages in groups.items():
            levels[group] = tuple(sum_recall(of_noise, languages=languages) for of_noise in runs[name])
            pairs = zip(runs[name], runs[BASELINE], strict=True)
            differences[group] = tuple(paired_difference(*pair, languages=languages) for pair in pairs)
        curves.append(Curve(name, levels, {} if name == BASELINE else differences))
    protocol = protocol_of(config, runs[BASELINE][0][0], folds=ablation.folds)
    table = curve_table(curves, noises=noises, seeds=len(seeds), protocol=protocol.notes)
    print(table.text(), *(f"{name}: left out: {reason}." for name, reason in absent.items()), "", sep="\n")
    markdown, content, chart = (ablation.workdir / name for name in FILES)
    write_text(markdown, table.markdown() + "\n")
    shared = {"noise": noises, "seeds": seeds, "protocol": protocol.as_dict()}
    write_text(content, to_json(shared | {"rows": [curve.as_dict() for curve in curves]}))
    title = f"SumR on the test split, {mean}: {', '.join(d.targets)}"
    note = f"{d.name}, {protocol.images} test images; mean of {len(seeds)} seeds, bands: 95 % over seeds and images"
    draw_curves(chart, curves, noises=noises, group=mean, title=title, note=note)
