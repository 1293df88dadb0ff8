"""Rows of the ablation: names, fields in which each differs from the config, and which of them share a run.

Rows above the baseline have less than it or are alternatives to it; rows below have more.
"""

from __future__ import annotations

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

# Weight and temperature of the transfer and the teacher's steps are those of the config.
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
_OWN = _TRANSFER | {"transfer.sentence": "0.0", "transfer.own": "1.0"}  # needs no teacher, hence no head
_TWO_TARGETS = {"train.targets_per_image": "2"}
_ALL_TARGETS = {"train.targets_per_image": "-1"}
_WORDS = {"teacher.pool": "both", "weights.word": "1.0"}

ROWS: dict[str, dict[str, str]] = {
    PROBE: _SOURCE_ONLY | {"student.dropout": "0.0"},
    SOURCE_ONLY: _SOURCE_ONLY,
    BASELINE: _PLAIN,
    CEILING: _PLAIN | {"data.train_origin": "human", "data.translation_noise": "0.0"},
    LEAST_SQUARES: _SOURCE_ONLY,
    TRANSLATED: _SOURCE_ONLY,
    "+ 1-to-K, every target language": _TRANSFER | _ALL_TARGETS | {"weights.transfer": "0.0"},
    "+ transfer, student's own V-S": _OWN,
    "+ transfer, student's own V-S, 1-to-K": _OWN | _ALL_TARGETS,
    BACKBONE: _TRANSFER,
    "+ transfer, trained sentence teacher": _SENTENCE,
    "+ transfer, cross-fitted sentence teacher": _CROSS_FITTED,
    "+ word level (full CL2CM)": _CROSS_FITTED | _WORDS | {"word.loss": "contrast", "transfer.word": "0.5"},
    "+ word level, <plan, cost>": _CROSS_FITTED | _WORDS | {"word.loss": "transport"},
    "cross-fitted + intra relations": _CROSS_FITTED | {"transfer.relations": "cross,intra_target,intra_vision"},
    "cross-fitted + confidence, softmax": _CROSS_FITTED | {"confidence.kind": "softmax"},
    "cross-fitted + 1-to-K (K=2)": _CROSS_FITTED | _TWO_TARGETS,
    "cross-fitted + posterior + K=2, soft labels": _CROSS_FITTED
    | _TWO_TARGETS
    | {"confidence.kind": "posterior", "contrastive.labels": "soft"},
    DEFAULT: {},
}
SHARE_SOURCE_ONLY = (LEAST_SQUARES, TRANSLATED)  # evaluate the model of SOURCE_ONLY in another way
_WITHOUT_TARGETS = (PROBE, SOURCE_ONLY, TRANSLATED)  # train on no translation, so that noise changes nothing


def variant(config: ConfigDict, name: str, *, noise: float, seed: int) -> ConfigDict:
    """The config of a row's run with a share of wrong translations and a seed."""
    changed = config.copy_and_resolve_references()
    changed.seed, changed.data.translation_noise = seed, noise
    fields = ROWS[name]
    if teacher_first(config) is not None:  # the config's teacher trains layers of the text backbone
        if fields.get("teacher.head") == "none":
            fields = fields | {"teacher.text.trainable": ""}  # which needs a head
        elif "teacher.folds" in fields:
            fields = fields | {"teacher.folds": "1"}  # heads that share layers are not cross-fitted
    return override_all(changed, fields)


def stored_as(name: str, *, noise: float, human: bool) -> tuple[str, float]:
    """Row and noise under which the run of a row is stored: rows that do not depend on the noise are trained once.

    Unless the ceiling trains on human captions (`trains_on_human`), it is the baseline without noise.
    """
    if name == CEILING:
        return (CEILING if human else BASELINE), 0.0
    return name, 0.0 if name in _WITHOUT_TARGETS else noise


def trains_on_human(config: ConfigDict, train: Corpus) -> bool:
    """Whether the ceiling trains on human captions in every target language that the other rows do not see."""
    return config.data.train_origin == "machine" and not _without_human(config, train)


def absent_rows(config: ConfigDict, train: Corpus, *, noise: float, untranslated: str) -> dict[str, str]:
    """Rows that a set does not allow, each with a one-line reason; `untranslated` is that for TRANSLATED, if any."""
    absent: dict[str, str] = {}
    if teacher_first(config) is not None:
        trained = f"config.teacher.text.trainable={config.teacher.text.trainable!r}"
        absent |= {name: f"{trained}: the heads share these layers" for name in ROWS if "cross-fitted" in name}
        if not reads_frozen(config):
            absent[BACKBONE] = f"{trained}: the frozen backbone's own vectors are not in the feature cache"
    if noise == 0 and not trains_on_human(config, train):
        origin = config.data.train_origin
        reason = f"config.data.train_origin={origin!r} leaves no human caption out of training"
        if origin == "machine":
            reason = f"the training split has no human caption in {_without_human(config, train)[0]!r}"
        absent[CEILING] = f"no ceiling above translations without noise: {reason}"
    return absent | ({TRANSLATED: untranslated} if untranslated else {})


def _without_human(config: ConfigDict, train: Corpus) -> list[str]:
    """Target languages without a human caption in the training split."""
    return [name for name in config.data.targets if "human" not in train.caption_origin[train.captions_of(name)]]
