"""Validation of a configuration: names, types and values of its fields, and combinations of them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator

from ml_collections import ConfigDict

from cl2cm_jax.config.backbones import (
    has_vision_backbone,
    keeps_start,
    lora_rank,
    starts_aligned,
    starts_later,
    student_first,
    teacher_first,
    vision_first,
)
from cl2cm_jax.config.declarations import shown, wrong_type
from cl2cm_jax.config.fields import FIELDS, LANGUAGES_OF, PLACES
from cl2cm_jax.config.flat import flatten, nearest
from cl2cm_jax.config.knots import is_zero
from cl2cm_jax.config.terms import declared_fields, term_contradictions
from cl2cm_jax.errors import UserError, shortened

VIDEO_SETS = ("vatex", "msrvtt_cn")
_LOWEST_TEMPERATURE = 1e-4
_LONGEST, _MOST_ITEMS = 4096, 1000  # characters of a text, and items of a list
# Few enough that the name of a parameter is matched at once. Repeated groups, many groups and many repetitions can take
# for ever; so can the verbose form (?x), where a space may stand before the repetition.
_REPEATED_GROUP, _REPETITION = re.compile(r"\)[*+{]|\(\?[a-zA-Z-]*x"), re.compile(r"[*+?{]")
_MOST_GROUPS, _MOST_REPETITIONS, _MOST_IN_ALTERNATIVE = 4, 4, 3


def validate(config: ConfigDict) -> ConfigDict:
    """Checks all fields and their combinations, with "~" in a place as the home folder; returns the same config.

    Raises:
      UserError: one line that names the field, its value and what is allowed.
    """
    flat = flatten(config)
    known = declared_fields(flat.get("terms", ()))
    for name in flat:
        if name not in known:
            raise UserError(f"config.{name} is not a field{nearest(name, list(known))}")
    for name in FIELDS:
        if name not in flat:
            raise UserError(f"config.{name} is missing; start the config file from cl2cm_jax.config.defaults()")
    for name, value in flat.items():
        check_type(name, value, known[name].default)
    for name, value in flat.items():
        known[name].check(name, value)
    for name in PLACES:
        group, _, leaf = name.rpartition(".")
        config[group][leaf] = os.path.expanduser(flat[name])
    checks = (_data, _paper_set, _clips, _features, _training, _words, _attention, _residual, _start, _trained_layers)
    for message in (message for check in checks for message in check(config)):
        raise UserError(message)
    return config


def check_field(name: str, value: object) -> None:
    """Raises UserError if the declaration of the field does not accept a value of its type."""
    FIELDS[name].check(name, value)


def check_type(name: str, value: object, default: object) -> None:
    """Raises UserError if a value has another type than the field's default, or is longer than any in use."""
    if isinstance(default, tuple):
        if not isinstance(value, tuple | list) or not all(isinstance(item, str) for item in value):
            raise UserError(f"config.{name}={shown(value)} must be a list of names, e.g. ('de', 'fr')")
        if len(value) > _MOST_ITEMS:
            raise UserError(f"config.{name} has {len(value):,} items; use at most {_MOST_ITEMS:,}")
        for item in value:
            _check_text(name, item)
        return
    number = isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool)
    if type(value) is not type(default) and not number:
        raise wrong_type(name, value, type(default))
    if isinstance(value, str):
        _check_text(name, value)
    if isinstance(value, int | float) and not abs(value) <= sys.float_info.max:  # a whole number may be larger
        raise UserError(f"config.{name}={shortened(str(value), limit=40)} must be a finite number")


def _check_text(name: str, text: str) -> None:
    if len(text) > _LONGEST:
        raise UserError(f"config.{name} has {len(text):,} characters; use at most {_LONGEST:,}")
    try:
        text.encode("utf-8", "surrogateescape")  # file names may have bytes that are not UTF-8
        if "\0" in text:
            raise ValueError("it has NUL")
    except ValueError as error:
        raise UserError(f"config.{name}={text!r} has NUL or half a character; leave it out") from error


def _data(c: ConfigDict) -> Iterator[str]:
    d = c.data
    languages = [d.source, *d.targets, *d.reported]
    for language in languages:
        if languages.count(language) > 1:
            yield f"config.data: language {language!r} is named twice in source, targets and reported"
    if not d.dir:
        yield "config.data.dir='' must name a folder, which is created if it does not exist"
    if not d.targets:
        yield "config.data.targets=() is empty; name at least one target language"
    yield from term_contradictions(c)
    named = f"when config.data.name={d.name!r}"
    if d.name == "captions" and not d.captions and not d.shards:
        yield (
            f"config.data.captions='' must name a CSV, TSV or JSONL file {named}, or config.data.shards a folder of "
            "webdataset shards"
        )
    if d.beam_options and not d.beam_runner:
        yield f"config.data.beam_options={tuple(d.beam_options)} needs config.data.beam_runner, e.g. 'DirectRunner'"
    if d.beam_runner and (d.name != "captions" or d.features):
        what = "features" if d.features else f"data.name={d.name!r}"
        yield f"config.data.beam_runner={d.beam_runner!r}: {what} need no Beam; use ''"
    if d.name == "fluent" and not d.root:
        yield f"config.data.root='' must name the folder that `make fluent` fills {named}"
    if d.name == "flickr8k_cn" and not d.root and not d.captions:
        yield (
            f"config.data.root='' must name the folder of the published files {named}, or config.data.captions a file "
            "with all captions and splits"
        )


