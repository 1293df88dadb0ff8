"""The results of a run: tables that name their protocol, and results.json."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from cl2cm_jax.errors import UserError
from cl2cm_jax.evaluation.retrieval import DIRECTIONS, RECALL_AT
from cl2cm_jax.evaluation.table import RULE, Table
from cl2cm_jax.runtime.checksums import read_checked, read_checked_json, write_checked

Metrics = Mapping[str, float]  # metric name -> value, as `retrieval.metrics` names them
PerLanguage = Mapping[str, Metrics]

RESULTS_FILE, MARKDOWN_FILE = "results.json", "results.md"
_AGAIN = "write it again with --mode=evaluate"
ENOUGH_IMAGES = 50  # of a split: with fewer, a hit more or less is 2 points and more
SHORT_DIRECTION = {"text_to_vision": "t2v", "vision_to_text": "v2t"}
SHOWN = {f"{d}/R@{k}": f"{SHORT_DIRECTION[d]} R@{k}" for d in DIRECTIONS for k in RECALL_AT} | {"SumR": "SumR"}
REPORTED = "languages "  # begins the name of the group of `data.reported`
SHOWN_BEFORE = {f"{d}/R@1": f"{SHORT_DIRECTION[d]} R@1" for d in DIRECTIONS} | {"SumR": "SumR"}
RANKS = {"median_rank": "MedR", "mean_rank": "MeanR", "mAP": "mAP"}
SHOWN_RANKS = {f"{d}/{name}": f"{SHORT_DIRECTION[d]} {short}" for d in DIRECTIONS for name, short in RANKS.items()}


@dataclass(frozen=True)
class Protocol:
    """How the numbers of a table were measured. `captions` counts the queries of each language."""

    split: str
    images: int
    captions: Mapping[str, int]
    captions_per_image: str = "all"
    ties: str = field(default="against us", init=False)  # pessimistic: a tie ranks below
    query: str = "target"
    fusion_weight: float | None = None  # of the translated query's score, where query is "fused"
    folds: int = 0  # number of folds of the pictures, each with a gallery of its own; 0: one split

    @property
    def line(self) -> str:
        """The protocol in one line, as below every table."""
        languages = len(self.captions)
        where, images = f"the {self.split} split", f"{self.images:,} images"
        if self.folds:
            where = f"{self.folds} folds over concepts, gallery of about {self.images / self.folds:,.0f}"
            images += " in all"
        query = self.query if self.fusion_weight is None else f"{self.query}, fusion_weight={self.fusion_weight:g}"
        return (
            f"text-to-vision (t2v) and vision-to-text (v2t) on {where}, {images}, "
            f"{sum(self.captions.values()):,} captions in {languages} language{'s' * (languages != 1)}, "
            f"captions_per_image={self.captions_per_image}, ties {self.ties}, query={query}; recalls in percent"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """The lines below a table of the numbers: how they were measured, and that few images say little."""
        return (*few_images(self.images), self.line)

    def as_dict(self) -> dict[str, Any]:
        """The protocol for results.json."""
        return asdict(self) | {"line": self.line, "notes": few_images(self.images)}


@dataclass(frozen=True)
class Group:
    """Numbers that are reported apart from the headline, and their protocol."""

    per_language: PerLanguage
    protocol: Protocol


@dataclass(frozen=True)
class Results:
    """The content of results.json.

    Attributes:
      test, validation: metrics of the source and of the target languages.
      groups: languages or pictures that are reported apart.
      evaluators: metrics of further evaluators, by evaluator and split.
      before: metrics of the test split before training, of a run that started at a model.
    """

    source: str
    targets: Sequence[str]
    protocol: Protocol
    test: PerLanguage
    validation: PerLanguage
    config: Mapping[str, Any]
    seconds: Mapping[str, float]
    groups: Mapping[str, Group] = field(default_factory=dict)
    evaluators: Mapping[str, Mapping[str, PerLanguage]] = field(default_factory=dict)
    before: PerLanguage = field(default_factory=dict)


class Summary(TypedDict):
    """Numbers over all targets: their means, source SumR minus mean target SumR (if there is a source), lowest SumR."""

    mean_target: dict[str, float]
    language_gap: float | None
    weakest_target: str


def weakest(per_language: PerLanguage, languages: Iterable[str]) -> str:
    """The language with the lowest SumR, the first of equals."""
    return min(languages, key=lambda language: per_language[language]["SumR"])


def summarise(per_language: PerLanguage, *, source: str, targets: Sequence[str]) -> Summary:
    """Averages every metric over the targets and compares with the source; raises KeyError if a target is missing."""
    names = per_language[targets[0]]
    mean = {name: math.fsum(per_language[target][name] for target in targets) / len(targets) for name in names}
    gap = per_language[source]["SumR"] - mean["SumR"] if source in per_language else None
    return Summary(mean_target=mean, language_gap=gap, weakest_target=weakest(per_language, targets))


def language_table(
    per_language: PerLanguage,
    *,
    source: str,
    targets: Sequence[str],
    protocol: Protocol,
    title: str,
    shown: Mapping[str, str] = SHOWN,
) -> Table:
    """One row per language and the mean over the targets; below, gap and weakest target (of SumR), and the protocol."""
    summary, notes = summarise(per_language, source=source, targets=targets), []
    rows = [_row(f"{source} (source)", per_language[source], shown), RULE] if source in per_language else []
    rows += [_row(target, per_language[target], shown) for target in targets]
    mean = _row(f"mean of {len(targets)} target{'s' * (len(targets) != 1)}", summary["mean_target"], shown)
    if "SumR" in shown:
        if summary["language_gap"] is not None:
            notes.append(f"language gap ({source} SumR - mean target SumR): {summary['language_gap']:.1f}")
        notes += _weakest_note(per_language, targets, of="targets")
    return Table(title, ("language", *shown.values()), (*rows, RULE, mean), (*notes, *protocol.notes))


def group_table(group: Group, *, title: str, shown: Mapping[str, str] = SHOWN) -> Table:
    """One row per language, without a mean, and the group's protocol. `shown`: metric -> column name."""
    rows = tuple(_row(language, metrics, shown) for language, metrics in group.per_language.items())
    notes = _weakest_note(group.per_language, group.per_language, of="languages") if "SumR" in shown else []
    return Table(title, ("language", *shown.values()), rows, (*notes, *group.protocol.notes))


