"""The first stage of the trainer alone: the teacher learns, and validation chooses which step of it is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from cl2cm_jax.data.corpus import Corpus
from cl2cm_jax.evaluation.evaluate import mean_sum_recall
from cl2cm_jax.evaluation.retrieval import Ranks, retrieval_ranks
from cl2cm_jax.models.functional import Params
from cl2cm_jax.parallel.sharding import put_batch
from cl2cm_jax.steps.calibration import aligned_pairs
from cl2cm_jax.training.experiment import Run
from cl2cm_jax.training.loop import FiniteTerms, training_batches


class Taught(NamedTuple):
    """The teacher that validation chose.

    Attributes:
      params: on the host.
      step: that they are of.
      validation: mean target SumR of the retrieval of sentences.
    """

    params: Params
    step: int
    validation: float


def teach(run: Run, *, note: Callable[[str], None] = lambda _: None) -> Taught:
    """Runs the trainer's step for the teacher's stage; a teacher without a head is only measured.

    Args:
      run: with teacher.schedule="frozen" and one fold.
      note: takes a line of progress at every validation.

    Raises:
      UserError: a term is not finite.
    """
    state, total = run.step.init(), run.stages.teacher
    data = training_batches(run, 0)
    checker, best, done = FiniteTerms(), None, 0
    while done < total or best is None:
        if total:
            state, terms = run.step.step(state, put_batch(next(data), run.mesh), done)
            checker.add(done, terms)
            done += 1
        if done == total or done % run.durations["train.evaluate_every"] == 0:
            values = checker.check()
            params = jax.device_get(state["params"]["teacher"])
            ranks = sentence_ranks(run, params, run.corpora.validation)
            measured = mean_sum_recall(ranks, targets_of(run))
            shown = ", ".join(f"{name} {values[name]:.4f}" for name in ("sentence", "word") if name in values)
            note(f"step {done}/{total} {shown}{', ' if shown else ''}validation mean SumR {measured:.1f}")
            if best is None or measured > best.validation:
                best = Taught(params, done, measured)
    return best


def targets_of(run: Run) -> Sequence[str]:
    """The languages that are retrieved."""
    return (*run.config.data.targets, *run.config.data.reported)


def sentence_ranks(run: Run, teacher: Params, corpus: Corpus) -> dict[str, Ranks]:
    """Ranks of each language's sentences among the source's, and back; the source stands where pictures usually do.

    So "text_to_vision" is from the target language to the source, "vision_to_text" from the source to the target.
    """
    source = run.config.data.source

    def embed(rows: np.ndarray) -> np.ndarray:
        return run.embedder.teacher(teacher, corpus.text, rows)[:, 0]

    gallery = embed(corpus.captions_of(source))
    ranks = {}
    for language in targets_of(run):
        _, rows, images = aligned_pairs(corpus, source, language)
        ranks[language] = retrieval_ranks(embed(rows), gallery, text_image=images, block=run.config.evaluation.block)
    return ranks
