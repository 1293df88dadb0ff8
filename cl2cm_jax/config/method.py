"""The method switch: what `config.method` does to the other fields."""

from __future__ import annotations

from ml_collections import ConfigDict

from cl2cm_jax.config.backbones import teacher_first

METHODS = ("cl2cm", "baseline")


def effective(config: ConfigDict) -> ConfigDict:
    """The configuration that is trained: of `method="baseline"` a copy without all that a teacher adds.

    The baseline contrasts vision with one source and one target caption of an image, and nothing else. Every other
    field stays, so that two runs that differ in `method` alone show what the method is worth. A teacher with trained
    layers keeps its fields, though no term reads it, so that both runs share one feature cache.
    """
    if config.method == "cl2cm":
        return config
    c = config.copy_and_resolve_references()
    c.weights.sentence = c.weights.word = c.weights.transfer = "0.0"
    c.transfer.word = 0.0
    c.confidence.kind = "none"
    c.contrastive.labels = "uniform"
    c.train.targets_per_image = 1
    c.teacher["update"] = "frozen"
    if teacher_first(c) is None:
        c.teacher.head, c.teacher.pool, c.teacher.folds = "none", "backbone", 1
    return c
