"""A run before it trains: data, mesh, networks and training step of a configuration; checks and locks its workdir."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cl2cm_jax.config import DURATIONS, FIELDS, PLACES, defaults, differences, effective, flatten, vision_first
from cl2cm_jax.config.durations import steps_of
from cl2cm_jax.data import batches
from cl2cm_jax.data.corpus import LEFT_OUT, Corpus
from cl2cm_jax.data.media.crops import Crops
from cl2cm_jax.data.noise import swap_translations
from cl2cm_jax.errors import UserError
from cl2cm_jax.evaluation.evaluate import check_translations, headline
from cl2cm_jax.evaluation.evaluators import Evaluator, load_evaluators
from cl2cm_jax.features import cache
from cl2cm_jax.features.cache import Corpora
from cl2cm_jax.features.encoders import ImageEncoder
from cl2cm_jax.models.backbone import VisionBackbone
from cl2cm_jax.models.dual_encoders.folder import configured_scores
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.networks import VISION_TAIL, Networks
from cl2cm_jax.models.trained_layers import text_layers, vision_layers
from cl2cm_jax.parallel import hosts
from cl2cm_jax.parallel.mesh import check_batch_size, make_mesh
from cl2cm_jax.parallel.sharding import abstract
from cl2cm_jax.runtime.checkpoint import Checkpoints
from cl2cm_jax.runtime.overview import overview
from cl2cm_jax.runtime.storage import exclusive
from cl2cm_jax.steps.embed_step import Embedder
from cl2cm_jax.steps.optimizer import make_optimizers
from cl2cm_jax.steps.schedule import Stages
from cl2cm_jax.steps.train_step import TrainState, TrainStep, make_train_step
from cl2cm_jax.training.identity import fingerprint, is_same_data, other_data, read_record
from cl2cm_jax.training.workdir import CONFIG_FILE, read_fields, write_config

SELECTION = "selection"  # validation metric that selects parameters: mean of the source's SumR and the targets' mean
TARGETS_METRIC = "SumR"  # mean over the target languages, validation split; alone it selected in earlier versions
# fields that may change between the runs of one workdir: they do not change what is trained
FREE = (
    "data.dir",
    "data.root",
    "mesh.",
    "train.log_every",
    "train.keep",
    "train.watchdog_seconds",
    "evaluation.block",
    "evaluation.evaluators",
    "evaluation.pictures",
)
OUTPUTS = ("checkpoints/[0-9]*", "results.json", "ranks.npz")  # a workdir with any of them keeps its configuration


class Run(NamedTuple):
    """Everything that a training needs, built once from its configuration and never changed.

    Attributes:
      data: fingerprint of the corpora as they were read, without `data.translation_noise`.
      read: these corpora.
      validation: the headline pictures of the validation split, which select the parameters.
      durations: in steps, by the name of their field.
      evaluators: by name.
      crops: of the training pictures, where layers of the vision backbone are trained.
      seconds: spent on building, features included.
    """

    config: ConfigDict
    mesh: Mesh
    corpora: Corpora
    data: str
    read: Corpora
    validation: Corpus
    stages: Stages
    durations: dict[str, int]
    evaluators: dict[str, Evaluator]
    seconds: float
    networks: Networks  # and the other fields of `Compiled`
    step: TrainStep
    embedder: Embedder
    crops: Crops | None


class Compiled(NamedTuple):
    """Networks and compiled programs, shared by runs whose configurations differ in seed and data alone."""

    networks: Networks
    step: TrainStep
    embedder: Embedder
    crops: Crops | None


Programs = dict[str, Compiled]  # by everything that they depend on, see `_program_key`


def build(config: ConfigDict, corpora: Corpora | None = None, *, programs: Programs | None = None) -> Run:
    """Reads the data and builds mesh, networks and step.

    Args:
      config: the configuration.
      corpora: of this configuration, if they have been read before.
      programs: of earlier runs in this process, which are reused where they fit; new ones are added.
    """
    start = time.perf_counter()
    config = effective(config)
    c, d = config.train, config.data
    evaluators = load_evaluators(config)
    mesh = make_mesh(**config.mesh)
    check_batch_size(c.batch_size, mesh, accumulation=c.accumulation)
    corpora = cache.corpora(config) if corpora is None else corpora
    for split in (corpora.validation, corpora.test):
        check_translations(split, config)
    for split in corpora if vision_first(config) is not None else ():
        batches.check_files(split)
    data, as_read = fingerprint(corpora), corpora
    if d.translation_noise:
        noise = {"share": d.translation_noise, "seed": config.seed, "source": d.source}
        corpora = corpora._replace(train=swap_translations(corpora.train, **noise))
    wanted = {"batch_size": c.batch_size, "targets_per_image": c.targets_per_image}
    batches.check(corpora.train, source=d.source, targets=(*d.targets, *d.reported), **wanted)
    if config.confidence.kind == "posterior" and not len(corpora.validation.captions_of(d.source)):
        raise UserError(
            f"config.confidence.kind='posterior' learns from validation captions in {d.source!r}, and there are none; "
            "use 'softmax' or 'none'"
        )
    examples = len(batches.trainable_images(corpora.train, source=d.source))
    stages, durations = stages_of(config, examples=examples)
    programs, warmup = {} if programs is None else programs, durations["optimizer.warmup"]
    key = _program_key(config, mesh, cache.shape_of(config, corpora), stages, warmup, corpora.train.languages)
    if key not in programs:
        programs[key] = _compiled(config, corpora, mesh=mesh, stages=stages, warmup=warmup)
    compiled = programs[key]
    compiled = compiled._replace(step=compiled.step.with_seed(config.seed))
    validation, seconds = headline(corpora.validation), time.perf_counter() - start
    return Run(config, mesh, corpora, data, as_read, validation, stages, durations, evaluators, seconds, *compiled)


def stages_of(config: ConfigDict, *, examples: int) -> tuple[Stages, dict[str, int]]:
    """The stages of a training on so many pictures, and every duration in steps.

    `teacher.steps` is among them only where the teacher has a stage.

    Raises:
      UserError: a duration is too short.
    """
    has_teacher_stage = (
        config.method == "cl2cm" and config.teacher.head != "none" and config.teacher.schedule == "frozen"
    )
    specs, size = flatten(config), config.train.batch_size
    student = steps_of(config.train.steps, field="train.steps", batch_size=size, examples=examples)
    durations = {}
    for name in DURATIONS:
        if name == "teacher.steps" and not has_teacher_stage:
            continue
        total, minimum = student if FIELDS[name].of_training else None, FIELDS[name].minimum_steps
        steps = steps_of(specs[name], field=name, batch_size=size, examples=examples, total=total)
        if minimum is not None and steps < minimum:
            raise UserError(f"config.{name}={specs[name]!r} is {steps} steps; it must be {minimum} or more")
        durations[name] = steps
    heads = durations["student.text.start"]
    if heads >= student > 1:
        raise UserError(
            f"config.student.text.start={config.student.text.start!r} is step {heads}, and config.train.steps="
            f"{config.train.steps!r} ends at {student}: the layers would never learn; use a smaller one"
        )
    return Stages(durations.get("teacher.steps", 0), student, min(heads, student - 1)), durations


def _program_key(config: ConfigDict, mesh: Mesh, *sizes: Any) -> str:
    """Everything that networks and programs depend on: every field except the seed, which is an argument, and data."""
    fields = {name: value for name, value in flatten(config).items() if name != "seed" and not name.startswith("data.")}
    return repr((fields, tuple(mesh.shape.items()), mesh.device_ids.tolist(), sizes))


def _compiled(config: ConfigDict, corpora: Corpora, *, mesh: Mesh, stages: Stages, warmup: int) -> Compiled:
    """Networks, step and embedder of a configuration; nothing is compiled before it is called."""
    tunable, tail = text_layers(config)
    vision, layers = vision_layers(config)
    shape, scores = cache.shape_of(config, corpora, vision), configured_scores(config)
    networks = Networks(config, shape, tunable=tunable, vision=vision, scores=scores)
    step = make_train_step(
        config,
        networks,
        make_optimizers(config, stages, warmup=warmup),
        mesh=mesh,
        stages=stages,
        languages=len(corpora.train.languages),
        tail=tail,
        vision=layers,
    )
    crops = None
    if vision is not None:
        p, c = vision.preprocess, config.student.vision
        crops = Crops(p.image_size, p.shorter_side, p.filter, c.crop, c.flip, p.even)
    return Compiled(networks, step, _embedder(config, networks, mesh, vision, step.pretrained.below), crops)


def _embedder(
    config: ConfigDict, networks: Networks, mesh: Mesh, vision: VisionBackbone | None, frozen: Params
) -> Embedder:
    """Embeds whole corpora; reads picture files where layers of the vision backbone are trained."""
    encoder = None if vision is None else ImageEncoder(vision, pool=config.vision.pool)

    def image_features(student: Params, images: Iterable[np.ndarray]) -> np.ndarray:
        assert encoder is not None
        params = {"frozen": frozen, "own": student[VISION_TAIL]}
        return encoder(images, params=params if jax.process_count() == 1 else hosts.collect(params))

    return Embedder(
        networks,
        batch_size=config.evaluation.batch_size,
        max_words=config.text.max_tokens,
        length_multiple=config.text.length_multiple,
        mesh=mesh,
        image_features=None if encoder is None else image_features,
    )


def check_data(run: Run, workdir: Path, metadata: Mapping[str, Any]) -> None:
    """Raises UserError if a checkpoint of `workdir`, of which these are the metadata, was trained on other data."""
    known = (read_record(workdir).get("data"), metadata.get("data"))
    if not any(is_same_data(one, run.read) for one in known if one):
        raise other_data(f"--workdir={workdir}")


def free_places(workdir: Path) -> tuple[str, ...]:
    """The places that may change in a workdir whose data and backbones are checked by their content."""
    kept = [f"{kind}.path" for kind in ("text", "vision") if kind not in read_record(workdir)]
    return tuple(name for name in PLACES if name not in kept)


def check_workdir(
    workdir: Path, config: ConfigDict, *, free: Sequence[str] = (), fix: str = "use another --workdir"
) -> None:
    """Refuses a file, and a workdir with outputs of another configuration.

    Args:
      workdir: need not exist.
      config: of the run.
      free: names of fields that may differ, beside those of `FREE`.
      fix: what the error says to do.

    Raises:
      UserError: lists the fields that differ.
    """
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file; name a folder, which is made if it is not there")
    changed = {n: pair for n, pair in changes(workdir, config).items() if not n.startswith(FREE) and n not in free}
    if changed:
        listed = ", ".join(f"{name} ({was!r} there, {now!r} now)" for name, (now, was) in changed.items())
        raise UserError(
            f"--workdir={workdir} was made with another configuration: {listed}; {fix}",
            id="other-configuration",
        )


def has_outputs(workdir: Path) -> bool:
    """Whether a workdir keeps its configuration; one whose run ended before its first checkpoint does not."""
    return (workdir / CONFIG_FILE).exists() and any(any(workdir.glob(pattern)) for pattern in OUTPUTS)


def changes(workdir: Path, config: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """The fields in which a configuration differs from that of a workdir with outputs: (now, there)."""
    if not has_outputs(workdir):
        return {}
    path = workdir / CONFIG_FILE
    try:
        saved = flatten(defaults()) | read_fields(path)  # fields added since then have their default
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); use another --workdir") from error
    return differences(flatten(config), saved)


def note_places(workdir: Path, config: ConfigDict) -> None:
    """Writes the present places of data and backbones, which have been checked, into the config.json of a workdir."""
    if moved := changes(workdir, config).keys() & PLACES:
        flat, saved = flatten(config), read_fields(workdir / CONFIG_FILE)
        write_config(workdir, saved | {name: flat[name] for name in moved})


@contextlib.contextmanager
def claim(workdir: Path, config: ConfigDict, *, free: Sequence[str] = ()) -> Iterator[None]:
    """Creates a workdir, locks it and writes its config.json; `free` as in `check_workdir`.

    Raises:
      UserError: it has another configuration, cannot be created, or another process is training in it.
    """
    busy = f"--workdir={workdir} is in use: another process trains there; wait for it, or use another --workdir"
    with contextlib.ExitStack() as stack:

        def lock() -> None:
            check_workdir(workdir, config, free=free)
            try:
                workdir.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"--workdir={workdir} cannot be made ({error.strerror}); name another") from error
            stack.enter_context(exclusive(workdir / ".lock", busy=busy))
            write_config(workdir, flatten(config))

        hosts.on_host_zero(lock)
        yield


def checkpoints(run: Run, workdir: Path) -> Checkpoints:
    """The run's checkpoints: the newest ones, the best on validation, and that of step 0 where there is one."""
    metrics = {"best_metric": SELECTION, "older_metric": TARGETS_METRIC}
    return Checkpoints(workdir / "checkpoints", keep_last=run.config.train.keep, always=(0,), **metrics)


