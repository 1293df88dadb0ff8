"""Results of runs and published numbers in the layout of papers: a table per language, a row per method.

Numbers of different protocols never share a column: the kind of query and the captions that count are in the title,
the rest of the protocol is in each row.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from cl2cm_jax.evaluation.report import SHOWN, SHOWN_RANKS
from cl2cm_jax.evaluation.table import Table

UNKNOWN = "-"
_LIMIT = 1e9  # larger ranks, recalls and counts are damage


class Row(NamedTuple):
    """One method in one language.

    Attributes:
      name: of the method, or the workdir of a run.
      set: `config.data.name` of the data set.
      language: of the queries.
      query: "target", "fused" or, for published numbers, "not stated".
      captions_per_image: "all" or "first".
      protocol: split, sizes and further conditions of the measurement.
      metrics: as `retrieval.metrics` names them, without unknown ones.
      source: of a published number, "" for a run.
    """

    name: str
    set: str
    language: str
    query: str
    captions_per_image: str
    protocol: str
    metrics: Mapping[str, float | None]
    source: str = ""

    @property
    def place(self) -> tuple[str, str]:
        """Set and language."""
        return self.set, self.language


def run_rows(name: str, results: Mapping[str, Any]) -> list[Row]:
    """The rows of one run: its headline languages and, if its queries are fused, the same without fusion.

    Args:
      name: of the run in the table.
      results: content of results.json.

    Raises:
      ValueError: a field, which is named, is not as `report.write_results` writes it.
    """
    if not _is_object(results):
        raise ValueError(f"it contains {reprlib.repr(results)}, not a result")
    config, groups = _field(results, "config", _is_object), _field(results, "groups", _is_object)
    parts = [results, *(_field(groups, group, _is_object) for group in groups)]
    main = _query(results)
    rows: dict[tuple[str, str], Row] = {}
    for part in parts:
        if part is results or _query(part) != main:
            for row in _rows(name, config, part):
                rows.setdefault((row.language, row.query), row)  # the source is in both parts and never fused
    return list(rows.values())


def _rows(name: str, config: Mapping[str, Any], part: Mapping[str, Any]) -> list[Row]:
    protocol = _field(part, "protocol", _is_object)
    split, ties, kept = (_field(protocol, field, _is_text) for field in ("split", "ties", "captions_per_image"))
    images, captions = _field(protocol, "images", _is_number), _field(protocol, "captions", _is_object)
    source, name_of_set = _field(config, "data.source", _is_text), _field(config, "data.name", _is_text)
    test, rows = _field(part, "test", _is_object), []
    if not test:
        raise ValueError("its field 'test' has no language")
    for language in test:
        metrics = _field(test, language, _is_object)
        fused = _query(part) == "fused" and language != source
        query = f"query=fused {_field(protocol, 'fusion_weight', _is_number):g}" if fused else "query=target"
        sizes = f"{split}, {images:,} images, {_field(captions, language, _is_number):,} captions"
        rows.append(
            Row(
                name=name,
                set=name_of_set,
                language=language,
                query="fused" if fused else "target",
                captions_per_image=kept,
                protocol=f"{sizes} ({kept}), {query}, ties {ties}",
                metrics={metric: _field(metrics, metric, _is_metric) for metric in metrics},
            )
        )
    return rows


def _query(part: Mapping[str, Any]) -> str:
    return _field(_field(part, "protocol", _is_object), "query", _is_text)


def _field(fields: Mapping[str, Any], name: str, is_valid: Callable[[Any], bool]) -> Any:
    """A field of results.json; name and content may be anything in a damaged file."""
    if name not in fields or not is_valid(fields[name]) or not name.isprintable():
        found = reprlib.repr(fields[name]) if name in fields else "missing"
        raise ValueError(f"its field {reprlib.repr(name)} is {found}")
    return fields[name]


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LIMIT


def _is_metric(value: Any) -> bool:
    return value is None or _is_number(value)


def comparison_tables(rows: Iterable[Row], *, prefix: str = "") -> list[Table]:
    """For each set, language and protocol a table of recalls and SumR, and one of ranks and mAP if rows have them.

    `prefix` is that of every title.
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
