"""Every choice of a run, one comment a field, and the checks that turn a mistake into one clear line.

A config file in `configs/` starts from `defaults()` and changes what it needs; the command line changes
single fields (`--config.train.batch_size=512`). Marks: (paper), (siblings) and (ours) say where a choice
comes from; the paper's own hyperparameters are not public, so those of its losses are ours.
"""

from __future__ import annotations

import difflib
import math
import os
import runpy
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from cl2cm_jax.errors import UserError


def defaults() -> ConfigDict:
    """The default of every field: CL2CM on frozen backbones with cached features."""
    c = ConfigDict()
    c.seed = 0  # initial weights, order of examples, choice of captions, translation noise

    c.data = ConfigDict()
    c.data.name = "emoji"  # "emoji" | "captions" (your own pictures and captions)
    c.data.dir = "data"  # built sets and cached features lie here
    c.data.source = "en"  # the language that the pictures were captioned in
    c.data.targets = ("de",)  # languages to search in; the headline numbers are their mean
    c.data.reported = ()  # trained and evaluated like targets, but kept out of the headline
    c.data.translation_noise = 0.0  # share of training targets swapped within their language (ours)
    c.data.images = ""  # captions: folder with the pictures
    c.data.captions = ""  # captions: CSV, TSV or JSONL with image, language, caption[, split[, origin]]
    c.data.features = ""  # captions: .npy of vision features instead of pictures, (n, d) or (n, frames, d)
    c.data.feature_ids = ""  # captions: text file, the image id of each feature row
    c.data.on_error = "stop"  # captions: "stop" | "skip" (bad rows and pictures are listed in a report)

    c.text = ConfigDict()  # frozen text backbone; its outputs are cached
    c.text.backbone = "use_multilingual"  # see models/backbones
    c.text.path = ""  # weights elsewhere than in the installed package
    c.text.max_tokens = 32  # longer captions are cut

    c.vision = ConfigDict()  # frozen vision backbone; its outputs are cached
    c.vision.backbone = "efficientnet_lite0"  # "efficientnet_lite0" | "precomputed" (data.features)
    c.vision.path = ""
    c.vision.pool = "mean"  # "mean" (one global vector) | "tokens" (the backbone's grid, for tower="attention")

    c.student = ConfigDict()  # cross-modal network; alone at inference (paper)
    c.student.dim = 512  # D, the shared space
    c.student.vision_tower = "linear"  # "linear" | "attention" (siblings)
    c.student.text_tower = "linear"  # "linear" | "attention" (siblings)
    c.student.text_pool = "backbone"  # "backbone" (its sentence vector) | "mean" (of words) | "both"
    c.student.text_residual = False  # start at the backbone's own sentence vectors; needs D = their size (ours)
    c.student.hidden = 256  # width of the attention block
    c.student.heads = 4
    c.student.dropout = 0.0  # on the towers' inputs

    c.teacher = ConfigDict()  # cross-lingual network (paper)
    c.teacher.head = "none"  # "none" (the backbone's own vectors) | "linear" | "tower" (attention)
    c.teacher.update = (
        "frozen"  # "frozen" after a first stage | "joint" (read it as teacher["update"]: a method's name)
    )
    c.teacher.steps = "50"  # length of the first stage, e.g. "100" or "10epochs"; used by update="frozen"
    c.teacher.folds = 1  # 2 or more: cross-fitted, each row is scored by a head that did not train on it (ours)
    c.teacher.residual = True  # a head that starts at the backbone's own vectors (ours)
    c.teacher.pool = "both"  # as student.text_pool
    c.teacher.dim = 256  # without residual
    c.teacher.hidden = 256
    c.teacher.heads = 4
    c.teacher.temperature = 0.05  # of its own sentence-level contrastive loss

    c.contrastive = ConfigDict()
    c.contrastive.loss = "infonce"  # "infonce" | "triplet" (siblings: NRCCR) | "sigmoid"
    c.contrastive.temperature = 0.07  # initial value (siblings)
    c.contrastive.learn_temperature = True
    c.contrastive.margin = 0.2  # triplet (siblings)
    c.contrastive.reduction = "mean"  # "mean" | "sum" over the batch (siblings sum the triplet loss)
    c.contrastive.labels = "uniform"  # positives of an image: "uniform" | "soft" (by teacher confidence; ours)
    c.contrastive.form = "dense"  # "dense" | "blockwise" (never holds the B x B matrix; sharded over the mesh)
    c.contrastive.block = 1024  # side of a tile of the blockwise form

    c.weights = ConfigDict()  # of the terms: a number, or a schedule "0:0 20%:1" (step or share : value)
    c.weights.source = "1.0"  # contrastive(V, S)
    c.weights.target = "1.0"  # contrastive(V, T), alpha (siblings: 0.6)
    c.weights.sentence = "1.0"  # teacher: contrastive(S, T)
    c.weights.word = "0.0"  # teacher: word alignment by optimal transport
    c.weights.transfer = "1.0"  # relational distillation, teacher to student

    c.word = ConfigDict()  # word-level alignment (paper: optimal transport, self-supervised; details ours)
    c.word.loss = "transport"  # "transport" (<plan, cost>) | "self_labelled" (pointer at mutual best matches)
    c.word.solver = "ipot"  # "ipot" | "sinkhorn"
    c.word.iterations = 50
    c.word.beta = 0.5  # ipot: proximal weight
    c.word.epsilon = 0.05  # sinkhorn: entropic regularisation
    c.word.marginals = "uniform"  # "uniform" | "norm" (mass by the word vector's length)
    c.word.plan_from = "tower"  # words that the plan is solved on: the "tower"'s or the "backbone"'s

    c.transfer = ConfigDict()
    c.transfer.relations = ("cross",)  # any of "cross", "intra_target", "intra_vision"
    c.transfer.temperature = 0.05  # tau_k of the teacher's rows
    c.transfer.student_temperature = 0.05  # of the student's rows

    c.confidence = ConfigDict()  # beyond the paper: a wrong translation counts less in contrastive(V, T)
    c.confidence.kind = "none"  # "none" | "softmax" (teacher's p_ii in the batch) | "posterior" (mixture per language)

    c.train = ConfigDict()
    c.train.batch_size = 256  # images in a step, over all devices
    c.train.steps = "300"  # "300" | "20epochs" | "50000examples"
    c.train.targets_per_image = 1  # K target captions an image in a step; -1: every language (1-to-K; ours)
    c.train.compute = "float32"  # "float32" | "bfloat16": the towers' products; parameters, scores, losses stay fp32
    c.train.accumulation = 1  # micro-batches a step; features are cached, so the gradient is exact
    c.train.evaluate_every = "50"  # validation
    c.train.early_stop = 0  # stop after so many evaluations without a better validation SumR; 0: never
    c.train.select = "best"  # parameters for the test split: "best" on validation | "last"
    c.train.ema = 0.0  # decay of averaged parameters that are evaluated in place of the raw ones; 0: off
    c.train.log_every = "20"
    c.train.checkpoint_every = "100"
    c.train.keep = 2  # newest checkpoints to keep, beside the best
    c.train.watchdog_seconds = 300.0  # dump every thread's stack when no step completes for so long

    c.optimizer = ConfigDict()  # AdamW
    c.optimizer.learning_rate = 1e-3
    c.optimizer.warmup = "5%"
    c.optimizer.schedule = "cosine"  # "cosine" | "constant"
    c.optimizer.weight_decay = 0.01  # decoupled
    c.optimizer.exclude = r"(bias|scale|temperature|positions)$"  # parameters without weight decay
    c.optimizer.clip = 1.0  # global gradient norm; 0: off
    c.optimizer.b1 = 0.9
    c.optimizer.b2 = 0.999

    c.mesh = ConfigDict()  # devices along each axis; -1: what is left
    c.mesh.data = -1
    c.mesh.fsdp = 1
    c.mesh.tensor = 1

    c.evaluation = ConfigDict()
    c.evaluation.captions_per_image = "all"  # "all" | "first": two protocols in print; named in every table
    c.evaluation.batch_size = 512
    c.evaluation.block = 1024  # side of a tile when ranks are counted
    c.evaluation.pictures = ("en", "de", "fr", "ru", "ar", "zh", "ja", "ko")  # languages shown in retrieval.png
    return c


