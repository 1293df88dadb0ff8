"""A configuration made concrete: data, mesh, networks and step, and the workdir that belongs to it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cl2cm_jax.config import defaults, differences, effective, flatten, vision_first
from cl2cm_jax.config.durations import steps_of
from cl2cm_jax.data import batches
from cl2cm_jax.data.corpus import LEFT_OUT, Corpus
from cl2cm_jax.data.media.crops import Crops
from cl2cm_jax.data.noise import swap_translations
from cl2cm_jax.errors import UserError
from cl2cm_jax.evaluation.evaluate import check_translations, headline
from cl2cm_jax.features import cache
from cl2cm_jax.features.cache import Corpora
from cl2cm_jax.features.encoders import ImageEncoder
from cl2cm_jax.models.backbone import VisionBackbone
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.networks import VISION_TAIL, Networks
from cl2cm_jax.models.trained_layers import text_layers, vision_layers
from cl2cm_jax.parallel import hosts
from cl2cm_jax.parallel.mesh import check_batch_size, make_mesh
from cl2cm_jax.parallel.sharding import abstract
from cl2cm_jax.runtime.atomic import write_text
from cl2cm_jax.runtime.checkpoint import Checkpoints
from cl2cm_jax.runtime.overview import overview
from cl2cm_jax.runtime.storage import exclusive
from cl2cm_jax.steps.embed_step import Embedder
from cl2cm_jax.steps.optimizer import make_optimizers
from cl2cm_jax.steps.schedule import Stages
from cl2cm_jax.steps.train_step import TrainState, TrainStep, make_train_step
from cl2cm_jax.training.workdir import CONFIG_FILE, read_fields

SELECTION = "selection"  # validation metric that selects parameters: mean of the source's SumR and the targets' mean
TARGETS_METRIC = "SumR"  # mean over the target languages, validation split; alone it selected in earlier versions
# fields that may change between the runs of one workdir: they change no number
FREE = (
    "data.dir",
    "data.root",
    "mesh.",
    "train.log_every",
    "train.keep",
    "train.watchdog_seconds",
    "evaluation.block",
    "evaluation.pictures",
)

PRODUCTS = ("checkpoints/[0-9]*", "results.json", "ranks.npz")  # what a workdir is kept for


class Run(NamedTuple):
    """A configuration made concrete; built once, changed by nothing."""

    config: ConfigDict
    mesh: Mesh
    corpora: Corpora
    data: str  # their fingerprint
    validation: Corpus  # the headline pictures of the validation split, which select
    networks: Networks
    stages: Stages
    every: dict[str, int]  # steps between evaluations, checkpoints and log lines
    step: TrainStep
    embedder: Embedder
    crops: Crops | None  # of the training pictures, where layers of the vision backbone are trained
    seconds: float  # spent on building, features included


class Compiled(NamedTuple):
    """What runs share whose configurations differ in seed and data alone: networks, and programs compiled once."""

    networks: Networks
    step: TrainStep
    embedder: Embedder
    crops: Crops | None


Programs = dict[str, Compiled]  # by all that they depend on


def build(config: ConfigDict, corpora: Corpora | None = None, *, programs: Programs | None = None) -> Run:
    """Reads the data and builds mesh, networks and step.

    Args:
      config: the configuration.
      corpora: spares reading them again (ablation).
      programs: those of earlier runs in this process, which are used again where they fit and added to where not.
    """
    start = time.perf_counter()
    config = effective(config)
    c = config.train
    mesh = make_mesh(**config.mesh)
    check_batch_size(c.batch_size, mesh, accumulation=c.accumulation)
    corpora = cache.corpora(config) if corpora is None else corpora
    for split in (corpora.validation, corpora.test):
        check_translations(split, config)
    for split in corpora if vision_first(config) is not None else ():
        batches.check_files(split)
    data = fingerprint(corpora)
    if config.data.translation_noise:
        noise = {"share": config.data.translation_noise, "seed": config.seed, "source": config.data.source}
        corpora = corpora._replace(train=swap_translations(corpora.train, **noise))
    source, targets = config.data.source, (*config.data.targets, *config.data.reported)
    asked = {"batch_size": c.batch_size, "targets_per_image": c.targets_per_image}
    batches.check(corpora.train, source=source, targets=targets, **asked)
    if config.confidence.kind == "posterior" and not len(corpora.validation.captions_of(source)):
        raise UserError(
            f"config.confidence.kind='posterior' learns from validation captions in {source!r}, and there are none; "
            "use 'softmax' or 'none'"
        )
    examples = len(batches.trainable_images(corpora.train, source=source))
    stages, every, warmup = _lengths(config, examples=examples)
    programs = {} if programs is None else programs
    key = _program_key(config, mesh, cache.shape_of(config, corpora), stages, warmup, corpora.train.languages)
    if key not in programs:
        programs[key] = _compiled(config, corpora, mesh=mesh, stages=stages, warmup=warmup)
    networks, step, embedder, crops = programs[key]
    validation = headline(corpora.validation)
    seconds = time.perf_counter() - start
    step = step.with_seed(config.seed)
    return Run(config, mesh, corpora, data, validation, networks, stages, every, step, embedder, crops, seconds)


def _lengths(config: ConfigDict, *, examples: int) -> tuple[Stages, dict[str, int], int]:
    """The stages, how often things are done, and the warm-up, in steps."""
    c = config.train

    def steps(field: str, spec: str, total: int | None = None, *, least: int = 1) -> int:
        count = steps_of(spec, field=field, batch_size=c.batch_size, examples=examples, total=total)
        if count < least:
            raise UserError(f"config.{field}={spec!r} is {count} steps; it must be {least} or more")
        return count

    student = steps("train.steps", c.steps)
    first = config.method == "cl2cm" and config.teacher.head != "none" and config.teacher["update"] == "frozen"
    heads = steps("student.text.start", config.student.text.start, student, least=0)
    if heads >= student > 1:
        raise UserError(
            f"config.student.text.start={config.student.text.start!r} is step {heads}, and config.train.steps="
            f"{c.steps!r} ends at {student}: the layers would never learn; use a smaller one"
        )
    heads = min(heads, student - 1)  # a run of one step is one of the layers
    stages = Stages(steps("teacher.steps", config.teacher.steps) if first else 0, student, heads)
    every = {
        name: steps(f"train.{name}", c[name], student) for name in ("evaluate_every", "checkpoint_every", "log_every")
    }
    return stages, every, steps("optimizer.warmup", config.optimizer.warmup, student, least=0)


def _program_key(config: ConfigDict, mesh: Mesh, *sizes: Any) -> str:
    """All that networks and programs depend on: every field but the seed, which is an argument, and the data's."""
    fields = {name: value for name, value in flatten(config).items() if name != "seed" and not name.startswith("data.")}
    return repr((fields, tuple(mesh.shape.items()), mesh.device_ids.tolist(), sizes))


