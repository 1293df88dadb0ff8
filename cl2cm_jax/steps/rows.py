"""Who is who in a batch: identities of its rows, and which head of the teacher may speak of which."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cl2cm_jax.steps.embeddings import Batch, Embeddings, merge_two


class Rows(NamedTuple):
    """Identity and validity of the batch's B images and of their B*K target captions, image by image.

    Attributes:
      image_id, is_valid: (B,).
      target_image_id, target_is_valid: (B*K,).
      pair: (B*K,) position of each target caption's image in the batch.
    """

    image_id: jax.Array
    is_valid: jax.Array
    target_image_id: jax.Array
    target_is_valid: jax.Array
    pair: jax.Array

    @classmethod
    def of(cls, batch: Batch) -> Rows:
        images, captions = batch["target_is_valid"].shape
        pair = jnp.repeat(jnp.arange(images), captions)
        valid = (batch["target_is_valid"] & batch["is_valid"][:, None]).reshape(-1)
        return cls(batch["image_id"], batch["is_valid"], batch["image_id"][pair], valid, pair)


class HeldOut(NamedTuple):
    """The teacher's vectors, arranged so that a dot product compares a row under the head of the row's own fold.

    With F heads a row is its held-out head's vector in the slot of that head, zeros elsewhere, and a column is all
    heads' vectors side by side. With one head both are that head's vectors. No gradient passes.

    Attributes:
      source_rows, source_columns: (B, F*D); target_rows, target_columns: (B*K, F*D).
    """

    source_rows: jax.Array
    source_columns: jax.Array
    target_rows: jax.Array
    target_columns: jax.Array

    @classmethod
    def of(cls, embeddings: Embeddings, rows: Rows) -> HeldOut:
        source = jax.lax.stop_gradient(embeddings.teacher_source.sentence)
        target = jax.lax.stop_gradient(jax.vmap(merge_two)(embeddings.teacher_target.sentence))
        heads = len(source)

        def arrange(vectors: jax.Array, image_id: jax.Array) -> tuple[jax.Array, jax.Array]:
            columns = jnp.moveaxis(vectors, 0, 1)  # (N, F, D)
            own = jax.nn.one_hot(image_id % heads, heads)[..., None]
            return (columns * own).reshape(len(columns), -1), columns.reshape(len(columns), -1)

        return cls(*arrange(source, rows.image_id), *arrange(target, rows.target_image_id))

    def relation(self, embeddings: Embeddings, rows: Rows, *, sentence: float, own: float) -> HeldOut:
        """Vectors whose dot products are the relation that V-T learns from, as `transfer.sentence` and `.own` weigh it.

        Beside its S~ an image stands for its V, and a target caption beside its T~ for its image's S, both the
        student's. No gradient passes.
        """
        of_teacher = jax.tree.map(lambda x: sentence**0.5 * x, self)
        if not own:
            return of_teacher
        vision, source = (own**0.5 * jax.lax.stop_gradient(x) for x in (embeddings.vision, embeddings.source))
        of_student = (vision, vision, source[rows.pair], source[rows.pair])
        if not sentence:
            return HeldOut(*of_student)
        return HeldOut(*(jnp.concatenate(both, axis=1) for both in zip(of_teacher, of_student, strict=True)))
