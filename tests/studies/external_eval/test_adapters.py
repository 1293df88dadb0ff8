"""What stands between us and the judges: the data, the interval that ties leave, the verdict, the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.command import call

from cl2cm_jax.data.corpus import Corpus, Ragged
from cl2cm_jax.data.readers.caption_file import Row
from cl2cm_jax.errors import UserError
from cl2cm_jax.evaluation.retrieval import metrics, retrieval_ranks
from cl2cm_jax.studies.external_eval import __main__ as judge
from cl2cm_jax.studies.external_eval import agreement, packages
from cl2cm_jax.studies.external_eval.captioned import (
    Captioned,
    Captions,
    Remembering,
    extremes,
    from_corpus,
    from_rows,
    own_metrics,
)


class Coordinates:
    """A model whose vectors are written down: in a text as numbers, of a picture as the digits of its name."""

    weights, dim, languages = "none", 3, ("en", "de")

    def encode_text(self, texts: Any) -> np.ndarray:
        return np.array([[float(number) for number in text.split()] for text in texts], np.float32)

    def encode_image(self, images: Any) -> np.ndarray:
        return np.array([[float(digit) for digit in Path(image).stem] for image in images], np.float32)


def write_pictures(folder: Path) -> list[Row]:
    """Three pictures and their captions: two of the first in English, none of the last in German."""
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
    return [Row(number, *caption, "", "human") for number, caption in enumerate(captions, 2)]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "ENVIRONMENT", {})  # it would stay in what tests of this process import


@pytest.fixture
def data(tmp_path: Path) -> Captioned:
    return from_rows(write_pictures(tmp_path), images=tmp_path, split="test")


def test_rows_become_pictures_and_captions_by_language(data: Captioned) -> None:
    assert [path.stem for path in data.pictures] == ["100", "010", "001"]
    assert data.captions["en"].picture.tolist() == [0, 0, 1, 2]
    assert data.texts_of("de") == [["0.8 0.2 0.2"], ["0.1 0.9 0.3"], []]
    assert list(data.of(["de"]).captions) == ["de"]
    with pytest.raises(UserError, match="language 'fr' has no captions in the data, which have en, de"):
        data.of(["fr"])


def test_only_rows_of_the_split_count(tmp_path: Path) -> None:
    rows = [
        Row(2, "a.png", "en", "1 0 0", "train", "human"),
        Row(3, "b.png", "en", "0 1 0", "test", "human"),
    ]
    (tmp_path / "b.png").touch()
    assert [path.name for path in from_rows(rows, images=tmp_path, split="test").pictures] == ["b.png"]
    with pytest.raises(UserError, match="--split=validation"):
        from_rows(rows, images=tmp_path, split="validation")
    with pytest.raises(UserError, match="a.png is no picture file"):
        from_rows(rows, images=tmp_path, split="train")


def test_a_split_of_a_run_is_the_same_data(tmp_path: Path, data: Captioned) -> None:
    captions = [(name, text, row) for name, own in data.captions.items() for text, row in zip(*own, strict=True)]
    corpus = Corpus(
        name="test",
        languages=("de", "en", "fr"),
        image_ids=np.array([path.stem for path in data.pictures]),
        groups=np.full(3, "headline"),
        paths=[str(path) for path in data.pictures],
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
    assert found.pictures == data.pictures and list(found.captions) == ["en", "de"]
    for language, own in data.captions.items():
        assert found.captions[language].texts == own.texts
        assert found.captions[language].picture.tolist() == own.picture.tolist()


def test_our_numbers_are_those_of_the_evaluation(data: Captioned) -> None:
    model, captions = Coordinates(), data.captions["en"]
    ranks = retrieval_ranks(
        model.encode_text(captions.texts), model.encode_image(data.pictures), text_image=captions.picture
    )
    own = own_metrics(model, data)
    assert own["en"].ours == metrics(ranks) and own["en"].worst == own["en"].ours
    # Only the third caption has a tie: it scores 0.7 with the first picture and with its own.
    assert own["en"].best["text_to_vision/R@1"] - own["en"].ours["text_to_vision/R@1"] == 25
    assert own["de"].best == own["de"].ours


def test_a_picture_is_encoded_once(tmp_path: Path) -> None:
    seen: list[Any] = []

    class Counting(Coordinates):
        def encode_image(self, images: Any) -> np.ndarray:
            seen.extend(images)
            return np.array([[len(seen) + row, 0, 0] for row in range(len(images))], np.float32)

    red, green = (Image.new("P", (2, 3)) for _ in range(2))
    red.putpalette([255, 0, 0])
    green.putpalette([0, 255, 0])  # the same indices in another palette
    model = Remembering(Counting())
    first = model.encode_image([red, "a.png", green, Path("a.png")])
    assert len(seen) == 3 and first[:, 0].tolist() == [3, 4, 5, 4]
    np.testing.assert_array_equal(model.encode_image([green.convert("RGB"), red]), first[[2, 0]])
    assert len(seen) == 3 and model.encode_image([]).shape == (0, 3)


@pytest.mark.parametrize("seed", range(5))
def test_ties_move_the_metrics_from_worst_to_best(seed: int) -> None:
    random = np.random.default_rng(seed)
    image = np.r_[np.arange(6), random.integers(0, 6, 8)]
    text, vision = (random.integers(-1, 2, (count, 3)).astype(np.float32) for count in (14, 8))
    found = extremes(text, vision, text_image=image)
    assert found.worst == pytest.approx(found.ours)  # ties count against us
    nudged = {}
    for sign in (-1, 1):  # a further coordinate that only right pairs share moves them by less than scores differ
        texts = np.c_[text, 0.01 * sign * np.eye(8, dtype=np.float32)[image]]
        nudged[sign] = metrics(retrieval_ranks(texts, np.c_[vision, np.eye(8, dtype=np.float32)], text_image=image))
    assert found.worst == pytest.approx(nudged[-1]) and found.best == pytest.approx(nudged[1])
    assert found.best["SumR"] > found.worst["SumR"]


def test_scores_that_differ_by_rounding_are_ties() -> None:
    text, vision = np.eye(2, dtype=np.float32)[[0, 0]], np.array([[1, 0], [1 + 1e-7, 0]], np.float32)
    found = extremes(text, vision, text_image=np.array([0, 1]))
    recall = "text_to_vision/R@1"
    assert (found.worst[recall], found.ours[recall], found.best[recall]) == (0, 50, 100)


def judge_that_adds(points: float) -> agreement.Judge:
    """A judge that finds our numbers, and as many points more."""
    metric = "text_to_vision/R@1"

    def evaluate(model: Any, data: Captioned) -> dict[str, dict[str, float]]:
        own = own_metrics(model, data)
        return {name: {"hits": extremes.ours[metric] + points, "other": 7.0} for name, extremes in own.items()}

    return agreement.Judge(evaluate, {"hits": metric, "other": ""})


@pytest.mark.parametrize(("points", "agrees"), [(0, True), (0.09, True), (-0.09, True), (0.11, False), (-0.11, False)])
def test_agreement_is_a_tenth_of_a_point(
    points: float, agrees: bool, data: Captioned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(agreement.JUDGES, "mteb", judge_that_adds(points))
    compared, other = agreement.judged(Coordinates(), data.of(["de"]), ["mteb"])
    assert compared.agrees == agrees and compared.difference == pytest.approx(abs(points))
    assert other.agrees and other.protocol == agreement.NONE


def test_a_rule_for_ties_is_no_disagreement(data: Captioned, monkeypatch: pytest.MonkeyPatch) -> None:
    for points, agrees in ((25, True), (12.5, True), (25.2, False), (-0.2, False)):
        monkeypatch.setitem(agreement.JUDGES, "mteb", judge_that_adds(points))
        assert agreement.judged(Coordinates(), data.of(["en"]), ["mteb"])[0].agrees == agrees, points


def test_many_ties_are_warned_of(data: Captioned, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that gives all pictures one vector agrees with whatever a judge finds."""
    monkeypatch.setitem(agreement.JUDGES, "mteb", judge_that_adds(0))
    same = Coordinates()
    monkeypatch.setattr(same, "encode_image", lambda images: np.ones((len(images), 3), np.float32), raising=False)
    notes = agreement.table(agreement.judged(same, data.of(["de"]), ["mteb"])).notes
    assert notes[0].endswith("all within 0.1 point beyond ties")
    assert notes[1].startswith("warning: ties could move 1 of the scores by more than 1 point, hits in de by 100.0")
    notes = agreement.table(agreement.judged(Coordinates(), data.of(["de"]), ["mteb"])).notes
    assert notes[0].endswith("all within 0.1 point") and not any("warning" in note for note in notes)


