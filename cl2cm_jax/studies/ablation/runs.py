"""Runs of the ablation: which rows there are, where each is stored, and training of those that are missing.

Several rows may evaluate the model of one training (`variants.SHARE_SOURCE_ONLY`). Each row has its own folder; its
ranks on the test split are written last and mark it as finished.
"""

from __future__ import annotations

import functools
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from cl2cm_jax.config import PLACES
from cl2cm_jax.data.captions import SPLITS
from cl2cm_jax.data.folds import Folds
from cl2cm_jax.errors import UserError
from cl2cm_jax.evaluation import evaluate
from cl2cm_jax.evaluation.retrieval import Ranks, load_ranks, save_ranks
from cl2cm_jax.features.cache import Corpora, all_corpora, chosen, concepts
from cl2cm_jax.models.configured import settled
from cl2cm_jax.runtime.checksums import read_checked_json, write_checked_json
from cl2cm_jax.runtime.metrics import read_rows
from cl2cm_jax.studies.ablation import variants
from cl2cm_jax.studies.ablation.least_squares import mapped_ranks
from cl2cm_jax.studies.ablation.translated_queries import NoTranslationsError, with_translations
from cl2cm_jax.studies.ablation.variants import LEAST_SQUARES, SHARE_SOURCE_ONLY, SOURCE_ONLY, TRANSLATED, variant
from cl2cm_jax.studies.bootstrap import RunRanks, joined
from cl2cm_jax.studies.rows import run_folder
from cl2cm_jax.training import loop, results
from cl2cm_jax.training.experiment import SELECTION, TARGETS_METRIC, Programs, Run, build, check_workdir, claim
from cl2cm_jax.training.identity import as_recorded, record_inputs

VALIDATION_FILE = "read.json"  # validation metrics of the selected parameters


class RowRun(NamedTuple):
    """The run of a row at one noise, seed and fold (None: the set's own split), and its folder."""

    name: str
    noise: float
    seed: int
    fold: int | None
    folder: Path

    def config(self, shared: ConfigDict) -> ConfigDict:
        return variant(shared, self.name, noise=self.noise, seed=self.seed)

    def __str__(self) -> str:
        fold = "" if self.fold is None else f" fold {self.fold}"
        return f"noise {self.noise:g} seed {self.seed}{fold} {self.name}"


