"""Results of several runs and of others in the layout of the papers: a table a language, a row a method.

Numbers of different protocols never share a column: how a query is made and which captions count are in the title, and
the rest of the protocol stands on each row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from cl2cm_jax.evaluation.report import SHOWN, SHOWN_RANKS
from cl2cm_jax.evaluation.table import Table

UNKNOWN = "-"


class Row(NamedTuple):
    """One method in one language.

    Attributes:
      name: of the method, or the workdir of a run.
      set: name of the data set, as `config.data.name` has it.
      language: of the queries.
      query: "target", "fused" or, of others, "not stated".
      captions_per_image: "all" or "first".
      protocol: split, sizes and what else is to be known of how it was measured.
      metrics: as `retrieval.metrics` names them; those that are not known are not there.
      source: where others printed it, "" for a run of ours.
    """

    name: str
    set: str
    language: str
    query: str
    captions_per_image: str
    protocol: str
    metrics: Mapping[str, float | None]
    source: str = ""


def run_rows(name: str, results: Mapping[str, Any]) -> list[Row]:
    """The rows of one run: its headline languages and, where its queries are fused, the same ones not fused.

    Args:
      name: to stand in the table.
      results: what results.json holds.

    Raises:
      KeyError, TypeError: it is not what `report.write_results` writes.
    """
    parts = [results, *results["groups"].values()]
    main = results["protocol"]["query"]
    rows: dict[tuple[str, str], Row] = {}
    for part in parts:
        if part is results or part["protocol"]["query"] != main:
            for row in _rows(name, results["config"], part["protocol"], part["test"]):
                rows.setdefault((row.language, row.query), row)  # the source is in both parts, and never fused
    return list(rows.values())


def _rows(
    name: str, config: Mapping[str, Any], protocol: Mapping[str, Any], test: Mapping[str, Mapping[str, float]]
) -> list[Row]:
    rows = []
    for language, metrics in test.items():
        fused = protocol["query"] == "fused" and language != config["data.source"]
        sizes = f"{protocol['split']}, {protocol['images']:,} images, {protocol['captions'][language]:,} captions"
        query = f"query=fused {protocol['fusion_weight']:g}" if fused else "query=target"
        rows.append(
            Row(
                name=name,
                set=config["data.name"],
                language=language,
                query="fused" if fused else "target",
                captions_per_image=protocol["captions_per_image"],
                protocol=f"{sizes} ({protocol['captions_per_image']}), {query}, ties {protocol['ties']}",
                metrics=metrics,
            )
        )
    return rows


def comparison_tables(rows: Iterable[Row], *, prefix: str = "") -> list[Table]:
    """For each set, language and protocol the recalls and SumR, then the ranks and mAP of the rows that have them.

    `prefix` stands before every title.
    """
    groups: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.set, row.language, row.query, row.captions_per_image), []).append(row)
    tables = []
    for (name, language, query, captions), members in groups.items():
        title = f"{prefix}{name}, {language}: query={query}, captions_per_image={captions}"
        tables.append(_table(title, members, SHOWN))
        ranked = [row for row in members if any(metric in row.metrics for metric in SHOWN_RANKS)]
        if ranked:
            tables.append(_table(f"{title}: ranks and mAP", ranked, SHOWN_RANKS))
    return tables


def _table(title: str, rows: Sequence[Row], shown: Mapping[str, str]) -> Table:
    shown = {metric: head for metric, head in shown.items() if any(metric in row.metrics for row in rows)}
    body = tuple((row.name, *(_cell(row.metrics.get(metric)) for metric in shown), row.protocol) for row in rows)
    sources = dict.fromkeys(f"{row.name}: {row.source}" for row in rows if row.source)
    return Table(title, ("method", *shown.values(), "protocol"), body, tuple(sources), words=("protocol",))


def _cell(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.1f}"
