"""config.method: the baseline is the same configuration without what a teacher adds."""

import pytest

from cl2cm_jax import config
from cl2cm_jax.config import effective


def make(**fields):
    return config.override_all(config.defaults(), {name.replace("__", "."): text for name, text in fields.items()})


def test_the_method_itself_changes_nothing():
    c = make(weights__transfer="2.0")
    assert effective(c) is c


def test_the_baseline_has_no_teacher_and_keeps_every_other_field():
    c = make(
        method="baseline",
        teacher__head="linear",
        teacher__folds="2",
        confidence__kind="softmax",
        contrastive__labels="soft",
        train__targets_per_image="-1",
        student__dropout="0.3",
    )
    before, after = config.flatten(c), config.flatten(effective(c))
    changed = {name: value for name, value in after.items() if value != before[name]}
    assert changed == {
        "weights.sentence": "0.0",
        "weights.transfer": "0.0",
        "confidence.kind": "none",
        "contrastive.labels": "uniform",
        "train.targets_per_image": 1,
        "teacher.head": "none",
        "teacher.pool": "backbone",
        "teacher.folds": 1,
    }
    assert c.method == "baseline" and c.teacher.head == "linear", "the configuration itself stays as it was"


def test_a_baseline_beside_a_trained_teacher_reads_the_same_features():
    fields = {
        "text__backbone": "bert",
        "student__text__trainable": "layers 1-2",
        "teacher__text__trainable": "layers 1-2",
        "teacher__head": "linear",
    }
    both = [effective(make(method=method, **fields)) for method in ("cl2cm", "baseline")]
    assert config.cut_layer(both[0]) == config.cut_layer(both[1])
    assert config.reads_frozen(both[0]) == config.reads_frozen(both[1])


def test_an_unknown_method_is_one_line():
    with pytest.raises(Exception, match="did you mean 'baseline'"):
        make(method="base")
