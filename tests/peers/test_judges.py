"""External evaluation of a bundle by mteb and clip-benchmark on local data; our metrics compared with trec_eval."""

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
from cl2cm_jax.studies.external_eval import __main__ as judge
from cl2cm_jax.studies.external_eval import agreement, clip_benchmark_retrieval, mteb_retrieval
from cl2cm_jax.studies.external_eval.captioned import Captioned, Captions, extremes, from_rows
from cl2cm_jax.trained.bundle import RetrievalModel

pytest.importorskip("torch")

pytestmark = pytest.mark.slow
JUDGES = ("mteb", "clip_benchmark")
WITHOUT_GERMAN = 3  # pictures that have no caption in this language


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuses connections and look-ups of hosts; a test that tried one fails."""
    asked = []

    def refuse(*arguments: Any, **_: Any) -> None:
        asked.append(arguments)
        raise OSError("no network")

    for owner, name in ((socket.socket, "connect"), (socket.socket, "connect_ex"), (socket, "getaddrinfo")):
        monkeypatch.setattr(owner, name, refuse)
    monkeypatch.setattr(judge, "ENVIRONMENT", {})  # it would change later tests of this process
    yield
    assert asked == []


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judged")
    text = {"text__backbone": "bert", "text__path": str(write_tiny_bert(folder / "bert")), "text__max_tokens": 8}
    images = {"vision__backbone": "clip_vit", "vision__path": str(GOLDEN / "clip")}
    write_bundle(read_trained(write_finished_run(folder / "run", student__dim=12, **text, **images)), folder / "bundle")
    return folder / "bundle"


@pytest.fixture(scope="module")
def model(bundle: Path) -> RetrievalModel:
    return cl2cm_jax.from_pretrained(bundle)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A caption file and its pictures: two captions of each in English and one in French, German not of all."""
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


def compared(judges: list[agreement.Judged], language: str) -> dict[str, agreement.Judged]:
    return {one.name: one for one in judges if one.language == language}


def test_mteb_agrees_in_every_language_and_direction(model: RetrievalModel, data: Captioned) -> None:
    pytest.importorskip("mteb")
    found = agreement.judged(model, data, ["mteb"])
    for language in ("en", "de", "fr"):
        own = compared(found, language)
        for direction, name in itertools.product(DIRECTIONS, (*(f"hit_rate_at_{k}" for k in RECALL_AT), "map_at_1000")):
            one = own[f"{direction}/{name}"]
            assert one.protocol == agreement.SAME
            assert one.ties < agreement.AGREES  # which scores lie within 1e-6 of each other depends on the CPU
            assert one.theirs == pytest.approx(one.ours, abs=agreement.AGREES)
        for direction in DIRECTIONS:
            assert own[f"{direction}/ndcg_at_10"].protocol == agreement.NONE
    assert len({one.ours for one in found if one.metric}) > 12  # not all zero
    # Of a picture's two captions one among ten is a hit for us, and half of what there is for mteb's recall.
    own = compared(found, "en")
    assert own["vision_to_text/recall_at_10"].theirs < own["vision_to_text/hit_rate_at_10"].theirs


def test_clip_benchmark_agrees_where_all_pictures_have_captions(model: RetrievalModel, data: Captioned) -> None:
    pytest.importorskip("clip_benchmark")
    found = agreement.judged(model, data, ["clip_benchmark"])
    names = [f"{kind}_retrieval_recall@{k}" for kind in ("image", "text") for k in RECALL_AT]
    for language, name in itertools.product(("en", "fr"), names):
        one = compared(found, language)[name]
        assert one.protocol == agreement.SAME and one.ties < agreement.AGREES  # as above
        assert one.theirs == pytest.approx(one.ours, abs=agreement.AGREES)
    assert len({one.ours for one in found}) > 8
    pictures = len(data.pictures)
    for k in RECALL_AT:
        one = compared(found, "de")[f"text_retrieval_recall@{k}"]
        assert "without caption" in one.protocol
        # clip-benchmark counts a picture without caption as a failed query, we do not count it
        assert one.theirs == pytest.approx(one.ours * (pictures - WITHOUT_GERMAN) / pictures, abs=agreement.AGREES)
        assert compared(found, "de")[f"image_retrieval_recall@{k}"].protocol == agreement.SAME


