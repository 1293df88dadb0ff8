"""configs/captions.py on a user's own folder: unusual picture files, captions in four languages."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from support.command import Outcome, call

pytest.importorskip("tensorflow")
pytest.importorskip("pymilvus")
pytest.importorskip("uvicorn")

from serve.conftest import serving

import cl2cm_jax
from cl2cm_jax import __main__ as cl2cm
from cl2cm_jax import main
from cl2cm_jax.evaluation.gallery import training_gallery
from cl2cm_jax.export import __main__ as export
from cl2cm_jax.search import __main__ as search
from cl2cm_jax.serve import __main__ as serve

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "captions.py"
LANGUAGES = ("en", "de", "fr", "es")
SHAPES = {
    "circle": ("Kreis", "cercle", "círculo"),
    "square": ("Quadrat", "carré", "cuadrado"),
    "triangle": ("Dreieck", "triangle", "triángulo"),
}
COLOURS = {
    "red": ("roter", "rouge", "rojo"),
    "green": ("grüner", "vert", "verde"),
    "blue": ("blauer", "bleu", "azul"),
    "yellow": ("gelber", "jaune", "amarillo"),
    "black": ("schwarzer", "noir", "negro"),
    "orange": ("oranger", "orange", "naranja"),
    "purple": ("lila", "violet", "morado"),
    "grey": ("grauer", "gris", "gris"),
}
CMYK, SIXTEEN_BIT, ROTATED = "red-circle.jpg", "grey-square.png", "blue-triangle.jpg"


def draw(shape: str, colour: str) -> Image.Image:
    picture = Image.new("RGB", (96, 64), "white")
    pen = ImageDraw.Draw(picture)
    if shape == "circle":
        pen.ellipse((26, 10, 70, 54), fill=colour)
    elif shape == "square":
        pen.rectangle((26, 10, 70, 54), fill=colour)
    else:
        pen.polygon([(26, 54), (70, 54), (48, 10)], fill=colour)
    return picture


def save(picture: Image.Image, path: Path) -> None:
    if path.name == CMYK:
        picture.convert("CMYK").save(path)
    elif path.name == SIXTEEN_BIT:
        Image.fromarray(np.asarray(picture.convert("L"), np.uint16) * 257).save(path)
    elif path.name == ROTATED:
        exif = Image.Exif()
        exif[0x0112] = 6  # stored rotated; viewers rotate it by 90 degrees
        picture.rotate(90, expand=True).save(path, exif=exif)
    else:
        picture.save(path)


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/ with 24 pictures, captions.csv without splits."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "photos").mkdir()
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "language", "caption"])
        for colour, colours in COLOURS.items():
            for shape, shapes in SHAPES.items():
                name = next((odd for odd in (CMYK, SIXTEEN_BIT, ROTATED) if odd.startswith(f"{colour}-{shape}.")), "")
                name = name or f"{colour}-{shape}.png"
                save(draw(shape, colour), folder / "photos" / name)
                german, french, spanish = zip(colours, shapes, strict=True)
                captions = [f"a {colour} {shape}", f"ein {' '.join(german)}", " ".join(french[::-1])]
                captions.append(" ".join(spanish[::-1]))
                writer.writerows([name, *row] for row in zip(LANGUAGES, captions, strict=True))
    return folder


def training(mine: Path, workdir: Path, *changes: str) -> Outcome:
    fields = {"dir": mine / "data", "images": mine / "photos", "captions": mine / "captions.csv"}
    data = [f"--config.data.{field}={path}" for field, path in fields.items()]
    languages = ["--config.data.source=en", f"--config.data.targets={','.join(LANGUAGES[1:])}"]
    size = ["--config.train.batch_size=16", "--config.train.steps=8", "--config.student.dim=16"]
    return call(main.main, f"--config={CONFIG}", f"--workdir={workdir}", *data, *languages, *size, *changes)


@pytest.fixture(scope="module")
def trained(mine: Path) -> tuple[Path, Outcome]:
    return mine / "run", training(mine, mine / "run")


def test_own_pictures_are_trained_on_and_evaluated(trained: tuple[Path, Outcome], mine: Path) -> None:
    workdir, outcome = trained
    assert outcome.code == 0, outcome.err
    results = json.loads((workdir / "results.json").read_text())
    assert set(results["test"]) == set(LANGUAGES) and results["protocol"]["images"] == 2
    assert "captions in 4 languages" in outcome.out
    with Image.open(workdir / "retrieval.png") as picture:
        assert picture.width > 200
    report = next((mine / "data" / "captions").glob("*.report.tsv"))
    assert len(report.read_text(encoding="utf-8").splitlines()) <= 1  # no problem, the odd files included


def test_the_exported_model_gives_the_vectors_of_training(trained: tuple[Path, Outcome], mine: Path) -> None:
    outcome = call(export.main, f"--workdir={trained[0]}", f"--out={mine / 'bundle'}")
    assert outcome.code == 0, outcome.err
    gallery = training_gallery(trained[0])
    found = cl2cm_jax.from_pretrained(mine / "bundle").encode_image(gallery.paths)
    np.testing.assert_allclose(found, gallery.embeddings, atol=1e-6)


def test_search_over_the_set_and_over_a_folder(trained: tuple[Path, Outcome], mine: Path, tmp_path: Path) -> None:
    query = [f"--workdir={trained[0]}", "ein roter Kreis", "un círculo rojo", "--json"]
    whole = json.loads(call(search.main, *query, "--top=24").out)
    for answer in whole:
        assert {result["id"] for result in answer["results"]} == {path.name for path in (mine / "photos").iterdir()}
        assert all(Path(result["path"]).is_file() for result in answer["results"])
        scores = [result["score"] for result in answer["results"]]
        assert scores == sorted(scores, reverse=True) and scores[0] > scores[-1]
    few = [CMYK, SIXTEEN_BIT, ROTATED, "yellow-circle.png"]
    for name in few:
        shutil.copy(mine / "photos" / name, tmp_path)
    found = json.loads(call(search.main, *query, "--top=4", f"--images={tmp_path}").out)
    for answer, before in zip(found, whole, strict=True):
        score = {Path(result["path"]).name: result["score"] for result in before["results"]}
        assert [Path(result["path"]).name for result in answer["results"]] == [name for name in score if name in few]
        for result in answer["results"]:  # the same vector from the gallery and from the file
            assert result["score"] == pytest.approx(score[Path(result["path"]).name], abs=1e-4)


def test_an_index_of_the_pictures_is_searched_and_served(
    trained: tuple[Path, Outcome], mine: Path, tmp_path: Path
) -> None:
    place = [f"--model={trained[0]}", f"--index={tmp_path / 'photos.db'}"]
    made = call(cl2cm.main, "index", *place, f"--images={mine / 'photos'}")
    assert made.code == 0 and "24 pictures; 24 embedded" in made.out, made.err
    found = call(cl2cm.main, "index", "search", *place, "rouge cercle", "--top=3", "--json")
    assert found.code == 0, found.err
    wanted = [result["id"] for result in json.loads(found.out)[0]["results"]]
    with serving(serve.application(serve.parse(place), token="")) as service:
        answer = service.ask("/api/search?q=rouge%20cercle&top=3").json()
    assert [result["path"] for result in answer["results"]] == wanted and len(wanted) == 3


def test_a_truncated_picture_is_named_with_its_line(mine: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(mine / "photos", photos)
    broken = photos / ROTATED
    broken.write_bytes(broken.read_bytes()[:-300])
    outcome = training(mine, tmp_path / "run", f"--config.data.images={photos}")
    assert outcome.code == 2
    message = outcome.err.strip().splitlines()[-1]
    lines = (mine / "captions.csv").read_text(encoding="utf-8").splitlines()
    line = next(number for number, text in enumerate(lines, start=1) if text.startswith(ROTATED))
    assert message.startswith(f"error: {mine / 'captions.csv'}, line {line}") and "truncated" in message, message


def test_bad_pictures_and_lines_are_left_out_with_on_error_skip(mine: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(mine / "photos", photos)
    (photos / ROTATED).write_bytes((photos / ROTATED).read_bytes()[:-300])
    captions = tmp_path / "captions.csv"
    text = (mine / "captions.csv").read_text(encoding="utf-8")
    captions.write_text(text + "red-square.png,de,\nnowhere.png,en,a lost picture\n", encoding="utf-8")
    changes = [f"--config.data.images={photos}", f"--config.data.captions={captions}", "--config.data.on_error=skip"]
    outcome = training(mine, tmp_path / "run", *changes, f"--config.data.dir={tmp_path / 'data'}")
    assert outcome.code == 0, outcome.err
    listed = next((tmp_path / "data" / "captions").glob("*.report.tsv")).read_text(encoding="utf-8")
    for reason in (ROTATED, "nowhere.png", "is empty"):
        assert reason in listed
    answer = call(search.main, f"--workdir={tmp_path / 'run'}", "a", "--json", "--top=30")
    assert answer.code == 0, answer.err
    gallery = json.loads(answer.out)
    assert {result["id"] for result in gallery[0]["results"]} == {p.name for p in photos.iterdir()} - {ROTATED}
