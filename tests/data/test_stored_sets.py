"""Built sets: opened again without being built or hashed again, and read by what was parsed and decoded once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.built_sets import all_records, build_set, open_set
from support.finished_runs import GOLDEN
from support.flipped_bits import flipped_bits
from support.small_files import no_file_larger_than
from support.tar_shards import write_shards

pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_datasets")

from cl2cm_jax.data import stored_sets
from cl2cm_jax.data.captions import Caption, by_split
from cl2cm_jax.data.lazy_tensorflow import tensorflow
from cl2cm_jax.data.readers import caption_file, picture_checks
from cl2cm_jax.data.sets import captions as captions_set
from cl2cm_jax.data.stored_sets import StoredSet, prepare, records_hash
from cl2cm_jax.errors import UserError


@pytest.fixture
def inputs(pictures: Path) -> dict[str, str]:
    """The fields of a set of ten pictures."""
    rows = [f"{name}.png,{language},{name}" for name in "abcdefghij" for language in ("en", "de")]
    (pictures.parent / "captions.csv").write_text("\n".join(["image,language,caption", *rows]))
    return {"images": str(pictures), "captions": str(pictures.parent / "captions.csv")}


def hash_of(stored: StoredSet) -> str:
    """The hash as caches made before fingerprint.json have it in their key."""
    files = sorted(Path(stored.data_dir).glob("*.tfrecord*"))
    assert len(files) == 3
    return hashlib.sha256("".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in files).encode()).hexdigest()


def test_fields_are_written_in_one_order_so_that_equal_sets_are_equal_files(
    inputs: dict[str, str], tmp_path: Path
) -> None:
    """Unsorted they have another order in every process; features of two builds would have two names."""
    stored = build_set("captions", tmp_path / "data", **inputs)
    files = sorted(map(str, Path(stored.data_dir).glob("*.tfrecord*")))
    records = list(tensorflow().data.TFRecordDataset(files).as_numpy_iterator())
    assert len(records) == 10
    for record in records:
        places = [
            record.index(name.encode())
            for name in sorted(tensorflow().train.Example.FromString(record).features.feature)
        ]
        assert len(places) == 9 and places == sorted(places)


def test_the_fingerprint_is_written_when_the_set_is_built(inputs: dict[str, str], tmp_path: Path) -> None:
    stored = build_set("captions", tmp_path / "data", **inputs)
    written = json.loads(Path(stored.data_dir, "fingerprint.json").read_text())
    assert written == {"records": hash_of(stored)}
    next(Path(stored.data_dir).glob("*.tfrecord*")).write_bytes(b"")
    assert records_hash(stored) == written["records"]  # no record is read


def test_a_set_built_without_a_fingerprint_gets_one(inputs: dict[str, str], tmp_path: Path) -> None:
    stored = build_set("captions", tmp_path / "data", **inputs)
    file = Path(stored.data_dir, "fingerprint.json")
    for content in (None, "", "[]", "{}"):
        file.unlink() if content is None else file.write_text(content)
        assert records_hash(stored) == hash_of(stored)
        assert json.loads(file.read_text()) == {"records": hash_of(stored)}


def test_a_build_parses_the_file_once_and_decodes_each_picture_once(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed, decoded = [], []

    def read(path: str, *, image_is_path: bool) -> object:
        parsed.append(path)
        return caption_file.read_caption_file(path, image_is_path=image_is_path)

    def decode(source: str, **options: str) -> object:
        decoded.append(source)
        return original(source, **options)

    original = picture_checks.decode_file
    monkeypatch.setattr(captions_set, "read_caption_file", read)
    monkeypatch.setattr(picture_checks, "decode_file", decode)
    stored = build_set("captions", tmp_path / "data", **inputs)
    assert parsed == [inputs["captions"]]
    assert sorted(decoded) == [str(Path(inputs["images"], f"{name}.png")) for name in "abcdefghij"]
    assert sum(map(len, all_records(stored).values())) == 10
    prepare(open_set("captions", tmp_path / "data", **inputs))
    assert len(decoded) == 10


class Work:
    """The pictures that checks read and decode."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, stop_at: str = ""):
        self._read, self._decoded = list[str](), list[str]()
        decode, read_file = picture_checks.decode_file, picture_checks.read_file

        def decoded(source: str, **options: Any) -> Any:
            if Path(source).name == stop_at:
                raise KeyboardInterrupt
            self._decoded.append(Path(source).name)
            return decode(source, **options)

        def read(path: str) -> bytes:
            self._read.append(Path(path).name)
            return read_file(path)

        monkeypatch.setattr(picture_checks, "decode_file", decoded)
        monkeypatch.setattr(picture_checks, "read_file", read)

    def taken(self) -> list[str]:
        """The pictures since the last call, each read once and decoded once."""
        found, decoded = sorted(self._read), sorted(self._decoded)
        assert found == decoded
        self._read.clear()
        self._decoded.clear()
        return found


