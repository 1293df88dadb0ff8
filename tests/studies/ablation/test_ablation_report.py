"""Tables, verdicts and JSON of the ablation."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from cl2cm_jax.evaluation.report import to_json
from cl2cm_jax.studies.ablation.report import (
    AblationRow,
    LanguageResult,
    ablation_json,
    ablation_table,
    comparison,
    language_table,
    verdict,
)
from cl2cm_jax.studies.bootstrap import Estimate


def row(name: str, values: dict[str, tuple[float, ...]], english: Estimate | None = None, **fields: Any) -> AblationRow:
    languages = {language: LanguageResult(of_seeds, None) for language, of_seeds in values.items()}
    languages["en"] = languages["en"]._replace(difference=english)
    seeds = tuple(range(len(values["en"])))
    targets = tuple(language for language in values if language != "en")
    return AblationRow(name=name, seeds=seeds, source="en", targets=targets, languages=languages, **fields)


def treated(name: str, low: float, high: float, english: Estimate | None = None) -> AblationRow:
    values = {"en": (270.0, 270.0), "de": (210.0, 210.0), "zh": (190.0, 190.0)}
    difference = Estimate((low + high) / 2, low, high)
    return row(name, values, english, validation=(200.0, 203.0), difference=difference)


BASELINE = row("+ V-T (baseline)", {"en": (260.0, 262.0), "de": (200.0, 204.0), "zh": (180.0, 180.0)})
ROWS = [
    BASELINE,
    treated("+ transfer", 4, 14, Estimate(9, 2, 16)),
    treated("+ word level", -3, 2),
    treated("+ odd", -9, -1, Estimate(-4, -6, -2)),
]


def test_numbers_of_a_row() -> None:
    assert BASELINE.mean_target.mean == 191
    assert BASELINE.mean_target.std == pytest.approx(2**0.5)  # of 190 and 192
    assert BASELINE.language_gap == 261 - 191


def test_table_marks_intervals_without_zero() -> None:
    table = ablation_table(ROWS, noise=0.4, protocol=["on the test split"])
    cells = [dict(zip(table.columns, cells, strict=True)) for cells in table.rows]
    assert [c["difference [95 %]"] for c in cells] == [
        "-", "+9.0 [+4.0, +14.0] *", "-0.5 [-3.0, +2.0]", "-5.0 [-9.0, -1.0] *",
    ]  # fmt: skip
    assert cells[0]["de"] == "202.0" and cells[0]["mean target"] == "191.0" and cells[0]["std"] == "1.4"
    assert cells[1]["en difference [95 %]"] == "+9.0 [+2.0, +16.0] *"
    assert [c["validation"] for c in cells] == ["-", "201.5", "201.5", "201.5"]
    assert "40%" in table.title
    assert "2 seeds" in table.text() and "on the test split" in table.markdown()


def test_verdicts_follow_from_the_intervals() -> None:
    helps, neither, hurts = map(verdict, ROWS[1:])
    assert helps.startswith("+ transfer: helps (+9.0")
    assert neither.startswith("+ word level: no measurable effect (-0.5") and "contains 0" in neither
    assert hurts.startswith("+ odd: hurts (-5.0") and "en gets worse (-4.0 SumR)" in hurts


def test_one_row_is_compared_with_another_in_every_language() -> None:
    assert comparison(ROWS[1], BASELINE) == (
        "+ transfer: above '+ V-T (baseline)' in every language (smallest: de, +8.0 SumR)."
    )
    assert "not above '+ transfer' in every language (smallest: zh, -10.0 SumR)" in comparison(BASELINE, ROWS[1])


def test_one_seed_has_no_spread() -> None:
    alone = row("probe", {"en": (200.0,), "de": (100.0,)})
    assert ablation_table([alone], noise=0, protocol=["p"]).rows[0][3] == "-"
    content = json.loads(to_json(ablation_json([alone], noise=0, protocol={})))
    assert content["rows"][0]["mean_target"]["std"] is None


def test_json_keeps_every_seed() -> None:
    content = json.loads(to_json(ablation_json(ROWS, noise=0.4, protocol={"split": "test"})))
    assert content["rows"][0]["target_sum_recall"]["de"] == [200, 204]
    assert content["rows"][0]["difference"] is None
    assert content["rows"][1]["difference"] == {"mean": 9, "low": 4, "high": 14, "excludes_zero": True}


def test_the_headroom_has_a_column_where_there_is_a_ceiling() -> None:
    rows = [BASELINE, replace(ROWS[1], share=Estimate(0.314, -0.02, 0.5)), ROWS[2], ROWS[3]]
    table = ablation_table(rows, noise=0, protocol=["p"], ceiling="+ odd", folds=5)
    column = table.columns.index("headroom won back [95 %]")
    assert [cells[column] for cells in table.rows] == ["-", "31 % [-2, +50]", "not defined", "-"]
    assert "images of all folds" in table.text()
    assert "headroom" not in ablation_table(rows, noise=0, protocol=["p"]).markdown()
    content = ablation_json(rows, noise=0, protocol={}, ceiling="+ odd", absent={"row": "why"})
    assert content["ceiling"] == "+ odd" and content["absent"] == {"row": "why"}
    assert content["rows"][1]["headroom_share"] == {"mean": 0.314, "low": -0.02, "high": 0.5}


def test_a_language_that_a_row_has_no_queries_in_is_a_dash() -> None:
    one = replace(BASELINE, languages=dict.fromkeys(("en", "de", "fa"), LanguageResult((100.0,), None)))
    other = replace(BASELINE, name="other", languages={"de": LanguageResult((200.0,), Estimate(1, 0, 2))})
    assert [cells[-1] for cells in language_table([one, other], noise=0, images=200).rows] == ["100.0", "-"]


def test_few_images_are_named_beside_each_language() -> None:
    note = "only 8 images: one more hit is 12.5 points of a recall"
    assert language_table(ROWS, noise=0, images=8).notes[-1].startswith(note)
    assert not any("only" in line for line in language_table(ROWS, noise=0, images=50).notes)
