"""mteb and clip-benchmark evaluate a bundle on local data without network access; trec_eval checks our metrics."""

from __future__ import annotations

import csv
import itertools
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.command import call
from support.finished_runs import GOLDEN, write_finished_run
from support.tiny_models import write_tiny_bert
from support.tiny_set import COLOURS, THINGS

import cl2cm_jax
from cl2cm_jax.data.readers.caption_file import read_rows
from cl2cm_jax.evaluation.retrieval import DIRECTIONS, RECALL_AT, metrics, retrieval_ranks
from cl2cm_jax.export.bundle import read_trained, write_bundle
from cl2cm_jax.studies.external_eval import __main__ as external_eval
from cl2cm_jax.studies.external_eval import agreement, clip_benchmark_retrieval, mteb_retrieval
from cl2cm_jax.studies.external_eval.captioned import Captioned, Captions, from_rows
from cl2cm_jax.studies.external_eval.ties import tie_bounds
from cl2cm_jax.trained.model import TrainedModel

pytest.importorskip("torch")
pytestmark = pytest.mark.slow
LIBRARIES = ("mteb", "clip_benchmark")
WITHOUT_GERMAN = 3  # images that have no caption in this language


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Connections and host lookups are refused, and a test that tried one fails in any case."""
    asked = []

    def refuse(*arguments: Any, **_: Any) -> None:
        asked.append(arguments)
        raise OSError("no network")

    for owner, name in ((socket.socket, "connect"), (socket.socket, "connect_ex"), (socket, "getaddrinfo")):
        monkeypatch.setattr(owner, name, refuse)
    monkeypatch.setattr(external_eval, "ENVIRONMENT", {})  # it would affect later imports in this process
    yield
    assert asked == []


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated")
    text = {"text__backbone": "bert", "text__path": str(write_tiny_bert(folder / "bert")), "text__max_tokens": 8}
    images = {"vision__backbone": "clip_vit", "vision__path": str(GOLDEN / "clip")}
    write_bundle(read_trained(write_finished_run(folder / "run", student__dim=12, **text, **images)), folder / "bundle")
    return folder / "bundle"


@pytest.fixture(scope="module")
def model(bundle: Path) -> TrainedModel:
    return cl2cm_jax.from_pretrained(bundle)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A caption file and its images: two captions of each in English and one in French, German not of all."""
    folder, random = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    names = list(itertools.product(COLOURS, THINGS))
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "language", "caption"])
        for number, (colour, thing) in enumerate(names):
            mode, size = ("RGB", "L", "RGBA")[number % 3], (20 + number, 50)
            pixels = random.integers(0, 256, (*size, 4), np.uint8)
            Image.fromarray(pixels, "RGBA").convert(mode).save(folder / f"{colour}-{thing}.png")
            german, french = zip(COLOURS[colour], THINGS[thing], strict=True)
            rows = [("en", f"{colour} {thing}"), ("en", f"{thing} {colour} {colour}"), ("fr", " ".join(french))]
            rows += [("de", " ".join(german))] if number >= WITHOUT_GERMAN else []
            writer.writerows((f"{colour}-{thing}.png", *row) for row in rows)
    return folder / "captions.csv", folder


@pytest.fixture(scope="module")
def data(files: tuple[Path, Path]) -> Captioned:
    return from_rows(read_rows(str(files[0]), flag="--captions"), images=files[1], split="test")


def compared(scores: list[agreement.Score], language: str) -> dict[str, agreement.Score]:
    return {one.name: one for one in scores if one.language == language}


def test_mteb_agrees_in_every_language_and_direction(model: TrainedModel, data: Captioned) -> None:
    pytest.importorskip("mteb")
    found = agreement.compare(model, data, ["mteb"])
    for language in ("en", "de", "fr"):
        own = compared(found, language)
        for direction, name in itertools.product(DIRECTIONS, (*(f"hit_rate_at_{k}" for k in RECALL_AT), "map_at_1000")):
            one = own[f"{direction}/{name}"]
            assert one.protocol == agreement.SAME
            assert one.ties < agreement.TOLERANCE  # which scores lie within 1e-6 of each other depends on the CPU
            assert one.reference == pytest.approx(one.ours, abs=agreement.TOLERANCE)
        for direction in DIRECTIONS:
            assert own[f"{direction}/ndcg_at_10"].protocol == agreement.NONE
    assert len({one.ours for one in found if one.metric}) > 12  # not only zeros
    # One of an image's two captions among ten is a hit for us, and half of mteb's recall.
    own = compared(found, "en")
    assert own["vision_to_text/recall_at_10"].reference < own["vision_to_text/hit_rate_at_10"].reference


