"""A workdir, a bundle, a data set and features that were written before the package was restructured still open.

`golden/old_run` holds one of each, of the tiny set with a small BERT; an index and vector files are in tests/search.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.command import call

pytest.importorskip("tensorflow")
pytest.importorskip("tokenizers")

import cl2cm_jax
from cl2cm_jax import main
from cl2cm_jax.data.sets import captions
from cl2cm_jax.features import cache
from cl2cm_jax.training.workdir import read_config

OLD = Path(__file__).resolve().parents[1] / "golden" / "old_run"
WRITTEN_IN = "/tmp/spec/home"  # the folder in its config.json


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files, whose paths are those of the copy; the name of the set depends on paths and times."""
    home = Path(shutil.copytree(OLD, tmp_path / "home"))
    for name in ("config.json", "results.json"):
        file = home / "run" / name
        file.write_text(file.read_text(encoding="utf-8").replace(WRITTEN_IN, str(home)), encoding="utf-8")
    (built,) = [path.name for path in (home / "data" / "captions").iterdir() if path.is_dir()]
    monkeypatch.setattr(captions, "fingerprint", lambda files, settings: built)
    return home


@pytest.mark.parametrize("kind", ["run", "bundle"])
def test_a_workdir_and_a_bundle_give_the_same_vectors(home: Path, kind: str) -> None:
    with np.load(OLD / "vectors.npz", allow_pickle=False) as known:
        texts, vectors = known["texts"].tolist(), known["vectors"]
    model = cl2cm_jax.load(home / kind)
    assert model.languages == ("en", "de", "fr")
    np.testing.assert_allclose(model.encode_text(texts), vectors, atol=1e-6)


def test_a_data_set_and_its_features_are_read_and_not_built_again(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    (features,) = (home / "data" / "features").iterdir()
    with caplog.at_level(logging.INFO):
        corpora = cache.corpora(read_config(home / "run"))
    assert f"their outputs are read from {features}" in caplog.text and "run once" not in caplog.text
    np.testing.assert_array_equal(
        corpora.train.vision[:, 0], np.load(home / "features.npy")[: len(corpora.train.vision)]
    )


def test_a_workdir_is_evaluated_with_the_same_results(home: Path) -> None:
    before = json.loads((home / "run" / "results.json").read_text(encoding="utf-8"))
    done = call(main.main, f"--workdir={home / 'run'}", "--mode=evaluate")
    assert done.code == 0, done.err
    after = json.loads((home / "run" / "results.json").read_text(encoding="utf-8"))
    assert after["test"] == before["test"] and after["validation"] == before["validation"]
    assert "teacher.schedule" in after["config"] and "teacher.update" in before["config"]
