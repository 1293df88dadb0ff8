"""Which backbones a configuration names, and which of their layers are trained.

Each network has its own copy of the layers that it trains; those below are frozen. The frozen layers of the text
backbone run once: the states that the first trained layer reads are cached with the other features. Those of the vision
backbone run in every step, since pictures are cropped at random.
"""

from __future__ import annotations

import logging
import re

from ml_collections import ConfigDict

from cl2cm_jax.config.durations import read_duration
from cl2cm_jax.config.knots import is_zero
from cl2cm_jax.errors import UserError
from cl2cm_jax.text.languages import is_translation

# packages of the built-in backbones
TEXT_BACKBONES, VISION_BACKBONES = "cl2cm_jax.models.backbones.text", "cl2cm_jax.models.backbones.vision"
_PRECOMPUTED = "precomputed"  # no vision backbone: the data set has features
BY_LANGUAGE = "auto"  # as the text backbone of a config file: chosen when the languages are known
_USE_LANGUAGES = frozenset(
    "ar de en es fr it ja ko nl pl pt ru th tr zh".split()
)  # of use_multilingual, by its authors
_PATTERN = re.compile("layers ([0-9]{1,4})-([0-9]{1,4})")
_LORA = re.compile("lora ([0-9]{1,4})(?: (layers [0-9]{1,4}-[0-9]{1,4}))?")


def choose_text_backbone(config: ConfigDict) -> None:
    """Sets text.backbone="auto" to use_multilingual or, if that does not know one of the languages, to e5_small."""
    if config.text.backbone != BY_LANGUAGE:
        return
    data = config.data
    codes = (data.source, *data.targets, *data.reported)
    unknown = [code for code in codes if not is_translation(code) and code.partition("-")[0] not in _USE_LANGUAGES]
    config.text.backbone = "e5_small" if unknown else "use_multilingual"
    if unknown:
        logging.info("config.text.backbone='e5_small', since use_multilingual does not know %s", ", ".join(unknown))


def has_vision_backbone(config: ConfigDict) -> bool:
    """Whether images go through a vision backbone; False with precomputed features."""
    return config.vision.backbone != _PRECOMPUTED


def first_layer(trainable: str, *, field: str) -> int | None:
    """The first trained or adapted layer; -1: everything, the embedding tables too; None: nothing.

    Raises:
      UserError: the pattern is malformed.
    """
    layers, _ = _split(trainable, field=field)
    if layers in ("", "all"):
        return -1 if layers else None
    match = _PATTERN.fullmatch(layers)
    if not match or int(match[1]) > int(match[2]):
        raise UserError(
            f"config.{field}={trainable[:40]!r} must be '' (none), 'all', or e.g. 'layers 3-11', 'lora 8' or "
            "'lora 8 layers 3-11'",
            id="trained-layers",
        )
    return int(match[1])


def lora_rank(trainable: str, *, field: str) -> int:
    """The rank of the low-rank adapters that are trained instead of the layers; 0: the layers themselves are.

    Raises:
      UserError: the rank is 0.
    """
    return _split(trainable, field=field)[1]


def _split(trainable: str, *, field: str) -> tuple[str, int]:
    """The layers of "lora 8" ("all") or "lora 8 layers 3-11", and the rank; 0 without adapters."""
    match = _LORA.fullmatch(trainable)
    if not match:
        return trainable, 0
    if not int(match[1]):
        raise UserError(f"config.{field}={trainable!r} has rank 0, which trains nothing; use 'lora 8', or ''")
    return match[2] or "all", int(match[1])


def check_layers(trainable: str, layers: int, *, field: str) -> None:
    """Raises UserError, with the right pattern, if the trained layers do not end at the backbone's last one."""
    named, rank = _split(trainable, field=field)
    match = _PATTERN.fullmatch(named)
    if match and int(match[2]) != layers - 1:
        adapters = f"lora {rank} " if rank else ""
        raise UserError(
            f"config.{field}={trainable!r}: the backbone has the layers 0-{layers - 1}, and layers are trained up to "
            f"its last one; use '{adapters}layers {min(int(match[1]), layers - 1)}-{layers - 1}'",
            id="trained-layers",
        )


def student_first(config: ConfigDict) -> int | None:
    """The student's first trained layer of the text backbone."""
    return first_layer(config.student.text.trainable, field="student.text.trainable")


def teacher_first(config: ConfigDict) -> int | None:
    """The teacher's first trained layer of the text backbone."""
    return first_layer(config.teacher.text.trainable, field="teacher.text.trainable")


def vision_first(config: ConfigDict) -> int | None:
    """The student's first trained layer of the vision backbone."""
    return first_layer(config.student.vision.trainable, field="student.vision.trainable")


def cut_layer(config: ConfigDict) -> int | None:
    """The first layer of the text backbone that a network trains; None: no network trains any."""
    first = student_first(config)
    return teacher_first(config) if first is None else first


def starts_aligned(config: ConfigDict) -> bool:
    """Whether the student starts at the backbones' own vectors of pictures and texts, and not with random heads.

    With both towers of one model it is that model before the first step.
    """
    s = config.student
    return s.text_residual and s.text_pool != "mean" and s.vision_residual


def keeps_start(config: ConfigDict) -> bool:
    """Whether a term keeps the student near the model that it starts at (`weights.start`)."""
    return not is_zero(config.weights.start)


def starts_later(config: ConfigDict) -> bool:
    """Whether `student.text.start` is more than 0 steps."""
    return read_duration(config.student.text.start, field="student.text.start")[0] > 0


def heads_first(config: ConfigDict) -> bool:
    """Whether the student's heads are trained alone before its layers of the text backbone."""
    return student_first(config) is not None and starts_later(config)


def reads_frozen(config: ConfigDict) -> bool:
    """Whether a network reads words or sentences of the frozen backbone."""
    trains_all = student_first(config) is not None and teacher_first(config) is not None
    return not trains_all or heads_first(config) or keeps_start(config)
