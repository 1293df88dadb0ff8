"""External evaluation without the libraries: local data, tie bounds, agreement, the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.command import call

from cl2cm_jax.data.captions import Caption
from cl2cm_jax.data.corpus import Corpus, Ragged
from cl2cm_jax.errors import UserError
from cl2cm_jax.evaluation.retrieval import metrics, retrieval_ranks
from cl2cm_jax.studies.external_eval import __main__ as external_eval
from cl2cm_jax.studies.external_eval import agreement, packages
from cl2cm_jax.studies.external_eval.captioned import (
    CachedModel,
    Captioned,
    Captions,
    from_corpus,
    from_rows,
)
from cl2cm_jax.studies.external_eval.ties import own_metrics, tie_bounds


class Coordinates:
    """A model whose vectors are the numbers in a text, and the digits in the name of an image."""

    weights, dim, languages = "none", 3, ("en", "de")

    def encode_text(self, texts: Any) -> np.ndarray:
        return np.array([[float(number) for number in text.split()] for text in texts], np.float32)

    def encode_image(self, images: Any) -> np.ndarray:
        return np.array([[float(digit) for digit in Path(image).stem] for image in images], np.float32)


def write_images(folder: Path) -> list[Caption]:
    """Three images and their captions: two of the first in English, none of the last in German."""
    captions = [
        ("100.png", "en", "0.9 0.1 0"),
        ("100.png", "en", "0.1 0.8 0.2"),
        ("010.png", "en", "0.7 0.7 0.1"),
        ("001.png", "en", "0.3 0.2 0.5"),
        ("100.png", "de", "0.8 0.2 0.2"),
        ("010.png", "de", "0.1 0.9 0.3"),
    ]
    for image in dict.fromkeys(image for image, *_ in captions):
        (folder / image).touch()
    return [Caption(*caption, line=number) for number, caption in enumerate(captions, 2)]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_eval, "ENVIRONMENT", {})  # it would affect later imports in this process


@pytest.fixture
def data(tmp_path: Path) -> Captioned:
    return from_rows(write_images(tmp_path), images=tmp_path, split="test")


def test_rows_become_images_and_captions_by_language(data: Captioned) -> None:
    assert [path.stem for path in data.images] == ["100", "010", "001"]
    assert data.captions["en"].image.tolist() == [0, 0, 1, 2]
    assert data.texts_of("de") == [["0.8 0.2 0.2"], ["0.1 0.9 0.3"], []]
    assert list(data.of(["de"]).captions) == ["de"]
    with pytest.raises(UserError, match="language 'fr' has no captions in the data, which have en, de"):
        data.of(["fr"])


def test_only_rows_of_the_split_count(tmp_path: Path) -> None:
    rows = [
        Caption("a.png", "en", "1 0 0", "train"),
        Caption("b.png", "en", "0 1 0", "test"),
    ]
    (tmp_path / "b.png").touch()
    assert [path.name for path in from_rows(rows, images=tmp_path, split="test").images] == ["b.png"]
    with pytest.raises(UserError, match="--split=validation"):
        from_rows(rows, images=tmp_path, split="validation")
    with pytest.raises(UserError, match="a.png is not an image file"):
        from_rows(rows, images=tmp_path, split="train")


def test_a_split_of_a_run_is_the_same_data(tmp_path: Path, data: Captioned) -> None:
    captions = [(name, text, row) for name, own in data.captions.items() for text, row in zip(*own, strict=True)]
    corpus = Corpus(
        name="test",
        languages=("de", "en", "fr"),
        image_ids=np.array([path.stem for path in data.images]),
        groups=np.full(3, "headline"),
        paths=[str(path) for path in data.images],
        vision=np.zeros((3, 1, 1), np.float32),
        vision_mask=np.ones((3, 1), bool),
        caption_text=[text for _, text, _ in captions],
        caption_image=np.array([row for *_, row in captions]),
        caption_language=np.array([("de", "en").index(name) for name, *_ in captions]),
        caption_origin=np.full(len(captions), "human"),
        sentences=np.zeros((len(captions), 1), np.float32),
        words=Ragged(np.zeros((0, 1)), np.zeros(len(captions) + 1, np.int64), np.zeros(0, bool)),
    )
    found = from_corpus(corpus, languages=("en", "de", "fr"))
    assert found.images == data.images and list(found.captions) == ["en", "de"]
    for language, own in data.captions.items():
        assert found.captions[language].texts == own.texts
        assert found.captions[language].image.tolist() == own.image.tolist()


def test_our_metrics_are_those_of_the_evaluation(data: Captioned) -> None:
    model, captions = Coordinates(), data.captions["en"]
    ranks = retrieval_ranks(
        model.encode_text(captions.texts), model.encode_image(data.images), text_image=captions.image
    )
    own = own_metrics(model, data)
    assert own["en"].ours == metrics(ranks) and own["en"].worst == own["en"].ours
    # Only the third caption has a tie: it scores 0.7 with the first image and with its own.
    assert own["en"].best["text_to_vision/R@1"] - own["en"].ours["text_to_vision/R@1"] == 25
    assert own["de"].best == own["de"].ours


def test_an_image_is_encoded_once(tmp_path: Path) -> None:
    seen: list[Any] = []

    class Counting(Coordinates):
        def encode_image(self, images: Any) -> np.ndarray:
            seen.extend(images)
            return np.array([[len(seen) + row, 0, 0] for row in range(len(images))], np.float32)

    red, green = (Image.new("P", (2, 3)) for _ in range(2))
    red.putpalette([255, 0, 0])
    green.putpalette([0, 255, 0])  # the same indices in another palette
    model = CachedModel(Counting())
    first = model.encode_image([red, "a.png", green, Path("a.png")])
    assert len(seen) == 3 and first[:, 0].tolist() == [3, 4, 5, 4]
    np.testing.assert_array_equal(model.encode_image([green.convert("RGB"), red]), first[[2, 0]])
    assert len(seen) == 3 and model.encode_image([]).shape == (0, 3)


@pytest.mark.parametrize("seed", range(5))
def test_ties_move_the_metrics_from_worst_to_best(seed: int) -> None:
    random = np.random.default_rng(seed)
    image = np.r_[np.arange(6), random.integers(0, 6, 8)]
    text, vision = (random.integers(-1, 2, (count, 3)).astype(np.float32) for count in (14, 8))
    found = tie_bounds(text, vision, text_image=image)
    assert found.worst == pytest.approx(found.ours)  # pessimistic ties
    nudged = {}
    for sign in (-1, 1):  # a coordinate that only positives share breaks ties without reordering other scores
        texts = np.c_[text, 0.01 * sign * np.eye(8, dtype=np.float32)[image]]
        nudged[sign] = metrics(retrieval_ranks(texts, np.c_[vision, np.eye(8, dtype=np.float32)], text_image=image))
    assert found.worst == pytest.approx(nudged[-1]) and found.best == pytest.approx(nudged[1])
    assert found.best["SumR"] > found.worst["SumR"]


def test_scores_that_differ_by_rounding_are_ties() -> None:
    text, vision = np.eye(2, dtype=np.float32)[[0, 0]], np.array([[1, 0], [1 + 1e-7, 0]], np.float32)
    found = tie_bounds(text, vision, text_image=np.array([0, 1]))
    recall = "text_to_vision/R@1"
    assert (found.worst[recall], found.ours[recall], found.best[recall]) == (0, 50, 100)


def library_that_adds(points: float) -> agreement.Library:
    """A library whose recalls are ours plus some points."""
    metric = "text_to_vision/R@1"

    def evaluate(model: Any, data: Captioned) -> dict[str, dict[str, float]]:
        own = own_metrics(model, data)
        return {name: {"hits": bounds.ours[metric] + points, "other": 7.0} for name, bounds in own.items()}

    return agreement.Library(evaluate, {"hits": metric, "other": ""})


@pytest.mark.parametrize(("points", "agrees"), [(0, True), (0.09, True), (-0.09, True), (0.11, False), (-0.11, False)])
def test_agreement_is_a_tenth_of_a_point(
    points: float, agrees: bool, data: Captioned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(agreement.LIBRARIES, "mteb", library_that_adds(points))
    compared, other = agreement.compare(Coordinates(), data.of(["de"]), ["mteb"])
    assert compared.agrees == agrees and compared.difference == pytest.approx(abs(points))
    assert other.agrees and other.protocol == agreement.NONE


def test_another_rule_for_ties_is_not_a_disagreement(data: Captioned, monkeypatch: pytest.MonkeyPatch) -> None:
    for points, agrees in ((25, True), (12.5, True), (25.2, False), (-0.2, False)):
        monkeypatch.setitem(agreement.LIBRARIES, "mteb", library_that_adds(points))
        assert agreement.compare(Coordinates(), data.of(["en"]), ["mteb"])[0].agrees == agrees, points


def test_many_ties_cause_a_warning(data: Captioned, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that gives all images the same vector agrees with any value."""
    monkeypatch.setitem(agreement.LIBRARIES, "mteb", library_that_adds(0))
    same = Coordinates()
    monkeypatch.setattr(same, "encode_image", lambda images: np.ones((len(images), 3), np.float32), raising=False)
    notes = agreement.table(agreement.compare(same, data.of(["de"]), ["mteb"]), images=3).notes
    assert notes[0].endswith("all within 0.1 point beyond ties")
    assert notes[1].startswith("warning: ties could change 1 of the scores by more than 1 point, hits in de by 100.0")
    assert notes[2].startswith("only 3 images: one more hit is 33.3 points of a recall")
    notes = agreement.table(agreement.compare(Coordinates(), data.of(["de"]), ["mteb"]), images=50).notes
    assert notes[0].endswith("all within 0.1 point") and len(notes) == 2


