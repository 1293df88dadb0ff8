"""Results of runs and published numbers in the layout of papers: a table per language, a row per method.

Numbers of different protocols never share a column: the kind of query and the captions that count are in the title,
the rest of the protocol is in each row.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from cl2cm_jax.evaluation.report import SHOWN, SHOWN_RANKS, few_images
from cl2cm_jax.evaluation.table import Table

UNKNOWN = "-"
_LIMIT = 1e9  # larger ranks, recalls and counts are damage


class Row(NamedTuple):
    """One method in one language."""

    name: str  # of the method, or the workdir of a run
    set: str  # `config.data.name`
    language: str  # of the queries
    query: str  # "target", "fused" or, for published numbers, "not stated"
    captions_per_image: str  # "all" or "first"
    protocol: str  # split, sizes and further conditions of the measurement
    metrics: Mapping[str, float | None]  # as `retrieval.metrics` names them, without unknown ones
    source: str = ""  # of a published number
    notes: Sequence[str] = ()  # of the measurement

    @property
    def place(self) -> tuple[str, str]:
        """Set and language."""
        return self.set, self.language


def run_rows(name: str, results: Any) -> list[Row]:
    """The rows of a run from results.json: the headline languages and, if queries are fused, the same without fusion.

    Raises:
      ValueError: a field, which is named, is not as `report.write_results` writes it.
    """
    if not isinstance(results, dict):
        raise ValueError(f"it contains {reprlib.repr(results)}, not a result")
    config, groups = _field(results, "config", dict), _field(results, "groups", dict)
    parts = [results, *(_field(groups, group, dict) for group in groups)]
    queries = [_field(_field(part, "protocol", dict), "query", str) for part in parts]
    rows: dict[tuple[str, str], Row] = {}
    for part, query in zip(parts, queries, strict=True):
        if part is results or query != queries[0]:
            for row in _rows(name, config, part, query):
                rows.setdefault((row.language, row.query), row)  # the source is in both parts and never fused
    return list(rows.values())


def _rows(name: str, config: dict[str, Any], part: dict[str, Any], query: str) -> list[Row]:
    protocol, test, rows = _field(part, "protocol", dict), _field(part, "test", dict), []
    split, ties, kept = (_field(protocol, field, str) for field in ("split", "ties", "captions_per_image"))
    images, captions = _field(protocol, "images", float), _field(protocol, "captions", dict)
    notes = tuple(few_images(images))
    source, name_of_set = _field(config, "data.source", str), _field(config, "data.name", str)
    if not test:
        raise ValueError("its field 'test' has no language")
    for language in test:
        values = _field(test, language, dict)
        metrics = {metric: None if values[metric] is None else _field(values, metric, float) for metric in values}
        is_fused = query == "fused" and language != source
        weight = f" {_field(protocol, 'fusion_weight', float):g}" if is_fused else ""
        own_query = "fused" if is_fused else "target"
        sizes = f"{split}, {images:,} images, {_field(captions, language, float):,} captions"
        line = f"{sizes} ({kept}), query={own_query}{weight}, ties {ties}"
        rows.append(Row(name, name_of_set, language, own_query, kept, line, metrics, notes=notes))
    return rows


def _field(fields: dict[str, Any], name: str, kind: type) -> Any:
    """A field of results.json of a kind: dict, str or float; a damaged file may have any name and any content."""
    value = fields.get(name)
    if kind is float:
        is_valid = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LIMIT
    else:
        is_valid = isinstance(value, kind) and (not isinstance(value, str) or value.isprintable())
    if not is_valid or not name.isprintable():
        found = reprlib.repr(value) if name in fields else "missing"
        raise ValueError(f"its field {reprlib.repr(name)} is {found}")
    return value


def comparison_tables(rows: Iterable[Row], *, prefix: str = "") -> list[Table]:
    """For each set, language and protocol a table of recalls and SumR, and one of ranks and mAP if rows have them."""
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
    cells = [[row.metrics.get(metric) for metric in shown] for row in rows]
    body = tuple(
        (row.name, *(UNKNOWN if value is None else f"{value:.1f}" for value in values), row.protocol)
        for row, values in zip(rows, cells, strict=True)
    )
    return Table(title, ("method", *shown.values(), "protocol"), body, tuple(_notes(rows)), words=("protocol",))


def _notes(rows: Sequence[Row]) -> Iterable[str]:
    """The sources and notes, each once: of all rows as it is, of some after their names."""
    of_names: dict[str, list[str]] = {}
    for row in rows:
        for note in (row.source, *row.notes):
            if note and row.name not in (names := of_names.setdefault(note, [])):
                names.append(row.name)
    everyone = len({row.name for row in rows})
    for note, names in of_names.items():
        shared = len(names) == everyone and note not in {row.source for row in rows}
        yield note if shared else f"{', '.join(names)}: {note}"
