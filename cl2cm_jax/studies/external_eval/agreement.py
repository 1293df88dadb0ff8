"""Our metrics beside those of the evaluation libraries: which have the same protocol, and whether those agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cl2cm_jax.evaluation.report import SHORT_DIRECTION, few_images
from cl2cm_jax.evaluation.table import Table
from cl2cm_jax.studies.external_eval import clip_benchmark_retrieval, mteb_retrieval
from cl2cm_jax.studies.external_eval.captioned import CachedModel, Captioned, TwoTowers
from cl2cm_jax.studies.external_eval.packages import package
from cl2cm_jax.studies.external_eval.ties import TieBounds, own_metrics

TOLERANCE, MANY_TIES = 0.1, 1.0  # points
SAME, NONE = "same", "not one of ours"


class Library(NamedTuple):
    """An evaluation library."""

    evaluate: Callable[[TwoTowers, Captioned], dict[str, dict[str, float]]]  # scores in percent by language and name
    ours: dict[str, str]  # the metric of ours that each score corresponds to, "" for none
    modules: tuple[str, ...] = ()  # imported by `evaluate`
    other_protocol: Callable[[str, Captioned, str], str] = lambda *_: ""  # why a metric is not compared, "": it is


LIBRARIES = {
    name: Library(adapter.evaluate, adapter.SCORES, adapter.MODULES, adapter.other_protocol)
    for name, adapter in {"mteb": mteb_retrieval, "clip_benchmark": clip_benchmark_retrieval}.items()
}


@dataclass(frozen=True)
class Score:
    """One score of a library in one language, in percent, beside ours."""

    library: str
    language: str
    name: str  # in the library
    reference: float  # the library's value
    metric: str = ""  # our name for it; "" if we have no such metric
    ours: float = 0.0
    worst: float = 0.0  # ours with pessimistic ties
    best: float = 0.0  # ours with optimistic ties
    protocol: str = NONE  # SAME, or why the two are not compared

    @property
    def difference(self) -> float:
        """Points between the reference and the nearest value that some rule for ties gives us."""
        return max(self.worst - self.reference, self.reference - self.best, 0.0)

    @property
    def ties(self) -> float:
        """Points by which ties could change our value."""
        return self.best - self.worst

    @property
    def agrees(self) -> bool:
        """Whether the two values agree, or are not compared."""
        return self.protocol != SAME or self.difference <= TOLERANCE


def compare(model: TwoTowers, data: Captioned, libraries: Sequence[str]) -> list[Score]:
    """Every score of these libraries beside ours.

    Raises:
      UserError: a library is not installed, or an image cannot be read.
    """
    for library in libraries:  # before anything is computed
        for module in LIBRARIES[library].modules:
            package(module)
    own = own_metrics(model, data)  # first, because our error for an unreadable image is one line
    found = {library: LIBRARIES[library].evaluate(CachedModel(model), data) for library in libraries}
    return [
        _beside(library, language, name, scores[language][name], own[language], data)
        for library, scores in found.items()
        for language in data.captions
        for name in LIBRARIES[library].ours
        if name in scores[language]  # recalls at more than the gallery's size are missing
    ]


def _beside(library: str, language: str, name: str, reference: float, own: TieBounds, data: Captioned) -> Score:
    metric = LIBRARIES[library].ours[name]
    if not metric:
        return Score(library, language, name, reference)
    ours = own.ours[metric]
    worst, best = min(own.worst[metric], ours), max(own.best[metric], ours)
    protocol = LIBRARIES[library].other_protocol(metric, data, language) or SAME
    return Score(library, language, name, reference, metric, ours, worst, best, protocol)


def table(scores: Sequence[Score], *, images: int) -> Table:
    """A line for each score of each library: means over the languages, and the language with the largest difference.

    Below are the verdict and, of few images, that the numbers say little.
    """
    groups: dict[tuple[str, str], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.library, score.name), []).append(score)
    languages = list(dict.fromkeys(score.language for score in scores))
    compared = [score for score in scores if score.protocol == SAME]
    apart = [score for score in compared if not score.agrees]
    verdict = f"{len(compared)} scores of the same protocol compared in {', '.join(languages)}: "
    verdict += f"{len(apart)} differ by more than {TOLERANCE} point" if apart else f"all within {TOLERANCE} point"
    if any(score.ties for score in compared):
        verdict += " beyond ties"
    notes = [
        verdict,
        *(f"{s.library}, {s.language}: {_short(s.name)} {s.reference:.2f}, ours {s.ours:.2f}" for s in apart),
    ]
    tied = [score for score in compared if score.ties > MANY_TIES]
    if tied:  # a model that gives all images one score would agree with any value
        most = max(tied, key=lambda score: score.ties)
        notes.append(
            f"warning: ties could change {len(tied)} of the scores by more than {MANY_TIES:g} point, "
            f"{_short(most.name)} in {most.language} by {most.ties:.1f}; their agreement is not informative"
        )
    notes += few_images(images)
    notes.append(
        "means over the languages, in percent; ties: points by which scores within 1e-6 of each other could change "
        "ours; largest difference: in one language, beyond ties"
    )
    return Table(
        title="Our metrics and those of evaluation libraries",
        columns=("library", "ours", "ours %", "its name", "its %", "ties", "largest difference", "protocol"),
        words=("ours", "its name", "protocol"),
        rows=tuple(_line(group) for group in groups.values()),
        notes=tuple(notes),
    )


def _line(group: Sequence[Score]) -> tuple[str, ...]:
    """The table's line for one score in all languages."""
    first = group[0]
    reference, ours, ties = (f"{_mean(group, field):.2f}" for field in ("reference", "ours", "ties"))
    if not first.metric:
        return first.library, "-", "-", _short(first.name), reference, "-", "-", NONE
    other_protocols = list(dict.fromkeys(score.protocol for score in group if score.protocol != SAME))
    compared = [score for score in group if score.protocol == SAME]
    worst = max(compared, key=lambda score: score.difference, default=None)
    largest = "-" if worst is None else f"{worst.difference:.2f}"
    if worst is not None and float(largest):
        largest += f" ({worst.language})"
    protocol = "; ".join(other_protocols) or SAME
    return first.library, _short(first.metric), ours, _short(first.name), reference, ties, largest, protocol


def _mean(group: Sequence[Score], field: str) -> float:
    return sum(getattr(score, field) for score in group) / len(group)


def _short(name: str) -> str:
    direction, slash, rest = name.partition("/")
    return f"{SHORT_DIRECTION[direction]} {rest}" if slash else name
