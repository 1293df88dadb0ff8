import numpy as np
import pytest

from cl2cm_jax.errors import UserError
from cl2cm_jax.steps.schedule import Stages, learning_rate, piecewise, term_weights


def test_weights_are_numbers_or_knots():
    assert float(piecewise("0.5", field="f", steps=100)(7)) == 0.5
    ramp = piecewise("0:0 20%:1", field="f", steps=100)
    np.testing.assert_allclose([float(ramp(step)) for step in (0, 10, 20, 90)], [0, 0.5, 1, 1])


@pytest.mark.parametrize("text", ["much", "0:0 1", "20%:1 0:0", "a:1", "nan", "inf", "-1", "0:0 5:-1"])
def test_a_schedule_that_does_not_parse_is_a_one_line_error(text):
    with pytest.raises(UserError, match="config.weights.word="):
        piecewise(text, field="weights.word", steps=100)


def test_the_teacher_has_its_stage_first(make_config):
    at = term_weights(make_config(teacher__head="linear", weights__word="1.0"), Stages(teacher=3, student=5))
    assert set(at(np.int32(2), "teacher")) == {"sentence", "word"}
    assert set(at(np.int32(3), "student")) == {"source", "target", "transfer"}
    joint = term_weights(make_config(teacher__head="linear", teacher__update="joint"), Stages(0, 5))
    assert set(joint(np.int32(0), "student")) == {"source", "target", "sentence", "transfer"}


def test_a_schedule_counts_from_the_beginning_of_its_terms_stage(make_config):
    ramps = {"weights__sentence": "0:0 50%:1", "weights__transfer": "0:0 100%:2"}
    at = term_weights(make_config(teacher__head="linear", **ramps), Stages(teacher=4, student=8))
    np.testing.assert_allclose([at(np.int32(step), "teacher")["sentence"] for step in (0, 1, 2, 3)], [0, 0.5, 1, 1])
    np.testing.assert_allclose([at(np.int32(step), "student")["transfer"] for step in (4, 8, 12)], [0, 1, 2])


def test_a_term_without_weight_is_not_computed(make_config):
    config = make_config(weights__source="0", weights__target="0:0 50%:1", transfer__relations="")
    assert set(term_weights(config, Stages(0, 5))(np.int32(0), "student")) == {"target"}


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_the_rate_warms_up_and_is_zero_at_the_end(make_config, schedule):
    rate = learning_rate(make_config(optimizer__schedule=schedule), peak=1e-3, steps=20, warmup=4)
    values = np.array([float(rate(step)) for step in range(25)])
    assert (values[20:] == 0).all()
    assert (np.diff(values[:4]) > 0).all() and values[3] == pytest.approx(1e-3)
    assert values[0] > 0
