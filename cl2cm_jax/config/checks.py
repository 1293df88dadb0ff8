"""What a configuration may say: names, types, choices, ranges, and fields that are wrong together."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from ml_collections import ConfigDict

from cl2cm_jax.config.backbones import (
    check_backbones,
    has_vision_backbone,
    starts_later,
    student_first,
    teacher_first,
    vision_first,
)
from cl2cm_jax.config.durations import read_duration
from cl2cm_jax.config.fields import defaults
from cl2cm_jax.config.flat import flatten, nearest
from cl2cm_jax.config.knots import read_knots
from cl2cm_jax.config.method import METHODS
from cl2cm_jax.errors import UserError

# target languages of the paper's sets, whose source is English
LANGUAGES_OF = {"multi30k": ("de", "fr", "cs"), "mscoco": ("zh", "ja"), "vatex": ("zh",), "msrvtt_cn": ("zh",)}
VIDEO_SETS = ("vatex", "msrvtt_cn")

CHOICES = {
    "method": METHODS,
    "data.name": ("emoji", "captions", "fluent", "stamps", "flickr8k_cn", *LANGUAGES_OF),
    "data.train_origin": ("any", "machine", "human"),
    "data.engine": ("baidu", "google"),
    "data.on_error": ("stop", "skip"),
    "vision.pool": ("backbone", "tokens"),
    "student.vision_tower": ("linear", "attention"),
    "student.text_tower": ("linear", "attention"),
    "student.text_pool": ("backbone", "mean", "both"),
    "teacher.head": ("none", "linear", "tower"),
    "teacher.update": ("frozen", "joint"),
    "teacher.pool": ("backbone", "mean", "both"),
    "contrastive.loss": ("infonce", "triplet", "sigmoid"),
    "contrastive.reduction": ("mean", "sum"),
    "contrastive.labels": ("uniform", "soft"),
    "contrastive.form": ("dense", "blockwise"),
    "contrastive.exchange": ("ring", "gather"),
    "word.loss": ("transport", "self_labelled", "contrast"),
    "word.score": ("late_interaction", "transport"),
    "word.solver": ("ipot", "sinkhorn"),
    "word.marginals": ("uniform", "norm"),
    "word.plan_from": ("tower", "backbone"),
    "confidence.kind": ("none", "softmax", "posterior"),
    "train.compute": ("float32", "bfloat16"),
    "train.select": ("best", "last"),
    "optimizer.schedule": ("cosine", "constant"),
    "evaluation.captions_per_image": ("all", "first"),
    "evaluation.query": ("target", "fused"),
}
RELATIONS = ("cross", "intra_target", "intra_vision")
DURATIONS = (
    "train.steps",
    "train.evaluate_every",
    "train.checkpoint_every",
    "train.log_every",
    "optimizer.warmup",
    "student.text.start",
    "teacher.steps",
)

# field: (lowest, highest), both allowed
RANGES = {
    "seed": (0, 2**32 - 1),
    "data.translation_noise": (0.0, 1.0),
    "data.train_share": (1e-6, 1.0),
    "data.task": (1, 2),
    "data.frames": (1, 64),
    "text.max_tokens": (3, 512),
    "text.length_multiple": (0, 512),
    "vision.image_size": (0, 4096),
    "student.dim": (1, math.inf),
    "student.hidden": (1, math.inf),
    "student.heads": (1, math.inf),
    "student.dropout": (0.0, 0.99),
    "student.text.dropout": (0.0, 0.99),
    "student.vision.crop": (0.01, 1.0),
    "teacher.text.dropout": (0.0, 0.99),
    "teacher.learning_rate": (0.0, math.inf),
    "teacher.folds": (1, 16),
    "teacher.dim": (1, math.inf),
    "teacher.hidden": (1, math.inf),
    "teacher.heads": (1, math.inf),
    "teacher.temperature": (1e-4, math.inf),
    "contrastive.temperature": (1e-4, math.inf),
    "contrastive.margin": (0.0, math.inf),
    "contrastive.block": (1, math.inf),
    "word.candidates": (2, math.inf),
    "word.temperature": (1e-4, math.inf),
    "word.dim": (1, math.inf),
    "word.iterations": (1, math.inf),
    "word.beta": (1e-3, math.inf),
    "word.epsilon": (1e-4, math.inf),
    "transfer.sentence": (0.0, math.inf),
    "transfer.own": (0.0, math.inf),
    "transfer.temperature": (1e-4, math.inf),
    "transfer.student_temperature": (1e-4, math.inf),
    "transfer.word": (0.0, math.inf),
    "train.batch_size": (2, math.inf),
    "train.accumulation": (1, math.inf),
    "train.early_stop": (0, math.inf),
    "train.ema": (0.0, 0.999999),
    "train.keep": (1, math.inf),
    "train.watchdog_seconds": (0.0, math.inf),
    "optimizer.learning_rate": (0.0, math.inf),
    "optimizer.backbone_rate": (0.0, math.inf),
    "optimizer.weight_decay": (0.0, math.inf),
    "optimizer.clip": (0.0, math.inf),
    "optimizer.b1": (0.0, 0.999999),
    "optimizer.b2": (0.0, 0.999999),
    "evaluation.fusion_weight": (0.0, 1.0),
    "evaluation.batch_size": (1, math.inf),
    "evaluation.block": (1, math.inf),
}


def validate(config: ConfigDict) -> ConfigDict:
    """Checks names, types, choices and ranges against `defaults()`.

    Returns:
      The same config, so that a call can be chained.

    Raises:
      UserError: one line that names the field, its value and what is allowed.
    """
    reference, flat = flatten(defaults()), flatten(config)
    for name in flat:
        if name not in reference:
            raise UserError(f"config.{name} is not a field{nearest(name, list(reference))}")
    for name, default in reference.items():
        if name not in flat:
            raise UserError(f"config.{name} is missing; start the config file from cl2cm_jax.config.defaults()")
        _check_type(name, flat[name], default)
    for name, value in flat.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"config.{name}={value} must be a finite number")
    for name, value in flat.items():
        check_field(name, value)
    check_backbones(config)
    for message in _contradictions(config):
        raise UserError(message)
    return config


def check_field(name: str, value: object) -> None:
    """Checks a value of the right type against the choices, range or form of its field, where it has any.

    Raises:
      UserError: it is none of them, outside, or of another form.
    """
    if name.startswith("weights."):
        read_knots(value, field=name)  # type: ignore[arg-type]
    if name in DURATIONS:
        read_duration(value, field=name)  # type: ignore[arg-type]
    if name in CHOICES and value not in CHOICES[name]:
        raise UserError(f"config.{name}={value!r} is unknown{nearest(str(value), CHOICES[name])}")
    low, high = RANGES.get(name, (-math.inf, math.inf))
    if name in RANGES and not low <= value <= high:  # type: ignore[operator]
        limits = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise UserError(f"config.{name}={value} must be {limits}")


def _check_type(name: str, value: object, default: object) -> None:
    if isinstance(default, tuple):
        if not isinstance(value, tuple | list) or not all(isinstance(item, str) for item in value):
            raise UserError(f"config.{name}={value!r} must be a list of names, e.g. ('de', 'fr')")
        return
    number = isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool)
    if type(value) is not type(default) and not number:
        wanted = {"str": "text", "int": "a whole number", "float": "a number", "bool": "True or False"}
        raise UserError(f"config.{name}={value!r} must be {wanted[type(default).__name__]}")


def _contradictions(c: ConfigDict) -> Iterator[str]:
    """Fields that are right alone and wrong together."""
    languages = [c.data.source, *c.data.targets, *c.data.reported]
    for language in languages:
        if languages.count(language) > 1:
            yield f"config.data: language {language!r} is named twice in source, targets and reported"
    if not c.data.dir:
        yield "config.data.dir='' must name a folder, which is made if it is not there"
    if not c.data.targets:
        yield "config.data.targets=() is empty; name at least one target language"
    yield from _transfer_contradictions(c)
    if c.train.targets_per_image == 0 or c.train.targets_per_image < -1:
        yield f"config.train.targets_per_image={c.train.targets_per_image} must be 1 or more, or -1 for every language"
    if c.train.batch_size % c.train.accumulation:
        yield (
            f"config.train.batch_size={c.train.batch_size} is not divisible by "
            f"config.train.accumulation={c.train.accumulation}"
        )
    for part, dim in (("student", c.student), ("teacher", c.teacher)):
        if dim.hidden % dim.heads:
            yield f"config.{part}.hidden={dim.hidden} is not divisible by {part}.heads={dim.heads}"
    if not is_zero(c.weights.word) and not reads_words(c.teacher.head, c.teacher.pool):
        yield (
            f"config.weights.word={c.weights.word!r} needs a teacher that reads words: "
            "config.teacher.head='linear' with teacher.pool='both', or teacher.head='tower'"
        )
    yield from _word_contradictions(c)
    if c.data.name == "captions" and not c.data.captions and not c.data.shards:
        yield (
            "config.data.captions='' must name a CSV, TSV or JSONL file when config.data.name='captions', or "
            "config.data.shards a folder of webdataset shards"
        )
    yield from _beam_contradictions(c)
    yield from _paper_set_contradictions(c)
    if c.data.name == "fluent" and not c.data.root:
        yield "config.data.root='' must name the folder that `make fluent` fills when config.data.name='fluent'"
    if c.data.name == "flickr8k_cn" and not c.data.root and not c.data.captions:
        yield (
            "config.data.root='' must name the folder of the published files when config.data.name='flickr8k_cn', or "
            "config.data.captions a file with all captions and splits"
        )
    yield from _clip_contradictions(c)
    yield from _feature_contradictions(c)
    yield from _trainable_contradictions(c)
    for part, kind, pool, field in (
        ("student", c.student.text_tower, c.student.text_pool, "student.text_pool"),
        ("teacher", c.teacher.head, c.teacher.pool, "teacher.pool"),
    ):
        only_words = part == "teacher" and not is_zero(c.weights.word)  # the word term alone may train the attention
        if kind in ("attention", "tower") and pool == "backbone" and not only_words:
            yield f"config.{field}='backbone' leaves what the {part}'s attention yields unused; use 'both' or 'mean'"
    try:
        re.compile(c.optimizer.exclude)
    except re.error as error:
        yield f"config.optimizer.exclude={c.optimizer.exclude!r} is no regular expression ({error})"


def _transfer_contradictions(c: ConfigDict) -> Iterator[str]:
    for relation in c.transfer.relations:
        if relation not in RELATIONS:
            yield f"config.transfer.relations: {relation!r} is unknown{nearest(relation, RELATIONS)}"
    nothing = not (c.transfer.sentence or c.transfer.own or c.transfer.word)
    if nothing and "cross" in c.transfer.relations and not is_zero(c.weights.transfer):
        yield (
            "config.transfer.sentence=0, transfer.own=0 and transfer.word=0 leave no relation to learn from; "
            "to transfer nothing use config.weights.transfer=0"
        )


def _word_contradictions(c: ConfigDict) -> Iterator[str]:
    transfer = f"config.transfer.word={c.transfer.word}"
    if c.transfer.word:
        if c.word.loss != "contrast":
            yield f"{transfer} needs the word scores of config.word.loss='contrast', not {c.word.loss!r}; or use 0"
        if not reads_words(c.teacher.head, c.teacher.pool):
            yield (
                f"{transfer} needs a teacher that reads words: config.teacher.head='linear' with teacher.pool='both', "
                "or teacher.head='tower'"
            )
        if "cross" not in c.transfer.relations:
            yield f"{transfer} is part of the relation 'cross'; add it to config.transfer.relations, or use 0"
    used = c.transfer.word or not is_zero(c.weights.word)
    if c.word.loss == "contrast" and c.word.plan_from == "backbone" and used:
        yield "config.word.plan_from='backbone' is not for config.word.loss='contrast'; use 'tower'"


def _paper_set_contradictions(c: ConfigDict) -> Iterator[str]:
    d = c.data
    if d.name not in LANGUAGES_OF:
        return
    if not d.root:
        yield f"config.data.root='' must name the folder of the published files when config.data.name={d.name!r}"
    if d.source != "en":
        yield f"config.data.source={d.source!r} must be 'en' when config.data.name={d.name!r}"
    for language in (*d.targets, *d.reported):
        if language not in LANGUAGES_OF[d.name]:
            yield f"config.data: {d.name!r} has no {language!r}{nearest(language, LANGUAGES_OF[d.name])}"
    if d.name == "mscoco" and len((*d.targets, *d.reported)) > 1:
        yield f"config.data.targets={tuple(d.targets)}: zh and ja have test images of their own; train one at a time"


def _feature_contradictions(c: ConfigDict) -> Iterator[str]:
    precomputed = not has_vision_backbone(c)
    if precomputed and not c.data.features:
        yield "config.data.features='' must name the features when config.vision.backbone='precomputed'"
    if precomputed and c.data.name not in ("captions", "flickr8k_cn", *LANGUAGES_OF):
        yield f"config.vision.backbone='precomputed': data.name={c.data.name!r} has pictures; name an encoder of them"
    if c.data.name in VIDEO_SETS and not c.data.features:
        yield f"config.data.features='' must name a folder in FeatureData/ when config.data.name={c.data.name!r}"
    if c.data.features and not precomputed:
        yield (
            f"config.data.features={c.data.features!r} needs config.vision.backbone='precomputed', "
            f"not {c.vision.backbone!r}"
        )


def _beam_contradictions(c: ConfigDict) -> Iterator[str]:
    if c.data.beam_options and not c.data.beam_runner:
        yield f"config.data.beam_options={tuple(c.data.beam_options)}: there is no config.data.beam_runner to take them"
    if c.data.beam_runner and (c.data.name != "captions" or c.data.features):
        what = "features" if c.data.features else f"data.name={c.data.name!r}"
        yield f"config.data.beam_runner={c.data.beam_runner!r}: {what} need no Beam; use ''"


def _trainable_contradictions(c: ConfigDict) -> Iterator[str]:
    if vision_first(c) is not None:
        trained = f"config.student.vision.trainable={c.student.vision.trainable!r}"
        if not has_vision_backbone(c):
            yield f"{trained} needs a vision backbone, and config.vision.backbone={c.vision.backbone!r} is none; use ''"
        if c.data.frames > 1:
            yield f"{trained} trains on pictures, and config.data.frames={c.data.frames} reads clips; use 1, or ''"
        if c.data.shards:
            yield f"{trained} reads picture files in every step; config.data.shards has none; unpack them, or use ''"
    student, teacher = student_first(c), teacher_first(c)
    if starts_later(c):
        start = f"config.student.text.start={c.student.text.start!r}"
        if student is None:
            yield f"{start} needs config.student.text.trainable; or use '0'"
        if vision_first(c) is not None:
            yield f"{start} holds back layers of the text backbone alone; with config.student.vision.trainable use '0'"
    if teacher is None:
        return
    if c.teacher.head == "none":
        yield f"config.teacher.text.trainable={c.teacher.text.trainable!r} needs config.teacher.head other than 'none'"
    if c.teacher.folds > 1:
        yield f"config.teacher.folds={c.teacher.folds}: the heads share the teacher's trained layers, so use 1"
    if c.word.plan_from == "backbone" and not is_zero(c.weights.word):
        yield "config.word.plan_from='backbone' needs a frozen one; with config.teacher.text.trainable use 'tower'"
    if student is not None and student != teacher:
        yield (
            f"config.student.text.trainable={c.student.text.trainable!r} and config.teacher.text.trainable="
            f"{c.teacher.text.trainable!r} must begin with the same layer, or one of them be ''"
        )


def _clip_contradictions(c: ConfigDict) -> Iterator[str]:
    frames = f"config.data.frames={c.data.frames}"
    if c.data.frames == 1:
        return
    if c.data.name not in ("captions", "fluent"):
        yield f"{frames}: data.name={c.data.name!r} has no clips to take frames of; use 1"
    if c.data.features:
        yield f"{frames}: the frames of config.data.features are in that file; use 1"
    if c.vision.pool != "backbone":
        yield f"{frames} needs config.vision.pool='backbone', one vector a frame, not {c.vision.pool!r}"


def is_zero(weight: str) -> bool:
    """Whether a weight ("1.0", or a schedule) is the number 0, so that its term need not be computed."""
    try:
        return float(weight) == 0.0
    except ValueError:
        return False


def reads_words(kind: str, pool: str) -> bool:
    """Whether a text tower or a teacher's head of this kind and pool looks at words, beside the sentence vectors."""
    return kind in ("attention", "tower") or (kind == "linear" and pool != "backbone")
