"""The ablation as tables and sentences: pure functions of numbers that the runs have left behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cl2cm_jax.evaluation.table import Table
from cl2cm_jax.studies.bootstrap import LEAST_HEADROOM, Difference, Share, Spread, spread

MARK = "*"
UNDEFINED = "not defined"
HEADROOM = "headroom won back [95 %]"


@dataclass(frozen=True)
class AblationRow:
    """One row at one level of translation noise. SumR lists hold one value a seed, in the order of `seeds`.

    `validation` is the mean target SumR on the validation split at the selected step. `difference` is the mean
    target SumR on the test split minus the baseline's, `source_difference` the same for the source language; both are
    None for the baseline itself. `by_language` has the SumR of every language, those that are reported apart too, and
    its difference to the baseline's; a language that the row has no queries in is not there. `share` is what the row
    wins back of the headroom between the baseline and the ceiling, None where that is not defined.
    """

    name: str
    seeds: tuple[int, ...]
    source_sum_recall: tuple[float, ...]
    target_sum_recall: Mapping[str, tuple[float, ...]]
    validation: tuple[float, ...] = ()
    difference: Difference | None = None
    source_difference: Difference | None = None
    by_language: Mapping[str, tuple[tuple[float, ...], Difference | None]] = field(default_factory=dict)
    share: Share | None = None

    @property
    def mean_target(self) -> Spread:
        """Mean target SumR: mean and standard deviation over seeds."""
        return spread([float(np.mean(values)) for values in zip(*self.target_sum_recall.values(), strict=True)])

    @property
    def language_gap(self) -> float:
        """Source SumR minus mean target SumR, averaged over seeds."""
        return float(np.mean(self.source_sum_recall)) - self.mean_target.mean


def ablation_table(
    rows: Sequence[AblationRow], *, source: str, noise: float, protocol: str, ceiling: str = "", folds: int = 0
) -> Table:
    """One table for one level of noise: SumR per language, the mean, its spread and the difference to the baseline.

    Args:
        rows: all rows at this noise; the one without a difference is the baseline.
        source: the source language.
        noise: share of the training translations that were swapped, in [0, 1].
        protocol: `Protocol.line` of the test split.
        ceiling: name of the row that the headroom is measured to; "": there is none, and no column of shares.
        folds: how many the pictures were dealt into; 0: they were not.
    """
    targets = list(rows[0].target_sum_recall)
    headroom = (HEADROOM,) if ceiling else ()
    columns = (
        "row", *targets, "mean target", "std", "difference [95 %]", *headroom, source, f"{source} difference [95 %]",
        "gap", "validation",
    )  # fmt: skip
    body = tuple(
        (
            row.name,
            *(f"{np.mean(row.target_sum_recall[target]):.1f}" for target in targets),
            f"{row.mean_target.mean:.1f}",
            "-" if row.mean_target.std is None else f"{row.mean_target.std:.1f}",
            format_difference(row.difference),
            *(format_share(row, ceiling=ceiling) for _ in headroom),
            f"{np.mean(row.source_sum_recall):.1f}",
            format_difference(row.source_difference),
            f"{row.language_gap:.1f}",
            f"{np.mean(row.validation):.1f}" if row.validation else "-",
        )
        for row in rows
    )
    seeds = len(rows[0].seeds)
    notes = (
        f"SumR (at most 600), mean of {seeds} seed{'s' * (seeds != 1)}; std: over seeds, of the mean target SumR; "
        f"gap: {source} - mean target; validation: mean target SumR on the validation split at the selected step",
        f"difference: to the baseline, paired by seed and test image; {MARK} marks an interval that excludes 0 "
        f"(bootstrap over seeds and images{' of all folds' * (folds > 0)})",
        *(
            f"headroom won back: (row - baseline) / (ceiling - baseline) of mean target SumR, seeds and images drawn "
            f"jointly for the three; {UNDEFINED} where the interval of ceiling - baseline holds 0 or it is less than "
            f"{LEAST_HEADROOM:g} SumR"
            for _ in headroom
        ),
        protocol,
    )
    return Table(f"Ablation, {noise:.0%} of the training translations wrong", columns, body, notes)


def language_table(rows: Sequence[AblationRow], *, noise: float, seeds: int) -> Table:
    """SumR of each language, those that are reported apart too, with its own difference to the baseline.

    Args:
        rows: all rows at this noise.
        noise: share of the training translations that were swapped, in [0, 1].
        seeds: how many the means are over.
    """

    def cell(values: Sequence[float], difference: Difference | None) -> str:
        if not values:
            return "-"
        mean = f"{np.mean(values):.1f}"
        return mean if difference is None else f"{mean}: {format_difference(difference)}"

    languages = list(dict.fromkeys(name for row in rows for name in row.by_language))
    return Table(
        f"By language, {noise:.0%} of the training translations wrong",
        ("row", *languages),
        tuple((row.name, *(cell(*row.by_language.get(name, ((), None))) for name in languages)) for row in rows),
        (f"SumR, mean of {seeds} seed{'s' * (seeds != 1)}: difference to the baseline [95 %]",),
    )


def verdicts(rows: Sequence[AblationRow], *, source: str) -> list[str]:
    """One plain sentence for each row that has a difference: whether it helps, hurts, or shows neither."""
    return [verdict(row, source=source) for row in rows if row.difference is not None]


def comparison(row: AblationRow, other: AblationRow, *, source: str) -> str:
    """Says whether one row is above another in every language, by means over seeds."""
    languages = {source: (row.source_sum_recall, other.source_sum_recall)}
    languages |= {name: (values, other.target_sum_recall[name]) for name, values in row.target_sum_recall.items()}
    gains = {name: float(np.mean(ours) - np.mean(theirs)) for name, (ours, theirs) in languages.items()}
    least = min(gains, key=lambda name: gains[name])
    above = "above" if gains[least] > 0 else "not above"
    return f"{row.name}: {above} {other.name!r} in every language (least: {least}, {gains[least]:+.1f} SumR)."


def verdict(row: AblationRow, *, source: str) -> str:
    """Says of one row whether it helps, in words that hold for its interval."""
    assert row.difference is not None
    mean, low, high = row.difference
    interval = f"{mean:+.1f} mean target SumR, 95 % interval [{low:+.1f}, {high:+.1f}]"
    if low > 0:
        sentence = f"{row.name}: helps ({interval})."
    elif high < 0:
        sentence = f"{row.name}: does not help, it hurts ({interval})."
    else:
        sentence = f"{row.name}: does not help that we could measure ({interval} holds 0)."
    if row.source_difference is not None and row.source_difference.high < 0:
        sentence += f" {source} gets worse ({row.source_difference.mean:+.1f} SumR)."
    return sentence


def format_difference(difference: Difference | None) -> str:
    """`+9.4 [+7.1, +11.8] *`, or a dash for the baseline."""
    if difference is None:
        return "-"
    text = f"{difference.mean:+.1f} [{difference.low:+.1f}, {difference.high:+.1f}]"
    return f"{text} {MARK}" if difference.excludes_zero else text


def format_share(row: AblationRow, *, ceiling: str) -> str:
    """`31 % [+12, +50]`, or a dash for the baseline and the ceiling themselves."""
    if row.difference is None or row.name == ceiling:
        return "-"
    if row.share is None:
        return UNDEFINED
    mean, low, high = (100 * value for value in row.share)
    return f"{mean:.0f} % [{low:+.0f}, {high:+.0f}]"


def ablation_json(
    rows: Sequence[AblationRow],
    *,
    source: str,
    noise: float,
    protocol: Mapping[str, Any],
    ceiling: str = "",
    absent: Mapping[str, str] | None = None,
) -> dict:
    """The same numbers for ablation.json, every seed's value included (write with `report.to_json`).

    `ceiling` as in `ablation_table`; `absent` says of rows that are not there why.
    """
    return {
        "noise": noise,
        "source": source,
        "protocol": dict(protocol),
        "ceiling": ceiling or None,
        "absent": dict(absent or {}),
        "rows": [
            {
                "name": row.name,
                "seeds": list(row.seeds),
                "source_sum_recall": list(row.source_sum_recall),
                "target_sum_recall": {language: list(values) for language, values in row.target_sum_recall.items()},
                "mean_target": row.mean_target._asdict(),
                "language_gap": row.language_gap,
                "validation": list(row.validation),
                "difference": _with_mark(row.difference),
                "source_difference": _with_mark(row.source_difference),
                "headroom_share": row.share and row.share._asdict(),
                "by_language": {
                    language: {"sum_recall": list(values), "difference": _with_mark(difference)}
                    for language, (values, difference) in row.by_language.items()
                },
            }
            for row in rows
        ],
    }


def _with_mark(difference: Difference | None) -> dict[str, Any] | None:
    return difference and {**difference._asdict(), "excludes_zero": difference.excludes_zero}
