"""AdamW for both networks: warm-up, cosine, clipping, decoupled weight decay with exclusions."""

from __future__ import annotations

import re
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from cl2cm_jax.models.functional import Params
from cl2cm_jax.steps.schedule import Stages, learning_rate


def make_optimizer(config: ConfigDict, stages: Stages, *, warmup: int) -> optax.GradientTransformation:
    """One AdamW for the student and one for the teacher, each with a clip and a learning rate of its own.

    A frozen teacher learns in its stage alone: after it its rate is exactly zero, and so is every update.
    """
    first, second = {"start": 0, "steps": stages.teacher}, {"start": stages.teacher, "steps": stages.student}
    teacher = first if config.teacher["update"] == "frozen" else {"start": 0, "steps": stages.total}
    share = warmup / max(stages.student, 1)
    rates = {
        "student": learning_rate(config, **second, warmup=warmup),
        "teacher": learning_rate(config, **teacher, warmup=round(share * teacher["steps"])),
    }
    return optax.partition({name: _adamw(config, rate) for name, rate in rates.items()}, _network_of)


def _adamw(config: ConfigDict, rate: optax.Schedule) -> optax.GradientTransformation:
    c = config.optimizer
    adamw = optax.adamw(rate, b1=c.b1, b2=c.b2, weight_decay=c.weight_decay, mask=lambda p: decayed(p, c.exclude))
    return optax.chain(optax.clip_by_global_norm(c.clip), adamw) if c.clip else adamw


def decayed(params: Any, exclude: str) -> Any:
    """True at the parameters with weight decay: those whose path does not match `exclude`."""

    def keep(path: tuple, _: jax.Array) -> bool:
        return not re.search(exclude, jax.tree_util.keystr(path, simple=True, separator="/"))

    return jax.tree_util.tree_map_with_path(keep, params)


def _network_of(params: Params) -> Params:
    return {network: jax.tree.map(lambda _, n=network: n, tree) for network, tree in params.items()}