CHOICES = {
    "data.name": ("emoji", "captions"),
    "data.on_error": ("stop", "skip"),
    "vision.pool": ("mean", "tokens"),
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
    "word.loss": ("transport", "self_labelled"),
    "word.solver": ("ipot", "sinkhorn"),
    "word.marginals": ("uniform", "norm"),
    "word.plan_from": ("tower", "backbone"),
    "confidence.kind": ("none", "softmax", "posterior"),
    "train.compute": ("float32", "bfloat16"),
    "train.select": ("best", "last"),
    "optimizer.schedule": ("cosine", "constant"),
    "evaluation.captions_per_image": ("all", "first"),
}
RELATIONS = ("cross", "intra_target", "intra_vision")

# field: (lowest, highest), both allowed
RANGES = {
    "data.translation_noise": (0.0, 1.0),
    "text.max_tokens": (2, 512),
    "student.dim": (1, math.inf),
    "student.dropout": (0.0, 0.99),
    "teacher.folds": (1, 16),
    "teacher.temperature": (1e-4, math.inf),
    "contrastive.temperature": (1e-4, math.inf),
    "contrastive.block": (1, math.inf),
    "word.iterations": (1, math.inf),
    "word.beta": (1e-3, math.inf),
    "word.epsilon": (1e-4, math.inf),
    "transfer.temperature": (1e-4, math.inf),
    "transfer.student_temperature": (1e-4, math.inf),
    "train.batch_size": (2, math.inf),
    "train.accumulation": (1, math.inf),
    "train.early_stop": (0, math.inf),
    "train.ema": (0.0, 0.999999),
    "train.keep": (1, math.inf),
    "train.watchdog_seconds": (0.0, math.inf),
    "optimizer.learning_rate": (0.0, math.inf),
    "optimizer.weight_decay": (0.0, math.inf),
    "optimizer.clip": (0.0, math.inf),
    "evaluation.batch_size": (1, math.inf),
    "evaluation.block": (1, math.inf),
}