def test_both_evaluators_notice_another_model(
    model: RetrievalModel, data: Captioned, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in JUDGES:
        pytest.importorskip(name)

    class Reversed(RetrievalModel):
        """Each batch of texts gets its vectors in the wrong order: what an adapter that mixes rows up would do."""

        def __init__(self) -> None:
            self.__dict__ = model.__dict__

        def encode_text(self, texts: Any, language: str | None = None) -> np.ndarray:
            return super().encode_text(texts, language)[::-1]

    right = agreement.own_metrics(model, data)
    monkeypatch.setattr(agreement, "own_metrics", lambda *_: right)
    found = agreement.judged(Reversed(), data, JUDGES)
    for name in JUDGES:
        assert not all(one.agrees for one in found if one.judge == name), name


def test_ties_are_broken_by_each_evaluator(model: RetrievalModel, data: Captioned) -> None:
    for name in JUDGES:
        pytest.importorskip(name)
    same = data.captions["fr"]._replace(texts=["voiture"] * len(data.pictures))
    found = agreement.judged(model, Captioned(data.pictures, {"fr": same}), JUDGES)
    assert all(one.agrees for one in found)
    for one in found:
        if one.metric.startswith("vision_to_text/R@"):
            assert (one.ours, one.best) == (0, 100)  # all captions are equal, and ties rank below
    assert {one.judge for one in found if one.theirs > one.ours + 1} == set(JUDGES)


def test_an_encoder_and_a_task_of_mteb(model: RetrievalModel, data: Captioned) -> None:
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
    np.testing.assert_allclose(model.encode_image([first]), model.encode_image(data.pictures[:1]), atol=1e-6)


def test_a_small_gallery_leaves_out_what_clip_benchmark_cannot_count(model: RetrievalModel, data: Captioned) -> None:
    pytest.importorskip("clip_benchmark")
    few = Captioned(data.pictures[:6], {"en": Captions(["red car", "blue dog"] * 3, np.arange(6))})
    assert list(clip_benchmark_retrieval.evaluate(model, few)["en"]) == [
        f"{kind}_retrieval_recall@{k}" for kind in ("image", "text") for k in (1, 5)
    ]


def test_the_command(bundle: Path, files: tuple[Path, Path]) -> None:
    for name in JUDGES:
        pytest.importorskip(name)
    captions, images = files
    told = call(judge.main, f"--model={bundle}", f"--captions={captions}", f"--images={images}")
    assert told.code == 0, told.err
    assert "compared in en, fr, de: all within 0.1 point" in told.out
    rows = [line for line in told.out.splitlines() if line.startswith(JUDGES)]
    assert len(rows) == 12 + 6 and sum("theirs counts pictures without caption" in row for row in rows) == 3


def trec_eval(text: np.ndarray, vision: np.ndarray, image: np.ndarray, *, ties_win: bool) -> dict[str, float]:
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
            names = [f"{'b' if hit == ties_win else 'a'}{place}" for place, hit in enumerate(hits)]
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
def test_trec_eval_gives_the_same_metrics(seed: int, values: str, block: int) -> None:
    random = np.random.default_rng(seed)
    image = random.permutation(np.r_[np.arange(40), random.integers(0, 40, 80)])  # of 45 pictures 5 have no caption
    if values == "tied":
        text, vision = (random.integers(-2, 3, (count, 4)).astype(np.float32) for count in (120, 45))
    else:
        text, vision = (random.normal(size=(count, 4)).astype(np.float32) for count in (120, 45))
    ours = metrics(retrieval_ranks(text, vision, text_image=image, block=block))
    assert ours == pytest.approx(trec_eval(text, vision, image, ties_win=False), abs=1e-4)
    found = extremes(text, vision, text_image=image)
    assert found.best == pytest.approx(trec_eval(text, vision, image, ties_win=True), abs=1e-4)
    assert (found.best["SumR"] > ours["SumR"]) == (values == "tied")
