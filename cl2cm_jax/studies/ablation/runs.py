"""The runs behind an ablation: which there are, where they are kept, and training those that are missing.

A training is one set of parameters; several rows may be read off it (`evaluation.ablation_rows`). Each row has a folder
of its own, where its ranks on the test split, written last, say that it is done.
"""

from __future__ import annotations

import functools
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from cl2cm_jax.data.captions import SPLITS
from cl2cm_jax.data.folds import Folds
from cl2cm_jax.errors import UserError
from cl2cm_jax.evaluation import evaluate
from cl2cm_jax.evaluation.retrieval import Ranks, load_ranks, save_ranks
from cl2cm_jax.features.cache import Corpora, all_corpora, chosen, concepts
from cl2cm_jax.runtime.atomic import write_text
from cl2cm_jax.runtime.metrics import read_rows
from cl2cm_jax.studies.ablation.least_squares import mapped_ranks
from cl2cm_jax.studies.ablation.row_names import run_folder
from cl2cm_jax.studies.ablation.translated_queries import NoTranslationsError, with_translations
from cl2cm_jax.studies.ablation.variants import (
    LEAST_SQUARES,
    READ_OTHERWISE,
    SOURCE_ONLY,
    TRANSLATED,
    absent_rows,
    place_of,
    trains_on_human,
    variant,
)
from cl2cm_jax.studies.bootstrap import RunHits, joined
from cl2cm_jax.training import loop, results
from cl2cm_jax.training.experiment import SELECTION, TARGETS_METRIC, Programs, Run, build, check_workdir, claim

READ_FILE = "read.json"  # of a row that is read off another's model: what validation says of it


class Output(NamedTuple):
    """One row at one level of noise, of one seed and fold: where it is kept, and the config that it stands for."""

    name: str
    noise: float
    seed: int
    fold: int | None
    folder: Path

    def config(self, shared: ConfigDict) -> ConfigDict:
        return variant(shared, self.name, noise=self.noise, seed=self.seed)