def flatten(config: ConfigDict, prefix: str = "") -> dict[str, object]:
    """Returns {"train.batch_size": 256, ...} in the order of definition."""
    flat: dict[str, object] = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def differences(ours: dict[str, object], theirs: dict[str, object]) -> dict[str, tuple[object, object]]:
    """Fields of two flattened configs whose values differ; tuples and lists of equal items are equal."""

    def plain(value: object) -> object:
        return list(value) if isinstance(value, tuple | list) else value

    names = [*ours, *(name for name in theirs if name not in ours)]
    pairs = {name: (ours.get(name), theirs.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if plain(pair[0]) != plain(pair[1])}


def nearest(name: str, known: list[str] | tuple[str, ...]) -> str:
    """Returns "; did you mean X?" for a near name, else the list of names when it is short."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; one of {', '.join(known)}" if len(known) <= 12 else ""


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
    for name, allowed in CHOICES.items():
        if flat[name] not in allowed:
            raise UserError(f"config.{name}={flat[name]!r} is unknown{nearest(str(flat[name]), allowed)}")
    for name, (low, high) in RANGES.items():
        value = flat[name]
        if not low <= value <= high:  # type: ignore[operator]
            limits = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
            raise UserError(f"config.{name}={value} must be {limits}")
    for message in _contradictions(config):
        raise UserError(message)
    return config


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
    if not c.data.targets:
        yield "config.data.targets=() is empty; name at least one target language"
    for relation in c.transfer.relations:
        if relation not in RELATIONS:
            yield f"config.transfer.relations: {relation!r} is unknown{nearest(relation, RELATIONS)}"
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
    if c.teacher.head != "none" and c.teacher["update"] == "frozen" and c.teacher.steps == "0":
        yield f"config.teacher.steps='0': a frozen teacher with head={c.teacher.head!r} never learns; e.g. '50'"
    if not is_zero(c.weights.word) and not reads_words(c.teacher.head, c.teacher.pool):
        yield (
            f"config.weights.word={c.weights.word!r} needs a teacher that reads words: "
            "config.teacher.head='linear' with teacher.pool='both', or teacher.head='tower'"
        )
    if c.data.name == "captions" and not c.data.captions:
        yield "config.data.captions='' must name a CSV, TSV or JSONL file when config.data.name='captions'"
    if c.vision.backbone == "precomputed" and not c.data.features:
        yield "config.data.features='' must name a .npy file when config.vision.backbone='precomputed'"


def is_zero(weight: str) -> bool:
    """Whether a weight ("1.0", or a schedule) is the number 0, so that its term need not be computed."""
    try:
        return float(weight) == 0.0
    except ValueError:
        return False


def reads_words(kind: str, pool: str) -> bool:
    """Whether a text tower or a teacher's head of this kind and pool looks at words, beside the sentence vectors."""
    return kind in ("attention", "tower") or (kind == "linear" and pool != "backbone")


def read(path: str, overrides: dict[str, str] | None = None) -> ConfigDict:
    """Runs a config file's `get_config()`, applies text overrides and validates.

    (`ml_collections.config_flags` parses the same syntax but answers a mistyped field with a traceback.)

    Args:
      path: a Python file with `get_config(argument="")`; `path:argument` passes the argument.
      overrides: field name to text, as typed on the command line.
    """
    file, _, argument = path.partition(":")
    if not os.path.isfile(file):
        raise UserError(f"--config={path}: no such file; see configs/ for those that exist")
    try:
        get_config = runpy.run_path(file)["get_config"]
        config: ConfigDict = get_config(argument) if argument else get_config()
    except UserError:
        raise
    except KeyError as error:
        raise UserError(f"--config={path}: the file has no {error}") from error
    except Exception as error:
        line = str(error).splitlines()[0] if str(error) else ""
        raise UserError(f"--config={path}: {type(error).__name__}: {line}") from error
    return override_all(config, overrides or {})


def override_all(config: ConfigDict, overrides: dict[str, str]) -> ConfigDict:
    """Sets fields from text and validates; returns the same config."""
    for name, text in overrides.items():
        override(config, name, text)
    return validate(config)


def override(config: ConfigDict, name: str, text: str) -> None:
    """Sets one field from text, parsed by the type of the field's present value.

    Raises:
      UserError: the field is unknown ("did you mean") or the text does not parse.
    """
    flat = flatten(config)
    if name not in flat:
        if any(known.startswith(f"{name}.") for known in flat):
            raise UserError(f"config.{name} is a group of fields; set one of them, e.g. config.{_first(flat, name)}")
        raise UserError(f"config.{name} is not a field{nearest(name, list(flat))}")
    *groups, leaf = name.split(".")
    section = config
    for group in groups:
        section = section[group]
    section[leaf] = _parse(name, text, flat[name])


def _first(flat: dict[str, object], group: str) -> str:
    return next(name for name in flat if name.startswith(f"{group}."))


def _parse(name: str, text: str, present: Any) -> object:
    try:
        if isinstance(present, bool):
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if isinstance(present, tuple | list):
            return tuple(item.strip(" '\"") for item in text.strip("()[] ").split(",") if item.strip(" '\""))
        return type(present)(text)
    except (ValueError, KeyError) as error:
        wanted = {"int": "a whole number", "float": "a number", "bool": "True or False"}[type(present).__name__]
        raise UserError(f"config.{name}={text!r} must be {wanted}") from error


def from_flat(flat: dict[str, object]) -> ConfigDict:
    """A config from its flattened form, as a workdir's config.json holds it; fields it lacks keep their default.

    Raises:
      UserError: a field is unknown or wrong.
    """
    config = defaults()
    for name, value in flat.items():
        *groups, leaf = name.split(".")
        section = config
        for group in groups:
            section = section[group] if group in section else ConfigDict()
        section[leaf] = tuple(value) if isinstance(value, list) else value
    return validate(config)