def _compiled(config: ConfigDict, corpora: Corpora, *, mesh: Mesh, stages: Stages, warmup: int) -> Compiled:
    """Networks, step and embedder of a configuration; nothing is compiled before it is called."""
    tunable, tail = text_layers(config)
    vision, layers = vision_layers(config)
    networks = Networks(config, cache.shape_of(config, corpora, vision), tunable=tunable, vision=vision)
    optimizers = make_optimizers(config, stages, warmup=warmup)
    languages = len(corpora.train.languages)
    step = make_train_step(
        config, networks, optimizers, mesh=mesh, stages=stages, languages=languages, tail=tail, vision=layers
    )
    return Compiled(networks, step, _embedder(config, networks, mesh, vision, step.frozen), _crops(config, vision))


def _embedder(
    config: ConfigDict, networks: Networks, mesh: Mesh, vision: VisionBackbone | None, frozen: Params
) -> Embedder:
    """Both networks over whole corpora; pictures are read from their files if the student has layers for them."""
    encoder = None if vision is None else ImageEncoder(vision, pool=config.vision.pool)

    def see(student: Params, images: Iterable[np.ndarray]) -> np.ndarray:
        assert encoder is not None
        params = {"frozen": frozen, "own": student[VISION_TAIL]}
        return encoder(images, params=params if jax.process_count() == 1 else hosts.collect(params))

    return Embedder(
        networks,
        batch_size=config.evaluation.batch_size,
        max_words=config.text.max_tokens,
        length_multiple=config.text.length_multiple,
        mesh=mesh,
        see=None if encoder is None else see,
    )


def _crops(config: ConfigDict, vision: VisionBackbone | None) -> Crops | None:
    """How training pictures are cropped; None if their features are read."""
    if vision is None:
        return None
    p, c = vision.preprocess, config.student.vision
    return Crops(p.image_size, p.shorter_side, p.filter, c.crop, c.flip)


