"""What the networks say about a batch, and the calls that make them say it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.networks import Networks
from cl2cm_jax.models.towers import Text

Batch = dict[str, Any]


class Embeddings(NamedTuple):
    """Everything that the losses read. Vectors are unit, fp32.

    Attributes:
      vision, source: (B, D) from the student.
      target: (B, K, D) from the student, K target captions an image.
      teacher_source: sentence (F, B, Dt), words (F, B, L, Dt) or None; F heads (cross-fitting).
      teacher_target: sentence (F, B, K, Dt), words (F, B, K, L, Dt) or None.
    """

    vision: jax.Array
    source: jax.Array
    target: jax.Array
    teacher_source: Text
    teacher_target: Text


def as_text(captions: dict[str, jax.Array]) -> Text:
    """Reads a batch's captions; their words are there only if the pipeline was asked for them."""
    return Text(captions["sentence"], captions.get("words"), captions.get("mask"))


def embed(networks: Networks, params: Params, batch: Batch, *, key: jax.Array | None = None) -> Embeddings:
    """Runs both networks. Pure; `key` (None: evaluation) turns dropout on."""
    student = networks.student.bind(params["student"])
    keys: list[jax.Array | None] = [None] * 3 if key is None else list(jax.random.split(key, 3))
    source, target = as_text(batch["source"]), as_text(batch["target"])
    flat = jax.tree.map(merge_two, target)
    images, captions = batch["target_is_valid"].shape

    return Embeddings(
        vision=student.encode_vision(batch["vision"]["features"], batch["vision"]["mask"], key=keys[0]),
        source=student.encode_text(source, key=keys[1]),
        target=student.encode_text(flat, key=keys[2]).reshape(images, captions, -1),
        teacher_source=teach(networks, params["teacher"], source),
        teacher_target=jax.tree.map(
            lambda x: x.reshape(x.shape[0], images, captions, *x.shape[2:]), teach(networks, params["teacher"], flat)
        ),
    )


def teach(networks: Networks, teacher: Params, text: Text) -> Text:
    """The teacher's vectors by each of its F heads: sentence (F, N, D), words (F, N, L, D), no mask."""

    def by_one(head: Params) -> Text:
        return networks.teacher.bind(head)(text)._replace(mask=None)

    if not teacher:  # headless: no parameters to map over, one set of vectors
        return jax.tree.map(lambda x: x[None], by_one({}))
    return jax.vmap(by_one)(teacher)


def merge_two(x: jax.Array) -> jax.Array:
    """Joins the first two axes: (B, K, ...) -> (B*K, ...)."""
    return jnp.reshape(x, (x.shape[0] * x.shape[1], *x.shape[2:]))