def test_one_changed_picture_or_caption_costs_one(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, captions, work = Path(inputs["images"]), Path(inputs["captions"]), Work(monkeypatch)
    build_set("captions", tmp_path / "data", **inputs)
    assert work.taken() == [f"{name}.png" for name in "abcdefghij"]
    captions.write_text(captions.read_text().replace("en,a", "en,another"))
    assert len(build_set("captions", tmp_path / "data", **inputs).info.splits) == 3 and work.taken() == []
    Image.new("RGB", (8, 6), "white").save(pictures / "c.png")
    repainted = all_records(build_set("captions", tmp_path / "data", **inputs))
    assert work.taken() == ["c.png"]
    assert repainted == all_records(build_set("captions", tmp_path / "elsewhere", **inputs))
    work.taken()
    journal = tmp_path / "data" / "captions" / "checks.jsonl"
    lines = [line for line in journal.read_text().splitlines() if line]
    damaged = {0: lines[0].replace("[", "{", 1), 4: lines[4][:-9]}
    journal.write_text("\n".join(damaged.get(number, line) for number, line in enumerate(lines)))
    captions.write_text(captions.read_text().replace("another", "a"))
    build_set("captions", tmp_path / "data", **inputs | {"on_error": "skip"})
    assert work.taken() == ["a.png", "e.png"]


def test_a_build_that_was_stopped_goes_on(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        Work(patch, stop_at="h.png")
        with pytest.raises(KeyboardInterrupt):
            build_set("captions", tmp_path / "data", **inputs)
    work = Work(monkeypatch)
    build_set("captions", tmp_path / "data", **inputs)
    assert work.taken() == ["h.png", "i.png", "j.png"]


def test_a_set_holds_no_pictures_and_reads_no_others(inputs: dict[str, str], tmp_path: Path) -> None:
    stored = build_set("captions", tmp_path / "data", **inputs)
    pictures = {path.name: path for path in Path(inputs["images"]).iterdir()}
    contents = [path.read_bytes() for path in pictures.values()]
    for file in (path for path in (tmp_path / "data").rglob("*") if path.is_file()):
        assert not any(content in file.read_bytes() for content in contents), file
    found = {record.image_id: record.files for records in all_records(stored).values() for record in records}
    assert found == {name: (path.read_bytes(),) for name, path in pictures.items()}
    times = pictures["c.png"].stat()  # a set is built again when they change
    for _ in flipped_bits(pictures["c.png"], count=5):
        os.utime(pictures["c.png"], ns=(times.st_atime_ns, times.st_mtime_ns))
        with pytest.raises(UserError, match=r"c\.png is not the picture that the data set was built from; put"):
            all_records(open_set("captions", tmp_path / "data", **inputs))
    pictures["c.png"].unlink()
    with pytest.raises(UserError, match=r"c\.png does not exist"):
        all_records(stored)


def test_records_of_pictures_and_shards_are_the_same_in_another_place(inputs: dict[str, str], tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards")
    before = [build_set("captions", tmp_path / "data", **fields) for fields in (inputs, {"shards": str(shards)})]
    moved = Path(inputs["images"]).rename(tmp_path / "moved")
    inputs["images"], shards = str(moved), shards.rename(tmp_path / "moved shards")
    after = [build_set("captions", tmp_path / "data", **fields) for fields in (inputs, {"shards": str(shards)})]
    for one, other in zip(before, after, strict=True):
        assert one.data_dir != other.data_dir and records_hash(one) == records_hash(other)
        assert stored_sets.content_hashes(one) == stored_sets.content_hashes(other)
    assert {record.path for record in all_records(after[1])["train"]} == {""}
    with pytest.raises(UserError, match=r"shards/0000\d\.tar cannot be read any more \(No such file or directory\)"):
        all_records(before[1])


def test_a_set_of_an_earlier_version_holds_its_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is opened, and its pictures are those of a set that is built now."""
    home = Path(shutil.copytree(GOLDEN / "old_pictures", tmp_path / "home"))
    (built,) = [path.name for path in (home / "data" / "captions").iterdir() if path.is_dir()]
    inputs = {"images": str(home / "pictures"), "captions": str(home / "captions.csv"), "frames": 2}
    now = build_set("captions", tmp_path / "data", **inputs)
    monkeypatch.setattr(captions_set, "fingerprint", lambda files, settings: built)
    with caplog.at_level(logging.INFO):
        old = build_set("captions", home / "data", **inputs)
    assert "holds a copy of its pictures; delete it, and it is built again without one" in caplog.text
    assert all_records(old) == all_records(now) and old.holds_files
    assert stored_sets.content_hashes(old) == stored_sets.content_hashes(now), "runs on it are runs on the same data"
    shutil.rmtree(home / "pictures")
    (home / "pictures").mkdir()
    assert sum(len(record.files) for records in all_records(old).values() for record in records) == 6


def test_a_damaged_set_is_one_line(inputs: dict[str, str], tmp_path: Path) -> None:
    stored = build_set("captions", tmp_path / "data", **inputs)
    file = next(Path(stored.data_dir).glob("*train.tfrecord*"))
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"the built set .* is damaged \(.*\); delete it"):
        stored_sets.read_captions(stored, "train")


def test_records_of_another_build_are_refused_before_they_are_encoded(inputs: dict[str, str], tmp_path: Path) -> None:
    stored, other = build_set("captions", tmp_path / "data", **inputs), tmp_path / "other.csv"
    other.write_text(Path(inputs["captions"]).read_text().replace(",en,", ",en,not "))
    theirs = build_set("captions", tmp_path / "data", **inputs | {"captions": str(other)})
    stored_sets.check_records(stored)
    for mine in Path(stored.data_dir).glob("*train.tfrecord*"):
        mine.write_bytes(Path(theirs.data_dir, mine.name).read_bytes())
    Path(stored.data_dir, "contents.json").unlink(missing_ok=True)
    for reading in (stored_sets.check_records, stored_sets.content_hashes):
        with pytest.raises(UserError, match=r"is damaged: its records are not those of fingerprint.json; delete it"):
            reading(stored)


def test_every_flipped_bit_of_a_description_is_seen(inputs: dict[str, str], tmp_path: Path) -> None:
    """Records have checksums of their own, and the fingerprint is computed again."""
    stored = build_set("captions", tmp_path / "data", **inputs)
    folder, wanted = Path(stored.data_dir), records_hash(stored)
    for name in ("dataset_info.json", "features.json"):
        for _ in flipped_bits(folder / name, count=25):
            with pytest.raises(UserError, match=rf"{name} changed after it was written.*delete {folder}, and"):
                open_set("captions", tmp_path / "data", **inputs)
        whole = (folder / name).read_bytes()
        (folder / name).unlink()
        with pytest.raises(UserError, match=rf"the built set {folder} is damaged \(.*{name}.*\); delete it, and it is"):
            open_set("captions", tmp_path / "data", **inputs)
        (folder / name).write_bytes(whole)
    for _ in flipped_bits(folder / "fingerprint.json", count=10):
        assert records_hash(open_set("captions", tmp_path / "data", **inputs)) == wanted


def test_a_set_of_an_earlier_version_gets_checksums(
    inputs: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stored = build_set("captions", tmp_path / "data", **inputs)
    Path(stored.data_dir, "checksums.json").unlink()
    for _ in range(2):
        records_hash(open_set("captions", tmp_path / "data", **inputs))
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"{stored.data_dir} has no checksums (an earlier version wrote it?); its files are taken as they are"
    ]


def test_two_processes_that_start_together_build_a_set_once(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both open the set before it is built; one waits for the other, and reads what that one built."""
    first, second, third = (open_set("captions", tmp_path / "data", **inputs) for _ in range(3))
    unfinished = Path(first.data_dir).with_name("incomplete.ABCDEF_1.1.0")
    unfinished.mkdir(parents=True)  # of a killed process, whatever the clock says
    build, builds, waits = stored_sets._build, [], threading.Event()

    def slow(stored: StoredSet, *options: Any) -> None:
        builds.append(stored)
        assert waits.wait(60)
        build(stored, *options)

    monkeypatch.setattr(stored_sets, "_build", slow)
    threads = [threading.Thread(target=prepare, args=(stored,)) for stored in (first, second)]
    for thread in threads:
        thread.start()
    threads[1].join(timeout=0.5)
    waits.set()
    for thread in threads:
        thread.join()
    prepare(third)
    assert len(builds) == 1 and not unfinished.exists()
    assert all_records(first) == all_records(second) == all_records(third)
    assert not list(Path(first.data_dir).parent.glob(".*"))  # no lock is left


@pytest.mark.parametrize("size", [100, 2000])
def test_a_full_disk_is_one_line_and_leaves_nothing(inputs: dict[str, str], tmp_path: Path, size: int) -> None:
    """While the descriptions are written, and while the records are."""
    stored = open_set("captions", tmp_path / "data", **inputs)
    with (
        no_file_larger_than(size),
        pytest.raises(
            UserError,
            match=r"the data set .*captions.* cannot be written \(File too large\); free disk space, or set config",
        ) as error,
    ):
        prepare(stored)
    assert "\n" not in str(error.value)
    left = {path.suffix for path in (tmp_path / "data" / "captions").rglob("*") if path.is_file()}
    assert left <= {".tsv", ".jsonl"}, "the report, and the checks of pictures"
    prepare(open_set("captions", tmp_path / "data", **inputs))


def test_splits_are_those_of_the_rows_or_drawn() -> None:
    rows = [Caption(f"{number}", language, "x") for number in range(20) for language in ("en", "de")]
    drawn = by_split(rows)
    assert {split: len(images) for split, images in drawn.items()} == {"train": 16, "validation": 2, "test": 2}
    assert by_split(reversed(rows))["test"].keys() == drawn["test"].keys()
    with pytest.raises(UserError, match="image '1' has split=''; use one of train, validation, test"):
        by_split([Caption("0", "en", "x", "train"), Caption("1", "en", "x")])
