"""Blockwise terms equal the dense ones, on any number of devices and with both exchanges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cl2cm_jax.maths.confidence import GRID, Calibration
from cl2cm_jax.models.networks import Networks
from cl2cm_jax.parallel.mesh import make_mesh
from cl2cm_jax.parallel.sharding import put_batch
from cl2cm_jax.steps.embeddings import embed
from cl2cm_jax.steps.objective import Objective

from .conftest import LANGUAGES, SHAPE, every_weight, make_batch

EVERYTHING = {"transfer__relations": "cross,intra_target,intra_vision", "teacher__head": "linear"}
SETTINGS = {
    "infonce": {"contrastive__labels": "soft", "confidence__kind": "softmax"},
    "own relation": {"transfer__own": "0.7", "transfer__sentence": "0.5", "teacher__folds": "2"},
    "triplet": {"contrastive__loss": "triplet", "teacher__folds": "2", "contrastive__reduction": "sum"},
    "words": {"word__loss": "contrast", "weights__word": "1.0", "transfer__word": "0.5", "teacher__folds": "2"},
    "sigmoid": {"contrastive__loss": "sigmoid", "confidence__kind": "posterior", "teacher__folds": "3"},
}


def ragged_batch(images=16):
    """Two images that appear twice, an image and some captions that do not count."""
    batch = make_batch(images=images, image_id=np.r_[0, 0, 1, 1, 2 : images - 2])
    batch["is_valid"][5] = False
    batch["target_is_valid"][2, 1] = batch["target_is_valid"][9] = False
    return batch


def calibration():
    curves = 1 / (1 + np.exp(-GRID * np.arange(1, LANGUAGES + 1)[:, None]))
    return Calibration(jnp.asarray(curves, jnp.float32), jnp.zeros(LANGUAGES))


def terms_and_gradients(config, devices=None):
    """Every term of the objective, and the gradient of their total by all parameters."""
    mesh = make_mesh(devices=jax.devices()[:1]) if devices is None else make_mesh(**devices)
    networks, weights = Networks(config, SHAPE), every_weight(config)
    objective, batch = Objective(config, networks, mesh), put_batch(ragged_batch(), mesh)

    @jax.jit
    def compute(params, batch):
        def total(params):
            return objective(embed(networks, params, batch), params, batch, weights=weights, calibration=calibration())

        return jax.grad(total, has_aux=True)(params)

    return jax.device_get(compute(jax.jit(networks.init)(jax.random.key(0)), batch))


def assert_same(got, want):
    for name, value in want[1].items():
        np.testing.assert_allclose(got[1][name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    for (path, gradient), mine in zip(jax.tree.leaves_with_path(want[0]), jax.tree.leaves(got[0]), strict=True):
        scale = np.abs(gradient).max()
        np.testing.assert_allclose(
            mine, gradient, rtol=1e-5, atol=1e-5 * scale + 1e-7, err_msg=jax.tree_util.keystr(path)
        )


@pytest.fixture(name="dense", scope="module")
def _dense():
    return {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "exchange"),
    [(None, "ring"), ({"data": 2, "tensor": 4}, "gather"), ({"data": 4, "fsdp": 2}, "gather"), ({}, "ring")],
    ids=["1", "2-gather", "8-gather", "8-ring"],
)
@pytest.mark.parametrize("setting", SETTINGS)
def test_every_term_and_gradient_equals_the_dense_form(make_config, dense, setting, devices, exchange):
    fields = EVERYTHING | SETTINGS[setting]
    if setting not in dense:
        dense[setting] = terms_and_gradients(make_config(**fields))
    tiles = {"contrastive__form": "blockwise", "contrastive__exchange": exchange}
    tiles["contrastive__block"] = "6" if devices is None else "2"  # one that leaves a smaller last tile
    assert_same(terms_and_gradients(make_config(**fields, **tiles), devices), dense[setting])
