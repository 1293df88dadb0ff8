"""Retrieval over the share of wrong translations: the baseline, the full method and English alone.

cl2cm noise-curve --config=configs/stamps.py --workdir=runs/stamps [--noise=0,0.1,...] [--rows=...]

The runs are those of the ablation, in the same folders: what `cl2cm ablate` has trained there is not
trained again. Writes noise_curve.md, noise_curve.json and noise_curve.png. A killed curve goes on where it was.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence

from cl2cm_jax.errors import UserError, exit_cleanly
from cl2cm_jax.evaluation.report import Protocol, to_json
from cl2cm_jax.runtime.atomic import write_text
from cl2cm_jax.studies.ablation import __main__ as ablate
from cl2cm_jax.studies.ablation.__main__ import BASELINE, DEFAULT
from cl2cm_jax.studies.ablation.runs import Ablation
from cl2cm_jax.studies.bootstrap import RunHits, paired_difference, sum_recall_level
from cl2cm_jax.studies.noise_curve.curve import COLOURS, Curve, curve_table, draw_curves

NAMES = (BASELINE, DEFAULT, "source only")
NOISE = "0,0.1,0.2,0.3,0.4,0.5,0.6"
FILES = ("noise_curve.md", "noise_curve.json", "noise_curve.png")


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """The command line, which is the ablation's: options, and the config fields that it changes in every row."""
    given = list(arguments)
    given += [] if any(word.split("=")[0] == "--noise" for word in given) else [f"--noise={NOISE}"]
    given += [] if any(word.split("=")[0] == "--rows" for word in given) else [f"--rows={';'.join(NAMES)}"]
    options, overrides = ablate.parse(given, command="noise-curve", about=__doc__)
    options.rows = [BASELINE, *(name for name in options.rows if name != BASELINE)]
    options.noise = sorted(set(options.noise))
    if len(options.rows) > len(COLOURS):
        raise UserError(
            f"--rows names {len(options.rows)} rows with the baseline; a picture shows at most {len(COLOURS)}"
        )
    return options, overrides


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains what is missing, then prints and writes the table and draws the picture."""
    start = time.perf_counter()
    ablation = ablate.train_missing(arguments, command="noise-curve", parse=parse)
    if ablation is None:
        return
    report(ablation)
    print(f"seconds: {time.perf_counter() - start:.0f}; files: {ablation.workdir}/{', '.join(FILES)}")


def report(ablation: Ablation) -> None:
    """Prints the table and writes the three files from runs that are there; a row must be there at every noise."""
    config, noises, seeds = ablation.config, ablation.noises, ablation.seeds
    absent = {name: why for rows in ablation.absent.values() for name, why in rows.items()}
    names = [name for name in ablation.names if name not in absent]
    found = {name: [ablation.found(name, noise=noise) for noise in noises] for name in names}
    d = config.data
    mean = f"mean of {len(d.targets)} target{'s' * (len(d.targets) != 1)}"
    groups = {mean: d.targets} | {language: (language,) for language in (d.source, *d.targets, *d.reported)}
    curves = [curve_of(name, found[name], found[BASELINE], groups) for name in names]
    protocol = ablate.protocol_of(config, found[BASELINE][0][0], folds=ablation.folds)
    table = curve_table(curves, noises=noises, seeds=len(seeds), protocol=protocol.line)
    print(table.text(), *(f"{name}: left out: {why}." for name, why in absent.items()), "", sep="\n")
    markdown, content, picture = (ablation.workdir / name for name in FILES)
    write_text(markdown, table.markdown() + "\n")
    write_text(content, to_json(_as_data(curves, noises, seeds, protocol)))
    title = f"SumR on the test split, {mean}: {', '.join(d.targets)}"
    note = f"{d.name}, {protocol.images} test images; mean of {len(seeds)} seeds, bands: 95 % over seeds and images"
    draw_curves(picture, curves, noises=noises, language=mean, title=title, note=note)


def curve_of(
    name: str, runs: list[list[RunHits]], baseline: list[list[RunHits]], groups: Mapping[str, Sequence[str]]
) -> Curve:
    """Levels and differences of one row: `runs` and `baseline` have the runs of each noise."""
    differences = {
        group: tuple(paired_difference(*pair, languages=languages) for pair in zip(runs, baseline, strict=True))
        for group, languages in groups.items()
    }
    levels = {
        group: tuple(sum_recall_level(at_noise, languages=languages) for at_noise in runs)
        for group, languages in groups.items()
    }
    return Curve(name, levels, {} if name == BASELINE else differences)


def _as_data(curves: list[Curve], noises: list[float], seeds: list[int], protocol: Protocol) -> dict:
    return {
        "noise": noises,
        "seeds": seeds,
        "protocol": protocol.as_dict(),
        "rows": [
            {
                "name": curve.name,
                "levels": {group: [level._asdict() for level in levels] for group, levels in curve.levels.items()},
                "differences": {
                    group: [difference._asdict() for difference in differences]
                    for group, differences in curve.differences.items()
                },
            }
            for curve in curves
        ],
    }


if __name__ == "__main__":
    exit_cleanly(main)
