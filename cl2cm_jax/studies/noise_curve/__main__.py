"""Noise curve: retrieval over the share of wrong translations, of the baseline, the full method and English alone.

cl2cm noise-curve --config=configs/stamps.py --workdir=runs/stamps [--noise=0,0.1,...] [--rows=...]

The runs are those of `cl2cm ablate` in the same workdir: finished ones are not trained again. Writes noise_curve.md,
noise_curve.json and noise_curve.png. Rerun an interrupted command to resume.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from cl2cm_jax.errors import UserError, exit_cleanly
from cl2cm_jax.evaluation.report import to_json
from cl2cm_jax.runtime.atomic import write_text
from cl2cm_jax.studies.ablation import command
from cl2cm_jax.studies.ablation.report import protocol_of
from cl2cm_jax.studies.ablation.runs import Ablation
from cl2cm_jax.studies.ablation.variants import BASELINE, DEFAULT, SOURCE_ONLY
from cl2cm_jax.studies.bootstrap import paired_difference, sum_recall
from cl2cm_jax.studies.charts import require_matplotlib
from cl2cm_jax.studies.noise_curve.curve import COLOURS, Curve, curve_table, draw_curves

ROWS = (BASELINE, DEFAULT, SOURCE_ONLY)
NOISE = "0,0.1,0.2,0.3,0.4,0.5,0.6"
FILES = ("noise_curve.md", "noise_curve.json", "noise_curve.png")


def parse(arguments: Sequence[str]) -> command.Options:
    """The options, which are those of the ablation, and the config fields that change in every row."""
    options, overrides = command.parse(arguments, verb="noise-curve", about=__doc__, noise=NOISE, rows=ROWS)
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
    require_matplotlib()
    ablation = command.train_missing(arguments, verb="noise-curve", parse=parse)
    if ablation is None:
        return
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
    table = curve_table(curves, noises=noises, seeds=len(seeds), protocol=protocol.line)
    print(table.text(), *(f"{name}: left out: {reason}." for name, reason in absent.items()), "", sep="\n")
    markdown, content, chart = (ablation.workdir / name for name in FILES)
    write_text(markdown, table.markdown() + "\n")
    shared = {"noise": noises, "seeds": seeds, "protocol": protocol.as_dict()}
    write_text(content, to_json(shared | {"rows": [curve.as_dict() for curve in curves]}))
    title = f"SumR on the test split, {mean}: {', '.join(d.targets)}"
    note = f"{d.name}, {protocol.images} test images; mean of {len(seeds)} seeds, bands: 95 % over seeds and images"
    draw_curves(chart, curves, noises=noises, group=mean, title=title, note=note)


if __name__ == "__main__":
    exit_cleanly(main)