def _paper_set(c: ConfigDict) -> Iterator[str]:
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
        yield f"config.data.targets={tuple(d.targets)}: zh and ja have different test images; train one at a time"


def _features(c: ConfigDict) -> Iterator[str]:
    d, backbone = c.data, c.vision.backbone
    precomputed = not has_vision_backbone(c)
    if precomputed and not d.features:
        yield "config.data.features='' must name the features when config.vision.backbone='precomputed'"
    if precomputed and d.name not in ("captions", "flickr8k_cn", *LANGUAGES_OF):
        yield f"config.vision.backbone='precomputed': data.name={d.name!r} has pictures; name an encoder of them"
    if d.name in VIDEO_SETS and not d.features:
        yield f"config.data.features='' must name a folder in FeatureData/ when config.data.name={d.name!r}"
    if d.features and not precomputed:
        yield f"config.data.features={d.features!r} needs config.vision.backbone='precomputed', not {backbone!r}"


def _clips(c: ConfigDict) -> Iterator[str]:
    frames = f"config.data.frames={c.data.frames}"
    if c.data.frames == 1:
        return
    if c.data.name not in ("captions", "fluent"):
        yield f"{frames}: data.name={c.data.name!r} has no clips to take frames of; use 1"
    if c.data.features:
        yield f"{frames}: the frames of config.data.features are in that file; use 1"
    if c.vision.pool != "backbone":
        yield f"{frames} needs config.vision.pool='backbone', one vector a frame, not {c.vision.pool!r}"


def _training(c: ConfigDict) -> Iterator[str]:
    t = c.train
    if "retrieval" not in c.evaluation.evaluators:
        names = tuple(c.evaluation.evaluators)
        yield f"config.evaluation.evaluators={names} must contain 'retrieval', whose SumR selects the parameters"
    if t.targets_per_image == 0 or t.targets_per_image < -1:
        yield f"config.train.targets_per_image={t.targets_per_image} must be 1 or more, or -1 for every language"
    if t.batch_size % t.accumulation:
        sizes = f"config.train.batch_size={t.batch_size} is not divisible by config.train.accumulation={t.accumulation}"
        yield f"{sizes}; use a multiple of it"
    if problem := _pattern_problem(c.optimizer.exclude):
        yield f"config.optimizer.exclude={c.optimizer.exclude!r} {problem}"
    nothing = not (c.transfer.sentence or c.transfer.own or c.transfer.word)
    if nothing and "cross" in c.transfer.relations and not is_zero(c.weights.transfer):
        yield (
            "config.transfer.sentence=0, transfer.own=0 and transfer.word=0 leave no relation to learn from; "
            "to transfer nothing use config.weights.transfer=0"
        )


def _pattern_problem(pattern: str) -> str:
    """Why a regular expression is not taken, or "": it is none, or matching it could take very long."""
    if len(pattern) > 200:
        return f"has {len(pattern):,} characters; use at most 200"
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return f"is not a regular expression ({error})"
    if _may_be_slow(pattern):
        found = f"repeats a group, or has more than {_MOST_GROUPS} groups or {_MOST_REPETITIONS} of * + ? {{"
        return f"{found}, which could take very long; name the endings, as in '(bias|scale)$'"
    return ""


def _may_be_slow(pattern: str) -> bool:
    """Whether matching a name could take very long. Plain alternatives, as in ".*bias.*|.*norm.*", count one by one."""
    if _REPEATED_GROUP.search(pattern) or pattern.count("(") > _MOST_GROUPS:
        return True
    plain = not set(pattern) & set("([\\")  # each "|" then separates two alternatives
    counts = [len(_REPETITION.findall(part)) for part in (pattern.split("|") if plain else [pattern])]
    return sum(counts) > _MOST_REPETITIONS and (not plain or max(counts) > _MOST_IN_ALTERNATIVE)