@pytest.mark.parametrize("image", ["../100.png", "/etc/hostname", "a/../../100.png"])
def test_images_outside_their_folder_are_refused(image: str, tmp_path: Path) -> None:
    rows = [*write_images(tmp_path), Caption(image, "en", "0 0 1")]
    with pytest.raises(UserError, match="is not within --images="):
        from_rows(rows, images=tmp_path, split="test")


def test_an_unreadable_image_is_refused_before_a_library_is_called(
    data: Captioned, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(images: Any) -> np.ndarray:
        raise UserError("100.png is truncated")

    def never(*_: Any) -> Any:
        raise AssertionError("the library was called")

    monkeypatch.setitem(agreement.LIBRARIES, "mteb", agreement.Library(never, {}))
    model = Coordinates()
    monkeypatch.setattr(model, "encode_image", refuse, raising=False)
    with pytest.raises(UserError, match="truncated"):
        agreement.compare(model, data, ["mteb"])


def test_scores_of_another_protocol_are_not_compared(
    tmp_path: Path, data: Captioned, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate(model: Any, data: Captioned) -> dict[str, dict[str, float]]:
        return {language: dict.fromkeys(agreement.LIBRARIES["mteb"].ours, 0.0) for language in data.captions}

    monkeypatch.setitem(
        agreement.LIBRARIES, "mteb", agreement.LIBRARIES["mteb"]._replace(evaluate=evaluate, modules=())
    )
    texts = [*data.captions["en"].texts, *["0 0 0.1"] * 997]
    many = Captioned(data.images, {"en": Captions(texts, np.r_[data.captions["en"].image, np.zeros(997, int)])})
    found = {one.name: one for one in agreement.compare(Coordinates(), many, ["mteb"])}
    assert found["vision_to_text/map_at_1000"].protocol == "cut at rank 1000"
    assert found["text_to_vision/map_at_1000"].protocol == agreement.SAME
    assert found["vision_to_text/map_at_1000"].agrees and not found["text_to_vision/map_at_1000"].agrees
    row = next(row for row in agreement.table(list(found.values()), images=50).rows if "v2t map_at_1000" in row)
    assert row[-2:] == ("-", "cut at rank 1000")


@pytest.mark.parametrize(("points", "code"), [(0.0, 0), (0.2, 1)])
def test_command(points: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = write_images(tmp_path)
    lines = ["image,language,caption", *(f"{row.image},{row.language},{row.caption}" for row in rows)]
    (tmp_path / "captions.csv").write_text("\n".join(lines))
    monkeypatch.setitem(agreement.LIBRARIES, "mteb", library_that_adds(points))
    monkeypatch.setattr("cl2cm_jax.load", lambda path: Coordinates())
    files = f"--captions={tmp_path / 'captions.csv'}", f"--images={tmp_path}"
    outcome = call(external_eval.main, "--model=bundle", *files, "--libraries=mteb", "--languages=de")
    assert outcome.code == code, outcome.err
    assert ("all within 0.1 point" in outcome.out) == (code == 0)
    assert ("mteb, de: hits 100.20, ours 100.00" in outcome.out) == (code == 1)
    assert "only 3 images: one more hit is 33.3 points" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--captions=a.csv", "--captions and --images go together"),
        ("", "give either --captions with --images, or --workdir"),
        ("--captions=a.csv --images=b --workdir=c", "two sources of data"),
        ("--workdir=c --libraries=mtebb", "--libraries='mtebb' is unknown; did you mean 'mteb'?"),
        ("--workdir=c --judges=,", "--libraries= is empty"),
        ("--captions=none.csv --images=b", "--captions='none.csv' is not a file"),
    ],
)
def test_mistakes_are_one_line(arguments: str, message: str) -> None:
    outcome = call(external_eval.main, "--model=bundle", *arguments.split())
    assert outcome.code == 2 and message in outcome.err and outcome.err.count("\n") == 1


def test_the_command_lists_every_library() -> None:
    assert external_eval.LIBRARIES == tuple(agreement.LIBRARIES)


def test_a_missing_library_is_named() -> None:
    with pytest.raises(
        UserError, match=r"no_such_library is not installed; run: in a checkout pip install -e '\.\[judges\]'"
    ):
        packages.package("no_such_library")
