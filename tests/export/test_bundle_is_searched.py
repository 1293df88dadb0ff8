"""A bundle as the model of `cl2cm index`, with nothing in place of either."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cl2cm_jax
from cl2cm_jax.errors import UserError
from cl2cm_jax.search import index_command as command


@pytest.fixture
def photos(tmp_path: Path, pictures: list[Image.Image]) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, picture in enumerate(pictures):
        picture.save(folder / f"{number}.png")
    return folder


def test_an_index_of_a_bundle_answers_as_the_bundle_does(bundle, photos, tmp_path, capsys) -> None:
    index = f"--index={tmp_path / 'photos.db'}"
    command.main([f"--model={bundle}", f"--images={photos}", index])
    assert "3 pictures; 3 embedded" in capsys.readouterr().out
    queries = ["rotes Auto", "noir", "dog dog"]
    command.main(["search", f"--model={bundle}", index, *queries, "--json"])
    answers = json.loads(capsys.readouterr().out)
    model = cl2cm_jax.from_pretrained(bundle)
    paths = sorted(photos.iterdir())
    wanted = model.similarity(model.encode_text(queries), model.encode_image(paths))
    for answer, scores in zip(answers, wanted, strict=True):
        found = {result["id"]: result["score"] for result in answer["results"]}
        np.testing.assert_allclose([found[path.name] for path in paths], scores, atol=1e-4)  # printed with 4 digits
        assert list(found) == [paths[place].name for place in np.argsort(-scores)]


def test_no_index_is_made_with_a_damaged_bundle(bundle, photos, tmp_path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    (broken / "cl2cm_heads.safetensors").write_bytes(b"other")
    with pytest.raises(UserError, match="cl2cm_heads.safetensors"):
        command.main([f"--model={broken}", f"--images={photos}", f"--index={tmp_path / 'photos.db'}"])
