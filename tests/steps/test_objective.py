import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cl2cm_jax.maths.confidence import GRID, Calibration, uncalibrated
from cl2cm_jax.models.networks import Networks
from cl2cm_jax.steps.embeddings import BatchIds, HeldOut
from cl2cm_jax.steps.objective import Objective

from .conftest import LANGUAGES, SHAPE, embedded, every_weight, losses, make_batch


def test_every_term_is_logged_by_name(make_config):
    config = make_config(teacher__head="tower", weights__word="1.0", confidence__kind="softmax")
    _, params, of = losses(config, make_batch())
    total, terms = of(params)
    assert {"source", "target", "sentence", "word", "transfer", "temperature", "confidence"} <= terms.keys()
    by_language = [float(terms[f"confidence/{k}"]) for k in range(LANGUAGES)]
    assert -1 in by_language and all(-1 <= mean <= 1 for mean in by_language)  # of the source there is no target
    assert min(m for m in by_language if m >= 0) <= float(terms["confidence"]) <= max(by_language)
    parts = sum(terms[name] for name in ("source", "target", "sentence", "word", "transfer"))
    np.testing.assert_allclose(total, parts, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"contrastive__loss": loss, "contrastive__form": form, "contrastive__reduction": reduction}
        for loss in ("infonce", "triplet", "sigmoid")
        for form, reduction in (("dense", "mean"), ("blockwise", "sum"))
    ]
    + [
        {"word__loss": loss, "word__solver": solver, "word__plan_from": plan, "word__marginals": marginals}
        for loss, solver, plan, marginals in (
            ("transport", "ipot", "tower", "uniform"),
            ("transport", "sinkhorn", "backbone", "norm"),
            ("self_labelled", "ipot", "backbone", "uniform"),
        )
    ]
    + [
        {"word__loss": "contrast", "word__score": score, "word__solver": solver, "transfer__word": "0.5"}
        for score, solver in (("late_interaction", "ipot"), ("transport", "ipot"), ("transport", "sinkhorn"))
    ]
    + [{"transfer__relations": "cross,intra_target,intra_vision", "confidence__kind": "softmax"}]
    + [{"contrastive__labels": "soft", "confidence__kind": "posterior", "teacher__folds": "3"}]
    + [{"student__text_tower": "attention", "student__vision_tower": "attention", "student__text_pool": "mean"}],
    ids=lambda fields: "-".join(fields.values()),
)
def test_every_option_gives_finite_terms_and_gradients(make_config, fields):
    config = make_config(teacher__head="linear", weights__word="1.0", **fields)
    _, params, of = losses(config, make_batch())
    (_, terms), gradients = jax.jit(jax.value_and_grad(of, has_aux=True))(params)
    assert all(np.isfinite(value) for value in terms.values())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradients["student"])) > 0


def test_transfer_is_zero_when_the_student_agrees_with_the_teacher(make_config):
    config = make_config(transfer__relations="cross,intra_target,intra_vision")
    batch = make_batch()
    networks, params, _ = losses(config, batch)
    embeddings = embedded(networks, params, batch)
    same = embeddings._replace(
        vision=embeddings.teacher_source.sentence[0], target=embeddings.teacher_target.sentence[0]
    )
    weights = every_weight(config)
    calibration = Calibration(np.ones((LANGUAGES, len(GRID)), np.float32), np.zeros(LANGUAGES))
    objective = Objective(config, networks)
    _, terms = objective(same, params, batch, weights=weights, calibration=calibration)
    _, other = objective(embeddings, params, batch, weights=weights, calibration=calibration)
    assert abs(float(terms["transfer"])) < 1e-5 < float(other["transfer"])


def test_transfer_moves_the_student_and_never_the_teacher(make_config):
    config = make_config(teacher__head="linear", teacher__residual="False", confidence__kind="softmax")
    _, params, of = losses(config, make_batch())
    gradients = jax.grad(lambda p: of(p)[1]["transfer"] + of(p)[1]["target"])(params)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradients["teacher"]))
    assert any((leaf != 0).any() for leaf in jax.tree.leaves(gradients["student"]))


def test_word_scores_move_the_student_and_never_the_teacher(make_config):
    fields = {"teacher__head": "linear", "teacher__residual": "False", "word__loss": "contrast"}
    _, params, of = losses(make_config(**fields, transfer__word="1.0"), make_batch())
    _, _, without = losses(make_config(**fields), make_batch(), params)
    by_words, by_sentences = (jax.grad(lambda p, f=f: f(p)[1]["transfer"])(params) for f in (of, without))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(by_words["teacher"]))
    kernels = [gradient["student"]["text"]["project_sentence"]["kernel"] for gradient in (by_words, by_sentences)]
    assert float(jnp.abs(kernels[0] - kernels[1]).max()) > 1e-4


