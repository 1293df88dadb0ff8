"""Tables in the layout of papers: columns, protocols, published numbers."""

from __future__ import annotations

from typing import Any

import pytest

from cl2cm_jax.evaluation.retrieval import DIRECTIONS, RECALL_AT
from cl2cm_jax.studies.comparison.published import PRETRAINED, PUBLISHED, SETS
from cl2cm_jax.studies.comparison.tables import Row, comparison_tables, run_rows

RECALLS = [f"{direction}/R@{k}" for direction in DIRECTIONS for k in RECALL_AT]


def metrics(sum_recall: float) -> dict[str, float]:
    return dict.fromkeys(RECALLS, sum_recall / 6) | {"SumR": sum_recall}


def part(query: str, test: dict[str, float]) -> dict:
    weight = 0.5 if query == "fused" else None
    protocol = {
        "split": "test", "images": 1000, "captions": dict.fromkeys(test, 5000), "captions_per_image": "all",
        "ties": "against us", "query": query, "fusion_weight": weight,
    }  # fmt: skip
    return {"protocol": protocol, "test": {language: metrics(value) for language, value in test.items()}}


def results(query: str = "target", groups: dict | None = None) -> dict:
    config = {"data.name": "multi30k", "data.source": "en"}
    return {**part(query, {"en": 300.0, "de": 240.0}), "groups": groups or {}, "config": config}


def test_a_run_has_a_row_a_language_that_states_its_protocol() -> None:
    source, german = run_rows("runs/a", results())
    assert (source.language, german.language, german.set, german.query) == ("en", "de", "multi30k", "target")
    assert german.protocol == "test, 1,000 images, 5,000 captions (all), query=target, ties against us"
    assert german.metrics["SumR"] == 240 and german.source == ""


def test_a_fused_run_also_has_the_rows_of_its_queries_alone() -> None:
    groups = {
        "queries in their own language alone": part("target", {"en": 300.0, "de": 230.0}),
        "pictures flags": part("fused", {"en": 100.0, "de": 90.0}),
    }
    rows = run_rows("runs/a", results("fused", groups))
    assert [(row.language, row.query, row.metrics["SumR"]) for row in rows] == [
        ("en", "target", 300),  # English is never fused
        ("de", "fused", 240),
        ("de", "target", 230),
    ]
    assert rows[1].protocol == "test, 1,000 images, 5,000 captions (all), query=fused 0.5, ties against us"


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("test",), {}, "'test' has no language"),
        (("test",), [1], r"'test' is \[1\]"),
        (("test", "de"), 240.0, "'de' is 240.0"),
        (("test", "de"), "240", "'de' is '240'"),
        (("test", "de", "SumR"), "240", "'SumR' is '240'"),
        (("test", "de", "SumR"), [240], r"'SumR' is \[240\]"),
        (("test", "de", "SumR"), True, "'SumR' is True"),
        (("test", "de", "SumR"), 10**400, "'SumR' is 1000"),
        (("test", "de", "SumR"), float("inf"), "'SumR' is inf"),
        (("test", "de", "SumR"), float("nan"), "'SumR' is nan"),
        (("test", "d\ud800"), {}, "is {}"),
        (("config",), None, "'config' is None"),
        (("config", "data.name"), ["multi30k"], r"'data.name' is \['multi30k'\]"),
        (("config", "data.name"), "multi\n30k", "'data.name' is"),
        (("config", "data.source"), 1, "'data.source' is 1"),
        (("groups",), [], r"'groups' is \[\]"),
        (("groups", "pictures flags"), 1, "'pictures flags' is 1"),
        (("protocol",), "all", "'protocol' is 'all'"),
        (("protocol", "query"), 1, "'query' is 1"),
        (("protocol", "fusion_weight"), None, "'fusion_weight' is None"),
        (("protocol", "captions_per_image"), ["all"], r"'captions_per_image' is \['all'\]"),
        (("protocol", "captions"), {"en": 5000}, "'de' is missing"),
        (("protocol", "images"), "1000", "'images' is '1000'"),
    ],
)
def test_a_damaged_field_is_named(place: tuple[str, ...], value: Any, message: str) -> None:
    content = results("fused")
    *above, last = place
    fields = content
    for name in above:
        fields = fields[name]
    fields[last] = value
    with pytest.raises(ValueError, match=message):
        run_rows("runs/a", content)