def _words(c: ConfigDict) -> Iterator[str]:
    teacher = (
        "a teacher that reads words: config.teacher.head='linear' with teacher.pool='both', or teacher.head='tower'"
    )
    transfer, reads = f"config.transfer.word={c.transfer.word}", reads_words(c.teacher.head, c.teacher.pool)
    if not is_zero(c.weights.word) and not reads:
        yield f"config.weights.word={c.weights.word!r} needs {teacher}"
    if c.transfer.word:
        if c.word.loss != "contrast":
            yield f"{transfer} needs the word scores of config.word.loss='contrast', not {c.word.loss!r}; or use 0"
        if not reads:
            yield f"{transfer} needs {teacher}"
        if "cross" not in c.transfer.relations:
            yield f"{transfer} is part of the relation 'cross'; add it to config.transfer.relations, or use 0"
    used = c.transfer.word or not is_zero(c.weights.word)
    if c.word.loss == "contrast" and c.word.plan_from == "backbone" and used:
        yield "config.word.plan_from='backbone' is not for config.word.loss='contrast'; use 'tower'"


def _attention(c: ConfigDict) -> Iterator[str]:
    for part, dim in (("student", c.student), ("teacher", c.teacher)):
        if dim.hidden % dim.heads:
            yield f"config.{part}.hidden={dim.hidden} is not divisible by {part}.heads={dim.heads}"
    unused = "='backbone' leaves the output of the {}'s attention unused; use 'both' or 'mean'"
    if c.student.text_tower == "attention" and c.student.text_pool == "backbone":
        yield "config.student.text_pool" + unused.format("student")
    if c.teacher.head == "tower" and c.teacher.pool == "backbone" and is_zero(c.weights.word):
        yield "config.teacher.pool" + unused.format("teacher")  # the word term alone would train it


def _residual(c: ConfigDict) -> Iterator[str]:
    """What a picture's head that starts at the backbone's global vector does not go with."""
    tower, pool, temperature = c.student.vision_tower, c.vision.pool, c.contrastive.temperature
    residual = "config.student.vision_residual=True starts at the backbone's global vector"
    if c.student.vision_residual and tower != "linear":
        yield f"{residual}, and config.student.vision_tower={tower!r} replaces it; use 'linear'"
    if c.student.vision_residual and pool != "backbone":
        yield f"{residual}, and config.vision.pool={pool!r} reads the grid; use 'backbone'"
    if 0 < temperature < _LOWEST_TEMPERATURE:
        yield (
            f"config.contrastive.temperature={temperature} must be at least {_LOWEST_TEMPERATURE}, or 0 for that of "
            "the model folder"
        )


def _start(c: ConfigDict) -> Iterator[str]:
    if keeps_start(c) and not starts_aligned(c):
        yield (
            f"config.weights.start={c.weights.start!r} keeps the student near the model that it starts at, and its "
            "heads start at random; use config.student.text_residual=True and student.vision_residual=True, or 0"
        )


def _trained_layers(c: ConfigDict) -> Iterator[str]:
    student, teacher, start = student_first(c), teacher_first(c), f"config.student.text.start={c.student.text.start!r}"
    vision = f"config.student.vision.trainable={c.student.vision.trainable!r}"
    own = {part: f"config.{part}.text.trainable={c[part].text.trainable!r}" for part in ("student", "teacher")}
    if vision_first(c) is not None:
        if not has_vision_backbone(c):
            yield f"{vision} needs a vision backbone, and config.vision.backbone={c.vision.backbone!r} is none; use ''"
        if c.data.frames > 1:
            yield f"{vision} trains on pictures, and config.data.frames={c.data.frames} reads clips; use 1, or ''"
        if c.data.shards:
            yield f"{vision} reads picture files in every step; config.data.shards has none; unpack them, or use ''"
        if starts_later(c):
            yield f"{start} delays layers of the text backbone alone; with config.student.vision.trainable use '0'"
    if starts_later(c) and student is None:
        yield f"{start} needs config.student.text.trainable; or use '0'"
    if lora_rank(c.teacher.text.trainable, field="teacher.text.trainable"):
        yield f"{own['teacher']}: adapters are the student's; use e.g. 'layers 3-11', or ''"
    if teacher is None:
        return
    if c.teacher.head == "none":
        yield f"{own['teacher']} needs config.teacher.head other than 'none'"
    if c.teacher.folds > 1:
        folds = f"config.teacher.folds={c.teacher.folds}"
        yield f"{folds}: its heads would share the layers of {own['teacher']}; use 1, or no trainable layers there"
    if c.word.plan_from == "backbone" and not is_zero(c.weights.word):
        yield "config.word.plan_from='backbone' needs a frozen one; with config.teacher.text.trainable use 'tower'"
    if student is not None and student != teacher:
        yield f"{own['student']} and {own['teacher']} must begin with the same layer, or one of them be ''"


def reads_words(kind: str, pool: str) -> bool:
    """Whether a text tower or a teacher's head of this kind and pool reads words beside the sentence vectors."""
    return kind in ("attention", "tower") or (kind == "linear" and pool != "backbone")
