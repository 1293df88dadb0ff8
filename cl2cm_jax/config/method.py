"""The method switch: what `config.method` does to the other fields."""

from __future__ import annotations

from ml_collections import ConfigDict

from cl2cm_jax.config.backbones import teacher_first


def effective(config: ConfigDict) -> ConfigDict:
    """The configuration that is trained: for `method="baseline"` a copy without everything that a teacher adds.

    The baseline contrasts vision with one source and one target caption of an image, and nothing else. All other fields
    stay, so that two runs that differ in `method` alone measure the method. A teacher with trained layers keeps its
    fields, though no term reads it, so that both runs share one feature cache.
    """
    if config.method == "cl2cm":
        return config
    c = config.copy_and_resolve_references()
    c.weights.sentence = c.weights.word = c.weights.transfer = "0.0"
    c.transfer.word, c.terms, c.confidence.kind, c.contrastive.labels = 0.0, (), "none", "uniform"
    c.train.targets_per_image, c.teacher.schedule = 1, "frozen"
    if teacher_first(c) is None:
        c.teacher.head, c.teacher.pool, c.teacher.folds = "none", "backbone", 1
    return c
