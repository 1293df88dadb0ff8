"""A tiny network and batch for the tests of the step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cl2cm_jax import config
from cl2cm_jax.maths.confidence import Calibration, uncalibrated
from cl2cm_jax.models.networks import FeatureShape, Networks
from cl2cm_jax.steps.embeddings import embed
from cl2cm_jax.steps.objective import Objective
from cl2cm_jax.steps.schedule import Stages, term_weights

SHAPE = FeatureShape(text=16, vision=20, max_words=5, max_frames=1)
LANGUAGES = 3


@pytest.fixture
def make_config():
    def make(**fields):
        tiny = {"student.dim": "16", "student.hidden": "8", "student.heads": "2", "teacher.hidden": "8"}
        tiny |= {"teacher.heads": "2", "train.batch_size": "16", "contrastive.block": "4"}
        tiny |= {key.replace("__", "."): str(value) for key, value in fields.items()}
        return config.override_all(config.defaults(), tiny)

    return make


def make_batch(images=16, captions=2, *, seed=0, image_id=None):
    random = np.random.default_rng(seed)

    def side(*shape):
        return {
            "sentence": random.normal(size=(*shape, SHAPE.text)).astype(np.float32),
            "words": random.normal(size=(*shape, SHAPE.max_words, SHAPE.text)).astype(np.float32),
            "mask": np.arange(SHAPE.max_words) < random.integers(1, SHAPE.max_words + 1, size=(*shape, 1)),
        }

    return {
        "vision": {
            "features": random.normal(size=(images, 1, SHAPE.vision)).astype(np.float32),
            "mask": np.ones((images, 1), bool),
        },
        "source": side(images),
        "target": side(images, captions),
        "target_language": random.integers(1, LANGUAGES, size=(images, captions)).astype(np.int32),
        "target_is_valid": np.ones((images, captions), bool),
        "image_id": np.arange(images, dtype=np.int32) if image_id is None else np.asarray(image_id, np.int32),
        "is_valid": np.ones(images, bool),
    }


def every_weight(config):
    """Weight 1 for each term that the configuration computes in any stage."""
    at = term_weights(config, Stages(0, 10))
    return dict.fromkeys([*at(0, "teacher"), *at(0, "student")], 1.0)


def embedded(networks, params, batch):
    """The embeddings of a batch, compiled as a whole."""
    return jax.jit(lambda batch: embed(networks, params, batch))(batch)


def losses(config, batch, params=None, calibration=None, weights=None):
    """Networks, parameters and a compiled function params -> (total, terms)."""
    networks, batch = Networks(config, SHAPE), jax.tree.map(jnp.asarray, batch)
    params = jax.jit(networks.init)(jax.random.key(0)) if params is None else params
    weights = every_weight(config) if weights is None else weights
    calibration = Calibration(*uncalibrated(LANGUAGES)) if calibration is None else calibration

    @jax.jit
    def of(params):
        embeddings = embed(networks, params, batch)
        return Objective(config, networks)(embeddings, params, batch, weights=weights, calibration=calibration)

    return networks, params, of
