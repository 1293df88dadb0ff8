"""Flickr8k-CN on shrunk trees of the published layout, on a caption file alone, and on real captions where they are."""

from __future__ import annotations

import gzip
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.built_sets import Record, all_records, open_set
from support.flickr8k_trees import EVERY, SPLITS, TEST, TRAIN, UNLISTED, write_flickr8k_cn

pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_datasets")

from cl2cm_jax.data.stored_sets import StoredSet, prepare
from cl2cm_jax.errors import UserError

REAL = Path(__file__).resolve().parents[5] / "shared" / "data" / "flickr8k"
MORE = "image,language,caption,split,origin\n"


def built(folder: Path, **options: Any) -> dict[str, list[Record]]:
    builder = builder_of(folder, **options)
    prepare(builder)
    return all_records(builder)


def builder_of(folder: Path, **options: Any) -> StoredSet:
    return open_set("flickr8k_cn", folder / "data", **options)


def report(folder: Path) -> str:
    (file,) = (folder / "data" / "flickr8k_cn").glob("*.report.tsv")
    return file.read_text(encoding="utf-8")


def texts(record: Record, language: str, origin: str = "human") -> list[str]:
    return [c.text for c in record.captions if (c.language, c.origin) == (language, origin)]


def kinds(records: list[Record]) -> Counter[tuple[str, str]]:
    return Counter((caption.language, caption.origin) for record in records for caption in record.captions)


def features(folder: Path, ids: list[str]) -> dict[str, str]:
    """A float16 .npy, row i of i, and its ids."""
    np.save(folder / "features.npy", np.repeat(np.arange(len(ids))[:, None], 4, axis=1).astype(np.float16))
    (folder / "ids.txt").write_text("".join(f"{name}\n" for name in ids))
    return {"features": str(folder / "features.npy"), "feature_ids": str(folder / "ids.txt")}


@pytest.mark.parametrize("of_chinese", [False, True])
def test_published(tmp_path: Path, caplog: pytest.LogCaptureFixture, of_chinese: bool) -> None:
    root = write_flickr8k_cn(tmp_path / "sets", chinese_lists=of_chinese, chinese_english=of_chinese)
    with caplog.at_level(logging.WARNING):
        records = built(tmp_path, root=str(root))
    assert {split: [record.image_id for record in found] for split, found in records.items()} == SPLITS
    assert kinds(records["train"]) == {("en", "human"): 40, ("zh", "machine"): 40, ("zh", "human"): 40}
    for split in ("validation", "test"):
        assert kinds(records[split]) == {("en", "human"): 15, ("zh", "human"): 15}
    first = records["train"][0]
    assert texts(first, "zh", "machine") == [f"zhb 句子 {k} {TRAIN[0]}" for k in range(5)]
    english = "enc 句子 0 100_abc" if of_chinese else "A sentence 0 of 100_abc ."
    assert texts(first, "en")[0] == english and len(texts(first, "en")) == 5
    assert first.files == ((root / "Flickr8k_Dataset/Flicker8k_Dataset" / f"{TRAIN[0]}.jpg").read_bytes(),)
    assert first.path.endswith(f"Flicker8k_Dataset/{TRAIN[0]}.jpg")
    assert "the train split has 8 images or videos, 6,000 as published" in caplog.text


def test_the_later_translations_of_the_other_engine(tmp_path: Path) -> None:
    root = write_flickr8k_cn(tmp_path / "sets")
    record = built(tmp_path, root=str(root), engine="google")["train"][0]
    assert texts(record, "zh", "machine")[0] == f"laterzhg 句子 0 {TRAIN[0]}"


def test_missing_files_are_one_line(tmp_path: Path) -> None:
    root = write_flickr8k_cn(tmp_path / "sets")
    (root / "Flickr8k_text/Flickr8k.token.txt").unlink()
    (root / "flickr8kcn/data/flickr8kzhb.caption.txt").unlink()
    for picture in (root / "Flickr8k_Dataset/Flicker8k_Dataset").iterdir():
        picture.unlink()
    with pytest.raises(UserError) as error:
        builder_of(tmp_path, root=str(root))
    said = str(error.value)
    assert "\n" not in said
    for words in (
        "lacks Flickr8k.token.txt or flickr8kenc.caption.txt, flickr8kzhb.caption.txt.v20160815 or ",
        "the folder of pictures Flicker8k_Dataset or Flickr8k_Dataset or Images",
        "https://forms.illinois.edu/sec/1713398",
        "https://github.com/li-xirong/flickr8kcn",
    ):
        assert words in said
    with pytest.raises(UserError, match="is not a folder; name the one that holds the published files"):
        builder_of(tmp_path, root=str(tmp_path / "nowhere"))
    builder_of(tmp_path, root=str(write_flickr8k_cn(tmp_path / "a/b/c/deep")))
    with pytest.raises(UserError, match="4 deep below it"):
        write_flickr8k_cn(tmp_path / "deeper/1/2/3/4")
        builder_of(tmp_path, root=str(tmp_path / "deeper"))