class Ablation:
    """The runs of the requested rows on a data set.

    Args:
      config: that the rows share.
      workdir: of all runs.
      noises, seeds, names: shares of wrong translations, values of `config.seed`, and rows.
      folds: of cross-validation by concept; 0: the set's own split.

    Raises:
      UserError: the test split has no source caption, the set does not have as many concepts as folds, or finished runs
        were trained on other data or backbones.
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
        config = as_recorded(settled(config), workdir)
        self.config, self.workdir, self.folds = config, workdir, folds
        self.noises, self.seeds, self.names = list(noises), list(seeds), list(names)
        data = all_corpora(config)  # captions of every origin; each run selects its own with `chosen`
        if not len(data.test.captions_of(config.data.source)):
            raise UserError(
                f"config.data.source={config.data.source!r}: the test split has no caption in this language, and every "
                "row of the ablation is tested on it; add such captions to the set"
            )
        record_inputs(workdir, config, data)
        self._data, self._translated, untranslated = data, data, ""
        if TRANSLATED in names:
            read, splits = (data, SPLITS) if folds else (chosen(data, config), ("test",))
            try:
                self._translated = with_translations(config, read, splits=splits)
            except NoTranslationsError as error:
                untranslated = str(error)
        self._human = variants.trains_on_human(config, data.train)
        self.absent: dict[float, dict[str, str]] = {}  # by noise, the rows that are not possible and why
        for noise in self.noises:
            absent = variants.absent_rows(config, data.train, noise=noise, untranslated=untranslated)
            self.absent[noise] = {name: reason for name, reason in absent.items() if name in names}
        self._folds = None
        if folds:
            by_split, languages = list(concepts(config).values()), data.train.languages
            self._folds = Folds(self._translated, by_split, folds=folds, source=config.data.source, languages=languages)
        self._programs: Programs = {}

    def rows(self, noise: float) -> list[str]:
        """The rows that are possible at a level of noise."""
        return [name for name in self.names if name not in self.absent[noise]]

    def test_ranks(self, name: str, *, noise: float) -> list[RunRanks]:
        """Test ranks of the finished runs of a row, one per seed; folds are joined."""
        by_seed = [self._folds_of(name, noise, seed) for seed in self.seeds]
        ranks = [[RunRanks(run.seed, load_ranks(run.folder / results.RANKS_FILE)) for run in runs] for runs in by_seed]
        return [joined(of_seed) for of_seed in ranks]

    def validation(self, name: str, *, noise: float) -> tuple[float, ...]:
        """Validation SumR of the selected parameters per seed, averaged over folds; empty if a run has none."""
        select, means = self.config.train.select, []
        for seed in self.seeds:
            values = [_validation(run.folder, select=select) for run in self._folds_of(name, noise, seed)]
            known = [value for value in values if value is not None]
            if len(known) < len(values):
                return ()
            means.append(sum(known) / len(known))
        return tuple(means)

    def train_all(self) -> bool:
        """Trains the runs that are missing; False if a signal stopped it."""
        jobs = list(self._trainings())
        for number, runs in enumerate(jobs, start=1):
            start = time.perf_counter()
            trained = self._train(runs)
            if trained is None:
                return False
            if trained:
                seconds = time.perf_counter() - start
                print(f"{number}/{len(jobs)} {runs[0]}: {seconds:.0f} s", file=sys.stderr, flush=True)
        return True

    def _run(self, name: str, *, noise: float, seed: int, fold: int | None) -> RowRun:
        name, noise = variants.stored_as(name, noise=noise, human=self._human)
        base = self.workdir if fold is None else self.workdir / f"folds-{self.folds}"
        folder = run_folder(base / f"noise-{noise:g}", name, seed)
        if fold is not None:
            folder = folder.with_name(f"{folder.name}-fold-{fold}")
        return RowRun(name, noise, seed, fold, folder)

    def _folds_of(self, name: str, noise: float, seed: int) -> list[RowRun]:
        return [self._run(name, noise=noise, seed=seed, fold=fold) for fold in self._fold_numbers()]

    def _fold_numbers(self) -> list[int | None]:
        return [*range(self.folds)] if self.folds else [None]

    def _trainings(self) -> Iterator[list[RowRun]]:
        """The runs that share each training, in training order."""
        for seed in self.seeds:
            for fold in self._fold_numbers():
                by_model: dict[tuple[float, str], dict[Path, RowRun]] = {}
                for noise in self.noises:
                    for name in self.rows(noise):
                        run = self._run(name, noise=noise, seed=seed, fold=fold)
                        model = (0.0, SOURCE_ONLY) if run.name in SHARE_SOURCE_ONLY else (run.noise, run.name)
                        by_model.setdefault(model, {})[run.folder] = run
                yield from (list(runs.values()) for runs in by_model.values())

    def _train(self, runs: list[RowRun]) -> bool | None:
        """Trains the model of these runs unless all are finished; False if they were, None if a signal stopped it.

        The folder of the first missing run holds the training, and that run is marked as finished last.
        """
        missing = [run for run in runs if not _is_finished(run.folder, run.config(self.config))]
        if not missing:
            return False
        first, *others = missing
        data, translated = (self._data, self._translated) if first.fold is None else (self._fold(first.fold),) * 2

        def keep(selected: results.Selected) -> None:
            for run in others:
                with claim(run.folder, run.config(self.config), free=PLACES):
                    self._keep(run, selected, data, translated)
            self._keep(first, selected, data, translated)

        config = first.config(self.config)
        return _train_in(first.folder, config, chosen(data, config), keep, self._programs)

    def _keep(self, row: RowRun, selected: results.Selected, data: Corpora, translated: Corpora) -> None:
        """Writes the results of a row for a trained model, its ranks last."""
        ranks, config = selected.ranks, row.config(self.config)
        about: dict[str, Any] = {}
        if row.name in SHARE_SOURCE_ONLY:
            run = build(config, chosen(data, config), programs=self._programs)
            if row.name == LEAST_SQUARES:
                mapped = mapped_ranks(run.embedder, selected.student, run.corpora.train, selected.embedded, run.config)
                ranks, about = mapped.ranks, {"ridges": mapped.ridges}
            else:
                ranks = _translated_ranks(run, selected, translated)
        targets = list(config.data.targets)
        if all(target in ranks.get("validation", {}) for target in targets):
            about[f"validation/{TARGETS_METRIC}"] = evaluate.mean_sum_recall(ranks["validation"], targets)
        write_checked_json(row.folder / VALIDATION_FILE, about)
        save_ranks(row.folder / results.RANKS_FILE, ranks["test"])

    @functools.lru_cache(maxsize=1)  # noqa: B019 - one fold in memory at a time; the object lives as long
    def _fold(self, fold: int) -> Corpora:
        assert self._folds is not None
        return Corpora(*self._folds.of(fold))


def run_once(config: ConfigDict, data: Corpora, folder: Path, *, programs: Programs | None = None) -> bool | None:
    """Trains one run unless it is finished; False if it was, None if a signal stopped it.

    Keeps config, metrics and the ranks on `data.test`.
    """
    if _is_finished(folder, config):
        return False
    ranks_file = folder / results.RANKS_FILE
    return _train_in(folder, config, data, lambda selected: save_ranks(ranks_file, selected.ranks["test"]), programs)


def _is_finished(folder: Path, config: ConfigDict) -> bool:
    """Whether a run is finished; raises UserError if it is of another configuration."""
    if not (folder / results.RANKS_FILE).exists():
        return False
    check_workdir(folder, config, free=PLACES)  # the data and backbones are known by their content
    return True


def _train_in(
    folder: Path, config: ConfigDict, data: Corpora, keep: Callable[[results.Selected], None], programs: Programs | None
) -> bool | None:
    """Trains one run, calls `keep` with the selected model and deletes its checkpoints; None if a signal stopped it."""
    with claim(folder, config, free=PLACES), (folder / "log.txt").open("a", encoding="utf-8") as log:
        built = build(config, data, programs=programs)
        if loop.train(built, folder, stream=log) is None:
            return None
        keep(results.select(built, folder))
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return True


def _translated_ranks(run: Run, selected: results.Selected, translated: Corpora) -> dict[str, dict[str, Ranks]]:
    """Ranks by split of the source's queries and of the targets' queries translated to the source."""
    config = run.config.copy_and_resolve_references()
    config.evaluation.query, config.evaluation.fusion_weight = "fused", 1.0
    ranks, d = {}, config.data
    for corpus in (translated.validation, translated.test):
        languages = [d.source, *(n for n in (*d.targets, *d.reported) if f"{n}2{d.source}" in corpus.languages)]
        if len(languages) > 1:
            embedded = evaluate.embed_corpus(
                run.embedder, selected.student, evaluate.headline(corpus), languages=languages, config=config
            )
            ranks[corpus.name] = evaluate.rank_all(embedded, config)
    return ranks


def _validation(folder: Path, *, select: str) -> float | None:
    """The validation SumR of the selected parameters; None if the row has no such queries."""
    score, targets, path = f"validation/{SELECTION}", f"validation/{TARGETS_METRIC}", folder / VALIDATION_FILE
    if path.exists():
        fix = f"delete the folder {folder}, and it is trained again"
        try:
            return dict(read_checked_json(path, fix=fix)).get(targets)
        except (ValueError, TypeError) as error:
            raise UserError(f"{path} cannot be read ({error}); {fix}") from error
    rows = [row for row in read_rows(folder / "metrics.jsonl") if score in row]  # of an earlier version
    rows.reverse()  # of equal steps the newest is selected, as by `Checkpoints`
    return (max(rows, key=lambda row: row[score]) if select == "best" else rows[0])[targets]
