"""Our metrics beside those of the evaluation libraries: which have the same protocol, and whether those agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cl2cm_jax.evaluation.report import SHORT_DIRECTION
from cl2cm_jax.evaluation.retrieval import DIRECTIONS, RECALL_AT
from cl2cm_jax.evaluation.table import Table
from cl2cm_jax.studies.external_eval import clip_benchmark_retrieval, mteb_retrieval
from cl2cm_jax.studies.external_eval.captioned import CachedModel, Captioned, TwoTowers
from cl2cm_jax.studies.external_eval.packages import package
from cl2cm_jax.studies.external_eval.ties import TieBounds, own_metrics

TOLERANCE, MANY_TIES = 0.1, 1.0  # points
SAME, NONE = "same", "not one of ours"


class Library(NamedTuple):
    """An evaluation library.

    Attributes:
      evaluate: its scores in percent, by language and name.
      ours: the metric of ours that each score corresponds to, "" for none.
      modules: imported by `evaluate`.
    """

    evaluate: Callable[[TwoTowers, Captioned], dict[str, dict[str, float]]]
    ours: dict[str, str]
    modules: tuple[str, ...] = ()


def _mteb_names() -> dict[str, str]:
    ours = {f"hit_rate_at_{k}": f"R@{k}" for k in RECALL_AT} | {f"map_at_{mteb_retrieval.DEPTH}": "mAP"}
    return {
        f"{direction}/{name}": f"{direction}/{ours[name]}" if name in ours else ""
        for direction in DIRECTIONS
        for name in mteb_retrieval.SCORES
    }


def _clip_benchmark_names() -> dict[str, str]:
    kinds = zip(clip_benchmark_retrieval.SCORES, DIRECTIONS, strict=True)  # named by what is retrieved; ours by from-to
    return {f"{kind}@{k}": f"{direction}/R@{k}" for kind, direction in kinds for k in RECALL_AT}


LIBRARIES = {
    "mteb": Library(mteb_retrieval.evaluate, _mteb_names(), mteb_retrieval.MODULES),
    "clip_benchmark": Library(
        clip_benchmark_retrieval.evaluate, _clip_benchmark_names(), clip_benchmark_retrieval.MODULES
    ),
}


@dataclass(frozen=True, kw_only=True)
class Score:
    """One score of a library in one language, in percent, beside ours.

    Attributes:
      library, language, name: name is that of the library.
      reference: the score of the library.
      metric: our name for it; "" if we have no such metric.
      ours, worst, best: our value, and those with pessimistic and optimistic ties.
      protocol: `SAME`, or why the two are not compared.
    """

    library: str
    language: str
    name: str
    reference: float
    metric: str = ""
    ours: float = 0.0
    worst: float = 0.0
    best: float = 0.0
    protocol: str = NONE

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
        return Score(library=library, language=language, name=name, reference=reference)
    return Score(
        library=library,
        language=language,
        name=name,
        reference=reference,
        metric=metric,
        ours=own.ours[metric],
        worst=min(own.worst[metric], own.ours[metric]),
        best=max(own.best[metric], own.ours[metric]),
        protocol=_protocol(library, metric, data, language),
    )


def _protocol(library: str, metric: str, data: Captioned, language: str) -> str:
    captions = data.captions[language]
    direction, _, name = metric.partition("/")
    gallery = len(data.pictures) if direction == "text_to_vision" else len(captions.texts)
    if library == "mteb" and name == "mAP" and gallery > mteb_retrieval.DEPTH:
        return f"cut at rank {mteb_retrieval.DEPTH}"
    if (
        library == "clip_benchmark"
        and direction == "vision_to_text"
        and len(set(captions.picture)) < len(data.pictures)
    ):
        return "counts images without caption"
    return SAME


def table(scores: Sequence[Score]) -> Table:
    """A line for each score of each library: means over the languages, and the language with the largest difference."""
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
    return Table(
        title="Our metrics and those of evaluation libraries",
        columns=("library", "ours", "ours %", "its name", "its %", "ties", "largest difference", "protocol"),
        words=("ours", "its name", "protocol"),
        rows=tuple(_line(group) for group in groups.values()),
        notes=(
            verdict,
            *(f"{s.library}, {s.language}: {_short(s.name)} {s.reference:.2f}, ours {s.ours:.2f}" for s in apart),
            *_tie_warning(compared),
            "means over the languages, in percent; ties: points by which scores within 1e-6 of each other could change "
            "ours; largest difference: in one language, beyond ties",
        ),
    )


def _tie_warning(compared: Sequence[Score]) -> list[str]:
    """A warning about many ties: a model that gives all images one score would agree with any value."""
    tied = [score for score in compared if score.ties > MANY_TIES]
    if not tied:
        return []
    most = max(tied, key=lambda score: score.ties)
    return [
        f"warning: ties could change {len(tied)} of the scores by more than {MANY_TIES:g} point, {_short(most.name)} "
        f"in {most.language} by {most.ties:.1f}; their agreement is not informative"
    ]


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
