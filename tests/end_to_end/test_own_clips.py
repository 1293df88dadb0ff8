"""configs/captions.py on a user's own clips: animated files, folders of frames, and one photograph."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image, ImageDraw
from support.command import Outcome, call

pytest.importorskip("tensorflow")

from cl2cm_jax import main
from cl2cm_jax.config import read
from cl2cm_jax.data.media.clips import decode_clip, taken_files
from cl2cm_jax.data.media.images import decode
from cl2cm_jax.features import cache
from cl2cm_jax.features.encoders import ImageEncoder, padded_frames
from cl2cm_jax.models.configured import vision_backbone
from cl2cm_jax.models.networks import FeatureShape, Networks
from cl2cm_jax.search import __main__ as search

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "captions.py"
FRAMES = 4
COLOURS = {
    "red": ("rot", "rouge"),
    "green": ("grün", "vert"),
    "blue": ("blau", "bleu"),
    "yellow": ("gelb", "jaune"),
    "black": ("schwarz", "noir"),
    "grey": ("grau", "gris"),
}
MOVES = {
    "rises": ("steigt", "monte"),
    "falls": ("sinkt", "descend"),
    "grows": ("wächst", "grandit"),
    "rests": ("ruht", "repose"),
}
ENDINGS = (".gif", ".webp", "", ".apng.png")  # "" is a folder of frames
PHOTO = "red-rests.png"


def draw(colour: str, move: str, share: float) -> Image.Image:
    picture = Image.new("RGB", (96, 64), "white")
    place = {"rises": 50 - 40 * share, "falls": 10 + 40 * share}.get(move, 30)
    size = 6 + 20 * share if move == "grows" else 8
    ImageDraw.Draw(picture).ellipse((48 - size, place - size, 48 + size, place + size), fill=colour)
    return picture


def save(path: Path, colour: str, move: str, count: int) -> None:
    frames = [draw(colour, move, number / count) for number in range(count)]
    if path.name == PHOTO:
        frames[0].save(path)
    elif path.suffix:
        frames[0].save(
            path, save_all=True, append_images=frames[1:], **({"lossless": True} if ".webp" in path.name else {})
        )
    else:
        path.mkdir()
        for number, frame in enumerate(frames):
            frame.save(path / f"{number}.png")


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """clips/ with 24 clips of 2 to 12 frames, captions.csv without splits."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "clips").mkdir()
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "language", "caption"])
        for number, (colour, move) in enumerate((colour, move) for colour in COLOURS for move in MOVES):
            name = f"{colour}-{move}{ENDINGS[(number + number // 4) % 4]}"
            name = PHOTO if PHOTO.startswith(f"{colour}-{move}.") else name
            save(folder / "clips" / name, colour, move, 2 + number % 11)
            words = [(colour, move), *zip(COLOURS[colour], MOVES[move], strict=True)]
            writer.writerows(
                [name, language, " ".join(pair)] for language, pair in zip(("en", "de", "fr"), words, strict=True)
            )
    return folder


def fields(mine: Path, *changes: str) -> list[str]:
    paths = {"dir": mine / "data", "images": mine / "clips", "captions": mine / "captions.csv"}
    data = [f"--config.data.{field}={path}" for field, path in paths.items()]
    languages = ["--config.data.source=en", "--config.data.targets=de,fr"]
    video = [f"--config.data.frames={FRAMES}", "--config.student.vision_tower=attention"]
    size = ["--config.train.batch_size=16", "--config.train.steps=8", "--config.student.dim=16"]
    return [*data, *languages, *video, *size, *changes]


def training(mine: Path, workdir: Path, *changes: str) -> Outcome:
    return call(main.main, f"--config={CONFIG}", f"--workdir={workdir}", *fields(mine, *changes))


@pytest.fixture(scope="module")
def trained(mine: Path) -> tuple[Path, Outcome]:
    return mine / "run", training(mine, mine / "run")


@pytest.fixture(scope="module")
def encoder() -> ImageEncoder:
    return ImageEncoder(vision_backbone("efficientnet_lite0"), pool="backbone")


@pytest.mark.slow
def test_own_clips_are_trained_on_and_evaluated(trained: tuple[Path, Outcome], mine: Path) -> None:
    workdir, outcome = trained
    assert outcome.code == 0, outcome.err
    results = json.loads((workdir / "results.json").read_text())
    assert set(results["test"]) == {"en", "de", "fr"} and results["protocol"]["images"] == 2
    assert (workdir / "retrieval.png").is_file()
    report = next((mine / "data" / "captions").glob("*.report.tsv"))
    assert len(report.read_text(encoding="utf-8").splitlines()) == 1  # neither problems nor notes


@pytest.mark.slow
def test_cached_features_are_those_of_the_frames_and_the_rest_is_masked(
    trained: tuple[Path, Outcome], mine: Path, encoder: ImageEncoder
) -> None:
    overrides = dict(line.removeprefix("--config.").split("=", 1) for line in fields(mine))
    corpus = cache.corpora(read(str(CONFIG), overrides)).train
    assert corpus.vision.shape[1:] == (FRAMES, 1280) and corpus.vision_mask.shape == corpus.vision.shape[:2]
    seen = set()
    for row in range(0, len(corpus.image_ids), 3):
        path = mine / "clips" / str(corpus.image_ids[row])
        frames = list(decode_clip(taken_files(path, limit=FRAMES), limit=FRAMES))
        assert corpus.vision_mask[row].tolist() == [place < len(frames) for place in range(FRAMES)]
        np.testing.assert_allclose(corpus.vision[row, : len(frames)], encoder(frames)[:, 0], atol=1e-4)
        assert not corpus.vision[row, len(frames) :].any()
        seen.add(len(frames))
    assert {1, 2, 3, FRAMES} & seen == seen and len(seen) > 1


