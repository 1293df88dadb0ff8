"""Rows of the word-alignment study, and their runs: trained, measured on the test split, stored in folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cl2cm_jax.config import PLACES, override_all
from cl2cm_jax.errors import UserError
from cl2cm_jax.evaluation.retrieval import save_ranks
from cl2cm_jax.features.cache import Corpora
from cl2cm_jax.models.configured import configured_text
from cl2cm_jax.models.tokenizers import prepared
from cl2cm_jax.runtime.atomic import replacing
from cl2cm_jax.runtime.checksums import read_checked_json, write_checked_json
from cl2cm_jax.studies.rows import run_folder
from cl2cm_jax.studies.word_alignment.plans import (
    Pairs,
    plan_quality,
    read_pairs,
    shown_pairs,
    transport_plans,
)
from cl2cm_jax.studies.word_alignment.teacher_training import sentence_ranks, targets_of, train_teacher
from cl2cm_jax.training.experiment import build, claim
from cl2cm_jax.training.identity import fingerprint, is_same_data

BEFORE = "before: the backbone's own"
BASELINE = "sentence loss"
SENTENCES_ONLY = "sentence loss, words not read"
TRANSPORT = "sentence + word, transport"
WEAK_TRANSPORT = "sentence + word, transport at a hundredth"
SELF_LABELLED = "sentence + word, self-labelled"
SHOWN_ROWS = (TRANSPORT, WEAK_TRANSPORT, SELF_LABELLED)
# Fields of each row that differ from the config; rows without weights.word keep that of the config.
ROWS: dict[str, dict[str, str]] = {
    BEFORE: {"teacher.head": "none", "weights.word": "0.0"},
    SENTENCES_ONLY: {"weights.word": "0.0", "teacher.head": "linear", "teacher.pool": "backbone"},
    BASELINE: {"weights.word": "0.0"},
    TRANSPORT: {"word.loss": "transport"},
    WEAK_TRANSPORT: {"word.loss": "transport", "weights.word": "0.01"},
    "sentence + word, transport on the backbone's plan": {"word.loss": "transport", "word.plan_from": "backbone"},
    SELF_LABELLED: {"word.loss": "self_labelled"},
    "sentence + word, contrast by late interaction": {"word.loss": "contrast", "word.score": "late_interaction"},
    "sentence + word, contrast by transport": {"word.loss": "contrast", "word.score": "transport"},
}
RANKS_FILE, PLANS_FILE, RESULTS_FILE = "ranks.npz", "plans.npz", "results.json"  # the last one marks a finished run


class Experiment(NamedTuple):
    """What all runs share."""

    config: ConfigDict
    corpora: Corpora
    data: str  # fingerprint of the corpora
    pairs: dict[str, Pairs]  # of the test split, by language
    workdir: Path

    @staticmethod
    def of(config: ConfigDict, corpora: Corpora, workdir: Path) -> Experiment:
        """The experiment on these corpora, with the test pairs cut into the word pieces of the text backbone."""
        backbone, c = configured_text(config), config.text
        pieces = backbone.tokenizer(max_tokens=c.max_tokens)
        pairs = read_pairs(
            corpora.train,
            corpora.test,
            words=lambda text: pieces.words(prepared(text, prefix=c.prefix, lowercase=c.lowercase)),
            source=config.data.source,
            languages=(*config.data.targets, *config.data.reported),
        )
        return Experiment(config, corpora, fingerprint(corpora), pairs, workdir)

    @property
    def shown(self) -> list[tuple[str, int]]:
        """(language, row) of the pairs whose plans are stored and drawn."""
        return shown_pairs(self.corpora.test, source=self.config.data.source, languages=list(self.pairs))

    def folder(self, name: str, seed: int) -> Path:
        return run_folder(self.workdir, name, seed)


def run_once(experiment: Experiment, name: str, *, seed: int) -> bool:
    """Trains and measures one run; False if it was finished already.

    Raises:
      UserError: the finished run is of another configuration or other text.
    """
    config = experiment.config.copy_and_resolve_references()
    config.seed = seed
    override_all(config, ROWS[name])
    folder = experiment.folder(name, seed)
    with claim(folder, config, free=PLACES):
        if (folder / RESULTS_FILE).exists():
            if not is_same_data(read_results(folder)["data"], experiment.corpora):
                raise UserError(f"--workdir={experiment.workdir} has runs on other text; use another --workdir")
            return False
        run = build(config, experiment.corpora)
        with (folder / "log.txt").open("a", encoding="utf-8") as log:
            teacher = train_teacher(run, on_progress=lambda line: print(line, file=log, flush=True))
        plans, quality = {}, {}
        for language in targets_of(config):
            pairs = experiment.pairs[language]
            plans[language], cosines = transport_plans(run, teacher.params, pairs)
            quality[language] = plan_quality(plans[language], cosines, pairs).to_json()
        save_ranks(folder / RANKS_FILE, sentence_ranks(run, teacher.params, run.corpora.test))
        with replacing(folder / PLANS_FILE) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **{str(i): plans[lang][row] for i, (lang, row) in enumerate(experiment.shown)})
        results = {"data": run.data, "step": teacher.step, "validation": teacher.validation, "quality": quality}
        write_checked_json(folder / RESULTS_FILE, results)
    return True


def read_results(folder: Path) -> dict[str, Any]:
    """The results of a finished run; raises UserError if they are damaged."""
    fix = f"delete {folder} and rerun"
    try:
        return read_checked_json(folder / RESULTS_FILE, fix=fix)
    except ValueError as error:
        raise UserError(f"{folder / RESULTS_FILE} is damaged ({error}); {fix}") from error
