"""Forward pass: student and teacher embeddings; image ids and masks of a batch; held-out teacher head of each row."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.layers.packing import Packing
from cl2cm_jax.models.networks import NOTHING, TAIL, VISION_TAIL, Networks, Pretrained, heads_of
from cl2cm_jax.models.towers import Text

Batch = dict[str, Any]


class Embeddings(NamedTuple):
    """Outputs of both networks that the losses read; unit vectors, fp32.

    Attributes:
      vision, source: (B, D) from the student.
      target: (B, K, D) from the student, K target captions per image.
      teacher_source: sentence (F, B, Dt), words (F, B, L, Dt) or None; F heads (cross-fitting).
      teacher_target: sentence (F, B, K, Dt), words (F, B, K, L, Dt) or None.
      start_vision: (B, D) the pretrained backbone's global vectors, not normalised, where the student trains layers of
        it and stays near its start; None otherwise.
    """

    vision: jax.Array
    source: jax.Array
    target: jax.Array
    teacher_source: Text
    teacher_target: Text
    start_vision: jax.Array | None = None


class _Keys(NamedTuple):
    """Random keys of the places with dropout; None turns it off."""

    vision: jax.Array | None = None
    source: jax.Array | None = None
    target: jax.Array | None = None
    student_layers: jax.Array | None = None  # the trained layers of a backbone
    teacher_layers: jax.Array | None = None

    @classmethod
    def of(cls, key: jax.Array | None) -> _Keys:
        """Independent keys for all places from one."""
        if key is None:
            return cls()
        return cls(*jax.random.split(key, 3), *(jax.random.fold_in(key, place) for place in (3, 4)))


def embed(
    networks: Networks,
    params: Params,
    batch: Batch,
    *,
    key: jax.Array | None = None,
    pretrained: Pretrained = NOTHING,
    heads_only: bool = False,
) -> Embeddings:
    """Runs both networks; pure.

    Args:
      networks: student and teacher.
      params: of both.
      batch: captions and image features as the data pipeline yields them.
      key: for dropout; None turns it off.
      pretrained: parameters that are read and not trained.
      heads_only: the student reads the frozen text backbone's outputs in place of its own trained layers'.
    """
    keys, frozen = _Keys.of(key), pretrained.below
    student = networks.with_layers(params["student"], pretrained)
    by_layers = heads_of(student) if heads_only else student
    source, target = _read(networks, "student", by_layers, batch, keys.student_layers)
    teacher_source, teacher_target = _read(networks, "teacher", params["teacher"], batch, keys.teacher_layers)
    images, captions = batch["target_is_valid"].shape
    target_vectors = networks.encode_text(student, target, key=keys.target)
    teacher_vectors = networks.encode_teacher(params["teacher"], teacher_target)
    features, mask = networks.vision_features(student, batch["vision"], frozen=frozen)
    start_vision = None
    if networks.keeps_start and VISION_TAIL in student:
        start, _ = networks.vision_features({VISION_TAIL: pretrained.vision}, batch["vision"], frozen=frozen)
        start_vision = jax.lax.stop_gradient(start[:, 0])
    return Embeddings(
        vision=networks.encode_vision(student, features, mask, key=keys.vision),
        source=networks.encode_text(student, source, key=keys.source),
        target=target_vectors.reshape(images, captions, -1),
        teacher_source=networks.encode_teacher(params["teacher"], teacher_source),
        teacher_target=jax.tree.map(lambda x: x.reshape(x.shape[0], images, captions, *x.shape[2:]), teacher_vectors),
        start_vision=start_vision,
    )


def _read(
    networks: Networks, network: Literal["student", "teacher"], params: Params, batch: Batch, key: jax.Array | None
) -> tuple[Text, Text]:
    """Inputs of a network's text tower: source captions (B, ...) and target captions (B*K, ...).

    Trained backbone layers run once over both, joined image by image, so that every device keeps its own rows.
    """
    source, target = Text(**batch["source"]), Text(**batch["target"])
    if TAIL not in params:
        flat = jax.tree.map(merge_two, target)
        return networks.text_features(network, params, source), networks.text_features(network, params, flat)
    joined = jax.tree.map(lambda s, t: jnp.concatenate([s[:, None], t], axis=1), source, target)
    packing = Packing(**batch["packing"]) if "packing" in batch and batch["packing"]["take"].size else None
    read = networks.text_features(network, params, joined, packing=packing, key=key)
    return jax.tree.map(lambda x: x[:, 0], read), jax.tree.map(lambda x: merge_two(x[:, 1:]), read)


def merge_two(x: jax.Array) -> jax.Array:
    """Joins the first two axes: (B, K, ...) -> (B*K, ...)."""
    return jnp.reshape(x, (x.shape[0] * x.shape[1], *x.shape[2:]))


class BatchIds(NamedTuple):
    """Image ids and masks of a batch: of its B images and of their B*K target captions, image by image.

    Attributes:
      image_id, is_valid: (B,).
      target_image_id, target_is_valid: (B*K,).
      pair: (B*K,) index of each target caption's image in the batch.
    """

    image_id: jax.Array
    is_valid: jax.Array
    target_image_id: jax.Array
    target_is_valid: jax.Array
    pair: jax.Array

    @classmethod
    def of(cls, batch: Batch) -> BatchIds:
        """The ids and masks of a batch of the data pipeline."""
        images, captions = batch["target_is_valid"].shape
        pair = jnp.repeat(jnp.arange(images), captions)
        valid = (batch["target_is_valid"] & batch["is_valid"][:, None]).reshape(-1)
        return cls(batch["image_id"], batch["is_valid"], batch["image_id"][pair], valid, pair)


class HeldOut(NamedTuple):
    """Teacher vectors whose dot products score each row with the head that did not train on it; no gradient passes.

    With F heads a row holds its held-out head's vector in the slot of that head and zeros elsewhere; a column holds
    the vectors of all heads side by side. With one head both are that head's vectors.

    Attributes:
      source_rows, source_columns: (B, F*D); target_rows, target_columns: (B*K, F*D).
    """

    source_rows: jax.Array
    source_columns: jax.Array
    target_rows: jax.Array
    target_columns: jax.Array

    @classmethod
    def of(cls, embeddings: Embeddings, ids: BatchIds) -> HeldOut:
        """The teacher's sentence vectors, arranged by head."""
        source = jax.lax.stop_gradient(embeddings.teacher_source.sentence)
        target = jax.lax.stop_gradient(jax.vmap(merge_two)(embeddings.teacher_target.sentence))
        heads = len(source)

        def arrange(vectors: jax.Array, image_id: jax.Array) -> tuple[jax.Array, jax.Array]:
            columns = jnp.moveaxis(vectors, 0, 1)  # (N, F, D)
            own = jax.nn.one_hot(image_id % heads, heads)[..., None]
            return (columns * own).reshape(len(columns), -1), columns.reshape(len(columns), -1)

        return cls(*arrange(source, ids.image_id), *arrange(target, ids.target_image_id))

    def relation(self, embeddings: Embeddings, ids: BatchIds, *, sentence: float, own: float) -> HeldOut:
        """Vectors whose dot products are the teacher's side of the relation "cross"; no gradient passes.

        The score of an image and a target caption is `sentence` * (teacher: its source caption with the target) +
        `own` * (student: the image with the target's source caption).
        """
        of_teacher = jax.tree.map(lambda x: sentence**0.5 * x, self)
        if not own:
            return of_teacher
        vision, source = (own**0.5 * jax.lax.stop_gradient(x) for x in (embeddings.vision, embeddings.source))
        of_student = (vision, vision, source[ids.pair], source[ids.pair])
        if not sentence:
            return HeldOut(*of_student)
        return HeldOut(*(jnp.concatenate(both, axis=1) for both in zip(of_teacher, of_student, strict=True)))
