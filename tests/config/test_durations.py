from __future__ import annotations

import pytest

from cl2cm_jax.config import DURATIONS, defaults, override_all
from cl2cm_jax.config.durations import steps_of
from cl2cm_jax.errors import UserError


@pytest.mark.parametrize(
    ("spec", "steps"),
    [
        (300, 300),
        ("300", 300),
        ("300steps", 300),
        (" 1 step ", 1),
        (0, 0),
        ("10epochs", 30),  # 35 examples in batches of 10: 3 steps an epoch, the rest is dropped
        ("0.5 epochs", 2),
        ("50000examples", 5000),
        ("51 examples", 6),
        ("2%", 14),
        ("0.1%", 1),
        ("100%", 700),
    ],
)
def test_durations_in_steps(spec, steps):
    assert steps_of(spec, field="train.warmup", batch_size=10, examples=35, total=700) == steps


def test_fractions_are_exact():
    assert steps_of("0.1epochs", field="f", batch_size=1, examples=30) == 3


@pytest.mark.parametrize("spec", ["", "ten", "10 weeks", "-3", -3, "2.5", "1.5steps", 2.5, None, True, "5%%"])
def test_other_text_is_refused(spec):
    with pytest.raises(UserError, match="config.train.warmup=.* is not a duration"):
        steps_of(spec, field="train.warmup", batch_size=10, examples=35, total=700)


def test_a_percentage_needs_a_total():
    with pytest.raises(UserError, match="config.train.steps='2%'"):
        steps_of("2%", field="train.steps", batch_size=10, examples=35)


@pytest.mark.parametrize("field", DURATIONS)
def test_a_wrong_duration_is_refused_by_the_config(field):
    with pytest.raises(UserError, match=rf"config\.{field}='soon' is not a duration"):
        override_all(defaults(), {field: "soon"})
