"""Webdataset shards: read as published tools write them, and every way in which one can be broken told by name."""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.built_sets import Caption, Record, build_set, open_set, read_records
from support.tar_shards import files_of, pax_header, picture, write_shard, write_shards

pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_datasets")

from cl2cm_jax.data.captions import SPLITS
from cl2cm_jax.data.media.images import FORMATS
from cl2cm_jax.data.readers import shards, usable_images
from cl2cm_jax.data.readers.shards import read_picture, read_shard, shard_files
from cl2cm_jax.data.stored_sets import StoredSet, prepare
from cl2cm_jax.errors import UserError


def built(folder: Path, **options: Any) -> StoredSet:
    return build_set("captions", **({"data_dir": folder.parent / "data", "shards": str(folder)} | options))


def by_key(builder: StoredSet) -> dict[str, Record]:
    return {record.image_id: record for split in SPLITS for record in read_records(builder, split)}


def read(path: Path, *, frames: int = 1) -> tuple[list[str], list[str]]:
    """(keys of good samples, problems) of a shard."""
    found = read_shard(str(path), source="en", frames=frames)
    return [rows[0].image for rows in found.samples], [f"{p.field}: {p.reason}" for p in found.problems]


def test_builds_and_reads_back(tmp_path: Path) -> None:
    builder = built(write_shards(tmp_path / "shards"))
    counts = [len(list(read_records(builder, split))) for split in SPLITS]
    assert counts == [8, 1, 1]
    records = by_key(builder)
    assert sorted(records) == [f"{number:09}" for number in range(10)]
    record = records["000000007"]
    assert record.captions == (
        Caption("en", "dog 7", "human"),  # once, though .txt and .json both say it
        Caption("de", "Hund 7", "human"),
        Caption("fr", "chien 7", "human"),
        Caption("fr", "un chien 7", "human"),
    )
    assert record.files == (picture(7),)
    assert record.path == "" and record.feature is None
    assert builder.report_path.read_text(encoding="utf-8").count("\n") == 1


def test_source_of_the_configuration_is_the_language_of_plain_captions(tmp_path: Path) -> None:
    builder = built(write_shards(tmp_path / "shards"), source="it", targets=("en",))
    languages = {caption.language for record in read_records(builder, "train") for caption in record.captions}
    assert languages == {"it", "de", "fr"}


def test_beam_that_is_not_installed_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apache_beam", None)  # the import then fails
    builder = open_set("captions", tmp_path / "data", shards=str(write_shards(tmp_path / "shards")))
    with pytest.raises(UserError, match=r"package apache_beam is not installed; .* in an environment of its own"):
        prepare(builder, beam_runner="DirectRunner")
    prepare(builder)
    prepare(builder, beam_runner="DirectRunner")  # the set is there: nothing needs Beam any more


def test_shards_need_no_caption_file_but_one_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"captions='none.csv' is not a file; .* name none"):
        open_set("captions", tmp_path, shards=str(write_shards(tmp_path / "s")), captions="none.csv")


def test_split_depends_on_the_keys_alone(tmp_path: Path) -> None:
    def splits(builder: StoredSet) -> dict[str, set[str]]:
        return {split: {record.image_id for record in read_records(builder, split)} for split in SPLITS}

    one = built(write_shards(tmp_path / "a", 20, each=20))
    many = built(write_shards(tmp_path / "b", 20, each=3))
    assert one.data_dir != many.data_dir
    assert splits(one) == splits(many)


def test_split_of_the_json_is_followed(tmp_path: Path) -> None:
    files: dict[str, bytes] = {}
    for number, split in enumerate(("train", "val", "test", "train")):
        files |= files_of(number, split=split)
    write_shard(tmp_path / "s" / "0.tar", files)
    builder = built(tmp_path / "s")
    found = [[int(record.image_id) for record in read_records(builder, split)] for split in SPLITS]
    assert found == [[0, 3], [1], [2]]
    write_shard(tmp_path / "s" / "1.tar", files_of(4))
    with pytest.raises(UserError, match=r"1\.tar, field 000000004: has no split, where other samples have one"):
        built(tmp_path / "s")