def abstract_state(run: Run) -> TrainState:
    """Shapes and shardings of the train state, to restore a checkpoint."""
    return abstract(jax.eval_shape(run.step.init), run.step.state_shardings)


def evaluated_student(run: Run, state: TrainState) -> Params:
    """The student's parameters for evaluation: the moving average if there is one; adapters merged into the layers."""
    student = state["ema"] if run.config.train.ema else state["params"]["student"]
    return jax.jit(run.networks.with_layers)(student, run.step.pretrained) if run.networks.has_adapters else student


def describe(run: Run) -> str:
    """What would be trained: data, mesh, steps and a table of the parameters."""
    state = abstract_state(run)
    mesh = " x ".join(f"{axis} {size}" for axis, size in run.mesh.shape.items())
    sizes = ", ".join(map(_size, run.corpora))
    stages = f"{run.stages.student} steps"
    stages += f" after {run.stages.teacher} of the teacher alone" if run.stages.teacher else ""
    stages += f"; in the first {run.stages.heads} of the {run.stages.student} heads alone" if run.stages.heads else ""
    captions = "; ".join(f"{corpus.name} {', '.join(_captions(corpus))}" for corpus in run.corpora)
    return f"data: {sizes}\ncaptions: {captions}\nmesh: {mesh}\ntraining: {stages}\n{overview(state['params'])}"


def _size(corpus: Corpus) -> str:
    """Number of images and captions that are read; of the images also all, where some have no caption left."""
    images, read = len(corpus.image_ids), corpus.caption_language != LEFT_OUT
    captioned = len(np.unique(corpus.caption_image[read]))
    of = f"{captioned:,} of {images:,}" if captioned < images else f"{images:,}"
    return f"{corpus.name} {of} images {read.sum():,} captions"


def _captions(corpus: Corpus) -> Iterator[str]:
    """Number of captions of each language, by who wrote them."""
    for language in corpus.languages:
        rows = corpus.captions_of(language)
        counts = zip(*np.unique(corpus.caption_origin[rows], return_counts=True), strict=True)
        yield f"{language} {' + '.join(f'{count:,} {origin}' for origin, count in counts) or '0'}"
