"""Frame features and image features as they are published, and what is wrong with damaged ones."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from support import paper_trees
from support.paper_trees import FRAME_DIM, LONG_VIDEO, TRAIN

from cl2cm_jax.data.sets.paper.features import (
    MAX_FRAMES,
    read_frame_folder,
    read_image_features,
    read_image_files,
    read_image_ids,
    thinned,
)
from cl2cm_jax.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    paper_trees.write_frames(tmp_path / "i3d")
    return tmp_path / "i3d"


def test_frames_of_a_video_in_their_order(folder: Path) -> None:
    found = read_frame_folder(folder)
    assert found.shape == (None, FRAME_DIM)
    np.testing.assert_array_equal(found.row(TRAIN[1]), paper_trees.frame_values(LONG_VIDEO + 2)[LONG_VIDEO:])
    assert found.row(TRAIN[1]).dtype == np.float32
    assert isinstance(found.values, np.memmap)


def test_long_videos_are_thinned_evenly(folder: Path) -> None:
    rows = read_frame_folder(folder).row(TRAIN[0])[:, 0]
    assert len(rows) == MAX_FRAMES and rows[0] == 0 and rows[-1] == LONG_VIDEO - 1
    assert set(np.diff(rows)) == {1, 2}
    np.testing.assert_array_equal(thinned(np.arange(64)), np.arange(64))
    assert set(np.diff(thinned(np.arange(64 * 5)))) <= {5, 6}
    assert len(np.unique(thinned(np.arange(65)))) == 64


def test_ids_may_stand_on_many_lines_and_hold_other_letters(folder: Path) -> None:
    ids = (folder / "id.txt").read_text().replace(f"{TRAIN[1]}_0", "caf\xe9_0").replace(" ", "\n")
    (folder / "id.txt").write_bytes(ids.encode("iso-8859-1"))
    frames = (folder / "video2frames.txt").read_text().replace(f"{TRAIN[1]}_0", "caf\xe9_0")
    (folder / "video2frames.txt").write_text(frames, encoding="utf-8")
    assert read_frame_folder(folder).row(TRAIN[1])[0, 0] == LONG_VIDEO


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("feature.bin", b"\0" * 8, r"feature\.bin has 8 bytes, shorter than the 2,304 of shape\.txt's 96 x 6 float32"),
        ("feature.bin", b"\0" * 2308, "has 2,308 bytes, longer than the 2,304"),
        ("shape.txt", b"96", "shape.txt holds '96'; it must be two numbers"),
        ("shape.txt", b"96 -6", "it must be two numbers"),
        ("shape.txt", b"96 0", "it must be two numbers"),
        ("shape.txt", b"9" * 5000 + b" 6", "it must be two numbers"),
        ("shape.txt", b"999999999 6", "id.txt has 96 ids but shape.txt says 999999999 rows"),
        ("shape.txt", b"95 6", "id.txt has 96 ids but shape.txt says 95 rows"),
        ("id.txt", b"a b", "id.txt has 2 ids but shape.txt says 96 rows"),
        ("id.txt", b" ".join([b"a"] * 96), "duplicate id 'a'"),
        ("video2frames.txt", b"__import__('os').mkdir('pwned')", "is not a dict literal .* it is read, never run"),
        ("video2frames.txt", b"{'v': [open('x')]}", "is not a dict literal"),
        ("video2frames.txt", b"{'v': ['x_0']", "is not a dict literal"),
        ("video2frames.txt", b"(" * 300_000, "is not a dict literal"),
        ("video2frames.txt", b"['v']", "must be a dict literal"),
        ("video2frames.txt", b"{'v': 'v_0'}", "must be a dict literal"),
        ("video2frames.txt", b"{'v': ['other_0']}", "video 'v' has the frame 'other_0', which is not in id.txt"),
        ("video2frames.txt", b"{'v': [['a']]}", "which is not in id.txt"),
        ("video2frames.txt", b"{'v': [], 'v.mp4': []}", "has 'v' twice, with an ending and without"),
    ],
)
def test_damaged_frame_features(folder: Path, file: str, content: bytes, message: str) -> None:
    (folder / file).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_frame_folder(folder)
    assert "\n" not in str(error.value) and not Path("pwned").exists()


@pytest.mark.parametrize("file", ["shape.txt", "id.txt", "feature.bin", "video2frames.txt"])
def test_a_missing_file_of_frame_features(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(UserError, match=file):
        read_frame_folder(folder)


def test_image_features(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", np.arange(6, dtype=np.float16).reshape(3, 2))
    (tmp_path / "ids.txt").write_text("7.jpg\n8\n9.jpg\n")
    found = read_image_features(tmp_path / "f.npy", tmp_path / "ids.txt")
    assert found.shape == (1, 2) and list(found.row_of) == ["7", "8", "9"]
    np.testing.assert_array_equal(found.row("8"), [[2, 3]])
    (tmp_path / "ids.txt").write_text("7.jpg\n7\n9\n")
    with pytest.raises(UserError, match="ids.txt, line 2: duplicate id '7', first in line 1"):
        read_image_features(tmp_path / "f.npy", tmp_path / "ids.txt")
    (tmp_path / "ids.txt").write_text("7\n8\n")
    with pytest.raises(UserError, match="has 2 ids but .* has 3 rows"):
        read_image_features(tmp_path / "f.npy", tmp_path / "ids.txt")
    (tmp_path / "ids.txt").write_bytes(b"7\n8\n\xff\n")
    with pytest.raises(UserError, match=rf"^{tmp_path}/ids.txt is not valid UTF-8 \(byte 4\)"):
        read_image_features(tmp_path / "f.npy", tmp_path / "ids.txt")
    for name in ("ids.txt", "f.npy"):
        (tmp_path / name).unlink()
        with pytest.raises(UserError, match=rf"^{tmp_path}/{name} cannot be read"):
            read_image_features(tmp_path / "f.npy", tmp_path / "ids.txt")


def test_blank_lines_at_the_end_of_a_list_of_ids_are_no_ids(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", np.zeros((2, 3), np.float32))
    (tmp_path / "ids.txt").write_text("7.jpg\n8\n\n \n")
    assert read_image_ids(tmp_path / "ids.txt") == ["7", "8"]
    assert read_image_features(tmp_path / "f.npy", tmp_path / "ids.txt").row_of == {"7": 0, "8": 1}
    (tmp_path / "ids.txt").write_text("7.jpg\n\n8\n")
    with pytest.raises(UserError, match="ids.txt, line 2: the id is empty"):
        read_image_features(tmp_path / "f.npy", tmp_path / "ids.txt")
    (tmp_path / "ids.txt").write_text("\n\n")
    with pytest.raises(UserError, match="ids.txt, line 1: the id is empty"):
        read_image_ids(tmp_path / "ids.txt")


def test_an_array_of_objects_is_never_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return shutil.rmtree, (str(tmp_path / "kept"),)

    (tmp_path / "kept").mkdir()
    np.save(tmp_path / "f.npy", np.array([Trap()], object), allow_pickle=True)
    (tmp_path / "ids.txt").write_text("7\n")
    with pytest.raises(UserError, match="Python objects"):
        read_image_features(tmp_path / "f.npy", tmp_path / "ids.txt")
    assert (tmp_path / "kept").is_dir()


def npy(header: str, values: bytes = b"") -> bytes:
    """A .npy file of this header, whatever it says."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + values