def test_clip_benchmark_agrees_where_all_pictures_have_captions(model: TrainedModel, data: Captioned) -> None:
    pytest.importorskip("clip_benchmark")
    found = agreement.compare(model, data, ["clip_benchmark"])
    names = [f"{kind}_retrieval_recall@{k}" for kind in ("image", "text") for k in RECALL_AT]
    for language, name in itertools.product(("en", "fr"), names):
        one = compared(found, language)[name]
        assert one.protocol == agreement.SAME and one.ties < agreement.TOLERANCE  # as above
        assert one.reference == pytest.approx(one.ours, abs=agreement.TOLERANCE)
    assert len({one.ours for one in found}) > 8
    images = len(data.images)
    for k in RECALL_AT:
        one = compared(found, "de")[f"text_retrieval_recall@{k}"]
        assert "without caption" in one.protocol
        # clip-benchmark counts an image without caption as a query that finds nothing, we do not count it
        assert one.reference == pytest.approx(one.ours * (images - WITHOUT_GERMAN) / images, abs=agreement.TOLERANCE)
        assert compared(found, "de")[f"image_retrieval_recall@{k}"].protocol == agreement.SAME


def test_both_libraries_detect_a_wrong_model(
    model: TrainedModel, data: Captioned, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in LIBRARIES:
        pytest.importorskip(name)

    class Reversed(TrainedModel):
        """Returns the vectors of each batch of texts in reverse order, as an adapter that mixes up rows would."""

        def __init__(self) -> None:
            self.__dict__ = model.__dict__

        def encode_text(self, texts: Any, language: str | None = None) -> np.ndarray:
            return super().encode_text(texts, language)[::-1]

    right = agreement.own_metrics(model, data)
    monkeypatch.setattr(agreement, "own_metrics", lambda *_: right)
    found = agreement.compare(Reversed(), data, LIBRARIES)
    for name in LIBRARIES:
        assert not all(one.agrees for one in found if one.library == name), name


def test_libraries_may_break_ties_in_another_way(model: TrainedModel, data: Captioned) -> None:
    for name in LIBRARIES:
        pytest.importorskip(name)
    same = data.captions["fr"]._replace(texts=["voiture"] * len(data.images))
    found = agreement.compare(model, Captioned(data.images, {"fr": same}), LIBRARIES)
    assert all(one.agrees for one in found)
    for one in found:
        if one.metric.startswith("vision_to_text/R@"):
            assert (one.ours, one.best) == (0, 100)  # all captions are equal: pessimistic ties
    assert {one.library for one in found if one.reference > one.ours + 1} == set(LIBRARIES)


def test_an_encoder_and_a_task_of_mteb(model: TrainedModel, data: Captioned) -> None:
    mteb = pytest.importorskip("mteb")
    encoder = mteb_retrieval.MtebEncoder(model)
    assert isinstance(encoder, mteb.EncoderProtocol)
    assert (encoder.mteb_model_meta.revision, encoder.mteb_model_meta.embed_dim) == (model.weights, 12)
    task = mteb_retrieval.retrieval_task(data, direction="vision_to_text")
    assert isinstance(task, mteb.AbsTask) and task.hf_subsets == ["en", "fr", "de"]
    task.load_data()
    german = task.dataset["de"]["test"]
    assert (len(german["queries"]), len(german["corpus"])) == (32, 32 - WITHOUT_GERMAN)
    first = german["queries"][0]["image"]
    np.testing.assert_allclose(model.encode_image([first]), model.encode_image(data.images[:1]), atol=1e-6)


def test_recalls_beyond_the_gallery_are_left_out_for_clip_benchmark(model: TrainedModel, data: Captioned) -> None:
    pytest.importorskip("clip_benchmark")
    few = Captioned(data.images[:6], {"en": Captions(["red car", "blue dog"] * 3, np.arange(6))})
    assert list(clip_benchmark_retrieval.evaluate(model, few)["en"]) == [
        f"{kind}_retrieval_recall@{k}" for kind in ("image", "text") for k in (1, 5)
    ]


def test_the_command(bundle: Path, files: tuple[Path, Path]) -> None:
    for name in LIBRARIES:
        pytest.importorskip(name)
    captions, images = files
    outcome = call(external_eval.main, f"--model={bundle}", f"--captions={captions}", f"--images={images}")
    assert outcome.code == 0, outcome.err
    assert "compared in en, fr, de: all within 0.1 point" in outcome.out
    rows = [line for line in outcome.out.splitlines() if line.startswith(LIBRARIES)]
    assert len(rows) == 12 + 6 and sum("counts images without caption" in row for row in rows) == 3


def trec_eval(text: np.ndarray, vision: np.ndarray, image: np.ndarray, *, optimistic: bool) -> dict[str, float]:
    """Our metrics by trec_eval, the reference implementation of text retrieval, in its Python binding.

    Among documents of one score it takes that whose name is last in the alphabet first, so names decide on ties.
    """
    pytrec_eval = pytest.importorskip("pytrec_eval")
    named = {}
    places = np.arange(len(vision))
    tasks = {
        "text_to_vision": (text @ vision.T, image[:, None] == places),
        "vision_to_text": ((vision @ text.T)[np.unique(image)], np.unique(image)[:, None] == image),
    }
    for direction, (scores, right) in tasks.items():
        run, relevant = {}, {}
        for query, (row, hits) in enumerate(zip(scores, right, strict=True)):
            names = [f"{'b' if hit == optimistic else 'a'}{place}" for place, hit in enumerate(hits)]
            run[str(query)] = {name: float(score) for name, score in zip(names, row, strict=True)}
            relevant[str(query)] = {name: 1 for name, hit in zip(names, hits, strict=True) if hit}
        cuts = ",".join(map(str, RECALL_AT))
        measures = {f"success.{cuts}", "map", "recip_rank"}
        found = pytrec_eval.RelevanceEvaluator(relevant, measures).evaluate(run).values()
        assert len(found) == len(scores)
        for k in RECALL_AT:
            named[f"{direction}/R@{k}"] = 100 * np.mean([one[f"success_{k}"] for one in found])
        ranks = [1 / one["recip_rank"] for one in found]
        named |= {f"{direction}/median_rank": np.median(ranks), f"{direction}/mean_rank": np.mean(ranks)}
        named[f"{direction}/mAP"] = 100 * np.mean([one["map"] for one in found])
    named["SumR"] = sum(named[f"{direction}/R@{k}"] for direction in DIRECTIONS for k in RECALL_AT)
    return named | {"mR": named["SumR"] / 6}


@pytest.mark.parametrize("block", [7, 1024])
@pytest.mark.parametrize("values", ["distinct", "tied"])
@pytest.mark.parametrize("seed", range(3))
def test_our_metrics_agree_with_trec_eval(seed: int, values: str, block: int) -> None:
    random = np.random.default_rng(seed)
    image = random.permutation(np.r_[np.arange(40), random.integers(0, 40, 80)])  # of 45 images 5 have no caption
    if values == "tied":
        text, vision = (random.integers(-2, 3, (count, 4)).astype(np.float32) for count in (120, 45))
    else:
        text, vision = (random.normal(size=(count, 4)).astype(np.float32) for count in (120, 45))
    ours = metrics(retrieval_ranks(text, vision, text_image=image, block=block))
    assert ours == pytest.approx(trec_eval(text, vision, image, optimistic=False), abs=1e-4)
    found = tie_bounds(text, vision, text_image=image)
    assert found.best == pytest.approx(trec_eval(text, vision, image, optimistic=True), abs=1e-4)
    assert (found.best["SumR"] > ours["SumR"]) == (values == "tied")
