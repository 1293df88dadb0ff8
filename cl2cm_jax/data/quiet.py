"""TensorFlow and tfds, imported when first needed and kept quiet; the only place that imports TensorFlow itself."""

from __future__ import annotations

import os
from typing import Any


def tensorflow() -> Any:
    """The module `tensorflow`, hidden from accelerators, which belong to JAX. The first import takes seconds."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    if tf.config.get_visible_devices("GPU"):
        tf.config.set_visible_devices([], "GPU")
    return tf


def tensorflow_datasets() -> Any:
    """The module `tensorflow_datasets` without progress bars; it imports TensorFlow only to write or read."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    return tfds