def test_the_mean_word_cosine_is_logged(make_config):
    for loss in ("transport", "contrast"):
        _, params, of = losses(make_config(teacher__head="linear", weights__word="1.0", word__loss=loss), make_batch())
        assert abs(float(of(params)[1]["word_cosine"])) < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("word", ["transport", "contrast"])
def test_a_head_does_not_train_on_its_own_fold(make_config, word):
    config = make_config(teacher__head="linear", teacher__folds="2", weights__word="1.0", word__loss=word)
    only_even = make_batch(image_id=np.arange(16) * 2)
    _, params, of = losses(config, only_even)
    gradients = jax.grad(lambda p: of(p)[1]["sentence"] + of(p)[1]["word"])(params)["teacher"]
    assert all((leaf[0] == 0).all() for leaf in jax.tree.leaves(gradients))
    assert any((leaf[1] != 0).any() for leaf in jax.tree.leaves(gradients))


def test_two_captions_of_one_image_are_not_negatives(make_config):
    config = make_config(weights__transfer="0.0")
    batch = make_batch(images=2, captions=1, image_id=[7, 7])
    _, params, of = losses(config, batch)
    # both rows show one image: the target distribution is uniform, and log 2 is the minimum for a batch of two
    assert float(of(params)[1]["source"]) >= np.log(2) - 1e-6
    apart = losses(config, batch | {"image_id": np.array([1, 2], np.int32)}, params)[2]
    assert float(of(params)[1]["source"]) != pytest.approx(float(apart(params)[1]["source"]))


@pytest.mark.slow
@pytest.mark.parametrize("word", [{}, {"word__loss": "contrast", "transfer__word": "0.5"}], ids=["plan", "contrast"])
def test_padding_changes_no_term_and_no_gradient(make_config, word):
    config = make_config(teacher__head="linear", weights__word="1.0", transfer__relations="cross,intra_target", **word)
    batch = make_batch()
    padded = jax.tree.map(lambda x: np.concatenate([x, np.repeat(x[:1], 4, axis=0)]), batch)
    padded["is_valid"][16:] = False
    _, params, of = losses(config, batch)
    _, _, of_padded = losses(config, padded, params)
    want, got = (jax.value_and_grad(f, has_aux=True)(params) for f in (of, of_padded))
    for name, value in want[0][1].items():
        np.testing.assert_allclose(got[0][1][name], value, rtol=2e-5, atol=1e-5, err_msg=name)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), want[1], got[1])


def test_confidence_weights_only_the_target_term(make_config):
    config = make_config(confidence__kind="posterior")
    batch = make_batch()
    half = Calibration(np.full((LANGUAGES, len(GRID)), 0.5, np.float32), np.zeros(LANGUAGES, np.float32))
    _, params, full = losses(config, batch)
    _, _, weighed = losses(config, batch, params, half)
    a, b = full(params)[1], weighed(params)[1]
    np.testing.assert_allclose(b["target"], 0.5 * a["target"], rtol=1e-5)
    np.testing.assert_allclose([b["source"], b["transfer"]], [a["source"], a["transfer"]], rtol=1e-6)


def test_the_teachers_relation_is_the_weighted_sum_of_teacher_and_own_scores(make_config):
    batch = make_batch(captions=2)
    networks = Networks(make_config(teacher__head="linear", teacher__folds="2"), SHAPE)
    params = jax.jit(networks.init)(jax.random.key(0))
    embeddings, ids = embedded(networks, params, batch), BatchIds.of(batch)
    held_out = HeldOut.of(embeddings, ids)
    relation = held_out.relation(embeddings, ids, sentence=0.3, own=0.7)
    own = embeddings.vision @ embeddings.source[ids.pair].T
    np.testing.assert_allclose(
        relation.source_rows @ relation.target_columns.T,
        0.3 * held_out.source_rows @ held_out.target_columns.T + 0.7 * own,
        atol=1e-5,
    )
    np.testing.assert_allclose(
        relation.target_rows @ relation.source_columns.T,
        0.3 * held_out.target_rows @ held_out.source_columns.T + 0.7 * own.T,
        atol=1e-5,
    )


def test_own_scores_train_the_targets_and_not_the_source_captions(make_config):
    config = make_config(transfer__sentence=0.0, transfer__own=1.0)
    batch, networks = jax.tree.map(jnp.asarray, make_batch()), Networks(config, SHAPE)
    params = jax.jit(networks.init)(jax.random.key(0))

    def term(embeddings):
        objective = Objective(config, networks)
        return objective(embeddings, params, batch, weights={"transfer": 1.0}, calibration=uncalibrated(LANGUAGES))[0]

    gradient = jax.grad(jax.jit(term))(embedded(networks, params, batch))
    assert not np.any(gradient.source), "no gradient into the source captions"
    assert np.any(gradient.target) and np.any(gradient.vision)
