"""One function opens a workdir and a bundle; tests/export/test_bundle.py has the calls of a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.finished_runs import GOLDEN, write_finished_run
from support.tiny_models import write_tiny_bert

import cl2cm_jax
from cl2cm_jax.errors import UserError
from cl2cm_jax.export.bundle import read_trained, write_bundle
from cl2cm_jax.trained.model import is_workdir


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    text = {"text__backbone": "bert", "text__path": str(write_tiny_bert(folder / "bert")), "text__max_tokens": 8}
    vision = {"vision__backbone": "clip_vit", "vision__path": str(GOLDEN / "clip")}
    return write_finished_run(folder / "run", student__dim=12, **text, **vision)


def test_a_workdir_and_its_bundle_are_one_model(run: Path, tmp_path: Path) -> None:
    write_bundle(read_trained(run), tmp_path / "bundle")
    workdir, bundle = cl2cm_jax.load(run), cl2cm_jax.from_pretrained(str(tmp_path / "bundle"))
    assert is_workdir(run) and not is_workdir(tmp_path / "bundle")
    assert (workdir.name, bundle.name) == ("run", "bundle")
    for name in ("languages", "dim", "frames"):
        assert getattr(workdir, name) == getattr(bundle, name)
    assert workdir.dim == 12 and workdir.weights == workdir.encoder.weights != bundle.weights
    texts, pictures = ["red car", "rotes Auto"], [Image.new("RGB", (30, 20), colour) for colour in ("red", "blue")]
    np.testing.assert_allclose(workdir.encode_text(texts), bundle.encode_text(texts), atol=1e-6)
    np.testing.assert_allclose(workdir.encode_image(pictures), bundle.encode_image(pictures), atol=1e-6)


def test_paths_without_a_model_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no cl2cm_config.json and is not a training run either; give the workdir"):
        cl2cm_jax.load(tmp_path)
    with pytest.raises(UserError, match=r"model='.*nowhere' is not a folder"):
        cl2cm_jax.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="revision='main' is for a model of the hub, but .* is a folder"):
        cl2cm_jax.load(tmp_path, revision="main")