def test_further_languages(tmp_path: Path) -> None:
    root = write_flickr8k_cn(tmp_path / "sets")
    rows = [f"{TRAIN[0]}.jpg,ar,رجل,train,machine", f"{TEST[0]},ar,كلب,test,human", f"{UNLISTED},ar,x,train,human"]
    rows += [f"{TRAIN[1]},zh,zhc 句子 0 {TRAIN[1]},train,human"]  # as published: counts once
    with gzip.open(tmp_path / "more.csv.gz", "wt", encoding="utf-8") as file:
        file.write(MORE + "\n".join(rows))
    records = built(tmp_path, root=str(root), captions=str(tmp_path / "more.csv.gz"))
    assert texts(records["train"][0], "ar", "machine") == ["رجل"] and texts(records["test"][0], "ar") == ["كلب"]
    assert len(texts(records["train"][1], "zh")) == 5
    assert "1 images are in none of the published lists and are not used, first '999_abc'" in report(tmp_path)


def test_problems_go_into_the_report(tmp_path: Path) -> None:
    root = write_flickr8k_cn(tmp_path / "sets")
    (root / "Flickr8k_Dataset/Flicker8k_Dataset" / f"{TRAIN[2]}.jpg").write_bytes(b"no picture")
    with (root / "Flickr8k_text/Flickr8k.token.txt").open("a", encoding="utf-8") as file:
        file.write("100_abc.jpg A sentence without its number.\n")
    chinese = root / "flickr8kcn/data/flickr8kzhc.caption.txt"
    chinese.write_text("".join(line for line in chinese.open(encoding="utf-8") if not line.startswith(TRAIN[1])))
    (tmp_path / "more.csv").write_text(MORE + f"{TRAIN[0]},ar,x,test,human\n")
    options = {"root": str(root), "captions": str(tmp_path / "more.csv")}
    with pytest.raises(UserError, match=r"'100_abc.jpg' is not an id of the form media#k before a tab \(and 2 more\)"):
        prepare(builder_of(tmp_path, **options))
    said = report(tmp_path)
    assert "is 'test' but the published lists have '100_abc' in 'train'; keep the published one" in said
    assert "is not an image" in said
    assert f"note\t{chinese}\t\tcap_id\t1 of Flickr_8k.trainImages.txt have no caption here, first '101_abc'" in said
    records = built(tmp_path / "skip", **options, on_error="skip")
    assert [record.image_id for record in records["train"]] == [media for media in TRAIN if media != TRAIN[2]]


def test_features_in_place_of_pictures(tmp_path: Path) -> None:
    root = write_flickr8k_cn(tmp_path / "sets")
    records = built(tmp_path, root=str(root), **features(tmp_path, [f"{media}.jpg" for media in EVERY]))
    assert records["test"][0].files == ()
    np.testing.assert_array_equal(records["test"][0].feature, np.full((1, 4), EVERY.index(TEST[0]), np.float32))
    assert records["test"][0].path == ""
    with pytest.raises(UserError, match="config.data.feature_ids='' must name the file"):
        builder_of(tmp_path, root=str(root), features=str(tmp_path / "features.npy"))


def test_a_caption_file_alone(tmp_path: Path) -> None:
    rows = [
        f"{media}.jpg,{language},{language} {media},{split},{origin}"
        for split, medias in SPLITS.items()
        for media in medias
        for language, origin in (("en", "human"), ("pt", "machine"), ("pt", "human"))
    ]
    (tmp_path / "all.csv").write_text(MORE + "\n".join(rows))
    inputs = features(tmp_path, EVERY)
    records = built(tmp_path, captions=str(tmp_path / "all.csv"), **inputs)
    assert {split: [record.image_id for record in found] for split, found in records.items()} == SPLITS
    assert kinds(records["test"]) == {("en", "human"): 3, ("pt", "machine"): 3, ("pt", "human"): 3}
    with pytest.raises(UserError, match="config.data.images='' is not a folder"):
        builder_of(tmp_path, captions=str(tmp_path / "all.csv"))
    (tmp_path / "none.csv").write_text("image,language,caption\n" + "100_abc,en,a dog\n")
    with pytest.raises(UserError, match="has no column split, which the set needs without config.data.root"):
        prepare(builder_of(tmp_path, captions=str(tmp_path / "none.csv"), **inputs))


def test_the_real_photographs(tmp_path: Path) -> None:
    if not REAL.is_dir():
        pytest.skip("the photographs' features and captions are not beside the project")
    kept, rows = {split: 0 for split in SPLITS}, []
    with gzip.open(REAL / "captions.tsv.gz", "rt", encoding="utf-8") as file:
        header, *lines = file
    chosen: dict[str, None] = {}
    for line in lines:
        image, split = line.split("\t")[:2]
        if image not in chosen and kept[split] < 5:
            chosen[image], kept[split] = None, kept[split] + 1
        if image in chosen:
            rows.append(line)
    with gzip.open(tmp_path / "some.tsv.gz", "wt", encoding="utf-8") as file:
        file.writelines([header, *rows])
    inputs = {"features": REAL / "efficientnet_lite0.npy", "feature_ids": REAL / "ids.txt"}
    records = built(
        tmp_path, captions=str(tmp_path / "some.tsv.gz"), **{name: str(path) for name, path in inputs.items()}
    )
    assert {split: len(found) for split, found in records.items()} == dict.fromkeys(SPLITS, 5)
    found = kinds(records["train"])
    assert found["en", "human"] == 25 and found["zh", "machine"] > 20 and found["zh", "human"] > 20
    assert records["train"][0].feature is not None and records["train"][0].feature.shape == (1, 1280)
