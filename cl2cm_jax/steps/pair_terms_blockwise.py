"""Pairwise loss terms, blockwise form: one sweep over tiles of scores, so that no B x B array exists.

Every score is computed once for all terms. Rows are the captions of each image, its source and target captions
together; columns are the images. Over a mesh the images travel: there are fewer of them than captions, and both V-S
and V-T need them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cl2cm_jax.maths import blockwise
from cl2cm_jax.maths.masking import zero_invalid
from cl2cm_jax.maths.pair_reduction import Block, Tree, reduce_pairs
from cl2cm_jax.maths.similarity import scores
from cl2cm_jax.steps.pair_terms import Scalars, TermInputs, reduced, tiles_of

Statistics = dict[Any, tuple[Tree, Tree]]  # of images and of captions, by term


def in_one_sweep(c: TermInputs) -> Scalars:
    """The values () fp32 of those of "source", "target", "sentence" and the relation "cross" that `names` has."""
    if c.names.isdisjoint({"source", "target", "sentence", "cross"}):
        return {}
    captions, images = _sides(c)
    scalars = {"temperature": c.temperature, "bias": c.bias}
    tiles = tiles_of(c.config, c.mesh)
    tiles["block"] = max(1, tiles["block"] // c.embeddings.target.shape[1]), tiles["block"]

    def tile(captions: Block, images: Block, scalars: Scalars) -> tuple[Tree, Tree]:
        found = _tile(c, captions.fixed | captions.moving, images.fixed | images.moving, scalars)
        return {name: y for name, (_, y) in found.items()}, {name: x for name, (x, _) in found.items()}

    of_captions, of_images = reduce_pairs(tile, captions, images, scalars, **tiles)
    return _terms(c, {name: (x, of_captions[name]) for name, x in of_images.items()})


def _sides(c: TermInputs) -> tuple[Block, Block]:
    """Captions by image, and images: ids, masks, weights, and the vectors that the terms read."""
    ids, embeddings = c.ids, c.embeddings
    valid = ids.target_is_valid.reshape(embeddings.target.shape[:2])
    of_both = {"id": ids.image_id, "index": jnp.arange(len(valid)), "valid": ids.is_valid}
    captions: Tree = of_both | {"target_valid": valid, "target_weight": c.confidence.reshape(valid.shape)}
    images: Tree = of_both | {"weight": c.image_weight}
    if c.words is not None:
        captions["words"] = tuple(a.reshape(*valid.shape, -1) for a in c.words)
    texts, visions = {}, {}
    if "source" in c.names or ("cross" in c.names and c.config.transfer.own):
        texts["source"] = zero_invalid(embeddings.source, ids.is_valid)
    if not c.names.isdisjoint({"target", "cross"}):
        texts["target"] = zero_invalid(embeddings.target, valid)
    if texts:
        visions["vision"] = zero_invalid(embeddings.vision, ids.is_valid)
    if not c.names.isdisjoint({"sentence", "cross"}):  # the axis of heads comes after that of images
        of_captions, of_images = (texts, visions) if "sentence" in c.names else (captions, images)
        of_captions["heads"] = zero_invalid(jnp.moveaxis(embeddings.teacher_target.sentence, 0, 2), valid)
        of_images["heads"] = zero_invalid(jnp.moveaxis(embeddings.teacher_source.sentence, 0, 1), ids.is_valid)
    return Block(texts, jax.lax.stop_gradient(captions)), Block(visions, jax.lax.stop_gradient(images))


class _Side(NamedTuple):
    """Ids, mask and weight of the images or captions of a tile; broadcasts over (b, K, c)."""

    image_id: jax.Array
    is_valid: jax.Array
    index: jax.Array
    weight: jax.Array | float


def _tile(c: TermInputs, text: Tree, vision: Tree, scalars: Scalars) -> Statistics:
    """Statistics of the pairs of b images' captions with c images: arrays (b, K, c), K = 1 for source captions."""
    found: Statistics = {}
    image = _Side(vision["id"], vision["valid"], vision["index"], 1.0)
    ids, valid, index = (text[name][:, None, None] for name in ("id", "valid", "index"))
    source = _Side(ids, valid, index, 1.0)
    targets = text["target_valid"].shape[1]
    index = index * targets + jnp.arange(targets)[:, None]
    target = _Side(ids, text["target_valid"][..., None], index, text["target_weight"][..., None])
    own = _scores(text["source"][:, None], vision["vision"]) if "source" in text else jnp.zeros(())
    if "source" in c.names:
        found["source"] = _contrast(c, own, image, source, scalars, soft=False)
    if "target" in text:
        student = _scores(text["target"], vision["vision"])
        if "target" in c.names:
            weighted, soft = image._replace(weight=vision["weight"]), c.config.contrastive.labels == "soft"
            found["target"] = _contrast(c, student, weighted, target, scalars, soft=soft)
    if "heads" in text:
        heads = range(c.networks.folds)
        teacher = [_scores(text["heads"][:, :, head], vision["heads"][:, head]) for head in heads]
        if "sentence" in c.names:
            found |= _sentence(c, teacher, image, target)
        if "cross" in c.names:
            by_words = _by_words(text["words"], vision["index"]) if "words" in text else jnp.zeros(())
            own = jax.lax.stop_gradient(own) if c.config.transfer.own else jnp.zeros(())
            found["cross"] = _cross(c, teacher, own, by_words, student, image, target)
    return found


