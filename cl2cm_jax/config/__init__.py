"""Every choice of a run (`fields`), and the checks that turn a mistake into one clear line."""

from cl2cm_jax.config.checks import is_zero, reads_words, validate
from cl2cm_jax.config.fields import defaults
from cl2cm_jax.config.flat import differences, flatten, nearest
from cl2cm_jax.config.text import from_flat, override, override_all, read

__all__ = [
    "defaults",
    "differences",
    "flatten",
    "from_flat",
    "is_zero",
    "nearest",
    "override",
    "override_all",
    "read",
    "reads_words",
    "validate",
]