@pytest.mark.slow
def test_search_over_the_set_and_over_a_folder(trained: tuple[Path, Outcome], mine: Path, tmp_path: Path) -> None:
    query = [f"--workdir={trained[0]}", "rot steigt", "noir grandit", "--json"]
    whole = json.loads(call(search.main, *query, "--top=24").out)
    for answer in whole:
        assert {result["id"] for result in answer["results"]} == {path.name for path in (mine / "clips").iterdir()}
        assert all(Path(result["path"]).exists() for result in answer["results"])
    few = sorted(path.name for path in (mine / "clips").iterdir())[::3]
    assert {Path(name).suffix for name in few} >= {"", ".gif", ".webp"}
    for name in few:
        copy = shutil.copytree if (mine / "clips" / name).is_dir() else shutil.copy
        copy(mine / "clips" / name, tmp_path / name)
    found = json.loads(call(search.main, *query, f"--top={len(few)}", f"--images={tmp_path}").out)
    for answer, before in zip(found, whole, strict=True):
        score = {result["id"]: result["score"] for result in before["results"]}
        assert {result["id"] for result in answer["results"]} == set(few)
        for result in answer["results"]:  # the same vector from the gallery and from the file
            assert result["score"] == pytest.approx(score[result["id"]], abs=1e-4)


@pytest.mark.slow
def test_the_linear_tower_reads_clips_too(mine: Path, trained: tuple[Path, Outcome], tmp_path: Path) -> None:
    outcome = training(mine, tmp_path / "run", "--config.student.vision_tower=linear")
    assert outcome.code == 0, outcome.err


def test_a_clip_without_frames_is_one_line(mine: Path, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    shutil.copytree(mine / "clips", clips)
    folder = min(path for path in clips.iterdir() if path.is_dir())
    shutil.rmtree(folder)
    folder.mkdir()
    outcome = training(mine, tmp_path / "run", f"--config.data.images={clips}")
    assert outcome.code == 2
    (message,) = (line for line in outcome.err.splitlines() if line.startswith("error"))
    assert f"{folder} has no frame" in message and "captions.csv, line" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--config.data.frames=65", "config.data.frames=65 must be between 1 and 64"),
        ("--config.vision.pool=tokens", "config.data.frames=4 needs config.vision.pool='backbone'"),
        ("--config.data.name=emoji", "data.name='emoji' has no clips"),
        ("--config.data.features=x.npy", "config.data.frames=4: the frames of config.data.features are in that file"),
    ],
)
def test_invalid_fields_for_clips_are_refused(mine: Path, tmp_path: Path, change: str, message: str) -> None:
    outcome = training(mine, tmp_path / "run", change)
    assert outcome.code == 2 and message in outcome.err


def test_frames_are_encoded_in_batches_across_clips_and_read_one_after_the_other(encoder: ImageEncoder) -> None:
    pictures = [np.asarray(draw(colour, "grows", share)) for colour in COLOURS for share in (0.2, 0.9)]
    lengths = (3, 0, 1, 6, 2)
    order: list[int] = []

    def clips() -> Iterator[Iterable[np.ndarray]]:
        start = 0
        for number, length in enumerate(lengths):
            yield (order.append(number) or picture for picture in pictures[start : start + length])
            start += length

    found = list(encoder.clips(clips()))
    assert tuple(map(len, found)) == lengths and order == sorted(order)
    np.testing.assert_allclose(np.concatenate(found), encoder(pictures)[:, 0], atol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "attention"])
def test_padding_changes_no_vector(kind: str) -> None:
    config = read(str(CONFIG), {"student.vision_tower": kind, "student.dim": "8", "student.hidden": "8"})
    networks = Networks(config, FeatureShape(text=6, vision=5, max_words=4, max_frames=7))
    student = networks.init(jax.random.key(0))["student"]
    clips = [np.random.default_rng(length).normal(size=(length, 5)).astype(np.float32) for length in (1, 3, 7)]
    padded, frames = padded_frames(clips, minimum=7)
    mask = np.arange(7) < frames[:, None]
    padded[~mask] = 1e3  # whatever lies there
    vectors = networks.student.bind(student).encode_vision(padded, mask)
    for vector, clip in zip(vectors, clips, strict=True):
        alone = networks.student.bind(student).encode_vision(clip[None], np.ones((1, len(clip)), bool))
        np.testing.assert_allclose(vector, alone[0], atol=1e-5)


def test_a_picture_model_still_takes_the_first_frame(mine: Path) -> None:
    clip = next(path for path in sorted((mine / "clips").iterdir()) if path.suffix == ".gif")
    frames = list(decode_clip([clip], limit=1))
    assert len(frames) == 1
    np.testing.assert_array_equal(frames[0], decode(clip))