def test_a_metric_may_be_unknown() -> None:
    content = results()
    content["test"]["de"]["SumR"] = None
    assert run_rows("runs/a", content)[1].metrics["SumR"] is None


def test_protocols_never_share_a_column() -> None:
    rows = [*run_rows("runs/a", results()), *run_rows("runs/b", results("fused"))]
    first = rows[1]._replace(captions_per_image="first", name="runs/c")
    tables = comparison_tables([*rows, first])
    assert [table.title for table in tables] == [
        "multi30k, en: query=target, captions_per_image=all",
        "multi30k, de: query=target, captions_per_image=all",
        "multi30k, de: query=fused, captions_per_image=all",
        "multi30k, de: query=target, captions_per_image=first",
    ]
    assert [[row[0] for row in table.rows] for table in tables] == [
        ["runs/a", "runs/b"], ["runs/a"], ["runs/b"], ["runs/c"],
    ]  # fmt: skip


def test_columns_are_those_of_the_papers_and_gaps_are_marked() -> None:
    known = metrics(240) | {"vision_to_text/mAP": 41.26}
    rows = [
        Row("another", "multi30k", "de", "target", "all", "test", {"SumR": 480.9}, "its paper"),
        Row("runs/a", "multi30k", "de", "target", "all", "test", known),
    ]
    recalls, ranks = comparison_tables(rows)
    assert recalls.columns == (
        "method", "t2v R@1", "t2v R@5", "t2v R@10", "v2t R@1", "v2t R@5", "v2t R@10", "SumR", "protocol",
    )  # fmt: skip
    assert recalls.rows == (
        ("another", "-", "-", "-", "-", "-", "-", "480.9", "test"),
        ("runs/a", *["40.0"] * 6, "240.0", "test"),
    )
    assert recalls.notes == ("another: its paper",)
    assert ranks.title.endswith("ranks and mAP") and ranks.rows == (("runs/a", "41.3", "test"),)


def test_few_images_are_named_below_the_table() -> None:
    few = results()
    few["protocol"]["images"] = 8
    table = comparison_tables([*run_rows("runs/a", results()), *run_rows("runs/b", few)])[0]
    (note,) = table.notes
    assert note.startswith("runs/b: only 8 images: one more hit is 12.5 points of a recall")
    (note,) = comparison_tables([*run_rows("runs/b", few), *run_rows("runs/c", few)])[0].notes
    assert note.startswith("only 8 images: ")  # of all rows: once, without names
    (note,) = comparison_tables([*run_rows("a", results()), *run_rows("b", few), *run_rows("c", few)])[0].notes
    assert note.startswith("b, c: only 8 images: ")


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row.name} {row.set} {row.language} {row.protocol[:25]}")
def test_published_recalls_add_up_to_the_published_sum(row: Row) -> None:
    recalls = [row.metrics[name] for name in RECALLS if name in row.metrics]
    if recalls:
        assert sum(value or 0 for value in recalls) == pytest.approx(row.metrics["SumR"], abs=0.15)
    assert row.source and "(all)" in row.protocol and "query" in row.protocol


def test_only_what_is_printed_by_its_authors_is_published() -> None:
    assert {row.name.split()[0] for row in PUBLISHED} == {"NRCCR", "MLCMR"}
    assert {row.set for row in PRETRAINED} <= set(SETS)
    assert not {row.name for row in PRETRAINED} & {row.name for row in PUBLISHED}