def test_caption_file_names_keys(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "s")
    file = tmp_path / "captions.csv"
    file.write_text(
        "image,language,caption,origin\n"
        "000000003,de,Hund 3,human\n000000003,it,cane,machine\n000000004,it,gatto,human\n"
    )
    records = by_key(built(folder, captions=str(file)))
    assert [(c.language, c.text, c.origin) for c in records["000000003"].captions] == [
        ("en", "dog 3", "human"),
        ("de", "Hund 3", "human"),
        ("fr", "chien 3", "human"),
        ("fr", "un chien 3", "human"),
        ("it", "cane", "machine"),
    ]
    file.write_text("image,language,caption\n000000003,it,cane\n00000/3.jpg,it,gatto\n")
    with pytest.raises(UserError, match=r"captions.csv, line 3, field image: '00000/3.jpg' is the key of no sample"):
        built(folder, captions=str(file))


def test_each_caption_keeps_its_translation(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "s")
    write_shard(folder / "9.tar", files_of(11) | {"000000011.json": b'{"captions": {"de": "Hund", "de2en": "dog"}}'})
    file = tmp_path / "captions.csv"
    file.write_text("image,language,caption\n000000011,de,ein Hund\n000000011,de2en,dog\n")
    languages = [caption.language for caption in by_key(built(folder, captions=str(file)))["000000011"].captions]
    assert languages.count("de") == languages.count("de2en") == 2


def test_sample_without_caption_is_a_problem_unless_a_caption_file_chooses(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "s")
    write_shard(folder / "9.tar", {"x.png": picture(1, format="PNG"), "x.txt": b" \n", "x.json": b'{"caption": null}'})
    with pytest.raises(UserError, match=r"9\.tar, field x: has no caption; give it a \.txt"):
        built(folder)
    file = tmp_path / "captions.jsonl"
    file.write_text('{"image": "000000001", "language": "it", "caption": "cane"}\n')
    builder = built(folder, captions=str(file))
    assert "x" not in by_key(builder)
    assert "note" in builder.report_path.read_text(encoding="utf-8")


def test_split_of_caption_file_and_sample_must_agree(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "s", split="train")
    file = tmp_path / "captions.csv"
    file.write_text("image,language,caption,split\n000000003,it,cane,test\n")
    message = "line 2, field split: is 'test' but the sample '000000003' itself has 'train'"
    with pytest.raises(UserError, match=message):
        built(folder, captions=str(file))


def test_skip_keeps_what_is_good_and_lists_the_rest(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "s")
    whole = write_shard(folder / "7.tar", files_of(70) | files_of(71) | files_of(72)).read_bytes()
    (folder / "7.tar").write_bytes(whole[: whole.index(b"000000072.txt")])
    write_shard(folder / "8.tar", {k: v for k, v in files_of(80).items() if not k.endswith("jpg")} | files_of(3))
    write_shard(folder / "9.tar", files_of(90) | {"000000090.jpg": b"no picture"})
    with pytest.raises(UserError, match=r"7\.tar, field shard: is cut short.*\(and 3 more\)") as error:
        built(folder)
    assert "\n" not in str(error.value)
    builder = built(folder, on_error="skip")
    assert sorted(map(int, by_key(builder))) == [*range(10), 70, 71]
    text = builder.report_path.read_text(encoding="utf-8")
    for part in (
        "2 samples before that are good",
        "000000080\thas no picture, only txt, json",
        "000000003\tis also the key of a sample in",
        f"000000090.jpg\tthe image is not an image of a known format ({', '.join(FORMATS)}); replace it or ",
    ):
        assert part in text


def test_rebuilds_only_when_a_shard_changed(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "s")
    first = built(folder)
    (folder / "00000_stats.json").write_text("{}")
    assert built(folder).data_dir == first.data_dir
    assert built(folder, source="de").data_dir != first.data_dir
    write_shard(folder / "00002.tar", files_of(11))
    assert built(folder).data_dir != first.data_dir


