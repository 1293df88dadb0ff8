"""The paper's sets on shrunk trees of the published layout; Multi30K's real text where it lies beside the project."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import paper_trees
from support.built_sets import Caption, Record, all_records, captions_of, open_set, read_records
from support.paper_trees import SPLITS, TEST, TRAIN, VALIDATION

pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_datasets")

from cl2cm_jax.config import defaults
from cl2cm_jax.data.captions import by_split
from cl2cm_jax.data.sets.paper.captions import read_caption_lines
from cl2cm_jax.data.stored_sets import StoredSet, prepare
from cl2cm_jax.errors import UserError

REAL = Path(__file__).resolve().parents[5] / "shared" / "data" / "multi30k"


def builder(name: str, root: Path, **options: Any) -> StoredSet:
    usual = {"targets": ("zh",) if name != "multi30k" else ("de",), "task": 2}
    return open_set(name, root / "data", root=root, **usual | options)


def built(name: str, root: Path, **options: Any) -> dict[str, list[Record]]:
    made = builder(name, root, **options)
    prepare(made)
    return all_records(made)


def texts(record: Record, language: str) -> list[str]:
    return [caption.text for caption in record.captions if caption.language == language]


def origins(records: list[Record]) -> set[tuple[str, str]]:
    return {(caption.language, caption.origin) for record in records for caption in record.captions}


def append(file: Path, text: str) -> None:
    file.write_text(file.read_text(encoding="utf-8") + text, encoding="utf-8")


def test_multi30k_task_2(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paper_trees.write_multi30k(tmp_path)
    with caplog.at_level(logging.WARNING):
        records = built("multi30k", tmp_path)
    assert {split: [record.image_id for record in found] for split, found in records.items()} == SPLITS
    assert origins(records["train"]) == {("en", "human"), ("de", "machine"), ("en2de2en", "machine")}
    assert origins(records["test"]) == {("de", "human"), ("de2en", "machine"), ("en", "human")}
    first = records["train"][0]
    assert texts(first, "en") == [f"a enc sentence {k} of 100" for k in (0, 1)]
    assert texts(first, "de") == [f"a enc2de sentence {k} of 100" for k in (0, 1)]
    assert first.files == ((tmp_path / "multi30k/flickr30k-images/100.jpg").read_bytes(),)
    assert first.path == str(tmp_path / "multi30k/flickr30k-images/100.jpg")
    for split, number, published in (("train", "8", "29,000"), ("validation", "3", "1,014"), ("test", "3", "1,000")):
        assert f"multi30k: the {split} split has {number} images or videos, {published} as published" in caplog.text


def test_translations_of_queries_are_aligned_with_them(tmp_path: Path) -> None:
    tree = paper_trees.write_multi30k(tmp_path)
    file = tree / "TextData" / "multi30kval_google_de2enc.caption.txt"
    file.write_text("\n".join(reversed(file.read_text().split("\n"))))
    for record in built("multi30k", tmp_path)["validation"]:
        assert [text.replace("de2enc", "de") for text in texts(record, "de2en")] == texts(record, "de")


def test_several_languages_and_task_1(tmp_path: Path) -> None:
    paper_trees.write_multi30k(tmp_path, task=1, languages=("de", "fr", "cs"), english=False)
    records = built("multi30k", tmp_path, targets=("de", "fr", "cs"), task=1)
    for record in records["train"]:
        assert Counter(caption.language for caption in record.captions) == {"en": 1, "de": 1, "fr": 1, "cs": 1}
    assert {language for language, _ in origins(records["validation"])} == {
        "de", "de2en", "fr", "fr2en", "cs", "cs2en",
    }  # fmt: skip


def test_root_may_be_the_tree_itself(tmp_path: Path) -> None:
    tree = paper_trees.write_multi30k(tmp_path)
    assert builder("multi30k", tree).name == "multi30k"


def test_image_features_in_the_order_of_their_lists(tmp_path: Path) -> None:
    tree = paper_trees.write_multi30k(tmp_path)
    records = built("multi30k", tmp_path, features="resnet_152")
    for found in records.values():
        for record in found:
            assert record.feature is not None and record.files == ()
            np.testing.assert_array_equal(record.feature, np.full((1, 5), float(record.image_id), np.float32))
    # the other place that id lists have in published trees, and feature folders beside FeatureData/
    for name in ("train_id.txt", "val_id.txt", "test_id_2016.txt"):
        (tree / "FeatureData" / name).rename(tree / "FeatureData" / "resnet_152" / name)
    (tree / "FeatureData" / "resnet_152").rename(tree / "resnet_152")
    assert built("multi30k", tmp_path, features="resnet_152")["test"][0].feature is not None


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_mscoco(tmp_path: Path, language: str) -> None:
    paper_trees.write_mscoco(tmp_path, language=language)
    records = built("mscoco", tmp_path, targets=(language,))
    assert {split: [record.image_id for record in found] for split, found in records.items()} == SPLITS
    assert records["test"][0].path.endswith("all_pics/COCO_val2014_000000000300.jpg")
    assert origins(records["test"]) == {(language, "human")}


@pytest.mark.parametrize("back", ["zh2enc", "zhc2en"])
def test_vatex(tmp_path: Path, back: str, caplog: pytest.LogCaptureFixture) -> None:
    tree = paper_trees.write_videos(tmp_path, folder="VATEX", prefix="vatex", features="i3d_kinetics", back=back)
    paper_trees.captions(tree / "TextData" / "vatextest.caption.txt", [*TEST, "999"], "enc", each=10)
    with caplog.at_level(logging.WARNING):
        records = built("vatex", tmp_path, features="i3d_kinetics")
    frames = {record.image_id: np.asarray(record.feature) for found in records.values() for record in found}
    assert frames[TRAIN[0]].shape == (64, 6) and frames[TEST[2]].shape == (2, 6)
    assert frames[TEST[2]][1, 0] == 70 + 2 * 13 - 1
    assert origins(records["test"]) == {("zh", "human"), ("zh2en", "machine"), ("en", "human")}
    assert "exactly 10" not in caplog.text
    assert "25,991 as published" in caplog.text
    report = next((tmp_path / "data" / "vatex").glob("*.report.tsv")).read_text()
    assert "10 captions of images without a target caption are not used, first '999'" in report


def test_vatex_without_ten_captions(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree = paper_trees.write_videos(tmp_path, folder="vatex", prefix="vatex", features="i3d")
    for name in ("val_zh", "val_google_zh2enc"):
        file = tree / "TextData" / f"vatex{name}.caption.txt"
        file.write_text(file.read_text().rsplit("\n", 1)[0])
    with caplog.at_level(logging.WARNING):
        built("vatex", tmp_path, features="i3d")
    message = "1 of 3 in the validation split have not exactly 10 captions in 'zh' as published, e.g. '202' has 9"
    assert message in caplog.text


@pytest.mark.parametrize("prefix", ["msrvtt10kcn", "msrvttcn"])
def test_msrvtt_cn(tmp_path: Path, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    paper_trees.write_videos(tmp_path, folder=prefix, prefix=prefix, features="resnext101-resnet152", each=2)
    with caplog.at_level(logging.WARNING):
        records = built("msrvtt_cn", tmp_path, features="resnext101-resnet152")
    assert "msrvtt_cn: the test split has 3 images or videos, 1,000 as published" in caplog.text
    assert "the train split has" not in caplog.text and "the validation split has" not in caplog.text
    assert {split: len(found) for split, found in records.items()} == {"train": 8, "validation": 3, "test": 3}


@pytest.mark.parametrize("task", [1, 2])
def test_raw_text_of_multi30k_is_human(tmp_path: Path, task: int) -> None:
    paper_trees.write_raw_multi30k(tmp_path, task=task)
    records = built("multi30k", tmp_path, task=task)
    assert {split: [record.image_id for record in found] for split, found in records.items()} == SPLITS
    assert origins(records["train"]) == origins(records["test"]) == {("en", "human"), ("de", "human")}
    assert len(texts(records["train"][0], "de")) == (1 if task == 1 else 5)
    assert texts(records["test"][1], "en")[0] == f"{'test_2016_flickr' if task == 1 else 'test_2016.1'} en 301"


def test_raw_text_that_is_damaged(tmp_path: Path) -> None:
    import gzip

    paper_trees.write_raw_multi30k(tmp_path)
    file = tmp_path / "data/task1/raw/val.de.gz"
    whole = file.read_bytes()
    file.write_bytes(whole[:-6])
    with pytest.raises(UserError, match=r"val\.de\.gz cannot be read"):
        prepare(builder("multi30k", tmp_path, task=1))
    file.write_bytes(gzip.compress(b"one\n\n"))
    with pytest.raises(UserError, match=r"val\.de\.gz has 2 lines but .*val\.txt has 3 images"):
        prepare(builder("multi30k", tmp_path, task=1))
    file.write_bytes(gzip.compress(b"one\n\nthree\n"))
    with pytest.raises(UserError, match=r"val\.de\.gz, line 2, field sentence: is empty"):
        prepare(builder("multi30k", tmp_path, task=1))


def test_everything_that_is_missing_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder; .* https://github.com/LiJiaBei-7/nrccr"):
        builder("multi30k", tmp_path / "none")
    tree = paper_trees.write_multi30k(tmp_path)
    (tree / "TextData" / "multi30kval_de.caption.txt").unlink()
    (tree / "TextData" / "Flickr30ktrain_enc.caption.txt").unlink()
    (tree / "flickr30k-images").rename(tree / "pictures")
    with pytest.raises(UserError) as error:
        builder("multi30k", tmp_path)
    message = str(error.value)
    for part in (
        f"config.data.root='{tmp_path}': multi30k lacks Flickr30ktrain_enc.caption.txt, multi30kval_de.caption.txt, "
        "flickr30k-images; ",
        f"looked in {tree / 'TextData'}, {tree}; ",
        "published at https://github.com/LiJiaBei-7/nrccr (captions, id lists, features) and "
        "https://github.com/multi30k/dataset",
    ):
        assert part in message
    assert "\n" not in message
    with pytest.raises(UserError, match=r"multi30k lacks (.*?); looked in") as error:
        builder("multi30k", tmp_path, targets=("de", "fr", "cs"))
    lacking = str(error.value).split(" lacks ")[1].split("; looked in")[0].split(", ")
    assert len(lacking) == len(set(lacking)) > 6
    with pytest.raises(UserError, match="lacks .*train-vgg-avgpool.npy, val-vgg-avgpool.npy"):
        builder("multi30k", tmp_path, features="vgg")
    (tmp_path / "VATEX").mkdir()
    with pytest.raises(UserError, match="shape.txt, .*looked in .*VATEX/TextData, .*VATEX/FeatureData/i3d"):
        builder("vatex", tmp_path, features="i3d")


def test_pictures_may_lie_elsewhere(tmp_path: Path) -> None:
    tree = paper_trees.write_multi30k(tmp_path)
    (tree / "flickr30k-images").rename(tmp_path / "mine")
    assert built("multi30k", tmp_path, images=str(tmp_path / "mine"))["train"][0].files
    with pytest.raises(UserError, match="config.data.images='none' is not a folder"):
        builder("multi30k", tmp_path, images="none")


def test_a_missing_partner_stops_or_is_left_out(tmp_path: Path) -> None:
    tree = paper_trees.write_multi30k(tmp_path)
    file = tree / "TextData" / "Flickr30ktrain_google_enc2de.caption.txt"
    file.write_text(file.read_text().split("\n", 1)[1])
    source = tree / "TextData" / "Flickr30ktrain_enc.caption.txt"
    with pytest.raises(UserError) as error:
        prepare(builder("multi30k", tmp_path))
    assert str(error.value).startswith(f"{source}, line 1, field cap_id: 100#enc#0 has no partner 100#enc2de#0 in ")
    assert not list((tmp_path / "data").glob("**/dataset_info.json"))
    records = built("multi30k", tmp_path, on_error="skip")["train"]
    assert [texts(records[0], language) for language in ("en", "de")] == [
        ["a enc sentence 1 of 100"],
        ["a enc2de sentence 1 of 100"],
    ]
    assert len(texts(records[1], "de")) == 2


def test_translations_there_and_back_that_nothing_reads_cost_no_training_caption(tmp_path: Path) -> None:
    tree = paper_trees.write_multi30k(tmp_path)
    whole = built("multi30k", tmp_path)["train"]
    file = tree / "TextData" / "Flickr30ktrain_google_enc2de2enc.caption.txt"
    bad = "100#enc2de2enc#5"  # has no sentence, and its caption is not there either
    file.write_text(file.read_text().split("\n", 1)[1] + f"\n999#enc2de2enc#0 another\n{bad}")
    prepare(made := builder("multi30k", tmp_path))
    records = list(read_records(made, "train"))
    for language in ("en", "de"):
        assert [texts(r, language) for r in records] == [texts(r, language) for r in whole]
    assert len(texts(records[0], "en2de2en")) == 1 and len(texts(records[1], "en2de2en")) == 2
    report = made.report_path.read_text()
    assert "problem\t" not in report and f"'{bad}' has no sentence" in report
    assert "1 training captions have no partner here, first '100#enc2de2enc#0'" in report
    assert "1 captions have no partner in training and are not used, first '999#enc2de2enc#0'" in report


def test_translations_back_that_an_evaluation_can_read_are_needed(tmp_path: Path) -> None:
    file = paper_trees.write_multi30k(tmp_path) / "TextData" / "multi30ktest_google_de2enc_2016.caption.txt"
    file.write_text(file.read_text().split("\n", 1)[1])
    with pytest.raises(UserError, match="300#de#0 has no partner 300#de2enc#0"):
        prepare(builder("multi30k", tmp_path))


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("Flickr30ktrain_google_enc2de", "\n100#de#5 x", "line 17, .*has the tag 'de'; this file has 'enc2de'"),
        ("multi30kval_de", "\n200#de#0 again", "multi30kval_de.caption.txt, line 7, .*duplicate id '200#de#0'"),
        ("multi30ktest_de_2016", "\n300#de#5", "line 7, .*'300#de#5' has no sentence"),
        ("multi30ktest_de_2016", "\n300#de#5 x", "line 7, .*300#de#5 has no partner 300#de2enc#5"),
        ("multi30kval_en", "\nno id", "line 7, .*'no' is not an id"),
    ],
)
def test_bad_captions_are_named_with_file_and_line(tmp_path: Path, file: str, line: str, message: str) -> None:
    tree = paper_trees.write_multi30k(tmp_path)
    append(tree / "TextData" / f"{file}.caption.txt", line)
    with pytest.raises(UserError, match=message):
        prepare(builder("multi30k", tmp_path))


def test_lists_that_disagree(tmp_path: Path) -> None:
    tree = paper_trees.write_multi30k(tmp_path)
    listed = tree / "FeatureData" / "val_id.txt"
    paper_trees.write_ids(listed, VALIDATION[:2])
    for options in ({}, {"features": "resnet_152"}):
        with pytest.raises(UserError, match="'202' is not in .*val_id.txt|has 2 ids but .* has 3 rows"):
            prepare(builder("multi30k", tmp_path, **options))
    paper_trees.write_ids(listed, [*VALIDATION, "299"])
    prepare(made := builder("multi30k", tmp_path))
    assert "1 of " in (report := made.report_path.read_text()) and "not used, first '299'" in report
    paper_trees.write_ids(listed, [VALIDATION[0], *VALIDATION])
    with pytest.raises(UserError, match="val_id.txt, line 2: duplicate id '200'"):
        prepare(builder("multi30k", tmp_path))


def test_a_picture_that_is_missing_broken_or_elsewhere(tmp_path: Path) -> None:
    tree = paper_trees.write_mscoco(tmp_path)
    (tree / "all_pics" / "COCO_val2014_000000000100.jpg").write_bytes(b"")
    (tree / "all_pics" / "COCO_val2014_000000000101.jpg").unlink()
    files = (tree / "image_ids.txt").read_text().split("\n")
    files[2] = "102 ../image_ids.txt"
    (tree / "image_ids.txt").write_text("\n".join(files[:-1]))
    with pytest.raises(UserError, match=r"\(train\).* is empty .*\(and 3 more\)"):
        prepare(made := builder("mscoco", tmp_path))
    report = made.report_path.read_text()
    for part in ("does not exist", "which is outside", "'302' is not in image_ids.txt"):
        assert part in report
    records = built("mscoco", tmp_path, on_error="skip")
    assert {split: len(found) for split, found in records.items()} == {"train": 5, "validation": 3, "test": 2}


def test_a_video_without_frames_or_with_bad_values(tmp_path: Path) -> None:
    tree = paper_trees.write_videos(tmp_path, folder="vatex", prefix="vatex", features="i3d")
    folder = tree / "FeatureData" / "i3d"
    frames = (folder / "video2frames.txt").read_text()
    (folder / "video2frames.txt").write_text(frames.replace("['300_0', '300_1']", "[]"))
    with pytest.raises(UserError, match=r"video '300' has no frame in .*video2frames\.txt"):
        prepare(builder("vatex", tmp_path, features="i3d"))
    (folder / "video2frames.txt").write_text(frames.replace("'300': ", "'388': "))
    with pytest.raises(UserError, match=r"'300' is not in .*video2frames\.txt"):
        prepare(builder("vatex", tmp_path, features="i3d"))
    (folder / "video2frames.txt").write_text(frames)
    values = paper_trees.frame_values(96)
    values[-1, 2] = np.nan
    values.tofile(folder / "feature.bin")
    with pytest.raises(UserError, match="'302' has NaN or infinite features"):
        prepare(builder("vatex", tmp_path, features="i3d"))


def test_images_shared_between_splits_are_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree = paper_trees.write_mscoco(tmp_path)
    for name in ("train_enc", "train_google_enc2zh", "train_google_enc2zh2enc"):
        tag = name.removeprefix("train_").removeprefix("google_")
        append(tree / "TextData" / f"mscoco{name}.caption.txt", f"\n{TEST[0]}#{tag}#0 shared")
    append(tree / "FeatureData" / "train_id.txt", TEST[0])
    prepare(made := builder("mscoco", tmp_path))
    said = "1 of the test split are in the train split as well, first '300'"
    assert said in made.report_path.read_text() and said in caplog.text


def test_rebuilds_only_when_an_input_changed(tmp_path: Path) -> None:
    tree = paper_trees.write_multi30k(tmp_path)
    first = builder("multi30k", tmp_path).data_dir
    assert builder("multi30k", tmp_path).data_dir == first
    append(tree / "TextData" / "multi30kval_de.caption.txt", "\n")
    assert builder("multi30k", tmp_path).data_dir != first
    assert builder("multi30k", tmp_path, targets=("de",), on_error="skip").data_dir != first


def test_a_picture_written_over_in_place_is_a_changed_input(tmp_path: Path) -> None:
    """The folder's own time of change stays as it is."""
    tree = paper_trees.write_multi30k(tmp_path)
    first = builder("multi30k", tmp_path).data_dir
    with (tree / "flickr30k-images" / "100.jpg").open("ab") as file:
        file.write(b"more")
    assert builder("multi30k", tmp_path).data_dir != first


