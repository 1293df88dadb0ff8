"""Every choice of a run (`fields`), and the checks that turn a mistake into one clear line."""

from cl2cm_jax.config.argument import read_argument
from cl2cm_jax.config.checks import check_field, is_zero, reads_words, validate
from cl2cm_jax.config.fields import DURATIONS, FIELDS, LANGUAGES_OF, current_names, defaults
from cl2cm_jax.config.flat import differences, flatten, nearest
from cl2cm_jax.config.method import effective
from cl2cm_jax.config.paper_setting import paper_setting
from cl2cm_jax.config.text import from_flat, override, override_all, read
from cl2cm_jax.config.trainable import (
    BERTS,
    check_layers,
    cut_layer,
    heads_first,
    reads_frozen,
    student_first,
    teacher_first,
    vision_first,
)

__all__ = [
    "BERTS",
    "DURATIONS",
    "FIELDS",
    "LANGUAGES_OF",
    "check_field",
    "check_layers",
    "current_names",
    "cut_layer",
    "defaults",
    "differences",
    "effective",
    "flatten",
    "from_flat",
    "heads_first",
    "is_zero",
    "nearest",
    "override",
    "override_all",
    "paper_setting",
    "read",
    "read_argument",
    "reads_frozen",
    "reads_words",
    "student_first",
    "teacher_first",
    "validate",
    "vision_first",
]
