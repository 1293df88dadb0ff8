"""The rows of the ablation: their names, the fields in which each differs from the config, and which runs they share.

Rows above the baseline have less than it, or stand beside it; rows below have more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ml_collections import ConfigDict

from cl2cm_jax.config import override_all, reads_frozen, teacher_first
from cl2cm_jax.data.corpus import Corpus

PROBE = "probe: two linear maps, English only"
SOURCE_ONLY = "source only"
BASELINE = "+ V-T (baseline)"
CEILING = "ceiling: baseline on human target captions"
LEAST_SQUARES = "least-squares map over source only"
TRANSLATED = "translate the query, search in source"
BACKBONE = "+ transfer, backbone's own vectors"
DEFAULT = "default: the config as it is"

# The transfer's weight and temperature, and the teacher's steps, are the config's.
_TRANSFER = {
    "method": "cl2cm",
    "transfer.relations": "cross",
    "transfer.sentence": "1.0",
    "transfer.own": "0.0",
    "confidence.kind": "none",
    "contrastive.labels": "uniform",
    "train.targets_per_image": "1",
    "teacher.head": "none",
    "teacher.schedule": "frozen",
    "teacher.pool": "backbone",
    "teacher.folds": "1",
    "weights.word": "0.0",
    "transfer.word": "0.0",
}
_PLAIN = {"method": "baseline", "contrastive.labels": "uniform", "train.targets_per_image": "1"}
_SOURCE_ONLY = _PLAIN | {"weights.target": "0.0"}
_SENTENCE = _TRANSFER | {"teacher.head": "linear"}
_CROSS_FITTED = _SENTENCE | {"teacher.folds": "2"}
_OWN = _TRANSFER | {"transfer.sentence": "0.0", "transfer.own": "1.0"}  # headless: no teacher is needed for it
_MANY = {"train.targets_per_image": "2"}
_EVERY = {"train.targets_per_image": "-1"}

ROWS: dict[str, dict[str, str]] = {
    PROBE: _SOURCE_ONLY | {"student.dropout": "0.0"},
    SOURCE_ONLY: _SOURCE_ONLY,
    BASELINE: _PLAIN,
    CEILING: _PLAIN | {"data.train_origin": "human", "data.translation_noise": "0.0"},
    LEAST_SQUARES: _SOURCE_ONLY,  # the same model as SOURCE_ONLY; its queries are read otherwise, as those of the next
    TRANSLATED: _SOURCE_ONLY,
    "+ 1-to-K, every target language": _TRANSFER | _EVERY | {"weights.transfer": "0.0"},
    "+ transfer, student's own V-S": _OWN,
    "+ transfer, student's own V-S, 1-to-K": _OWN | _EVERY,
    BACKBONE: _TRANSFER,
    "+ transfer, trained sentence teacher": _SENTENCE,
    "+ transfer, cross-fitted sentence teacher": _CROSS_FITTED,
    "+ word level (full CL2CM)": _CROSS_FITTED
    | {"teacher.pool": "both", "word.loss": "contrast", "weights.word": "1.0", "transfer.word": "0.5"},
    "+ word level, <plan, cost>": _CROSS_FITTED
    | {"teacher.pool": "both", "word.loss": "transport", "weights.word": "1.0"},
    "cross-fitted + intra relations": _CROSS_FITTED | {"transfer.relations": "cross,intra_target,intra_vision"},
    "cross-fitted + confidence, softmax": _CROSS_FITTED | {"confidence.kind": "softmax"},
    "cross-fitted + 1-to-K (K=2)": _CROSS_FITTED | _MANY,
    "cross-fitted + posterior + K=2, soft labels": _CROSS_FITTED
    | _MANY
    | {"confidence.kind": "posterior", "contrastive.labels": "soft"},
    DEFAULT: {},
}
READ_OTHERWISE = (LEAST_SQUARES, TRANSLATED)  # of the model of SOURCE_ONLY, which is trained once for the three
_WITHOUT_TARGETS = (PROBE, SOURCE_ONLY, TRANSLATED)  # their training reads no translation, so noise changes nothing


class Place(NamedTuple):
    """Where the run of a row is kept: rows that are the same at several levels of noise share one."""

    noise: float
    name: str


def variant(config: ConfigDict, name: str, *, noise: float, seed: int) -> ConfigDict:
    """The config of one run."""
    changed = config.copy_and_resolve_references()
    changed.seed, changed.data.translation_noise = seed, noise
    fields = ROWS[name]
    if teacher_first(config) is not None:
        fields = fields | _beside_trained_layers(fields)
    return override_all(changed, fields)


def _beside_trained_layers(fields: Mapping[str, str]) -> dict[str, str]:
    """What a row changes further where the config's teacher trains layers.

    Without a head there are none to train, and heads that share layers are not cross-fitted.
    """
    if fields.get("teacher.head") == "none":
        return {"teacher.text.trainable": ""}
    return {"teacher.folds": "1"} if "teacher.folds" in fields else {}


def place_of(name: str, *, noise: float, human: bool) -> Place:
    """The place of a row at a level of noise.

    Args:
      name: of the row.
      noise: share of the training translations that are swapped.
      human: whether the ceiling trains on human captions in place of machine translations (`trains_on_human`); else
        it is the baseline without noise.
    """
    if name == CEILING:
        return Place(0.0, CEILING if human else BASELINE)
    return Place(0.0 if name in _WITHOUT_TARGETS else noise, name)


def trains_on_human(config: ConfigDict, train: Corpus) -> bool:
    """Whether the ceiling trains on captions that the other rows do not see: human ones in every target language."""
    return config.data.train_origin == "machine" and not _without_human(config, train)


def absent_rows(config: ConfigDict, train: Corpus, *, noise: float, untranslated: str) -> Mapping[str, str]:
    """The rows that a set cannot have at a level of noise, each with one line that says why.

    `untranslated` says why queries cannot be translated; "" where they can.
    """
    absent = _absent_beside_trained_layers(config)
    if noise == 0 and not trains_on_human(config, train):
        origin = config.data.train_origin
        why = f"config.data.train_origin={origin!r} keeps no human caption from training"
        if origin == "machine":
            language = _without_human(config, train)[0]
            why = f"the training split has no human caption in {language!r}"
        absent[CEILING] = f"no ceiling above translations without noise: {why}"
    if untranslated:
        absent[TRANSLATED] = untranslated
    return absent


def _absent_beside_trained_layers(config: ConfigDict) -> dict[str, str]:
    """Rows that are not where the config's teacher trains layers of the text backbone."""
    if teacher_first(config) is None:
        return {}
    trained = f"config.teacher.text.trainable={config.teacher.text.trainable!r}"
    absent = {name: f"{trained}: the heads share these layers" for name in ROWS if "cross-fitted" in name}
    if not reads_frozen(config):
        absent[BACKBONE] = f"{trained}: the frozen backbone's own vectors are not in the feature cache"
    return absent


def _without_human(config: ConfigDict, train: Corpus) -> list[str]:
    """The target languages in which people captioned no training picture."""
    return [name for name in config.data.targets if "human" not in train.caption_origin[train.captions_of(name)]]
