"""The backbones that CONTRIBUTING.md shows train, and find what they were trained on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from safetensors.numpy import load_file
from support.command import Outcome, call
from support.documented import example
from support.tiny_set import CONFIG, write_tiny_set

from cl2cm_jax import main
from cl2cm_jax.errors import UserError
from cl2cm_jax.export.bundle import read_trained
from cl2cm_jax.search import __main__ as search
from cl2cm_jax.studies.tpu_estimate.models import models
from cl2cm_jax.training.workdir import read_config


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package `mine` with both examples, and a set with pictures of plain colours."""
    (tmp_path / "mine").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    for title in ("A text backbone", "A vision backbone"):
        example(title, tmp_path / "mine")
    write_tiny_set(tmp_path)
    captions = tmp_path / "captions.csv"
    rows = captions.read_text(encoding="utf-8").splitlines()
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(sorted({row.split(",")[0] for row in rows[1:]})):
        colour, size = image.split("-")[0], (40 + number, 30)  # no two are equal
        Image.new("RGB", size, {"golden": "gold"}.get(colour, colour)).save(tmp_path / "photos" / f"{image}.png")
    captions.write_text("\n".join([rows[0], *(row.replace(",", ".png,", 1) for row in rows[1:])]), encoding="utf-8")
    return tmp_path


def trained(folder: Path, workdir: Path, *, text: str, vision: str) -> Outcome:
    paths = f'c.data.captions, c.data.images = "{folder}/captions.csv", "{folder}/photos"'
    config = re.sub(r"c\.data\.captions, .*", paths, CONFIG).replace('"data"', f'"{folder}/data"')
    (folder / "config.py").write_text(config, encoding="utf-8")
    flags = [f"--config.text.backbone={text}", f"--config.vision.backbone={vision}"]
    return call(main.main, f"--config={folder}/config.py", f"--workdir={workdir}", *flags)


def test_the_examples_train_and_search(mine: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    finished = trained(mine, run, text="mine.letters", vision="mine.mean_colours")
    assert finished.code == 0, finished.err
    weights = load_file(run / "model.safetensors")
    assert weights["text/project_sentence/kernel"].shape[0] == 64 and weights["vision/norm/scale"].shape == (12,)
    found = call(search.main, f"--workdir={run}", "--json", "--top=3", "rot Auto", f"--images={mine / 'photos'}")
    assert found.code == 0 and [len(answer["results"]) for answer in json.loads(found.out)] == [3], found.err
    sizes, no_bundle = models(read_config(run), text={}, vision={}), "module outside this package, which no bundle"
    assert sizes.features[:2] == (64, 12) and sizes.tunable is None
    with pytest.raises(UserError, match=f"config.text.backbone='mine.letters' is a {no_bundle}"):
        read_trained(run)


def test_a_module_without_a_backbone_is_refused(mine: Path, tmp_path: Path) -> None:
    (mine / "mine" / "empty.py").write_text("")
    outcome = trained(mine, tmp_path / "run", text="mine.empty", vision="mine.mean_colours")
    assert outcome.code == 2 and "config.text.backbone='mine.empty': the module mine.empty does not define SPEC" in (
        outcome.err
    )
    outcome = trained(mine, tmp_path / "run", text="mine.lettres", vision="mine.mean_colours")
    assert outcome.code == 2 and "config.text.backbone='mine.lettres' is unknown" in outcome.err
