"""The first stage of the trainer alone: the teacher is trained, and validation selects its step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from cl2cm_jax.data.corpus import Corpus
from cl2cm_jax.evaluation.evaluate import mean_sum_recall
from cl2cm_jax.evaluation.retrieval import Ranks, retrieval_ranks
from cl2cm_jax.models.functional import Params
from cl2cm_jax.parallel.sharding import put_batch
from cl2cm_jax.steps.calibration import aligned_pairs
from cl2cm_jax.training.experiment import Run
from cl2cm_jax.training.loop import FiniteTerms, training_batches


class TrainedTeacher(NamedTuple):
    """The teacher selected on validation."""

    params: Params  # on the host
    step: int
    validation: float  # mean target SumR of sentence retrieval


def train_teacher(run: Run, *, on_progress: Callable[[str], None] = lambda _: None) -> TrainedTeacher:
    """Runs the trainer's step for the teacher's stage; a teacher without a head is only evaluated.

    The run has teacher.schedule="frozen" and one fold; `on_progress` receives a line at every validation.

    Raises:
      UserError: a loss term is not finite.
    """
    state, total = run.step.init(), run.stages.teacher
    data = training_batches(run, 0)
    checker, best, step = FiniteTerms(), None, 0
    while step < total or best is None:
        if total:
            state, terms = run.step.step(state, put_batch(next(data), run.mesh), step)
            checker.add(step, terms)
            step += 1
        if step == total or step % run.durations["train.evaluate_every"] == 0:
            values = checker.check()
            params = jax.device_get(state["params"]["teacher"])
            validation = mean_sum_recall(sentence_ranks(run, params, run.corpora.validation), targets_of(run.config))
            shown = "".join(f"{name} {values[name]:.4f}, " for name in ("sentence", "word") if name in values)
            on_progress(f"step {step}/{total} {shown}validation mean SumR {validation:.1f}")
            if best is None or validation > best.validation:
                best = TrainedTeacher(params, step, validation)
    return best


def targets_of(config: ConfigDict) -> Sequence[str]:
    """The languages whose sentences are retrieved."""
    return (*config.data.targets, *config.data.reported)


def sentence_ranks(run: Run, teacher: Params, corpus: Corpus) -> dict[str, Ranks]:
    """Ranks of each language's sentences among those of the source, and back; the source takes the place of images.

    "text_to_vision" is from the target language to the source, "vision_to_text" from the source to the target.
    """
    source = run.config.data.source

    def embed(rows: np.ndarray) -> np.ndarray:
        return run.embedder.teacher(teacher, corpus.text, rows)[:, 0]

    gallery = embed(corpus.captions_of(source))
    ranks = {}
    for language in targets_of(run.config):
        _, rows, images = aligned_pairs(corpus, source, language)
        ranks[language] = retrieval_ranks(embed(rows), gallery, text_image=images, block=run.config.evaluation.block)
    return ranks