def header(shape: str, dtype: str = "<f4") -> str:
    return f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a .npy array"),
        (b"PK\x03\x04 junk", "cannot be read as a .npy array .the magic string is not correct"),
        (b"\x93NUMPY\x03\x00\x04\x00\x00\x00{}  ", "format version .3, 0."),
        (npy(header("(30, 8)")[:-4]), "cannot be read as a .npy array"),
        (npy("(" * 9000), "cannot be read as a .npy array"),
        (npy("{[]: 1}"), "cannot be read as a .npy array"),
        (npy(" " * 20_000), "cannot be read as a .npy array .Header info length"),
        (npy(header("(True, 8)"), b"0" * 32), "an axis that no file holds"),
        (npy(header("(0x" + "f" * 9000 + ", 8)")), "an axis that no file holds"),
        (npy(header(f"({10**30}, 8)")), "an axis that no file holds"),
        (
            npy(header(f"({2**40}, {2**40})")),
            r"has \d\d bytes, but its header says float32 of shape .1099511627776, 10",
        ),
        (npy(header("(-30, 8)"), b"0" * 960), r"float32 of shape \(-30, 8\); each axis must be 1 or more"),
        (npy(header("(30, 0)")), "each axis must be 1 or more"),
        (npy(header("(30, 0, 16)")), "each axis must be 1 or more"),
        (npy(header("(0, 16)")), "each axis must be 1 or more"),
        (npy(header("(30, 8)"), b"0" * 4 * 30 * 16), r"has 1,9\d\d bytes, but its header says .*, which is 1,0\d\d"),
        (npy(header("(30, 8)"), b"0" * 4 * 30 * 7), "bytes, but its header says"),
        (npy(header("(30, 8)", "<i4"), b"0" * 960), "holds int32 of shape"),
        (npy(header("(240,)"), b"0" * 960), "save floats"),
    ],
)
def test_a_header_that_does_not_fit_its_file(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "f.npy").write_bytes(content)
    (tmp_path / "ids.txt").write_text("\n".join(map(str, range(30))))
    with pytest.raises(UserError, match=rf"^{tmp_path}/f.npy .*{message}") as error:
        read_image_features(tmp_path / "f.npy", tmp_path / "ids.txt")
    assert "\n" not in str(error.value) and len(str(error.value)) < 500 + len(str(tmp_path))


@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_of_either_order_and_an_older_header(tmp_path: Path, order: Literal["C", "F"]) -> None:
    values = np.asarray(np.arange(12, dtype=np.float64).reshape(2, 3, 2), order=order)
    with (tmp_path / "f.npy").open("wb") as file:
        np.lib.format.write_array(file, values, version=(2, 0))
    (tmp_path / "ids.txt").write_text("7\n8\n")
    found = read_image_features(tmp_path / "f.npy", tmp_path / "ids.txt")
    assert found.shape == (3, 2) and isinstance(found.values, np.memmap)
    np.testing.assert_array_equal(found.row("8"), values[1])


def test_image_ids_and_files(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("\ufeff1.jpg\r\n2\n3", encoding="utf-8", newline="")
    assert read_image_ids(file) == ["1", "2", "3"]
    file.write_text("1 COCO_a b.jpg\n2.jpg c.jpg\n")
    assert read_image_files(file) == {"1": "COCO_a b.jpg", "2": "c.jpg"}
    for content, message in (("1\n\n2\n", "line 2: the id is empty"), ("1\n2\n1.jpg", "line 3: duplicate id '1'")):
        file.write_text(content)
        with pytest.raises(UserError, match=message):
            read_image_ids(file)
    for content, message in (("1\n", "line 1: '1' is not an id"), ("1 a\n1 b\n", "line 2: '1' has the file 'a'")):
        file.write_text(content)
        with pytest.raises(UserError, match=message):
            read_image_files(file)