def few_images(images: float) -> list[str]:
    """A line that says that numbers of few images say little, as one more hit changes them by points; else none."""
    if not 0 < images < ENOUGH_IMAGES:
        return []
    count = "only 1 image" if images == 1 else f"only {images:g} images"
    return [
        f"{count}: one more hit is {100 / images:.1f} points of a recall, and differences of a few hits are "
        f"chance; evaluate on {ENOUGH_IMAGES} images or more"
    ]


def _row(name: str, metrics: Metrics, shown: Mapping[str, str]) -> tuple[str, ...]:
    return (name, *(f"{metrics[metric]:.1f}" for metric in shown))


def _weakest_note(per_language: PerLanguage, languages: Collection[str], *, of: str) -> list[str]:
    if len(languages) < 2:
        return []
    language = weakest(per_language, languages)
    return [f"weakest of {len(languages)} {of}: {language}, SumR {per_language[language]['SumR']:.1f}"]


def report_tables(results: Results) -> list[Table]:
    """Recalls: the headline table, and one for each group that is reported apart."""
    return _tables(results, "Retrieval", "Reported apart", SHOWN)


def rank_tables(results: Results) -> list[Table]:
    """Median and mean rank and mAP, in the same tables as `report_tables`."""
    return _tables(results, "Ranks and mAP", "Ranks and mAP, reported apart", SHOWN_RANKS)


def _tables(results: Results, headline: str, apart: str, shown: Mapping[str, str]) -> list[Table]:
    table = language_table(
        results.test,
        source=results.source,
        targets=results.targets,
        protocol=results.protocol,
        title=f"{headline} on the {results.protocol.split} split",
        shown=shown,
    )
    groups = results.groups.items()
    return [table, *(group_table(group, title=f"{apart}: {name}", shown=shown) for name, group in groups)]


def evaluator_tables(results: Results) -> list[Table]:
    """One table for each further evaluator: a row for each language of the test split."""
    tables = []
    for name, splits in results.evaluators.items():
        names = tuple(dict.fromkeys(metric for metrics in splits["test"].values() for metric in metrics))
        rows = tuple(
            (language, *(f"{metrics[metric]:.4g}" if metric in metrics else "-" for metric in names))
            for language, metrics in splits["test"].items()
        )
        title, notes = f"{name} on the {results.protocol.split} split", tuple(few_images(results.protocol.images))
        tables.append(Table(title, ("language", *names), rows, notes))
    return tables


