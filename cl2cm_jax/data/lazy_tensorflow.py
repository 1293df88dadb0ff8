"""TensorFlow and tfds, imported on first use and without their log lines; TensorFlow is imported here alone."""

from __future__ import annotations

import os
from typing import Any


def tensorflow() -> Any:
    """The module `tensorflow`, without accelerators, which JAX uses. The first import takes seconds."""
    _silence()
    import tensorflow as tf

    if tf.config.get_visible_devices("GPU"):
        tf.config.set_visible_devices([], "GPU")
    return tf


def tensorflow_datasets() -> Any:
    """The module `tensorflow_datasets` without progress bars; it imports TensorFlow only to write or read."""
    _silence()
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    return tfds


def _silence() -> None:
    """No log lines at import; oneDNN, which logs at every level, is of no use for reading records."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
