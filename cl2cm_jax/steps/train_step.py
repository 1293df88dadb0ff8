"""Train state and the jitted train step: (state, batch, number) -> (state, terms)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cl2cm_jax.config import keeps_start, lora_rank, student_first, teacher_first
from cl2cm_jax.maths.confidence import Calibration, uncalibrated
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.networks import NOTHING, TAIL, Networks, Pretrained
from cl2cm_jax.parallel.sharding import batch_sharding, replicated, tree_shardings
from cl2cm_jax.steps.embeddings import Batch, Embeddings, embed
from cl2cm_jax.steps.objective import Objective, Scalars
from cl2cm_jax.steps.schedule import Stage, Stages, term_weights

TrainState = dict[str, Any]
"""A plain dict, as it is saved in a checkpoint.

step: () int32, updates done. params: {"student", "teacher"}. opt: optimiser states by network. ema: averaged student
parameters or {}. calibration: {"weight", "wrong_share"} of the pair confidence. The key of step n is fold_in(seed, n).
"""


class TrainStep(NamedTuple):
    """The step of one configuration, compiled at its first call.

    Attributes:
      init: () -> TrainState, created sharded.
      step: (state, batch, number) -> (state, terms); jitted, the state is donated. The step number, on the host,
        selects the stage; each stage is a program of its own.
      state_shardings: of each leaf of the state.
      pretrained: parameters that the step reads and does not train, on the mesh: an argument of every step, in neither
        state nor checkpoint.
      with_seed: (seed) -> the same step for another `config.seed`, which is an argument of the compiled programs.
    """

    init: Callable[[], TrainState]
    step: Callable[[TrainState, Batch, int], tuple[TrainState, Scalars]]
    state_shardings: Any
    pretrained: Pretrained
    with_seed: Callable[[int], TrainStep]


class Program(NamedTuple):
    """Jitted functions and shapes of a step, without arrays; studies/tpu_estimate compiles it.

    Attributes:
      init: (seed () uint32, trained text layers, trained vision layers) -> TrainState; jitted.
      step: (state, batch, pretrained, seed, stage: static) -> (state, terms); jitted, the state is donated.
      state, pretrained: shapes of the state, and of the parameters that are read and not trained.
      state_shardings, pretrained_shardings: of each leaf.
    """

    init: Callable[..., TrainState]
    step: Any
    state: Any
    pretrained: Pretrained
    state_shardings: Any
    pretrained_shardings: Any


def make_train_step(
    config: ConfigDict,
    networks: Networks,
    optimizers: Mapping[str, optax.GradientTransformation],
    *,
    mesh: Mesh,
    stages: Stages,
    languages: int,
    tail: Params | None = None,
    vision: Params | None = None,
) -> TrainStep:
    """Builds the step, for one device or a mesh.

    `tail` are the pretrained parameters of the trained layers of the text backbone, `vision` those of the vision
    backbone: {"frozen", "own"}, see `trained_layers.vision_layers`.
    """
    program = train_program(
        config, networks, optimizers, mesh=mesh, stages=stages, languages=languages, tail=tail, vision=vision
    )
    own = None if vision is None else vision["own"]
    pretrained = jax.device_put(_pretrained(config, tail, vision), program.pretrained_shardings)

    def with_seed(seed: int) -> TrainStep:
        number = jnp.asarray(seed, jnp.uint32)
        return TrainStep(
            init=lambda: program.init(number, tail, own),
            step=lambda state, batch, step: program.step(state, batch, pretrained, number, stages.of(step)),
            state_shardings=program.state_shardings,
            pretrained=pretrained,
            with_seed=with_seed,
        )

    return with_seed(config.seed)


def _pretrained(config: ConfigDict, tail: Params | None, vision: Params | None) -> Pretrained:
    """What of the pretrained parameters a step of the configuration reads and does not train; arrays or shapes."""
    adapted = {
        kind: lora_rank(config.student[kind].trainable, field=f"student.{kind}.trainable") > 0
        for kind in ("text", "vision")
    }
    text = tail if tail is not None and adapted["text"] else {}
    if vision is None:
        return Pretrained({}, text, {})
    return Pretrained(vision["frozen"], text, vision["own"] if adapted["vision"] or keeps_start(config) else {})


def train_program(
    config: ConfigDict,
    networks: Networks,
    optimizers: Mapping[str, optax.GradientTransformation],
    *,
    mesh: Mesh,
    stages: Stages,
    languages: int,
    tail: Params | None = None,
    vision: Params | None = None,
) -> Program:
    """Builds the jitted step; shapes suffice for `tail` and `vision` (see `make_train_step`)."""
    own, pretrained = None if vision is None else vision["own"], _pretrained(config, tail, vision)
    objective = Objective(config, networks, mesh)
    weights = term_weights(config, stages)
    joint = config.teacher.schedule == "joint"
    drops = config.student.dropout or student_first(config) is not None or teacher_first(config) is not None

    def init(seed: jax.Array, tail: Params | None, own: Params | None) -> TrainState:
        params = networks.init(jax.random.key(seed), tail=tail, vision=own)
        return {
            "step": jnp.zeros((), jnp.int32),
            "params": params,
            "opt": {name: optimizer.init(params[name]) for name, optimizer in optimizers.items()},
            # a copy, since the state is donated and no buffer may be in it twice
            "ema": jax.tree.map(jnp.copy, params["student"]) if config.train.ema else {},
            "calibration": jax.tree.map(jnp.asarray, uncalibrated(languages)._asdict()),
        }

    def step(
        state: TrainState, batch: Batch, pretrained: Pretrained, seed: jax.Array, stage: Stage
    ) -> tuple[TrainState, Scalars]:
        key = jax.random.fold_in(jax.random.key(seed), state["step"]) if drops else None
        at = weights(state["step"], stage)
        calibration = Calibration(**state["calibration"])

        def losses(embeddings: Embeddings, params: Params) -> tuple[jax.Array, Scalars]:
            return objective(embeddings, params, batch, weights=at, calibration=calibration)

        forward = {"pretrained": pretrained, "heads_only": stage == "heads"}
        parts = config.train.accumulation
        gradients, terms = gradient(networks, losses, state["params"], batch, key, parts=parts, **forward)
        params, opt = dict(state["params"]), dict(state["opt"])
        learning = ("student", "teacher") if joint else ("teacher",) if stage == "teacher" else ("student",)
        for name in learning:
            updates, opt[name] = optimizers[name].update(gradients[name], opt[name], params[name])
            if name == "student" and stages.heads:
                updates = _warmed_up(updates, state["step"], stages)
            params[name] = optax.apply_updates(params[name], updates)
        decay = config.train.ema
        ema = optax.incremental_update(params["student"], state["ema"], 1 - decay) if decay else {}
        terms["gradient_norm"] = optax.tree.norm({name: gradients[name] for name in learning})
        return {**state, "step": state["step"] + 1, "params": params, "opt": opt, "ema": ema}, terms

    state = jax.eval_shape(init, jax.ShapeDtypeStruct((), jnp.uint32), tail, own)
    shardings, fixed = (tree_shardings(tree, mesh) for tree in (state, pretrained))
    place, everywhere = batch_sharding(mesh), replicated(mesh)
    jitted = jax.jit(
        step,
        static_argnums=4,
        in_shardings=(shardings, place, fixed, everywhere),
        out_shardings=(shardings, everywhere),
        donate_argnums=0,
    )
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), pretrained)
    return Program(jax.jit(init, out_shardings=shardings), jitted, state, shapes, shardings, fixed)


def _warmed_up(updates: Any, step: jax.Array, stages: Stages) -> Any:
    """Warms up the updates of the student's text layers: 0 in the stage "heads", then to 1 over a tenth of the rest.

    The second moments are small where gradients were 0, and would make the first updates large.
    """
    begin = stages.teacher + stages.heads
    share = jnp.clip((step + 1.0 - begin) / max(1, (stages.total - begin) // 10), 0, 1)
    return updates | {TAIL: jax.tree.map(lambda x: share * x, updates[TAIL])}


def gradient(
    networks: Networks,
    losses: Callable[[Embeddings, Params], tuple[jax.Array, Scalars]],
    params: Params,
    batch: Batch,
    key: jax.Array | None,
    *,
    parts: int,
    pretrained: Pretrained = NOTHING,
    heads_only: bool = False,
) -> tuple[Params, Scalars]:
    """Gradient of the whole batch's loss; with `parts` > 1 the networks run one micro-batch at a time.

    Contrastive terms couple all pairs of the batch, so averaging micro-batch losses would be wrong. Instead all
    embeddings are computed first, the loss is differentiated with respect to them, and each micro-batch is run again
    to propagate its share of that gradient to the parameters: exact, for one more forward pass.
    Source: after GradCache (arXiv 2101.06983).
    """

    def whole(params: Params) -> tuple[jax.Array, Scalars]:
        return losses(embed(networks, params, batch, key=key, pretrained=pretrained, heads_only=heads_only), params)

    if parts == 1:
        (_, terms), gradients = jax.value_and_grad(whole, has_aux=True)(params)
        return gradients, terms

    micro = jax.tree.map(lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), batch)
    keys = None if key is None else jax.random.split(key, parts)

    def forward(params: Params, part: tuple[Batch, jax.Array | None]) -> Embeddings:
        return embed(networks, params, part[0], key=part[1], pretrained=pretrained, heads_only=heads_only)

    cached = jax.lax.map(lambda part: forward(params, part), (micro, keys))
    embeddings = jax.tree.map(_join, cached, _image_axis(cached))
    (_, terms), (cotangent, gradients) = jax.value_and_grad(losses, argnums=(0, 1), has_aux=True)(embeddings, params)
    shares = jax.tree.map(lambda x, axis: _split(x, axis, parts), cotangent, _image_axis(cached))

    def backward(total: Params, part: tuple) -> tuple[Params, None]:
        micro_batch, key, share = part
        _, pull = jax.vjp(lambda p: forward(p, (micro_batch, key)), params)
        return jax.tree.map(jnp.add, total, pull(share)[0]), None

    gradients, _ = jax.lax.scan(backward, gradients, (micro, keys, shares))
    return gradients, terms


def _image_axis(embeddings: Embeddings) -> Embeddings:
    """Image axis of each leaf: 1 in the teacher's, after the heads, else 0."""
    axis = jax.tree.map(lambda _: 0, embeddings)
    heads = {name: jax.tree.map(lambda _: 1, getattr(axis, name)) for name in ("teacher_source", "teacher_target")}
    return axis._replace(**heads)


def _join(stacked: jax.Array, axis: int) -> jax.Array:
    """(parts, ..., b, ...) -> (..., parts*b, ...) along the image axis."""
    moved = jnp.moveaxis(stacked, 0, axis)
    return moved.reshape(*moved.shape[:axis], -1, *moved.shape[axis + 2 :])


def _split(joined: jax.Array, axis: int, parts: int) -> jax.Array:
    """The inverse of `_join`."""
    split = joined.reshape(*joined.shape[:axis], parts, -1, *joined.shape[axis + 1 :])
    return jnp.moveaxis(split, axis, 0)
