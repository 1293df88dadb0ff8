"""Every choice of a run (`fields`), and the checks that turn a mistake into one clear line."""

from cl2cm_jax.config.backbones import (
    TEXT_BACKBONES,
    VISION_BACKBONES,
    check_layers,
    cut_layer,
    has_vision_backbone,
    heads_first,
    keeps_start,
    lora_rank,
    reads_frozen,
    starts_aligned,
    student_first,
    teacher_first,
    vision_first,
)
from cl2cm_jax.config.checks import check_field, reads_words, validate
from cl2cm_jax.config.config_files import read_argument
from cl2cm_jax.config.fields import DURATIONS, FIELDS, LANGUAGES_OF, PLACES, current_names, defaults
from cl2cm_jax.config.flat import differences, flatten, nearest
from cl2cm_jax.config.knots import is_zero
from cl2cm_jax.config.method import effective
from cl2cm_jax.config.paper_setting import paper_setting
from cl2cm_jax.config.plugins import load_plugin, plugin_names
from cl2cm_jax.config.reading import from_flat, override, override_all, read

__all__ = [
    "DURATIONS",
    "FIELDS",
    "LANGUAGES_OF",
    "PLACES",
    "TEXT_BACKBONES",
    "VISION_BACKBONES",
    "check_field",
    "check_layers",
    "current_names",
    "cut_layer",
    "defaults",
    "differences",
    "effective",
    "flatten",
    "from_flat",
    "has_vision_backbone",
    "heads_first",
    "is_zero",
    "keeps_start",
    "load_plugin",
    "lora_rank",
    "nearest",
    "override",
    "override_all",
    "paper_setting",
    "plugin_names",
    "read",
    "read_argument",
    "reads_frozen",
    "reads_words",
    "starts_aligned",
    "student_first",
    "teacher_first",
    "validate",
    "vision_first",
]
