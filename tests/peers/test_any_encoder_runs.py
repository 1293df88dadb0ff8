"""Models that the code does not know, frozen, as commands: training, search, an index and a bundle."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from support.any_models import write_text_model, write_vision_model
from support.tiny_set import COLOURS, CONFIG, SPLITS, THINGS

for library in ("torch", "sentence_transformers"):
    pytest.importorskip(library)

pytestmark = pytest.mark.slow

PROMPT = "dog "
QUERY = "rotes Auto"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/ with 32 pictures, captions.csv and config.py."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "photos").mkdir()
    names = [(colour, thing) for colour in COLOURS for thing in THINGS]
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "language", "caption", "split"])
        for number, ((colour, thing), split) in enumerate(zip(names, SPLITS, strict=True)):
            picture = Image.new("RGB", (40 + number, 30), {"golden": "gold"}.get(colour, colour))
            picture.paste("brown", (0, 0, 40, 5 * list(THINGS).index(thing)))
            picture.save(folder / f"photos/{colour}-{thing}.png")
            words = [(colour, thing), *zip(COLOURS[colour], THINGS[thing], strict=True)]
            for language, pair in zip(("en", "de", "fr"), words, strict=True):
                writer.writerow([f"{colour}-{thing}.png", language, " ".join(pair), split])
    paths = f'c.data.captions, c.data.images = "{folder}/captions.csv", "{folder}/photos"'
    text = re.sub(r"c\.data\.captions, .*", paths, CONFIG).replace('"data"', f'"{folder}/data"')
    (folder / "config.py").write_text(text.replace('c.vision.backbone = "precomputed"', ""))
    return folder


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A command of the package in a process of its own, as TensorFlow and PyTorch need one."""
    done = subprocess.run(
        [sys.executable, "-m", *(str(argument) for argument in arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def found(*arguments: object) -> list[str]:
    """The pictures that a verb of search finds, best first."""
    [answer] = json.loads(command("cl2cm_jax", *arguments, "--json", "--top=5", QUERY).stdout)
    return [Path(result["path"]).name for result in answer["results"]]


@pytest.mark.parametrize(("text", "vision"), [("Gemma3Text", "Dinov2"), ("MPNet", "ConvNext")])
def test_from_training_to_an_index_and_a_bundle(text: str, vision: str, photos: Path, tmp_path: Path) -> None:
    write_text_model(text, tmp_path / "text")
    write_vision_model(vision, tmp_path / "vision")
    about = {"prompts": {"query": PROMPT}, "default_prompt_name": "query"}
    (tmp_path / "text" / "config_sentence_transformers.json").write_text(json.dumps(about))
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    fields = {"text.backbone": "transformers", "text.path": tmp_path / "text", "text.max_tokens": 12}
    fields |= {"vision.backbone": "transformers", "vision.path": tmp_path / "vision"}
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    done = command("cl2cm_jax.main", f"--config={photos / 'config.py'}", f"--workdir={run}", *flags)
    assert f"{PROMPT!r} stands before every caption and query" in done.stdout + done.stderr
    assert json.loads((run / "config.json").read_text())["text.prompt"] == PROMPT
    results = json.loads((run / "results.json").read_text())
    assert set(results["test"]) == {"en", "de", "fr"}
    assert results["protocol"]["images"] == SPLITS.count("test")

    command("cl2cm_jax", "export", f"--workdir={run}", f"--out={bundle}")
    assert f'given the prompt "{PROMPT}"' in (bundle / "README.md").read_text()
    shutil.rmtree(tmp_path / "text")
    shutil.rmtree(tmp_path / "vision")
    database = tmp_path / "pictures.db"
    images = f"--images={photos / 'photos'}"
    command("cl2cm_jax", "index", f"--model={bundle}", f"--index={database}", images)
    direct = found("search", f"--model={bundle}", images)
    assert len(direct) == 5
    assert found("index", "search", f"--model={bundle}", f"--index={database}") == direct