def test_one_changed_shard_costs_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(path: str, **options: Any) -> shards.Shard:
        read.append(Path(path).name)
        return read_shard(path, **options)

    monkeypatch.setattr(usable_images, "read_shard", counted)
    folder = write_shards(tmp_path / "s")
    built(folder)
    assert len(read) == len(set(read)) == len(list(folder.iterdir()))
    read.clear()
    write_shard(folder / "00002.tar", files_of(11))
    again = by_key(built(folder))
    assert read == ["00002.tar"] and "000000011" in again
    assert again == by_key(built(folder, data_dir=tmp_path / "elsewhere"))


def test_clips_in_shards(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    content = io.BytesIO()
    frames[0].save(content, "WEBP", save_all=True, append_images=frames[1:])
    shard = write_shard(tmp_path / "s" / "a.tar", {"x.webp": content.getvalue(), "x.txt": b"lights"})
    keys, problems = read(shard)
    assert keys == ["x"] and problems == ["x.webp: the image is animated; its first frame is used"]
    assert read(shard, frames=2) == (["x"], [])
    write_shards(tmp_path / "s")
    assert by_key(built(tmp_path / "s", frames=2))["x"].files == (content.getvalue(),)


def test_names_follow_webdataset(tmp_path: Path) -> None:
    image = picture(1, format="PNG")
    folder = tarfile.TarInfo("./00000")
    folder.type = tarfile.DIRTYPE
    files: dict[str, bytes | tarfile.TarInfo] = {
        "./00000": folder,
        "./00000/a.PNG": image,
        "./00000/a.txt": b"a",
        "./00000/a.cls": b"7",
        "./00000/b.png": image,
        "./00000/b.thumb.png": image,  # the ending is thumb.png, which is none of ours
        "./00000/b.txt": b"b",
        "./00000/._b.png": b"of a Mac",
        "__index__.json": b"{}",
        "LICENSE": b"text",
    }
    found = read_shard(str(write_shard(tmp_path / "a.tar", files)), source="en", frames=1)
    assert [rows[0].image for rows in found.samples] == ["00000/a", "00000/b"]
    assert found.problems == []
    assert [read_picture(rows[0].picture) for rows in found.samples] == [image, image]


JPEG = picture(1)
MANY_ENDINGS = f"{', '.join(f'e{n:04}' for n in range(14))}, e..., {', '.join(f'e{n}' for n in range(4986, 5000))}"


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"x.jpg": JPEG[:200], "x.txt": b"a"}, "x.jpg: the image is truncated or damaged"),
        ({"x.jpg": b"", "x.txt": b"a"}, "x.jpg: the image is empty (0 bytes); replace it or leave it out"),
        ({"x.txt": b"a"}, "x: has no picture, only txt; add one or remove the sample"),
        ({"x.jpg": JPEG, "x.png": JPEG, "x.txt": b"a"}, "x: has the files jpg, png, txt; keep one picture"),
        ({f"x.e{n:04}": b"" for n in range(5000)}, f"x: has no picture, only {MANY_ENDINGS}; add one or remove"),
        ({"x.jpg": JPEG, "x.txt": b"\xff"}, "x.txt: is not valid UTF-8 (byte 0)"),
        ({"x.jpg": JPEG, "x.txt": b"a\0b"}, "x.txt: caption in 'en' holds a NUL byte"),
        ({"x.jpg": JPEG, "x.txt": b"a" * 1_000_001}, "x.txt: has 1,000,001 bytes, over the limit of 1,000,000"),
        ({"x.jpg": JPEG, "x.json": b"{"}, "x.json: is not JSON in UTF-8"),
        ({"x.jpg": JPEG, "x.json": b"[" * 100_000}, "x.json: is not JSON in UTF-8"),
        (
            {"x.jpg": JPEG, "x.json": b'{"a": [' + b"[]," * 99_999 + b"[]]}"},
            "x.json: is not JSON in UTF-8 (it has about 200,001 values",
        ),
        ({"x.jpg": JPEG, "x.json": b'{"split": ' + b"[" * 900 + b"]" * 900 + b"}"}, "x.json: split"),
        ({"x.jpg": JPEG, "x.json": b"[]"}, "x.json: is a JSON list; write an object"),
        ({"x.jpg": JPEG, "x.json": b'{"caption": 7}'}, "x.json: caption in 'en' is 7; write text"),
        ({"x.jpg": JPEG, "x.json": b'{"captions": ["a"]}'}, 'x.json: captions is ["a"]; write an object by language'),
        ({"x.jpg": JPEG, "x.json": b'{"captions": {"de": {}}}'}, "x.json: caption in 'de' is {}; write text"),
        ({"x.jpg": JPEG, "x.json": b'{"captions": {"german": "a"}}'}, "x.json: language in 'german' is 'german'"),
        ({"x.jpg": JPEG, "x.json": b'{"captions": {"de": " "}}'}, "x.json: caption in 'de' is empty"),
        ({"x.jpg": JPEG, "x.json": b'{"caption": "a", "split": "holdout"}'}, 'x.json: split is "holdout"'),
        ({"x.jpg": JPEG, "x.json": b'{"caption": "a", "origins": {"en": 1}}'}, "x.json: origins is"),
        ({"x.jpg": JPEG, "x.json": b'{"caption": "a", "origins": {"en": "robot"}}'}, "x.json: origin in 'en' is"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_samples_are_named(tmp_path: Path, files: dict[str, bytes], problem: str) -> None:
    keys, problems = read(write_shard(tmp_path / "a.tar", files | files_of(5)))
    assert keys == ["000000005"]
    assert len(problems) == 1 and problems[0].startswith(problem)


def test_one_bad_caption_does_not_cost_the_others(tmp_path: Path) -> None:
    described = {"captions": {"de": ["", "Hund"], "xx!": "?", "it": "cane"}, "origins": {"it": "machine"}}
    shard = write_shard(tmp_path / "a.tar", {"x.jpg": JPEG, "x.json": json.dumps(described).encode()})
    found = read_shard(str(shard), source="en", frames=1)
    assert [(row.language, row.caption, row.origin) for row in found.samples[0]] == [
        ("de", "Hund", "human"),
        ("it", "cane", "machine"),
    ]
    assert len(found.problems) == 2


def test_key_twice_in_a_shard(tmp_path: Path) -> None:
    shard = tmp_path / "a.tar"
    write_shard(shard, files_of(1) | files_of(2))
    with tarfile.open(shard, "a") as tar:
        info = tarfile.TarInfo("000000001.jpg")
        info.size = len(JPEG)
        tar.addfile(info, io.BytesIO(JPEG))
    keys, problems = read(shard)
    assert keys == ["000000001", "000000002"]
    assert problems == ["000000001: is the key of two samples, or its files do not follow each other; rename one"]


def test_links_and_paths_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    link, device = tarfile.TarInfo("x.txt"), tarfile.TarInfo("y.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret.txt")
    device.type = tarfile.CHRTYPE
    files = {"x.jpg": JPEG, "x.txt": link, "y.jpg": device, "../../z.jpg": JPEG, "../../z.txt": b"out", "/w.jpg": JPEG}
    before = sorted(os.listdir(tmp_path))
    keys, problems = read(write_shard(tmp_path / "a.tar", files))
    assert keys == ["../../z", "/w"]  # names are only names
    assert [problem.partition(";")[0] for problem in problems] == [
        "x.txt: is a link or a special file",
        "y.jpg: is a link or a special file",
    ]
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "a.tar"])