def fingerprint(corpora: Iterable[Corpus]) -> str:
    """A hash of the pictures or their features, the captions and what belongs to what, in all these splits."""
    digest = hashlib.sha256()
    for corpus in corpora:
        texts = [corpus.image_ids.tolist(), corpus.caption_text]
        digest.update(json.dumps(texts).encode("utf-8", "surrogatepass"))
        for array in (corpus.vision, corpus.caption_image, corpus.caption_language):
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def check_data(run: Run, workdir: Path, metadata: Mapping[str, Any]) -> None:
    """Refuses a checkpoint of other data.

    Args:
      run: what is to go on.
      workdir: whose checkpoint it is.
      metadata: the checkpoint's.

    Raises:
      UserError: its data were others.
    """
    if metadata.get("data") != run.data:
        raise UserError(f"--workdir={workdir} was trained on other data than these; use another --workdir")


def check_workdir(workdir: Path, config: ConfigDict) -> None:
    """Refuses a workdir that holds results or checkpoints of another configuration.

    Raises:
      UserError: lists the fields that differ; or it is no folder.
    """
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file; name a folder, which is made if it is not there")
    path = workdir / CONFIG_FILE
    if not path.exists() or not any(any(workdir.glob(pattern)) for pattern in PRODUCTS):
        return  # new, or left by a first try that came to nothing
    try:
        theirs = flatten(defaults()) | read_fields(path)  # a field that came later had its default's effect
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); use another --workdir") from error
    changed = {n: pair for n, pair in differences(flatten(config), theirs).items() if not n.startswith(FREE)}
    if changed:
        listed = ", ".join(f"{name} ({was!r} there, {now!r} now)" for name, (now, was) in changed.items())
        raise UserError(f"--workdir={workdir} was made with another configuration: {listed}; use another --workdir")


@contextlib.contextmanager
def claim(workdir: Path, config: ConfigDict) -> Iterator[None]:
    """Holds a workdir, which must be new or of this configuration (`check_workdir`), and writes config.json into it.

    Raises:
      UserError: it is of another configuration, cannot be made, or another process is training in it.
    """
    busy = f"--workdir={workdir} is in use: another process trains there; wait for it, or use another --workdir"
    with contextlib.ExitStack() as held:

        def take() -> None:
            check_workdir(workdir, config)
            try:
                workdir.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(
                    f"--workdir={workdir} cannot be made ({error.strerror}); name another folder"
                ) from error
            held.enter_context(exclusive(workdir / ".lock", busy=busy))
            write_text(workdir / CONFIG_FILE, json.dumps(flatten(config), indent=1, ensure_ascii=False) + "\n")

        hosts.on_host_zero(take)
        yield


def checkpoints(run: Run, workdir: Path) -> Checkpoints:
    """The run's checkpoints: the newest ones and the best on validation."""
    keep = run.config.train.keep
    return Checkpoints(workdir / "checkpoints", keep_last=keep, best_metric=SELECTION, older_metric=TARGETS_METRIC)


def abstract_state(run: Run) -> TrainState:
    """Shapes and places of the train state: what a checkpoint is restored onto."""
    return abstract(jax.eval_shape(run.step.init), run.step.state_shardings)


def evaluated_student(run: Run, state: TrainState) -> Params:
    """The parameters that are evaluated: the averaged ones where there are any."""
    return state["ema"] if run.config.train.ema else state["params"]["student"]


def check(run: Run) -> str:
    """Says what would be trained, on what, and how large it is."""
    state = abstract_state(run)
    mesh = " x ".join(f"{axis} {size}" for axis, size in run.mesh.shape.items())
    sizes = ", ".join(map(_size, run.corpora))
    stages = f"{run.stages.student} steps" + (
        f" after {run.stages.teacher} of the teacher alone" if run.stages.teacher else ""
    )
    stages += f"; in the first {run.stages.heads} of the {run.stages.student} heads alone" if run.stages.heads else ""
    captions = "; ".join(f"{corpus.name} {', '.join(_captions(corpus))}" for corpus in run.corpora)
    return f"data: {sizes}\ncaptions: {captions}\nmesh: {mesh}\ntraining: {stages}\n{overview(state['params'])}"


def _size(corpus: Corpus) -> str:
    """How many images and captions are read, of the images also how many there are where some have no caption left."""
    images, read = len(corpus.image_ids), corpus.caption_language != LEFT_OUT
    captioned = len(np.unique(corpus.caption_image[read]))
    of = f"{captioned:,} of {images:,}" if captioned < images else f"{images:,}"
    return f"{corpus.name} {of} images {read.sum():,} captions"


def _captions(corpus: Corpus) -> Iterator[str]:
    """For each language how many of its captions are read, and who wrote them."""
    for language in corpus.languages:
        rows = corpus.captions_of(language)
        counts = zip(*np.unique(corpus.caption_origin[rows], return_counts=True), strict=True)
        yield f"{language} {' + '.join(f'{count:,} {origin}' for origin, count in counts) or '0'}"
