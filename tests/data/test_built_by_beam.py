"""Sets that Apache Beam builds: the same records, the same report, the same refusals as without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.built_sets import open_set, read_records
from support.tar_shards import files_of, write_shard, write_shards

pytest.importorskip("tensorflow_datasets")
pytest.importorskip("apache_beam", reason="apache_beam is not installed; `make test-beam` installs and tests it")

from cl2cm_jax.data.captions import SPLITS
from cl2cm_jax.data.stored_sets import StoredSet, prepare
from cl2cm_jax.errors import UserError

COLOURS = ("red", "green", "blue")


def write_pictures(home: Path) -> dict[str, str]:
    """Ten pictures, one of them animated and one a folder of frames, and their captions."""
    folder = home / "pictures"
    (folder / "clip").mkdir(parents=True)
    frames = [Image.new("RGB", (8, 6), colour) for colour in COLOURS]
    for index, frame in enumerate(frames):
        frame.save(folder / "clip" / f"{index}.png")
    frames[2].save(folder / "moving.gif", save_all=True, append_images=frames[:2])  # not the frames of the folder
    for index in range(8):
        Image.new("RGB", (8, 6), (20 * index, 0, 0)).save(folder / f"{index}.png")
    names = [*(f"{index}.png" for index in range(8)), "moving.gif", "clip"]
    rows = [f"{name},{language},{name} in {language}" for name in names for language in ("en", "de")]
    (home / "captions.csv").write_text("\n".join(["image,language,caption", *rows]) + "\n")
    return {"images": str(folder), "captions": str(home / "captions.csv")}


def built(data: Path, inputs: dict[str, Any], *, runner: str = "", **options: Any) -> StoredSet:
    builder = open_set("captions", data, **inputs, **options)
    prepare(builder, beam_runner=runner, beam_options=("direct_num_workers=1",) if runner else ())
    return builder


def both(home: Path, inputs: dict[str, Any], **options: Any) -> tuple[StoredSet, StoredSet]:
    """The set as it is built here, and by Beam."""
    return (
        built(home / "here", inputs, **options),
        built(home / "beam", inputs, runner="DirectRunner", **options),
    )


def assert_equal(here: StoredSet, beam: StoredSet) -> None:
    for split in SPLITS:
        assert list(read_records(beam, split)) == list(read_records(here, split))  # in the same order
        assert beam.info.splits[split].num_examples == here.info.splits[split].num_examples
    assert beam.report_path.read_text(encoding="utf-8") == here.report_path.read_text(encoding="utf-8")


@pytest.mark.parametrize("frames", [2, 1])
def test_folder(tmp_path: Path, frames: int) -> None:
    inputs = write_pictures(tmp_path)
    here, beam = both(tmp_path, inputs, frames=frames, on_error="skip")
    assert sum(len(list(read_records(beam, split))) for split in SPLITS) == (10 if frames == 2 else 9)
    assert_equal(here, beam)


def test_shards(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "shards", 60, each=7)
    write_shard(folder / "8.tar", files_of(3) | {"x.jpg": b"", "x.txt": b"nothing", "y.txt": b"no picture"})
    file = tmp_path / "captions.csv"
    file.write_text("image,language,caption\n000000003,it,cane\n")
    here, beam = both(tmp_path, {"shards": str(folder), "captions": str(file)}, on_error="skip")
    assert beam.report_path.read_text(encoding="utf-8").count("\n") == 4
    assert_equal(here, beam)


def test_nothing_else_is_left_behind(tmp_path: Path) -> None:
    here, beam = both(tmp_path, {"shards": str(write_shards(tmp_path / "shards"))})
    names = [
        sorted(path.relative_to(home).as_posix() for path in (home).rglob("*"))
        for home in (tmp_path / "here", tmp_path / "beam")
    ]
    assert [name for name in names[1] if name not in names[0]] == []
    assert here.data_dir != beam.data_dir


def test_a_set_that_is_there_is_not_built_again(tmp_path: Path) -> None:
    inputs = {"shards": str(write_shards(tmp_path / "shards"))}
    first = built(tmp_path / "data", inputs)
    info = Path(first.data_dir, "dataset_info.json").stat()
    again = built(tmp_path / "data", inputs, runner="DirectRunner")
    assert Path(again.data_dir, "dataset_info.json").stat() == info


def test_problems_stop_the_build(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "shards")
    write_shard(folder / "8.tar", {"x.jpg": b"", "x.txt": b"nothing"})
    with pytest.raises(UserError, match=r"8\.tar, field x\.jpg: the image is empty"):
        built(tmp_path / "data", {"shards": str(folder)}, runner="DirectRunner")
    assert not list((tmp_path / "data").rglob("dataset_info.json"))
    assert not list((tmp_path / "data").rglob("incomplete*"))


@pytest.mark.parametrize(
    ("runner", "options", "message"),
    [
        ("FastRunner", (), "config.data.beam_runner='FastRunner' cannot be used"),
        ("DirectRunner", ("direct_num_workers=many",), "config.data.beam_options: argument --direct_num_workers"),
    ],
)
def test_wrong_runner_and_options(tmp_path: Path, runner: str, options: tuple[str, ...], message: str) -> None:
    builder = open_set("captions", tmp_path / "data", shards=str(write_shards(tmp_path / "shards")))
    with pytest.raises(UserError, match=message) as error:
        prepare(builder, beam_runner=runner, beam_options=options)
    assert "\n" not in str(error.value)