def test_every_cut_is_noticed_and_gives_only_whole_samples(tmp_path: Path) -> None:
    whole = write_shard(tmp_path / "a.tar", files_of(1) | files_of(2)).read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        members = tar.getmembers()
    second = members[3].offset
    next_file = members[3].offset_data + members[3].size  # a file of the next sample shows that one is whole
    end = members[5].offset_data + 512 * -(-members[5].size // 512)
    for length in (*range(0, end, 100), second, end, end + 100):
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        keys, problems = read(tmp_path / "cut.tar")
        assert len(problems) == 1 and problems[0].startswith("shard: is "), length
        assert keys == (["000000001"] if length >= next_file else []), length
    assert read(tmp_path / "a.tar") == (["000000001", "000000002"], [])


def test_damage_within_a_shard_is_noticed(tmp_path: Path) -> None:
    content = bytearray(write_shard(tmp_path / "a.tar", files_of(1) | files_of(2) | files_of(3)).read_bytes())
    with tarfile.open(tmp_path / "a.tar") as tar:
        second = tar.getmembers()[3].offset
    content[second + 10 : second + 200] = b"\xff" * 190
    (tmp_path / "a.tar").write_bytes(content)
    assert read(tmp_path / "a.tar") == (
        [],
        [f"shard: is damaged at byte {second:,}; fetch it again or take it away"],
    )


def test_forged_size_ends(tmp_path: Path) -> None:
    """A negative size leads Python's tarfile back to the same header for ever."""
    info = tarfile.TarInfo("x.cls")
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = (-512).to_bytes(12, "big", signed=True)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.USTAR_FORMAT) + header + bytes(10240))
    code = (
        "import sys; from cl2cm_jax.data.readers.shards import read_shard; "
        "print(read_shard(sys.argv[1], source='en', frames=1).problems[0].reason)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.tar")], capture_output=True, text=True, timeout=600, check=True
    )
    assert done.stdout.startswith("is damaged at byte 512")


