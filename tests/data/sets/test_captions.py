"""A user's own set: built, refused with one line and a report, or built without what is bad."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_datasets")

from support.built_sets import Caption, all_records, build_set, open_set

from cl2cm_jax.data.caption_sets import fingerprint
from cl2cm_jax.data.captions import SPLITS
from cl2cm_jax.data.media.images import decode
from cl2cm_jax.data.stored_sets import StoredSet
from cl2cm_jax.errors import UserError


def write_captions(pictures: Path, extra: str = "", header: str = "image,language,caption") -> Path:
    file = pictures.parent / "captions.csv"
    rows = [f"{name}.png,{language},{name} in {language}" for name in "abcdefghij" for language in ("en", "de")]
    file.write_text("\n".join([header, *rows]) + f"\n{extra}", encoding="utf-8")
    return file


def built(pictures: Path, captions: Path, **options: Any) -> StoredSet:
    inputs = {"data_dir": pictures.parent / "data", "images": str(pictures)} | options
    return build_set("captions", captions=captions, **inputs)


def test_builds_and_reads_back(pictures: Path) -> None:
    records = all_records(built(pictures, write_captions(pictures, "a.png,zh-TW,貓\n")))
    assert {split: len(found) for split, found in records.items()} == {"train": 8, "validation": 1, "test": 1}
    by_id = {record.image_id: record for found in records.values() for record in found}
    assert sorted(by_id) == [f"{name}.png" for name in "abcdefghij"]
    assert by_id["a.png"].captions == (
        Caption("en", "a in en", "human"),
        Caption("de", "a in de", "human"),
        Caption("zh-TW", "貓", "human"),
    )
    assert by_id["c.png"].files == ((pictures / "c.png").read_bytes(),)
    assert by_id["c.png"].path == str(pictures / "c.png")
    assert by_id["c.png"].feature is None


def test_split_column_is_followed(pictures: Path) -> None:
    rows = "\n".join(f"{name}.png,en,{name},{split}" for name, split in zip("abcd", ("train", *SPLITS), strict=True))
    file = pictures.parent / "c.csv"
    file.write_text(f"image,language,caption,split\n{rows}\n")
    found = {split: [r.image_id for r in records] for split, records in all_records(built(pictures, file)).items()}
    assert found == {"train": ["a.png", "b.png"], "validation": ["c.png"], "test": ["d.png"]}


def test_empty_split(pictures: Path) -> None:
    file = pictures.parent / "c.csv"
    file.write_text("image,language,caption,split\na.png,en,a,train\nb.png,en,b,test\n")
    with pytest.raises(UserError, match="split 'validation' has no image"):
        built(pictures, file)
    file.write_text("image,language,caption\na.png,en,a\nb.png,en,b\n")
    with pytest.raises(UserError, match="split 'train' has no image among 2"):
        built(pictures, file)


def test_stop_names_the_first_problem_and_lists_all(pictures: Path) -> None:
    (pictures / "broken.png").write_bytes((pictures / "a.png").read_bytes()[:45])
    file = write_captions(pictures, "a.png,en,\nbroken.png,en,x\nnone.png,en,y\n../secret.png,en,z\n/etc/passwd,en,w\n")
    with pytest.raises(UserError, match=r"captions\.csv, line 22, field caption: is empty.* \(and 4 more\)") as error:
        built(pictures, file)
    assert "\n" not in str(error.value)
    (report,) = (pictures.parent / "data" / "captions").glob("*.report.tsv")
    assert str(report) in str(error.value)
    text = report.read_text(encoding="utf-8")
    for part in (
        "\t22\tcaption",
        "broken.png is truncated",
        "none.png does not exist",
        "'../secret.png', which is not within",
    ):
        assert part in text
    assert len(text.splitlines()) == 6
    assert not list(report.parent.glob("**/dataset_info.json"))  # nothing half-built
    assert not list(report.parent.glob("**/incomplete*"))


def test_skip_leaves_out_what_is_bad(pictures: Path, caplog: pytest.LogCaptureFixture) -> None:
    (pictures / "empty.png").write_bytes(b"")
    (pictures / "k.png").write_bytes((pictures / "a.png").read_bytes())
    file = write_captions(pictures, "a.png,en,\nempty.png,en,x\n")
    with caplog.at_level(logging.WARNING):
        builder = built(pictures, file, on_error="skip")
    assert sum(map(len, all_records(builder).values())) == 10
    assert "2 problems left out and 1 notes" in caplog.text
    assert "'k.png' has no caption" in builder.report_path.read_text(encoding="utf-8")


def test_animated_is_reported(pictures: Path) -> None:
    frames = [Image.new("RGB", (3, 3), color) for color in ("red", "blue")]
    frames[0].save(pictures / "moving.gif", save_all=True, append_images=frames[1:])
    file = write_captions(pictures, "moving.gif,en,x\n")
    builder = built(pictures, file)
    assert sum(map(len, all_records(builder).values())) == 11
    assert "its first frame is used" in builder.report_path.read_text(encoding="utf-8")


def write_clips(pictures: Path) -> str:
    """A moving.gif and a folder walk/ of four frames; the rows that name them."""
    frames = [Image.new("RGB", (3, 3), color) for color in ("red", "blue")]
    frames[0].save(pictures / "moving.gif", save_all=True, append_images=frames[1:])
    (pictures / "walk").mkdir()
    for number in (2, 9, 10, 11):
        Image.new("RGB", (3, 3), (number, 0, 0)).save(pictures / "walk" / f"f{number}.png")
    return "moving.gif,en,it moves\nwalk,en,it walks\n"


def test_clips_are_built_and_read_back(pictures: Path) -> None:
    builder = built(pictures, write_captions(pictures, write_clips(pictures)), frames=3)
    by_id = {record.image_id: record for found in all_records(builder).values() for record in found}
    assert len(by_id) == 12 and builder.report_path.read_text(encoding="utf-8").count("\n") == 1
    for name in ("a.png", "moving.gif"):
        assert by_id[name].files == ((pictures / name).read_bytes(),)
    walk = by_id["walk"]
    assert walk.path == str(pictures / "walk")
    assert walk.files == tuple((pictures / "walk" / f"f{number}.png").read_bytes() for number in (2, 10, 11))


def test_a_set_of_pictures_keeps_its_name(pictures: Path) -> None:
    file = write_captions(pictures)
    settings = (str(pictures), "stop")
    files = [str(file), *(str(pictures / f"{name}.png") for name in "abcdefghij")]
    assert Path(built(pictures, file).data_dir).parent.name == fingerprint(files, settings)


def test_clips_are_built_anew_when_a_frame_or_their_number_changes(pictures: Path) -> None:
    file = write_captions(pictures, write_clips(pictures))
    names = {built(pictures, file, frames=frames).data_dir for frames in (2, 3)}
    Image.new("RGB", (3, 3), "white").save(pictures / "walk" / "f9.png")
    names.add(built(pictures, file, frames=3).data_dir)
    assert len(names) == 3


def test_a_folder_needs_frames_of_two_or_more(pictures: Path) -> None:
    file = write_captions(pictures, write_clips(pictures))
    with pytest.raises(
        UserError, match=r"line 23, field image: .*walk is a folder; set config\.data\.frames to 2 or more"
    ):
        built(pictures, file)


def test_bad_clips_are_listed(pictures: Path) -> None:
    rows = write_clips(pictures)
    (pictures / "bare").mkdir()
    (pictures / "walk" / "f9.png").write_bytes(b"no picture")
    (pictures / "moving.gif").write_bytes((pictures / "moving.gif").read_bytes()[:-12])
    file = write_captions(pictures, f"{rows}bare,en,nothing\nlost,en,gone\n")
    with pytest.raises(UserError, match=r"moving\.gif is truncated or damaged .* \(and 3 more\)"):
        built(pictures, file, frames=4)
    builder = built(pictures, file, frames=4, on_error="skip")
    text = builder.report_path.read_text(encoding="utf-8")
    for part in ("f9.png is not an image", "bare has no frame", "lost does not exist", "moving.gif is truncated"):
        assert part in text
    assert sum(map(len, all_records(builder).values())) == 10


def test_rebuilds_only_when_an_input_changed(pictures: Path) -> None:
    file = write_captions(pictures)
    first = built(pictures, file)
    (pictures / "notes.txt").write_text("no picture, named by no caption")
    assert built(pictures, file).data_dir == first.data_dir
    Image.new("RGB", (9, 9), "red").save(pictures / "a.png")
    second = built(pictures, file)
    write_captions(pictures, "a.png,fr,rouge\n")
    third = built(pictures, file)
    assert len({first.data_dir, second.data_dir, third.data_dir}) == 3
    assert os.path.exists(first.data_dir)


def test_data_may_lie_within_the_images_folder(pictures: Path) -> None:
    file = write_captions(pictures)
    first, again = (built(pictures, file, data_dir=pictures) for _ in range(2))
    assert again.data_dir == first.data_dir


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": "/no/such/folder"}, "images='/no/such/folder' is not a folder"),
        ({"images": ""}, "name one of them"),
        ({"features": "x.npy"}, "name one of them"),
        ({"images": "", "features": "x.npy"}, "feature_ids='' must name"),
        ({"images": "", "features": "x.npy", "feature_ids": "x.txt"}, "features='x.npy' is not a file"),
        ({"captions": "none.csv"}, "captions='none.csv' is not a file"),
    ],
)
def test_wrong_inputs(pictures: Path, options: dict[str, Any], message: str) -> None:
    inputs: dict[str, Any] = {"captions": str(write_captions(pictures)), "images": str(pictures)} | options
    with pytest.raises(UserError, match=message):
        open_set("captions", pictures.parent / "data", **inputs)


def write_features(folder: Path, values: np.ndarray, ids: list[str]) -> dict[str, str]:
    np.save(folder / "f.npy", values)
    (folder / "ids.txt").write_text("\n".join(ids) + "\n")
    return {"images": "", "features": str(folder / "f.npy"), "feature_ids": str(folder / "ids.txt")}


@pytest.mark.parametrize("shape", [(10, 4), (10, 3, 4)])
def test_features(pictures: Path, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float16)
    options = write_features(pictures.parent, values, [f"{name}.png" for name in "abcdefghij"])
    records = sum(all_records(built(pictures, write_captions(pictures), **options)).values(), [])
    assert len(records) == 10
    for record in records:
        row = "abcdefghij".index(record.image_id[0])
        assert record.feature is not None and record.feature.dtype == np.float32
        np.testing.assert_array_equal(record.feature, np.atleast_2d(values[row]))
        assert record.files == () and record.path == ""


def test_feature_problems_are_listed(pictures: Path) -> None:
    values = np.zeros((10, 4), np.float32)
    values[3, 1] = np.nan
    options = write_features(pictures.parent, values, [f"{name}.png" for name in "abcdefghi"] + ["other"])
    with pytest.raises(UserError, match=r"'d\.png' has NaN or infinite values in .* \(and 1 more\)"):
        built(pictures, write_captions(pictures), **options)
    (report,) = (pictures.parent / "data" / "captions").glob("*.report.tsv")
    text = report.read_text(encoding="utf-8")
    assert "'j.png' is not in" in text and "'other' has no caption" in text


@pytest.mark.parametrize(
    ("values", "ids", "message"),
    [
        (np.zeros((2, 4), np.float32), ["a"], "has 1 ids but .* has 2 rows"),
        (np.zeros((2, 4), np.float32), ["a", "a"], "line 2: duplicate id 'a', first in line 1"),
        (np.zeros((2, 4), np.float32), ["", "a"], "line 1: the id is empty"),
        (np.zeros((2, 4), np.int32), ["a", "b"], "int32 of shape"),
        (np.zeros(2, np.float32), ["a", "b"], r"shape \(2,\)"),
        (np.array([{}, {}]), ["a", "b"], "cannot be read as a .npy array"),
    ],
)
def test_bad_feature_files(pictures: Path, values: np.ndarray, ids: list[str], message: str) -> None:
    options = write_features(pictures.parent, values, ids)
    with pytest.raises(UserError, match=message):
        built(pictures, write_captions(pictures), **options)


def with_twins(pictures: Path, twins: str) -> None:
    """Copies of pictures under the names copy_a.png and so on."""
    for name in twins:
        (pictures / f"copy_{name}.png").write_bytes((pictures / f"{name}.png").read_bytes())


def test_names_of_one_picture_are_one_image_with_all_captions(pictures: Path, caplog: pytest.LogCaptureFixture) -> None:
    with_twins(pictures, "abcdefghij")
    rows = [f"copy_{name}.png,{language},a copy of {name}\n" for name in "abcdefghij" for language in ("en", "de")]
    file = write_captions(pictures, "".join(rows) + "copy_a.png,en,a in en\n")
    with caplog.at_level(logging.WARNING):
        builder = built(pictures, file)
    records = all_records(builder)
    by_id = {record.image_id: record for found in records.values() for record in found}
    assert sorted(by_id) == [f"{name}.png" for name in "abcdefghij"]  # so that no picture is in two splits
    assert [caption.text for caption in by_id["a.png"].captions] == ["a in en", "a in de", "a copy of a", "a copy of a"]
    assert "10 pictures have a second name ('copy_a.png' = 'a.png', " in caplog.text
    assert caplog.text.count("copy_") == 3, "one line, which names the first few"
    report = builder.report_path.read_text(encoding="utf-8")
    assert "'copy_j.png' is the same picture as 'j.png' and counts as one with it" in report


def resaved(pictures: Path, kind: str) -> tuple[str, str]:
    """Two files with the same pixels and other bytes."""
    noise = np.random.default_rng(0).integers(0, 256, (80, 96, 3), np.uint8)
    image, exif = Image.fromarray(noise), Image.Exif()
    exif[0x010E] = "a description"
    first, second = {"png": ("1.png", "2.png"), "jpg": ("1.jpg", "2.jpg"), "turned": ("1.png", "2.tif")}.get(
        kind, ("1.jpg", "2.png")
    )
    if kind == "turned jpg":
        exif[0x0112] = 8
    image.save(pictures / first, **({"exif": exif} if kind == "turned jpg" else {}))
    if second == "2.png" and first == "1.jpg":
        image = Image.fromarray(decode(pictures / first))
        exif = Image.Exif()
    if kind == "turned":
        exif[0x0112] = 6  # a viewer turns it by 90 degrees clockwise
        image = image.transpose(Image.Transpose.ROTATE_90)
    image.save(pictures / second, exif=exif)
    assert (pictures / first).read_bytes() != (pictures / second).read_bytes()
    return first, second


@pytest.mark.parametrize("kind", ["png", "jpg", "turned", "jpg and png", "turned jpg"])
def test_pictures_with_equal_pixels_are_one(pictures: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    first, second = resaved(pictures, kind)
    file = write_captions(pictures, f"{first},en,one\n{second},en,two\n")
    with caplog.at_level(logging.WARNING):
        records = all_records(built(pictures, file))
    by_id = {record.image_id: record for found in records.values() for record in found}
    assert second not in by_id and [caption.text for caption in by_id[first].captions] == ["one", "two"]
    assert by_id[first].files == ((pictures / first).read_bytes(),)
    assert f"1 picture has a second name ({second!r} = {first!r}), 1 of them in other files" in caplog.text
    rows = [("c.png", "train"), (first, "train"), (second, "test"), ("d.png", "validation"), ("e.png", "test")]
    text = "".join(f"{name},en,{name},{split}\n" for name, split in rows)
    file.write_text(f"image,language,caption,split\n{text}")
    reason = rf"line 4, field image: '{second}' in 'test' is the same picture as '{first}' in 'train'.*files differ"
    with pytest.raises(UserError, match=reason):
        built(pictures, file)


def test_photographs_that_are_equal_only_as_they_are_checked_are_two(pictures: Path) -> None:
    """JPEG is checked at an eighth of its size, the means of its blocks."""
    grid = np.indices((96, 96)) % 2 * 255
    for name, pattern in (("1.jpg", grid[0]), ("2.jpg", grid[1])):
        Image.fromarray(pattern.astype(np.uint8)).save(pictures / name, quality=100)
    small, other = (decode(pictures / name, enough=1) for name in ("1.jpg", "2.jpg"))
    np.testing.assert_array_equal(small, other)
    records = all_records(built(pictures, write_captions(pictures, "1.jpg,en,one\n2.jpg,en,two\n")))
    assert {"1.jpg", "2.jpg"} <= {record.image_id for found in records.values() for record in found}


def test_a_picture_in_two_splits_is_refused(pictures: Path) -> None:
    with_twins(pictures, "ab")
    splits = {"a": "train", "copy_a": "train", "b": "train", "copy_b": "test", "c": "validation", "d": "test"}
    file = pictures.parent / "c.csv"
    rows = "".join(f"{name}.png,en,{name},{split}\n" for name, split in splits.items())
    file.write_text(f"image,language,caption,split\n{rows}")
    reason = "line 5, field image: 'copy_b.png' in 'test' is the same picture as 'b.png' in 'train'"
    with pytest.raises(UserError, match=reason):
        built(pictures, file)
    found = all_records(built(pictures, file, on_error="skip"))
    assert {split: [record.image_id for record in records] for split, records in found.items()} == {
        "train": ["a.png", "b.png"],
        "validation": ["c.png"],
        "test": ["d.png"],
    }


def test_two_writings_of_a_name_are_one_picture_of_one_split(pictures: Path) -> None:
    file = pictures.parent / "c.csv"
    rows = "a.png,en,a,train\na.PNG,en,x,test\na.PNG,en,a,train\na.PNG,en,y,train\n"
    file.write_text(f"image,language,caption,split\n{rows}b.png,en,b,validation\nc.png,en,c,test\n")
    file.write_text(file.read_text().replace("a.PNG,en,x,test", f"{pictures}/a.png,en,x,test"))
    with pytest.raises(UserError, match="line 3, field split: is 'test' but in line 2 image 'a.png' is in 'train'"):
        built(pictures, file)
    found = all_records(built(pictures, file, on_error="skip"))
    captions = {split: [one.text for record in records for one in record.captions] for split, records in found.items()}
    assert captions == {"train": ["a", "y"], "validation": ["b"], "test": ["c"]}


def test_translated_queries_of_joined_pictures_keep_their_captions(pictures: Path) -> None:
    with_twins(pictures, "a")
    rows = "a.png,de2en,a\ncopy_a.png,de,a in de\ncopy_a.png,de2en,b\n"
    records = all_records(built(pictures, write_captions(pictures, rows)))
    (joined,) = (record for found in records.values() for record in found if record.image_id == "a.png")
    languages = [caption.language for caption in joined.captions]
    assert languages.count("de") == languages.count("de2en") == 2


def test_files_of_other_formats_are_counted_in_one_line(pictures: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(20):
        (pictures / f"IMG_{number:04}.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (pictures / "film.mov").write_bytes(b"ftypqt")
    (pictures / "notes.txt").write_text("no picture")
    with caplog.at_level(logging.WARNING):
        built(pictures, write_captions(pictures))
    assert "formats that are not read: .heic 20, .mov 1, such as 'IMG_0000.HEIC'; convert them" in caplog.text
    assert caplog.text.count("IMG_") == 1 and "notes" not in caplog.text.replace("notes, listed", "")


def test_of_many_formats_the_usual_ones_are_named(pictures: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(100):
        (pictures / f"backup.{number:03}").touch()
    with caplog.at_level(logging.WARNING):
        built(pictures, write_captions(pictures))
    assert "not read: .000 1, .001 1, .002 1, .003 1, .004 1, .005 1, .006 1, .007 1 and 92 more kinds" in caplog.text