@pytest.mark.parametrize("image", ["../100.png", "/etc/hostname", "a/../../100.png"])
def test_pictures_are_in_their_folder(image: str, tmp_path: Path) -> None:
    rows = [*write_pictures(tmp_path), Row(9, image, "en", "0 0 1", "", "human")]
    with pytest.raises(UserError, match="is not within --images="):
        from_rows(rows, images=tmp_path, split="test")


def test_a_picture_that_cannot_be_read_is_ours_to_refuse(data: Captioned, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(images: Any) -> np.ndarray:
        raise UserError("100.png is truncated")

    def never(*_: Any) -> Any:
        raise AssertionError("the judge was asked")

    monkeypatch.setitem(agreement.JUDGES, "mteb", agreement.Judge(never, {}))
    model = Coordinates()
    monkeypatch.setattr(model, "encode_image", refuse, raising=False)
    with pytest.raises(UserError, match="truncated"):
        agreement.judged(model, data, ["mteb"])


def test_what_another_protocol_counts_is_not_compared(
    tmp_path: Path, data: Captioned, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate(model: Any, data: Captioned) -> dict[str, dict[str, float]]:
        return {language: dict.fromkeys(agreement.JUDGES["mteb"].ours, 0.0) for language in data.captions}

    monkeypatch.setitem(agreement.JUDGES, "mteb", agreement.JUDGES["mteb"]._replace(evaluate=evaluate, modules=()))
    texts = [*data.captions["en"].texts, *["0 0 0.1"] * 997]
    many = Captioned(data.pictures, {"en": Captions(texts, np.r_[data.captions["en"].picture, np.zeros(997, int)])})
    found = {one.name: one for one in agreement.judged(Coordinates(), many, ["mteb"])}
    assert found["vision_to_text/map_at_1000"].protocol == "theirs ends at 1000"
    assert found["text_to_vision/map_at_1000"].protocol == agreement.SAME
    assert found["vision_to_text/map_at_1000"].agrees and not found["text_to_vision/map_at_1000"].agrees
    row = next(row for row in agreement.table(list(found.values())).rows if "v2t map_at_1000" in row)
    assert row[-2:] == ("-", "theirs ends at 1000")


@pytest.mark.parametrize(("points", "code"), [(0.0, 0), (0.2, 1)])
def test_command(points: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = write_pictures(tmp_path)
    lines = ["image,language,caption", *(f"{row.image},{row.language},{row.caption}" for row in rows)]
    (tmp_path / "captions.csv").write_text("\n".join(lines))
    monkeypatch.setitem(agreement.JUDGES, "mteb", judge_that_adds(points))
    monkeypatch.setattr("cl2cm_jax.load", lambda path: Coordinates())
    files = f"--captions={tmp_path / 'captions.csv'}", f"--images={tmp_path}"
    told = call(judge.main, "--model=bundle", *files, "--judges=mteb", "--languages=de")
    assert told.code == code, told.err
    assert ("all within 0.1 point" in told.out) == (code == 0)
    assert ("mteb, de: hits 100.20, ours 100.00" in told.out) == (code == 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--captions=a.csv", "--captions and --images go together"),
        ("", "give either --captions with --images, or the --workdir"),
        ("--captions=a.csv --images=b --workdir=c", "give either --captions"),
        ("--workdir=c --judges=mtebb", "--judges='mtebb' is unknown; did you mean 'mteb'?"),
        ("--workdir=c --judges=,", "--judges= is empty"),
        ("--captions=none.csv --images=b", "--captions='none.csv' is not a file"),
    ],
)
def test_mistakes_are_one_line(arguments: str, message: str) -> None:
    told = call(judge.main, "--model=bundle", *arguments.split())
    assert told.code == 2 and message in told.err and told.err.count("\n") == 1


def test_the_command_knows_every_judge() -> None:
    assert judge.JUDGES == tuple(agreement.JUDGES)


def test_a_judge_that_is_not_installed_is_named() -> None:
    with pytest.raises(
        UserError, match=r"no_such_judge is not installed; run: in a checkout pip install -e '\.\[judges\]'"
    ):
        packages.package("no_such_judge")
