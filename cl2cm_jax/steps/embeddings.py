"""What the networks say about a batch, and the calls that make them say it."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.layers.packing import Packing
from cl2cm_jax.models.networks import TAIL, Networks, heads_of
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
    """Reads a batch's captions; beside sentences there is only what the pipeline was asked for."""
    return Text(**captions)


def embed(
    networks: Networks,
    params: Params,
    batch: Batch,
    *,
    key: jax.Array | None = None,
    frozen: Params | None = None,
    heads_only: bool = False,
) -> Embeddings:
    """Runs both networks. Pure; `key` (None: evaluation) turns dropout on, `frozen` is for `Networks.see`.

    With `heads_only` the student reads the frozen text backbone's outputs in place of its own layers'.
    """
    keys: list[jax.Array | None] = [None] * 5
    if key is not None:
        keys = [*jax.random.split(key, 3), *(jax.random.fold_in(key, place) for place in (3, 4))]
    student = heads_of(params["student"]) if heads_only else params["student"]
    source, target = _read(networks, "student", student, batch, keys[3])
    taught_source, taught_target = _read(networks, "teacher", params["teacher"], batch, keys[4])
    images, captions = batch["target_is_valid"].shape
    target_vectors = networks.encode_text(params["student"], target, key=keys[2])
    taught = networks.teach(params["teacher"], taught_target)
    features, mask = networks.see(params["student"], batch["vision"], frozen=frozen)
    return Embeddings(
        vision=networks.encode_vision(params["student"], features, mask, key=keys[0]),
        source=networks.encode_text(params["student"], source, key=keys[1]),
        target=target_vectors.reshape(images, captions, -1),
        teacher_source=networks.teach(params["teacher"], taught_source),
        teacher_target=jax.tree.map(lambda x: x.reshape(x.shape[0], images, captions, *x.shape[2:]), taught),
    )


def _read(
    networks: Networks, network: Literal["student", "teacher"], params: Params, batch: Batch, key: jax.Array | None
) -> tuple[Text, Text]:
    """Source (B, ...) and target captions (B*K, ...) as a network's heads read them.

    Its own layers run once over both. They are joined image by image, so that every device keeps its own rows.
    """
    source, target = as_text(batch["source"]), as_text(batch["target"])
    if TAIL not in params:
        flat = jax.tree.map(merge_two, target)
        return networks.read(network, params, source), networks.read(network, params, flat)
    joined = jax.tree.map(lambda s, t: jnp.concatenate([s[:, None], t], axis=1), source, target)
    packing = Packing(**batch["packing"]) if "packing" in batch and batch["packing"]["take"].size else None
    read = networks.read(network, params, joined, packing=packing, key=key)
    return jax.tree.map(lambda x: x[:, 0], read), jax.tree.map(lambda x: merge_two(x[:, 1:]), read)


def merge_two(x: jax.Array) -> jax.Array:
    """Joins the first two axes: (B, K, ...) -> (B*K, ...)."""
    return jnp.reshape(x, (x.shape[0] * x.shape[1], *x.shape[2:]))