def test_other_files_are_refused(tmp_path: Path) -> None:
    whole = write_shard(tmp_path / "a.tar", files_of(1)).read_bytes()
    for content, problem in (
        (b"", "shard: is empty or no tar file"),
        (b"hello " * 500, "shard: is empty or no tar file"),
        (gzip.compress(whole), "shard: is compressed; unpack it with gunzip"),
    ):
        (tmp_path / "a.tar").write_bytes(content)
        keys, problems = read(tmp_path / "a.tar")
        assert keys == [] and len(problems) == 1 and problems[0].startswith(problem)


def test_folder_and_pattern_name_the_same_shards(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "[1] s")  # a name with a pattern's characters
    assert [Path(file).name for file in shard_files(str(folder))] == ["00000.tar", "00001.tar"]
    write_shards(tmp_path / "t")
    assert shard_files(str(tmp_path / "t" / "0000[1].tar")) == [str(tmp_path / "t" / "00001.tar")]
    with pytest.raises(UserError, match="matches no file; name a folder with .tar files"):
        shard_files(str(tmp_path / "none" / "*.tar"))


def test_large_pictures_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MAX_PICTURE_BYTES", len(JPEG) - 1)
    keys, problems = read(write_shard(tmp_path / "a.tar", {"x.jpg": JPEG, "x.txt": b"a"}))
    assert keys == [] and f"has {len(JPEG)} bytes, over the limit of {len(JPEG) - 1}" in problems[0]


