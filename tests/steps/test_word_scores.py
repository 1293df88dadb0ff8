"""Word scores of candidate pairs, against loops over all pairs."""

import jax
import jax.numpy as jnp
import numpy as np

from cl2cm_jax.models.networks import Networks
from cl2cm_jax.models.towers import Text
from cl2cm_jax.steps import word_scores
from cl2cm_jax.steps.embeddings import BatchIds, HeldOut, merge_two

from .conftest import SHAPE, embedded, make_batch

WORDS = {"teacher__head": "linear", "word__loss": "contrast", "transfer__word": "0.5", "word__candidates": "3"}


def score_of(source, target):
    """Late interaction of two sentences' words."""
    s, t = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (source, target))
    cosine = s @ t.T
    return (cosine.max(1).mean() + cosine.max(0).mean()) / 2


def ragged(captions=2):
    batch = make_batch(captions=captions, image_id=np.r_[0, 0, 1:15])
    batch["is_valid"][5] = False
    batch["target_is_valid"][2, -1] = False
    return jax.tree.map(jnp.asarray, batch)


def test_candidates_are_the_most_similar_images_and_the_captions_own(make_config):
    random = np.random.default_rng(0)
    target, source = (random.normal(size=(n, 4)).astype(np.float32) for n in (12, 6))
    own, valid = np.repeat(np.arange(6), 2), np.arange(12) != 3
    source_valid = np.arange(6) != 4
    valid &= source_valid[own]
    target[~valid], source[~source_valid] = np.nan, np.nan
    arguments = {"own": own, "target_valid": valid, "source_valid": source_valid}
    for form in ("dense", "blockwise"):
        config = make_config(word__candidates="3", contrastive__form=form, contrastive__block="5")
        found = word_scores.candidates(config, *map(jnp.asarray, (target, source)), **arguments)
        for row in range(12):
            if not valid[row]:
                assert not found.counts[row].any()
                continue
            order = sorted(np.flatnonzero(source_valid), key=lambda i: (i != own[row], -(target[row] @ source[i])))
            assert found.index[row].tolist() == order[:3] and found.counts[row].all()


def test_a_batch_of_few_images_has_fewer_candidates(make_config):
    vectors, valid = jnp.eye(2), jnp.ones(2, bool)
    config = make_config(word__candidates="4")
    found = word_scores.candidates(
        config, vectors, vectors, own=jnp.arange(2), target_valid=valid, source_valid=jnp.array([True, False])
    )
    assert found.index.shape == (2, 2) and found.counts.tolist() == [[True, False], [True, False]]


def test_the_relation_has_the_scores_of_candidates_and_one_number_elsewhere(make_config):
    config, batch = make_config(**WORDS, teacher__folds="2"), ragged()
    networks = Networks(config, SHAPE)
    params = jax.jit(networks.init)(jax.random.key(0))
    embeddings, ids = embedded(networks, params, batch), BatchIds.of(batch)
    teacher = HeldOut.of(embeddings, ids)
    got = word_scores.relation(config, teacher, embeddings, batch, ids, mesh=None)
    source, target = (
        np.asarray(x) for x in (embeddings.teacher_source.words, jax.vmap(merge_two)(embeddings.teacher_target.words))
    )
    masks = np.asarray(batch["source"]["mask"]), np.asarray(merge_two(batch["target"]["mask"]))
    cosine = np.asarray(teacher.target_rows @ teacher.source_columns.T)
    want, smallest = np.full((32, 16), np.nan), []
    valid = np.flatnonzero(ids.target_is_valid)
    for row in valid:
        own, head = ids.pair[row], int(ids.target_image_id[row]) % 2
        images = sorted(np.flatnonzero(ids.is_valid), key=lambda i: (i != own, -cosine[row, i]))[:3]
        for i in images:
            want[row, i] = score_of(source[head, i][masks[0][i]], target[head, row][masks[1][row]])
        smallest.append(np.nanmin(want[row]))
    want = 0.5 * np.nan_to_num(want - np.mean(smallest))
    np.testing.assert_allclose(got.dense(16), want, atol=1e-5)


def test_the_contrast_equals_a_loop_and_ignores_padding(make_config):
    config, batch = make_config(**WORDS, teacher__residual="False"), ragged(captions=1)
    random = np.random.default_rng(3)
    sentences = [random.normal(size=(16, 4)).astype(np.float32) for _ in range(2)]
    masks = [np.asarray(batch["source"]["mask"]), np.asarray(batch["target"]["mask"][:, 0])]
    words = [random.normal(size=(16, 5, 4)).astype(np.float32) for _ in range(2)]
    ids = BatchIds.of(batch)
    valid = np.asarray(ids.is_valid)
    hidden = [np.where((mask & valid[:, None])[..., None], w, np.nan) for mask, w in zip(masks, words, strict=True)]

    def term(source, target):
        texts = (Text(jnp.asarray(s), w) for s, w in zip(sentences, (source, target), strict=True))
        given = {"source_valid": ids.is_valid, "target_valid": ids.target_is_valid, "mesh": None}
        return word_scores.contrast(config, *texts, batch, ids, **given)

    total, row_valid = [], np.asarray(ids.target_is_valid)
    for row in np.flatnonzero(row_valid):
        similar = sentences[1][row] @ sentences[0].T
        images = sorted(np.flatnonzero(valid), key=lambda i: (i != row, -similar[i]))[:3]
        z = np.array([score_of(words[0][i][masks[0][i]], words[1][row][masks[1][row]]) for i in images]) / 0.05
        positive = np.array([batch["image_id"][i] == batch["image_id"][row] for i in images])
        total.append(np.log(np.exp(z - z.max()).sum()) + z.max() - z[positive].mean())
    got = term(*map(jnp.asarray, hidden))
    np.testing.assert_allclose(got.mean, np.mean(total), rtol=1e-4)
    gradients = jax.grad(lambda *a: term(*a).mean, (0, 1))(*map(jnp.asarray, hidden))
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert all((np.asarray(g)[np.isnan(h)] == 0).all() for g, h in zip(gradients, hidden, strict=True))
