"""AdamW for both networks: schedule, gradient clipping, decoupled weight decay with exclusions."""

from __future__ import annotations

import re
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from cl2cm_jax.models.networks import TAIL, VISION_TAIL
from cl2cm_jax.steps.schedule import Stages, learning_rate


def make_optimizers(config: ConfigDict, stages: Stages, *, warmup: int) -> dict[str, optax.GradientTransformation]:
    """One AdamW for each network, with its own clipping, learning rate and step count.

    Two transformations and not one: a stage updates only the network that it trains, since zero gradients would advance
    the step count of the other and spoil its bias correction.
    """
    frozen = config.teacher.schedule == "frozen"
    steps = {"student": stages.student, "teacher": stages.teacher if frozen else stages.student}
    common = config.optimizer.learning_rate
    peaks = {"student": common, "teacher": config.teacher.learning_rate or common}
    share = warmup / max(stages.student, 1)
    return {
        name: _adamw(config, learning_rate(config, peak=peaks[name], steps=count, warmup=round(share * count)))
        for name, count in steps.items()
    }


def _adamw(config: ConfigDict, rate: optax.Schedule) -> optax.GradientTransformation:
    c = config.optimizer
    adamw = optax.adamw(rate, b1=c.b1, b2=c.b2, weight_decay=c.weight_decay, mask=lambda p: decayed(p, c.exclude))
    parts = [optax.clip_by_global_norm(c.clip)] if c.clip else []
    return optax.chain(*parts, adamw, _slower_backbone(c.backbone_rate))


def _slower_backbone(share: float) -> optax.GradientTransformation:
    """Scales the updates of pretrained backbone layers."""

    def scale(updates: Any, params: Any = None) -> Any:
        del params
        slowed = [name for name in (TAIL, VISION_TAIL) if name in updates]
        return updates | {name: jax.tree.map(lambda x: share * x, updates[name]) for name in slowed}

    return optax.stateless(scale)


def decayed(params: Any, exclude: str) -> Any:
    """Mask of the parameters with weight decay: those whose path does not match `exclude`."""

    def keep(path: tuple, _: jax.Array) -> bool:
        return not re.search(exclude, jax.tree_util.keystr(path, simple=True, separator="/"))

    return jax.tree_util.tree_map_with_path(keep, params)