def _scores(texts: jax.Array, visions: jax.Array) -> jax.Array:
    """Captions (b, K, D) by images (c, D) -> (b, K, c)."""
    return scores(texts.reshape(-1, texts.shape[-1]), visions).reshape(*texts.shape[:2], -1)


def _contrast(
    c: TermInputs, score: jax.Array, x: _Side, y: _Side, scalars: Scalars, *, soft: bool
) -> tuple[Tree, Tree]:
    pair = x.is_valid & y.is_valid
    same = pair & (x.image_id == y.image_id)
    temperature = scalars["temperature"]
    if c.config.contrastive.loss == "infonce":
        weight = y.weight if soft else 1.0
        return blockwise.infonce_pairs(score, same, pair, temperature=temperature, positive_weight=weight)
    if c.config.contrastive.loss == "triplet":
        return blockwise.triplet_pairs(score, same, pair, x_index=x.index, y_index=y.index)
    weight = (x.weight + y.weight) / 2
    return blockwise.sigmoid_pairs(score, same, pair, scale=1 / temperature, bias=scalars["bias"], weight=weight)


def _sentence(c: TermInputs, teacher: list[jax.Array], x: _Side, y: _Side) -> Statistics:
    """Contrastive(S~, T~) of each head."""
    found = {}
    for head, score in enumerate(teacher):
        pair = x.is_valid & y.is_valid & c.trains(head, x.image_id) & c.trains(head, y.image_id)
        same = pair & (x.image_id == y.image_id)
        found[f"sentence {head}"] = blockwise.infonce_pairs(score, same, pair, temperature=c.config.teacher.temperature)
    return found


def _by_words(words: tuple[jax.Array, jax.Array], images: jax.Array) -> jax.Array:
    """Word scores of the candidates (b, K, k), placed at their images (c,) -> (b, K, c)."""
    index, bias = words
    found = jnp.zeros((*index.shape[:2], len(images)))
    for place in range(index.shape[2]):  # few, and an array with all of them would be as many times a tile
        found += jnp.where(index[..., place, None] == images, bias[..., place, None], 0)
    return found


def _cross(
    c: TermInputs,
    teacher: list[jax.Array],
    own: jax.Array,
    by_words: jax.Array,
    student: jax.Array,
    x: _Side,
    y: _Side,
) -> tuple[Tree, Tree]:
    """Relations of images to captions and of captions to images, each under the teacher's head of its own fold.

    The student's V-S scores `own` (b, 1, c) and the word scores `by_words` (b, K, c) are added to the teacher's.
    """
    t, pair = c.config.transfer, x.is_valid & y.is_valid
    student = student / t.student_temperature

    def relation(of: _Side) -> Tree:
        held_out = teacher[0]
        for head in range(1, len(teacher)):
            held_out = jnp.where(of.image_id % len(teacher) == head, teacher[head], held_out)
        logits = (t.sentence * held_out + t.own * own + by_words) / t.temperature
        return blockwise.relational_pairs(logits, student, pair)

    return relation(x), relation(y)


def _terms(c: TermInputs, totals: Statistics) -> Scalars:
    """The terms from the statistics of all pairs."""
    found: dict[str, Any] = {}
    shape, folds = c.embeddings.target.shape[:2], c.networks.folds
    ones, confidence = jnp.ones(c.ids.is_valid.shape), c.confidence.reshape(shape)
    if "source" in totals:
        found["source"] = _contrast_term(c, *totals["source"], ones, ones[:, None])
    if "target" in totals:
        found["target"] = _contrast_term(c, *totals["target"], c.image_weight, confidence)
    heads = [totals[f"sentence {head}"] for head in range(folds) if "sentence" in c.names]
    if heads:
        found["sentence"] = sum(blockwise.infonce_term(*of, ones, jnp.ones(shape)).mean for of in heads) / folds
    if "cross" in totals:
        found["cross"] = 0.5 * sum(blockwise.relational_term(of).mean for of in totals["cross"])
    return found


def _contrast_term(c: TermInputs, of_x: Tree, of_y: Tree, x_weight: jax.Array, y_weight: jax.Array) -> jax.Array:
    if c.config.contrastive.loss == "infonce":
        term = blockwise.infonce_term(of_x, of_y, x_weight, y_weight)
    elif c.config.contrastive.loss == "triplet":
        term = blockwise.triplet_term(of_x, of_y, x_weight, y_weight, margin=c.config.contrastive.margin)
    else:
        term = blockwise.sigmoid_term(of_x, c.ids.is_valid)
    return reduced(c.config, term)
