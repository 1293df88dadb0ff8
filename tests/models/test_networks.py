"""Student and teacher as the rest sees them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from cl2cm_jax import config as configuration
from cl2cm_jax.errors import UserError
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.networks import FeatureShape, Networks
from cl2cm_jax.models.towers import Text
from cl2cm_jax.steps.embeddings import Embeddings, embed

SHAPE = FeatureShape(text=6, vision=7, max_words=4, max_frames=2)


def make_config(**fields: object) -> ConfigDict:
    small = {"student.dim": 5, "student.hidden": 8, "student.heads": 2, "teacher.hidden": 8, "teacher.heads": 2}
    changes = small | {name.replace("__", "."): value for name, value in fields.items()}
    return configuration.override_all(configuration.defaults(), {name: str(value) for name, value in changes.items()})


def text(count: int, *, seed: int = 0) -> Text:
    random = np.random.default_rng(seed)
    sentence, words = random.normal(size=(count, 6)), random.normal(size=(count, 4, 6))
    return Text(jnp.asarray(sentence, jnp.float32), jnp.asarray(words, jnp.float32), jnp.ones((count, 4), bool))


def batch(images: int = 3, captions: int = 2) -> dict:
    frames = np.random.default_rng(3).normal(size=(images, 2, 7)).astype(np.float32)

    def side(*shape: int, seed: int) -> dict[str, jax.Array]:
        flat = text(int(np.prod(shape)), seed=seed)._asdict()
        return {name: array.reshape(*shape, *array.shape[1:]) for name, array in flat.items() if array is not None}

    return {
        "vision": {"features": jnp.asarray(frames), "mask": jnp.ones((images, 2), bool)},
        "source": side(images, seed=1),
        "target": side(images, captions, seed=2),
        "target_is_valid": jnp.ones((images, captions), bool),
    }


def initial(networks: Networks) -> Params:
    return networks.init(jax.random.key(0))


def embedded(networks: Networks, params: Params, batch: dict) -> Embeddings:
    return jax.jit(lambda params, batch: embed(networks, params, batch))(params, batch)


def taught(networks: Networks, teacher: Params, text: Text) -> jax.Array:
    return jax.jit(lambda teacher, text: networks.encode_teacher(teacher, text).sentence)(teacher, text)


def test_a_text_tower_that_starts_at_the_backbone_has_its_size() -> None:
    initial(Networks(make_config(student__text_residual=True, student__dim=6), SHAPE))
    with pytest.raises(UserError, match=r"use config.student.dim=6, their size \(got 5\)"):
        initial(Networks(make_config(student__text_residual=True), SHAPE))


@pytest.mark.parametrize("kind", ["linear", "attention"])
def test_source_and_target_share_one_set_of_weights(kind: str) -> None:
    networks = Networks(make_config(student__text_tower=kind, student__text_pool="both", teacher__head="tower"), SHAPE)
    params = initial(networks)
    assert set(params) == {"student", "teacher"} and set(params["student"]) == {"vision", "text", "log_temperature"}
    made = batch()
    made["target"] = jax.tree.map(lambda x: jnp.repeat(x[:, None], 2, axis=1), made["source"])
    out = embedded(networks, params, made)
    np.testing.assert_allclose(out.target, jnp.repeat(out.source[:, None], 2, axis=1), atol=1e-6)
    teacher_source, teacher_target = out.teacher_source.sentence, out.teacher_target.sentence
    np.testing.assert_allclose(teacher_target[:, :, 1], teacher_source, atol=1e-6)


def test_shapes_of_what_the_losses_read() -> None:
    networks = Networks(make_config(teacher__head="tower", teacher__folds=3), SHAPE)
    out = embedded(networks, initial(networks), batch())
    assert out.vision.shape == out.source.shape == (3, 5) and out.target.shape == (3, 2, 5)
    assert out.teacher_source.sentence.shape == (3, 3, 6) and out.teacher_target.sentence.shape == (3, 3, 2, 6)
    assert out.teacher_target.words is not None and out.teacher_target.words.shape == (3, 3, 2, 4, 6)


def test_a_headless_teacher_returns_the_backbones_vectors() -> None:
    networks = Networks(make_config(), SHAPE)
    params = initial(networks)
    assert params["teacher"] == {}
    said = taught(networks, params["teacher"], text(4))
    sentence = text(4).sentence
    np.testing.assert_allclose(said, (sentence / jnp.linalg.norm(sentence, axis=1, keepdims=True))[None], atol=1e-6)


def test_a_headless_teacher_has_no_folds() -> None:
    assert Networks(make_config(teacher__folds=3), SHAPE).folds == 1


@pytest.mark.parametrize("head", ["linear", "tower"])
def test_every_fold_has_its_own_head(head: str) -> None:
    networks = Networks(make_config(teacher__head=head, teacher__folds=3, teacher__residual=False), SHAPE)
    teacher = initial(networks)["teacher"]
    assert all(leaf.shape[0] == 3 for leaf in jax.tree.leaves(teacher))
    together = taught(networks, teacher, text(4))
    for fold in range(3):
        own = jax.tree.map(lambda x, fold=fold: x[fold], teacher)
        alone = jax.jit(lambda head, text: networks.teacher.bind(head)(text).sentence)(own, text(4))
        np.testing.assert_allclose(together[fold], alone, atol=1e-6)
    assert not np.allclose(together[0], together[1], atol=1e-3)


def test_a_residual_teacher_starts_at_the_backbone() -> None:
    plain, residual = (Networks(make_config(teacher__head=head), SHAPE) for head in ("none", "tower"))
    said = taught(residual, initial(residual)["teacher"], text(4))
    np.testing.assert_allclose(said, taught(plain, {}, text(4)), atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "reads"),
    [
        ({}, False),
        ({"student__text_tower": "attention", "student__text_pool": "both"}, True),
        ({"student__text_pool": "mean"}, True),
        ({"teacher__head": "linear", "teacher__pool": "backbone"}, False),
        ({"teacher__head": "linear", "teacher__pool": "both"}, True),
        ({"teacher__head": "tower", "teacher__pool": "backbone", "weights__word": "1.0"}, True),
    ],
)
def test_words_are_read_only_if_a_tower_uses_them(fields: dict[str, object], reads: bool) -> None:
    assert Networks(make_config(**fields), SHAPE).reads_words is reads


def test_losses_add_their_parameters() -> None:
    networks = Networks(
        make_config(contrastive__loss="sigmoid", word__loss="self_labelled", teacher__head="tower"), SHAPE
    )
    params = initial(networks)
    assert params["student"]["sigmoid_bias"] == -10.0
    assert jnp.exp(params["student"]["log_temperature"]) == pytest.approx(0.07)
    assert params["teacher"]["pointer"]["kernel"].shape == (1, 6, 6)


@pytest.mark.parametrize("head", ["linear", "tower"])
def test_narrow_words_are_those_of_the_tower_in_fewer_dimensions(head: str) -> None:
    wide, narrow = (
        Networks(make_config(teacher__head=head, word__loss=loss, word__dim=3), SHAPE)
        for loss in ("transport", "contrast")
    )
    params = initial(narrow)["teacher"] | {"tower": initial(wide)["teacher"]["tower"]}
    params["tower"]["words_scale"] = jnp.ones_like(params["tower"]["words_scale"])
    kernel = params.pop("narrow_words")["kernel"][0]
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(3), atol=1e-5)
    given = text(4)
    assert given.mask is not None
    given = given._replace(mask=given.mask.at[0].set(False))  # a caption without words
    want = wide.encode_teacher(params, given)
    got = narrow.encode_teacher(params | {"narrow_words": {"kernel": kernel[None]}}, given)
    assert want.words is not None and got.words is not None
    np.testing.assert_allclose(got.sentence, want.sentence, atol=1e-5)
    np.testing.assert_allclose(got.words, want.words @ kernel, atol=1e-5)


def test_dropout_needs_a_key_and_is_a_function_of_it() -> None:
    networks = Networks(make_config(student__dropout=0.5), SHAPE)
    student = networks.student.bind(initial(networks)["student"])
    still = student.encode_text(text(4))
    one, again, other = (student.encode_text(text(4), key=jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other, atol=1e-3) and not np.allclose(one, still, atol=1e-3)
    np.testing.assert_array_equal(still, student.encode_text(text(4)))


@pytest.mark.parametrize("tower", ["linear", "attention"])
def test_bfloat16_products_keep_parameters_and_vectors_in_fp32(tower):
    fields = {
        "student__vision_tower": tower,
        "student__text_tower": tower,
        "student__text_pool": "both",
        "teacher__head": "tower",
    }
    full = Networks(make_config(**fields), SHAPE)
    half = Networks(make_config(train__compute="bfloat16", **fields), SHAPE)
    params = half.init(jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    rounded, exact = embed(half, params, batch()), embed(full, params, batch())
    for name in ("vision", "source", "target"):
        a, b = getattr(rounded, name), getattr(exact, name)
        assert a.dtype == jnp.float32
        assert 0 < np.abs(a - b).max() < 0.03
    assert rounded.teacher_source.sentence.dtype == jnp.float32
