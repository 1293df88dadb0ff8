import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cl2cm_jax.maths.confidence import Calibration, uncalibrated
from cl2cm_jax.models.networks import Networks
from cl2cm_jax.parallel.mesh import make_mesh
from cl2cm_jax.parallel.sharding import put_batch
from cl2cm_jax.steps.objective import Objective
from cl2cm_jax.steps.optimizer import decayed, make_optimizers
from cl2cm_jax.steps.schedule import Stages
from cl2cm_jax.steps.train_step import gradient, make_train_step

from .conftest import LANGUAGES, SHAPE, every_weight, make_batch


def run(config, *, steps=3, stages=None, mesh=None, first_batch=0):
    """State after `steps` updates, the terms of the last, and the states' parameters on the way."""
    mesh = mesh or make_mesh(devices=jax.devices()[:1])
    stages = stages or Stages(0, 10)
    networks = Networks(config, SHAPE)
    step = make_train_step(
        config, networks, make_optimizers(config, stages, warmup=2), mesh=mesh, stages=stages, languages=LANGUAGES
    )
    state, terms, way = step.init(), {}, []
    for number in range(steps):
        before = state
        state, terms = step.step(state, put_batch(make_batch(seed=first_batch + number), mesh), number)
        assert max(jax.tree.leaves(before["params"]), key=lambda x: x.size).is_deleted(), "the state is donated"
        way.append(jax.tree.map(lambda x: np.array(x, copy=True), state["params"]))  # a view would block the donation
    return jax.device_get(state), jax.device_get(terms), way


def assert_close(a, b, *, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol, rtol=1e-4), a, b)


def test_accumulated_gradients_are_exact(make_config):
    config = make_config(
        teacher__head="tower", teacher__update="joint", teacher__folds="2", teacher__residual="False", weights__word="1"
    )
    networks, batch = Networks(config, SHAPE), jax.tree.map(jnp.asarray, make_batch())
    objective, weights = Objective(config, networks), every_weight(config)
    calibration = Calibration(*uncalibrated(LANGUAGES))

    def losses(embeddings, params):
        return objective(embeddings, params, batch, weights=weights, calibration=calibration)

    def by(parts):
        return jax.jit(lambda params: gradient(networks, losses, params, batch, None, parts=parts))(params)

    params = jax.jit(networks.init)(jax.random.key(0))
    (whole, terms), (accumulated, same_terms) = by(1), by(4)
    assert_close(terms, same_terms, atol=1e-6)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6, rtol=1e-5), whole, accumulated)
    assert min(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(whole["teacher"])) > 0


def test_gradient_accumulation_works_with_dropout(make_config):
    fields = {"teacher__head": "linear", "student__dropout": "0.5", "train__accumulation": "4"}
    a, b = (run(make_config(**fields), steps=2) for _ in range(2))
    assert np.isfinite(float(a[1]["total"])) and int(a[0]["step"]) == 2
    assert_close(a[0]["params"], b[0]["params"], atol=0)


@pytest.mark.parametrize("form", ["blockwise", "dense"])
def test_a_blockwise_step_holds_no_matrix_of_all_pairs(make_config, form):
    fields = {"teacher__head": "linear", "teacher__update": "joint", "confidence__kind": "softmax"}
    fields |= {"transfer__relations": "cross,intra_target,intra_vision", "weights__word": "1"}
    config = make_config(contrastive__form=form, contrastive__block="32", train__batch_size="256", **fields)
    mesh, networks, stages = make_mesh(devices=jax.devices()[:1]), Networks(config, SHAPE), Stages(0, 10)
    optimizers = make_optimizers(config, stages, warmup=0)
    step = make_train_step(config, networks, optimizers, mesh=mesh, stages=stages, languages=LANGUAGES)
    batch = put_batch(make_batch(images=256, captions=1), mesh)
    compiled = jax.jit(lambda state: step.step(state, batch, 0)).lower(step.init()).compile()
    shapes = re.findall(r"(?:f|s|u|pred)\d*\[([\d,]+)\]", compiled.as_text())
    pairs = [shape for shape in shapes if shape.split(",").count("256") >= 2]
    assert bool(pairs) == (form == "dense"), pairs  # such a matrix is found in the dense form


def test_a_frozen_teacher_is_trained_first_and_never_again(make_config):
    config = make_config(teacher__head="linear", teacher__steps="2")
    _, _, way = run(config, steps=6, stages=Stages(3, 5))
    teacher = [jax.tree.leaves(params["teacher"]) for params in way]
    student = [jax.tree.leaves(params["student"]) for params in way]
    assert any((a != b).any() for a, b in zip(teacher[0], teacher[1], strict=True))
    for later in teacher[3:]:
        assert all((a == b).all() for a, b in zip(teacher[2], later, strict=True))
    assert all((a == b).all() for a, b in zip(student[0], student[1], strict=True))
    assert any((a != b).any() for a, b in zip(student[1], student[4], strict=True))


def test_the_teacher_may_have_a_learning_rate_of_its_own(make_config):
    def first_update(**fields):
        _, _, way = run(make_config(teacher__head="linear", **fields), steps=1, stages=Stages(3, 5))
        return way[0]["teacher"]["tower"]["project_sentence"]["kernel"]

    start = first_update(teacher__learning_rate=1e-30)
    common, tenth = (first_update(teacher__learning_rate=rate) - start for rate in (0.0, 1e-4))
    np.testing.assert_allclose(tenth, common / 10, atol=2e-7)
    assert np.abs(common).max() > 1e-4


def test_the_teachers_stage_does_not_change_the_student(make_config):
    fields = {"teacher__head": "linear", "weights__transfer": "0"}
    after, _, _ = run(make_config(**fields), steps=5, stages=Stages(3, 5))
    alone, _, _ = run(make_config(**fields | {"teacher__head": "none"}), steps=2, stages=Stages(0, 5), first_batch=3)
    assert_close(after["params"]["student"], alone["params"]["student"], atol=0)
    assert_close(after["opt"]["student"], alone["opt"]["student"], atol=0)  # moments and count


def test_the_average_follows_the_student(make_config):
    state, _, way = run(make_config(train__ema="0.5"), steps=1)
    first = run(make_config(train__ema="0.5"), steps=0)[0]["params"]["student"]
    expected = jax.tree.map(lambda a, b: 0.5 * a + 0.5 * b, first, way[0]["student"])
    assert_close(state["ema"], expected)


def test_biases_norms_and_temperature_have_no_weight_decay(make_config):
    config = make_config()
    params = jax.eval_shape(Networks(config, SHAPE).init, jax.random.key(0))
    mask = decayed(params, config.optimizer.exclude)["student"]
    assert mask["vision"]["project"] == {"kernel": True, "bias": False}
    assert not any(mask["vision"]["norm"].values()) and not mask["log_temperature"]


def test_dropout_is_a_function_of_seed_and_step(make_config):
    config = make_config(student__dropout="0.5")
    a, b, other = run(config), run(config), run(make_config(student__dropout="0.5", seed="1"))
    assert_close(a[0]["params"], b[0]["params"], atol=0)
    assert float(a[1]["total"]) != float(other[1]["total"])