@pytest.mark.parametrize(("task", "each"), [(1, 1), (2, 5)])
def test_the_real_text_of_multi30k(tmp_path: Path, task: int, each: int) -> None:
    if not REAL.is_dir():
        pytest.skip("no ../shared/data/multi30k beside the project: nothing real to read")
    from cl2cm_jax.data.sets.multi30k import SET
    from cl2cm_jax.data.sets.paper.files import Search
    from cl2cm_jax.data.sets.paper.raw_multi30k import RawFiles

    data = defaults().data
    data.task, data.targets = task, ("de", "fr", "cs") if task == 1 else ("de",)
    search = Search(SET, str(REAL))
    files = RawFiles.found_in(search, data)
    assert files is not None
    search.check()
    table = files.read()
    splits, problems = by_split(table.rows), table.problems
    assert {split: len(found) for split, found in splits.items()} == {"train": 29000, "validation": 1014, "test": 1000}
    first = captions_of(splits["train"]["1000092795"])
    german = [caption.text for caption in first if caption.language == "de"]
    assert len(german) == each
    if task == 1:
        assert Caption("en", "Two young, White males are outside near many bushes.", "human") in first
        assert german == ["Zwei junge weiße Männer sind im Freien in der Nähe vieler Büsche."]
    assert problems == []
    sentences = {media: captions[0].caption for media, captions in splits["validation"].items()}
    file = tmp_path / "val.caption.txt"
    file.write_text("\n".join(f"{media}.jpg#enc#0 {text}" for media, text in sentences.items()), encoding="utf-8")
    read = read_caption_lines(file, tags=["enc"])
    assert read.problems == []
    assert {media: line.text for (media, _), line in read.lines.items()} == sentences
