"""The outputs of a finished run in its workdir: results, tables, picture, model and gallery."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cl2cm_jax.config import flatten
from cl2cm_jax.data.corpus import Corpus
from cl2cm_jax.errors import UserError
from cl2cm_jax.evaluation import evaluate
from cl2cm_jax.evaluation.evaluators import run_evaluators
from cl2cm_jax.evaluation.gallery import GALLERY_FILE, Gallery, common_folder, save_gallery
from cl2cm_jax.evaluation.picture import draw_retrieval, hit_share, query_rows
from cl2cm_jax.evaluation.report import (
    MARKDOWN_FILE,
    RESULTS_FILE,
    PerLanguage,
    Results,
    read_results,
    text_report,
    write_results,
)
from cl2cm_jax.evaluation.retrieval import Ranks, save_ranks
from cl2cm_jax.models.functional import Params
from cl2cm_jax.parallel import hosts
from cl2cm_jax.runtime.checkpoint import Saved
from cl2cm_jax.training.experiment import Run, abstract_state, check_data, checkpoints, evaluated_student
from cl2cm_jax.training.going_on import CONTINUED, replaced
from cl2cm_jax.training.interpolation import interpolated
from cl2cm_jax.training.workdir import save_student

RANKS_FILE = "ranks.npz"
_HAS_ENDED = "has_ended"  # beside the configuration in results.json; false if a stopped run was evaluated


def is_finished(workdir: Path, config: ConfigDict | None = None) -> bool:
    """Whether the run of a workdir has ended: results.json is written last, after the table in results.md.

    With a configuration, whether it ended as this one plans; the results may be of a run that goes on, or was stopped.
    """
    if not (workdir / RESULTS_FILE).is_file() or not (workdir / MARKDOWN_FILE).is_file():
        return False
    if config is None:
        return True
    try:
        then, now = read_results(workdir).config, flatten(config)
    except UserError:  # damaged: told by who needs them
        return True
    return bool(then.get(_HAS_ENDED, True)) and all(then.get(name, now[name]) == now[name] for name in CONTINUED)


class Selected(NamedTuple):
    """The student selected on validation, and the headline pictures of both evaluation splits embedded by it.

    Attributes:
      student, step, seconds: its parameters, the step that they are from, and the seconds of training.
      share: of the trained weights in them; below 1 they were interpolated with those before training.
      has_ended: whether the training has.
      embedded, ranks: by split, "validation" and "test".
    """

    student: Params
    step: int
    share: float
    seconds: float
    has_ended: bool
    embedded: dict[str, evaluate.Embedded]
    ranks: dict[str, dict[str, Ranks]]


def select(run: Run, workdir: Path) -> Selected:
    """Restores the checkpoint that validation selected and ranks both evaluation splits.

    With `train.interpolations` its weights are interpolated with those before training.

    Raises:
      UserError: the run has no checkpoint.
    """
    d = run.config.data
    student, step, newest = _selected_student(run, workdir)
    share, start = 1.0, _start(run, workdir) if run.config.train.interpolations else None
    if start is not None:
        if step == 0 < newest.step:  # what was learned is worth a share even where no step as a whole is
            student, step, newest = _selected_student(run, workdir, latest=True)
        sum_recall = newest.metadata["clock"].get("start") or {}
        student, share = interpolated(run, start, student, sum_recall=sum_recall)
    embedded = {
        name: evaluate.embed_corpus(
            run.embedder, student, corpus, languages=(d.source, *d.targets, *d.reported), config=run.config
        )
        for name, corpus in (("validation", run.validation), ("test", evaluate.headline(run.corpora.test)))
    }
    ranks = {name: evaluate.rank_all(split, run.config) for name, split in embedded.items()}
    seconds = newest.metadata["clock"]["seconds"]
    return Selected(student, step, share, seconds, _has_ended(run, newest), embedded, ranks)


def evaluate_and_write(run: Run, workdir: Path) -> Results:
    """Evaluates the selected parameters and writes all outputs of the run.

    Raises:
      UserError: the run has no checkpoint.
    """
    start = time.perf_counter()
    config, d = run.config, run.config.data
    selected = select(run, workdir)
    languages, test = (d.source, *d.targets), (selected.embedded["test"], selected.ranks["test"])
    before = _before(run, workdir, (*languages, *d.reported))
    apart = evaluate.groups_apart(run.embedder, selected.student, run.corpora.test, test, config)
    retrieval, others = {}, {}
    for split, embedded in selected.embedded.items():
        numbers, further = run_evaluators(run.evaluators, embedded, selected.ranks[split], config)
        retrieval[split] = {language: metrics for language, metrics in numbers.items() if language in languages}
        for name, metrics in further.items():
            others.setdefault(name, {})[split] = metrics
    seconds = {"build": run.seconds, "train": selected.seconds, "evaluate": time.perf_counter() - start}
    results = Results(
        source=d.source,
        targets=d.targets,
        protocol=evaluate.protocol(*test, languages, config),
        test=retrieval["test"],
        validation=retrieval["validation"],
        config=flatten(config)
        | {"selected_step": selected.step, "selected_share": selected.share, _HAS_ENDED: selected.has_ended},
        seconds={name: round(value, 2) for name, value in seconds.items()},
        groups=apart,
        evaluators=others,
        before=before,
    )
    pictures = np.concatenate([run.embedder.images(selected.student, corpus) for corpus in run.corpora])
    student = hosts.collect(selected.student)

    def write() -> None:
        save_ranks(workdir / RANKS_FILE, test[1])
        weights = save_student(workdir, student)
        save_gallery(workdir / GALLERY_FILE, _gallery(run, pictures, weights))
        _draw(test[0], config, workdir)
        write_results(workdir, results)  # last: it marks the workdir as finished

    hosts.on_host_zero(write)
    return results


def summary(results: Results, workdir: Path, *, seconds: float) -> str:
    """The last lines of a run: the tables, and where the outputs are."""
    outputs = {
        "results": "results.json, results.md",
        "pictures": "retrieval.png",
        "metrics": "metrics.csv, metrics.jsonl, tensorboard/",
        "model": "model.safetensors, config.json, gallery.npz, checkpoints/",
    }
    lines = [f"{name + ':':10} {workdir}/ {files}" for name, files in outputs.items()]
    return "\n".join([text_report(results), "", *lines, f"seconds:   {seconds:.0f}"])


def _has_ended(run: Run, newest: Saved) -> bool:
    """Whether the newest checkpoint is that of the last step, planned or by `train.early_stop`."""
    early, without_better = run.config.train.early_stop, newest.metadata["clock"].get("evaluations_since_best", 0)
    stopped_early = early and without_better >= early and not replaced(run, newest.metadata)
    return newest.step >= run.stages.total or bool(stopped_early)


def _before(run: Run, workdir: Path, languages: Sequence[str]) -> PerLanguage:
    """Metrics of the test split before training, of a run that started at a model; {} of others."""
    start = _start(run, workdir)
    if start is None:
        return {}
    test = evaluate.headline(run.corpora.test)
    embedded = evaluate.embed_corpus(run.embedder, start, test, languages=languages, config=run.config)
    return evaluate.measure(evaluate.rank_all(embedded, run.config), languages)


def _start(run: Run, workdir: Path) -> Params | None:
    """The student before training, of a run that started at a model; None of others."""
    with checkpoints(run, workdir) as saved:
        if 0 not in saved.steps():
            return None
        try:
            restored = saved.restore(_student_part(run), step=0)
        except UserError as error:
            logging.warning("%s; nothing is compared with the model before training", error)
            return None
    assert restored is not None
    return evaluated_student(run, restored.state)


def _student_part(run: Run) -> dict[str, Any]:
    """The part of a checkpoint that evaluation reads, as shapes."""
    whole = abstract_state(run)
    return {"ema": whole["ema"]} if run.config.train.ema else {"params": {"student": whole["params"]["student"]}}


def _selected_student(run: Run, workdir: Path, *, latest: bool = False) -> tuple[Params, int, Saved]:
    """The student selected on validation, or the latest, its step, and the newest checkpoint."""
    which = "best" if run.config.train.select == "best" and not latest else "latest"
    with checkpoints(run, workdir) as saved:
        restored = saved.restore(_student_part(run), step=which)
        newest = saved.read_metadata()
    if restored is None or newest is None:
        raise UserError(
            f"--workdir={workdir} has no checkpoint; train first, with --mode=train", id="no-readable-checkpoint"
        )
    check_data(run, workdir, newest.metadata)
    return evaluated_student(run, restored.state), restored.step, newest


def _gallery(run: Run, vectors: np.ndarray, weights: str) -> Gallery:
    """All pictures of the data set, each with its first source caption."""
    ids, captions, paths = [], [], []
    for corpus in run.corpora:
        ids += [str(image_id) for image_id in corpus.image_ids]
        captions += _first_captions(corpus, run.config.data.source)
        paths += corpus.paths
    root = common_folder(paths, within=run.config.data.images)
    return Gallery(vectors, tuple(ids), tuple(captions), tuple(paths), weights, root)


def _first_captions(corpus: Corpus, language: str) -> list[str]:
    """Each image's first caption in a language, "" where it has none."""
    return [corpus.caption_text[row] if row >= 0 else "" for row in corpus.first_captions_of(language)]


def _draw(test: evaluate.Embedded, config: ConfigDict, workdir: Path) -> None:
    shown = {name: test.queries[name] for name in config.evaluation.pictures if name in test.queries}
    shown = shown or dict(list(test.queries.items())[:5])
    source, count = config.data.source, len(test.vision)
    rows = query_rows(
        shown,
        test.vision,
        image_ids=[str(image_id) for image_id in test.corpus.image_ids],
        paths=[path or None for path in test.corpus.paths],
        glosses=_first_captions(test.corpus, source),
    )
    note = (
        f"{config.data.name}, test split, gallery of {count} pictures. Two hits, then a miss, in turn. "
        f"Of all these languages' queries {hit_share(shown, test.vision):.0%} hit"
    )
    draw_retrieval(workdir / "retrieval.png", rows, title="Text-to-picture retrieval", note=note, source=source)