def before_tables(results: Results) -> list[Table]:
    """The numbers before and after training side by side, of a run that started at a model; else no table."""
    if not results.before:
        return []
    columns = tuple(f"{short} {when}" for short in SHOWN_BEFORE.values() for when in ("before", "after"))
    found, rows = dict(results.test), []
    for name, group in results.groups.items():
        found |= group.per_language if name.startswith(REPORTED) else {}
    for language in (language for language in results.before if language in found):
        before, after = results.before[language], found[language]
        cells = (f"{metrics[name]:.1f}" for name in SHOWN_BEFORE for metrics in (before, after))
        rows.append((language, *cells, f"{after['SumR'] - before['SumR']:+.1f}"))
    title = f"Before and after training on the {results.protocol.split} split"
    step, share = (results.config.get(name, "?") for name in ("selected_step", "selected_share"))
    mixed = "" if share in (1.0, "?") else f", {share:g} of its weights and {1 - share:g} of those before training"
    notes = (f"selected step: {step}{mixed}", *few_images(results.protocol.images))
    return [Table(title, ("language", *columns, "difference"), tuple(rows), notes)]


def text_report(results: Results) -> str:
    """The tables of recalls and of further evaluators as plain text, for the terminal."""
    tables = (*report_tables(results), *before_tables(results), *evaluator_tables(results))
    return "\n\n".join(table.text() for table in tables)


def markdown_report(results: Results) -> str:
    """All tables as Markdown."""
    before = before_tables(results)
    tables = (*report_tables(results), *before, *rank_tables(results), *evaluator_tables(results))
    return "\n\n".join(table.markdown() for table in tables) + "\n"


def write_results(directory: Path, results: Results) -> tuple[Path, Path]:
    """Writes results.md, then results.json into `directory`, atomically; returns (json, md) paths."""
    path = directory / MARKDOWN_FILE
    write_checked(path, markdown_report(results))
    return write_results_json(directory, results), path  # last: a workdir with results.json is a finished one


def write_results_json(directory: Path, results: Results) -> Path:
    """Writes results.json alone."""
    content = {
        "protocol": results.protocol.as_dict(),
        "test": results.test,
        "validation": results.validation,
        **summarise(results.test, source=results.source, targets=results.targets),
        "groups": {
            name: {"protocol": group.protocol.as_dict(), "test": group.per_language}
            for name, group in results.groups.items()
        },
        **({"evaluators": results.evaluators} if results.evaluators else {}),
        **({"before": results.before} if results.before else {}),
        "config": results.config,
        "seconds": results.seconds,
    }
    path = directory / RESULTS_FILE
    write_checked(path, to_json(content))
    return path


def read_report(directory: Path) -> str:
    """The text of results.md; raises UserError if it was changed."""
    return read_checked(directory / MARKDOWN_FILE, fix=_AGAIN).decode("utf-8", errors="replace")


def read_results(directory: Path) -> Results:
    """Reads the results.json of `write_results`; raises UserError if there is none, or it is damaged."""
    path = directory / RESULTS_FILE
    try:
        content = read_checked_json(path, fix=_AGAIN)
        groups = {
            name: Group(group["test"], _read_protocol(group["protocol"])) for name, group in content["groups"].items()
        }
        config = content["config"]
        results = Results(
            source=config["data.source"],
            targets=tuple(config["data.targets"]),
            protocol=_read_protocol(content["protocol"]),
            groups=groups,
            evaluators=content.get("evaluators", {}),
            before=content.get("before", {}),
            **{name: content[name] for name in ("test", "validation", "config", "seconds")},
        )
        markdown_report(results)  # a value of another type is found here, and not where a table is printed
        return results
    except FileNotFoundError as error:
        raise UserError(
            f"--workdir={directory} holds no results.json; finish its training, with the command that started it"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {error}); {_AGAIN}") from error


def _read_protocol(content: Mapping[str, Any]) -> Protocol:
    names = ("split", "images", "captions", "captions_per_image", "query", "fusion_weight")
    return Protocol(**{name: content[name] for name in names})


def to_json(content: Any) -> str:
    """Indented strict JSON: NaN and infinity become null, numpy scalars numbers, other objects their text."""
    return json.dumps(_strict(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if hasattr(value, "tolist"):  # numpy arrays and scalars
        return _strict(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)
