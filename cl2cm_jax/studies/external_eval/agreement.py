"""Our numbers beside those of the judges: which have one protocol, and whether those agree.

Source: ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cl2cm_jax.evaluation.retrieval import DIRECTIONS, RECALL_AT
from cl2cm_jax.evaluation.table import Table
from cl2cm_jax.studies.external_eval import clip_benchmark_retrieval, mteb_retrieval
from cl2cm_jax.studies.external_eval.captioned import Captioned, Extremes, Remembering, TwoTowers, own_metrics
from cl2cm_jax.studies.external_eval.packages import package

AGREES, MUCH_TIED = 0.1, 1.0  # points
SAME, NONE = "same", "none of ours"
_SHORT = {"text_to_vision": "t2v", "vision_to_text": "v2t"}


class Judge(NamedTuple):
    """A library that evaluates a model, which of its scores is which of ours ("" where none is), and what it is of."""

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
    kinds = zip(clip_benchmark_retrieval.SCORES, DIRECTIONS, strict=True)  # what is retrieved, and from what to what
    return {f"{theirs}@{k}": f"{ours}/R@{k}" for theirs, ours in kinds for k in RECALL_AT}


JUDGES = {
    "mteb": Judge(mteb_retrieval.evaluate, _mteb_names(), mteb_retrieval.MODULES),
    "clip_benchmark": Judge(
        clip_benchmark_retrieval.evaluate, _clip_benchmark_names(), clip_benchmark_retrieval.MODULES
    ),
}


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One score of a judge in one language, in percent, beside ours.

    Attributes:
      judge, language, name: whose it is, and what the judge calls it.
      theirs: the score.
      metric: what we call it; "" where we have none.
      ours, worst, best: ours, and ours if all ties fell against us or for us.
      protocol: `SAME`, or why the two are not compared.
    """

    judge: str
    language: str
    name: str
    theirs: float
    metric: str = ""
    ours: float = 0.0
    worst: float = 0.0
    best: float = 0.0
    protocol: str = NONE

    @property
    def difference(self) -> float:
        """Points between theirs and the nearest that some rule for ties gives us."""
        return max(self.worst - self.theirs, self.theirs - self.best, 0.0)

    @property
    def ties(self) -> float:
        """Points that ties could move ours by."""
        return self.best - self.worst

    @property
    def agrees(self) -> bool:
        """Whether theirs is ours, as far as the protocol is the same."""
        return self.protocol != SAME or self.difference <= AGREES


def judged(model: TwoTowers, data: Captioned, judges: Sequence[str]) -> list[Judged]:
    """Every score of these judges beside ours.

    Raises:
      UserError: a judge is not installed, or a picture cannot be read.
    """
    for judge in judges:  # what is not installed shows at once
        for module in JUDGES[judge].modules:
            package(module)
    own = own_metrics(model, data)  # a picture that cannot be read is refused by us, in a line
    scores = {judge: JUDGES[judge].evaluate(Remembering(model), data) for judge in judges}
    return [
        _beside(judge, language, name, by_language[language][name], own[language], data)
        for judge, by_language in scores.items()
        for language in data.captions
        for name in JUDGES[judge].ours
        if name in by_language[language]  # all are, but for a k beyond the gallery
    ]


def _beside(judge: str, language: str, name: str, theirs: float, own: Extremes, data: Captioned) -> Judged:
    metric = JUDGES[judge].ours[name]
    if not metric:
        return Judged(judge=judge, language=language, name=name, theirs=theirs)
    return Judged(
        judge=judge,
        language=language,
        name=name,
        theirs=theirs,
        metric=metric,
        ours=own.ours[metric],
        worst=min(own.worst[metric], own.ours[metric]),
        best=max(own.best[metric], own.ours[metric]),
        protocol=_protocol(judge, metric, data, language),
    )


def _protocol(judge: str, metric: str, data: Captioned, language: str) -> str:
    captions = data.captions[language]
    direction, _, name = metric.partition("/")
    gallery = len(data.pictures) if direction == "text_to_vision" else len(captions.texts)
    if judge == "mteb" and name == "mAP" and gallery > mteb_retrieval.DEPTH:
        return f"theirs ends at {mteb_retrieval.DEPTH}"
    if judge == "clip_benchmark" and direction == "vision_to_text" and len(set(captions.picture)) < len(data.pictures):
        return "theirs counts pictures without caption"
    return SAME


def table(results: Sequence[Judged]) -> Table:
    """A row for each score of each judge: means over the languages, and the language where the two differ most."""
    groups: dict[tuple[str, str], list[Judged]] = {}
    for one in results:
        groups.setdefault((one.judge, one.name), []).append(one)
    languages = list(dict.fromkeys(one.language for one in results))
    compared = [one for one in results if one.protocol == SAME]
    apart = [one for one in compared if not one.agrees]
    verdict = f"{len(compared)} scores of one protocol compared in {', '.join(languages)}: "
    verdict += f"{len(apart)} differ by more than {AGREES} point" if apart else f"all within {AGREES} point"
    if any(one.ties for one in compared):
        verdict += " beyond ties"
    named = [f"{one.judge}, {one.language}: {_short(one.name)} {one.theirs:.2f}, ours {one.ours:.2f}" for one in apart]
    return Table(
        title="Our numbers and the judges'",
        columns=("judge", "ours", "ours %", "theirs", "theirs %", "ties", "largest difference", "protocol"),
        words=("ours", "theirs", "protocol"),
        rows=tuple(_row(group) for group in groups.values()),
        notes=(
            verdict,
            *named,
            *_much_tied(compared),
            "means over the languages, in percent; ties: points that scores within 1e-6 of each other could move; "
            "largest difference: of a language, beyond ties",
        ),
    )


def _much_tied(compared: Sequence[Judged]) -> list[str]:
    """What agreement says little of: a model that gives everything one score would agree with any number."""
    tied = [one for one in compared if one.ties > MUCH_TIED]
    if not tied:
        return []
    most = max(tied, key=lambda one: one.ties)
    return [
        f"warning: ties could move {len(tied)} of the scores by more than {MUCH_TIED:g} point, {_short(most.name)} in "
        f"{most.language} by {most.ties:.1f}; agreement says little of those"
    ]


def _row(group: Sequence[Judged]) -> tuple[str, ...]:
    first = group[0]
    theirs = f"{_mean(group, 'theirs'):.2f}"
    if not first.metric:
        return first.judge, "-", "-", _short(first.name), theirs, "-", "-", NONE
    odd = list(dict.fromkeys(one.protocol for one in group if one.protocol != SAME))
    compared = [one for one in group if one.protocol == SAME]
    worst = max(compared, key=lambda one: one.difference, default=None)
    largest = "-" if worst is None else f"{worst.difference:.2f}"
    if worst is not None and float(largest):
        largest += f" ({worst.language})"
    ties = f"{_mean(group, 'ties'):.2f}"
    ours = f"{_mean(group, 'ours'):.2f}"
    name = _short(first.name)
    return first.judge, _short(first.metric), ours, name, theirs, ties, largest, "; ".join(odd) or SAME


def _mean(group: Sequence[Judged], field: str) -> float:
    return sum(getattr(one, field) for one in group) / len(group)


def _short(name: str) -> str:
    direction, slash, rest = name.partition("/")
    return f"{_SHORT[direction]} {rest}" if slash else name