class Ablation:
    """What is asked for of a set, and what of it the set can have.

    Args:
      config: that the rows share.
      workdir: of all runs.
      noises: shares of wrong translations.
      seeds: `config.seed` of the runs.
      names: the rows.
      folds: over concepts, 0: the set's own split.

    Attributes:
      absent: by noise, the rows that there are not, and why.

    Raises:
      UserError: the test split has no source caption, or the set cannot be dealt into so many folds.
    """

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        *,
        noises: Sequence[float],
        seeds: Sequence[int],
        names: Sequence[str],
        folds: int = 0,
    ):
        self.config, self.workdir, self.folds = config, workdir, folds
        self.noises, self.seeds, self.names = list(noises), list(seeds), list(names)
        data = all_corpora(config)  # captions of every origin; each run reads its own, see `chosen`
        if not len(data.test.captions_of(config.data.source)):
            raise UserError(
                f"config.data.source={config.data.source!r}: the test split has no caption in it, and the ablation "
                "shows what each row does to it; give the set such captions"
            )
        self._data, self._translated, untranslated = data, data, "not asked for"
        if TRANSLATED in names:
            try:
                self._translated = with_translations(
                    config, data if folds else chosen(data, config), splits=SPLITS if folds else ("test",)
                )
                untranslated = ""
            except NoTranslationsError as error:
                untranslated = str(error)
        self._human = trains_on_human(config, data.train)
        absent = {
            noise: absent_rows(config, data.train, noise=noise, untranslated=untranslated) for noise in self.noises
        }
        self.absent = {noise: {n: why for n, why in rows.items() if n in names} for noise, rows in absent.items()}
        self._folds = None
        if folds:
            self._folds = Folds(
                self._translated,
                list(concepts(config).values()),
                folds=folds,
                source=config.data.source,
                languages=data.train.languages,
            )
        self._programs: Programs = {}

    def rows(self, noise: float) -> list[str]:
        """The rows that there are at a level of noise."""
        return [name for name in self.names if name not in self.absent[noise]]

    def output(self, name: str, *, noise: float, seed: int, fold: int | None = None) -> Output:
        """Where a row is kept."""
        place = place_of(name, noise=noise, human=self._human)
        base = self.workdir if fold is None else self.workdir / f"folds-{self.folds}"
        folder = run_folder(base / f"noise-{place.noise:g}", place.name, seed)
        if fold is not None:
            folder = folder.with_name(f"{folder.name}-fold-{fold}")
        return Output(place.name, place.noise, seed, fold, folder)

    def found(self, name: str, *, noise: float) -> list[RunHits]:
        """What the finished runs of a row found on the test split, one a seed; folds are joined."""
        return [
            joined(
                [RunHits(seed, load_ranks(out.folder / results.RANKS_FILE)) for out in self._of_seed(name, noise, seed)]
            )
            for seed in self.seeds
        ]

    def validation(self, name: str, *, noise: float) -> tuple[float, ...]:
        """The validation SumR of the selected parameters, one a seed (the mean over folds); none where one lacks it."""
        select = self.config.train.select
        values = [
            [_validation(out.folder, select=select) for out in self._of_seed(name, noise, seed)] for seed in self.seeds
        ]
        known = [[value for value in of_seed if value is not None] for of_seed in values]
        if [len(some) for some in known] != [len(some) for some in values]:
            return ()
        return tuple(sum(some) / len(some) for some in known)

    def train_all(self) -> bool:
        """Trains the runs that are not in the workdir yet; False if a signal asked to stop."""
        jobs = list(self._trainings())
        for number, outputs in enumerate(jobs, start=1):
            began = time.perf_counter()
            trained = self._train(outputs)
            if trained is None:
                return False
            if trained:
                first = outputs[0]
                fold = "" if first.fold is None else f" fold {first.fold}"
                what = f"noise {first.noise:g} seed {first.seed}{fold} {first.name}"
                print(f"{number}/{len(jobs)} {what}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        return True

    def _of_seed(self, name: str, noise: float, seed: int) -> list[Output]:
        return [self.output(name, noise=noise, seed=seed, fold=fold) for fold in self._fold_numbers()]

    def _fold_numbers(self) -> list[int | None]:
        return [*range(self.folds)] if self.folds else [None]

    def _trainings(self) -> Iterator[list[Output]]:
        """The outputs of each training, in the order in which they are made."""
        for seed in self.seeds:
            for fold in self._fold_numbers():
                by_model: dict[tuple[float, str], dict[Path, Output]] = {}
                for noise in self.noises:
                    for name in self.rows(noise):
                        out = self.output(name, noise=noise, seed=seed, fold=fold)
                        model = (0.0, SOURCE_ONLY) if out.name in READ_OTHERWISE else (out.noise, out.name)
                        by_model.setdefault(model, {})[out.folder] = out
                yield from (list(outputs.values()) for outputs in by_model.values())

    def _train(self, outputs: list[Output]) -> bool | None:
        """Trains one model unless all its rows are there; False if they were, None if a signal asked to stop.

        What is kept of a row: config, metrics and the ranks on test. The training lies in the folder of the first row
        that is missing, which is marked as done when the others are.
        """
        missing = [out for out in outputs if not _is_done(out.folder, out.config(self.config))]
        if not missing:
            return False
        home, *others = missing
        data, translated = self._splits(home.fold)

        def keep(selected: results.Selected) -> None:
            for out in others:
                with claim(out.folder, out.config(self.config)):
                    self._keep(out, selected, data, translated)
            self._keep(home, selected, data, translated)

        config = home.config(self.config)
        return _train_in(home.folder, config, chosen(data, config), keep=keep, programs=self._programs)

    def _keep(self, out: Output, selected: results.Selected, data: Corpora, translated: Corpora) -> None:
        """Writes what a row keeps of a trained model, its ranks last."""
        ranks, config = selected.ranks, out.config(self.config)
        if out.name in READ_OTHERWISE:
            run = build(config, chosen(data, config), programs=self._programs)
            about: dict[str, Any] = {}
            if out.name == LEAST_SQUARES:
                mapped = mapped_ranks(run.embedder, selected.student, run.corpora.train, selected.embedded, run.config)
                ranks, about = mapped.ranks, {"ridges": mapped.ridges}
            else:
                ranks = _translated_ranks(run, selected, translated)
            known = [target for target in config.data.targets if target in ranks.get("validation", {})]
            if len(known) == len(config.data.targets):
                about[f"validation/{TARGETS_METRIC}"] = evaluate.mean_sum_recall(ranks["validation"], known)
            write_text(out.folder / READ_FILE, json.dumps(about) + "\n")
        save_ranks(out.folder / results.RANKS_FILE, ranks["test"])

    def _splits(self, fold: int | None) -> tuple[Corpora, Corpora]:
        """The splits to train on, captions of every origin, and those with the captions that are translated queries."""
        if fold is None:
            return self._data, self._translated
        of_fold = self._of_fold(fold)
        return of_fold, of_fold

    @functools.lru_cache(maxsize=1)  # noqa: B019 - one fold is in memory at a time, and the object lives as long
    def _of_fold(self, fold: int) -> Corpora:
        assert self._folds is not None
        return Corpora(*self._folds.of(fold))


def _is_done(folder: Path, config: ConfigDict) -> bool:
    """Whether a run is there; raises UserError if it is of another configuration."""
    if not (folder / results.RANKS_FILE).exists():
        return False
    check_workdir(folder, config)
    return True


def _train_in(
    folder: Path,
    config: ConfigDict,
    data: Corpora,
    *,
    keep: Callable[[results.Selected], None],
    programs: Programs | None,
) -> bool | None:
    """Trains one run and keeps of it what `keep` writes, the checkpoints not; None if a signal asked to stop."""
    with claim(folder, config), (folder / "log.txt").open("a", encoding="utf-8") as log:
        built = build(config, data, programs=programs)
        if loop.train(built, folder, stream=log) is None:
            return None
        keep(results.select(built, folder))
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return True


def _translated_ranks(run: Run, selected: results.Selected, translated: Corpora) -> dict[str, dict[str, Ranks]]:
    """Ranks of the source's queries, and of the targets' as they were translated to it, by split."""
    config = run.config.copy_and_resolve_references()
    config.evaluation.query, config.evaluation.fusion_weight = "fused", 1.0
    ranks, d = {}, config.data
    for corpus in (translated.validation, translated.test):
        languages = [d.source, *(n for n in (*d.targets, *d.reported) if f"{n}2{d.source}" in corpus.languages)]
        if len(languages) > 1:
            pictures = evaluate.headline(corpus)
            embedded = evaluate.embed_corpus(
                run.embedder, selected.student, pictures, languages=languages, config=config
            )
            ranks[corpus.name] = evaluate.rank_all(embedded, config)
    return ranks


def _validation(folder: Path, *, select: str) -> float | None:
    """The validation SumR of what was selected, from what the run has written; None if it has no such queries."""
    score, targets = f"validation/{SELECTION}", f"validation/{TARGETS_METRIC}"
    if (folder / READ_FILE).exists():
        return json.loads((folder / READ_FILE).read_text(encoding="utf-8")).get(targets)
    rows = [row for row in read_rows(folder / "metrics.jsonl") if score in row]
    return (max(rows, key=lambda row: row[score]) if select == "best" else rows[-1])[targets]


def run_once(config: ConfigDict, data: Corpora, folder: Path, *, programs: Programs | None = None) -> bool | None:
    """Trains one run unless it is there; False if it was, None if a signal asked to stop.

    What is kept: config, metrics and the ranks on `data.test`.
    """
    if _is_done(folder, config):
        return False

    def keep(selected: results.Selected) -> None:
        save_ranks(folder / results.RANKS_FILE, selected.ranks["test"])

    return _train_in(folder, config, data, keep=keep, programs=programs)