def test_shard_that_changes_while_it_is_read(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.tar", files_of(1))
    place = read_shard(str(shard), source="en", frames=1).samples[0][0].picture
    shard.write_bytes(shard.read_bytes()[:600])
    with pytest.raises(UserError, match="became shorter"):
        read_picture(place)
    shard.unlink()
    with pytest.raises(UserError, match="cannot be read any more"):
        read_picture(place)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    keys, problems = read(write_shard(tmp_path / "a.tar", {"\udce4.jpg": JPEG, "\udce4.txt": b"a"} | files_of(1)))
    assert keys == ["000000001"]
    assert problems == ["'\\udce4': is a name that is not UTF-8; rename the sample"]


def test_large_extended_header_is_refused(tmp_path: Path) -> None:
    """tarfile's time for digits that end nowhere grows with the square of their number."""
    shard = tmp_path / "a.tar"
    shard.write_bytes(pax_header(b"1" * 20_000) + write_shard(tmp_path / "b.tar", files_of(1)).read_bytes())
    keys, problems = read(shard)
    assert not keys
    assert "extended header of 20,000 bytes at byte 0, over the limit" in "".join(problems)


def test_long_name_in_an_extended_header_is_read(tmp_path: Path) -> None:
    name = "\u72d7" * 300
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for ending, content in (("jpg", picture(1)), ("txt", b"a dog")):
            info = tarfile.TarInfo(f"{name}.{ending}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert read(tmp_path / "a.tar") == ([name], [])


@pytest.mark.parametrize(("fields", "refused"), [(100, False), (101, True)])
def test_global_headers_are_bounded(tmp_path: Path, fields: int, refused: bool) -> None:
    """They are copied for each of the files: 14,000 fields and 36,000 files took 10 s and more."""
    about = {f"field{number}": "value" for number in range(fields)}
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT, pax_headers=about) as tar:
        for ending, content in (("jpg", picture(1)), ("txt", b"a dog")):
            info = tarfile.TarInfo(f"a.{ending}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    keys, problems = read(tmp_path / "a.tar")
    assert ("101 fields of global headers, over the limit of 100" in "".join(problems)) == refused
    assert keys == ([] if refused else ["a"])


def test_a_sparse_file_is_refused(tmp_path: Path) -> None:
    """tarfile would read its map number by number: 18 MB of it took seconds."""
    sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "b.jpg", "GNU.sparse.realsize": "5"}
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for ending, content, about in (("jpg", picture(1), {}), ("txt", b"a dog", {}), ("png", b"9\n" * 300, sparse)):
            info = tarfile.TarInfo(f"a.{ending}")
            info.size, info.pax_headers = len(content), about
            tar.addfile(info, io.BytesIO(content))
    keys, problems = read(tmp_path / "a.tar")
    assert keys == [] and "has a sparse file at byte 2,560, which is not read; write it" in "".join(problems)


def test_samples_of_one_picture_are_one_and_in_one_split(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "s")
    twin = files_of(3) | {"000000003.txt": b"another dog", "000000003.json": b'{"captions": {"DE": "ein Hund"}}'}
    write_shard(folder / "9.tar", {name.replace("000000003", "twin"): content for name, content in twin.items()})
    records = by_key(built(folder))
    assert sorted(records) == [f"{number:09}" for number in range(10)]
    captions = [(caption.language, caption.text) for caption in records["000000003"].captions]
    assert captions[-2:] == [("en", "another dog"), ("de", "ein Hund")]


def test_samples_of_one_picture_in_two_splits_are_refused(tmp_path: Path) -> None:
    splits = ["train"] * 8 + ["validation", "test"]
    for number, split in enumerate(splits):
        write_shard(tmp_path / "s" / f"{number}.tar", files_of(number, split=split))
    twin = files_of(3, split="test")
    write_shard(tmp_path / "s" / "x.tar", {name.replace("000000003", "twin"): twin[name] for name in twin})
    reason = "field twin: 'twin' in 'test' is the same picture as '000000003' in 'train'"
    with pytest.raises(UserError, match=reason):
        built(tmp_path / "s")


def test_every_line_of_a_text_file_is_a_caption(tmp_path: Path) -> None:
    lines = b"\xef\xbb\xbfa dog\r\n\n  a dog \ntwo\tdogs\rthree dogs\n"
    found = read_shard(str(write_shard(tmp_path / "a.tar", {"a.jpg": JPEG, "a.txt": lines})), source="en", frames=1)
    (sample,) = found.samples
    assert [(row.language, row.caption) for row in sample] == [
        ("en", "a dog"),
        ("en", "two dogs"),
        ("en", "three dogs"),
    ]


def test_a_caption_of_several_lines_that_the_json_repeats_is_one(tmp_path: Path) -> None:
    told = {"caption": "a dog\nby the sea", "captions": {"de_DE": "ein Hund"}, "origins": {"de": "machine"}}
    described = json.dumps(told)
    files = {"a.jpg": JPEG, "a.txt": b"a dog\nby the sea", "a.json": described.encode()}
    (sample,) = read_shard(str(write_shard(tmp_path / "a.tar", files)), source="en", frames=1).samples
    assert [(row.language, row.caption, row.origin) for row in sample] == [
        ("en", "a dog by the sea", "human"),
        ("de", "ein Hund", "machine"),
    ]


def test_files_of_other_endings_are_counted_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_shards(tmp_path / "s")
    write_shard(folder / "9.tar", files_of(20) | {"000000020.cls": b"3", "000000020.caption.txt": b"x"} | files_of(21))
    write_shard(folder / "99.tar", files_of(22) | {"000000022.cls": b"4"})
    with caplog.at_level(logging.WARNING):
        built(folder)
    assert "files of samples that are not read, by ending: cls 2, caption.txt 1" in caplog.text
    assert caplog.text.count("not read") == 1
