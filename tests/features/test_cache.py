"""The command that computes features, killed and resumed."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from support.command import call
from support.tiny_set import write_tiny_set

from cl2cm_jax.features import __main__ as command
from cl2cm_jax.features import cache

ROOT = Path(__file__).resolve().parents[2]
KILLED = """
import os, signal, sys
from cl2cm_jax.features import __main__ as command, encoders
from cl2cm_jax.runtime import storage
encoders.TEXT_BATCH, storage._SECONDS, reached, left = 8, 0.0, storage.OnDisk.reached, [int(sys.argv[1])]

def reached_or_die(*arguments):
    reached(*arguments)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)

storage.OnDisk.reached = reached_or_die
command.main(sys.argv[2:])
"""


def place(folder: Path) -> Path:
    """Where the configuration of a tiny set is."""
    folder.mkdir()
    write_tiny_set(folder)
    return folder / "config.py"


def arrays(data: Path) -> dict[str, np.ndarray]:
    """All arrays of the one cache in a data folder."""
    (cache,) = (data / "features").glob("[0-9a-f]*")
    return {str(file.relative_to(cache)): np.load(file) for file in cache.rglob("*.npy")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The arrays of a computation that nobody killed, in batches of eight captions as in `KILLED`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cl2cm_jax.features.encoders.TEXT_BATCH", 8)
        config = place(tmp_path_factory.mktemp("whole") / "set")
        outcome = call(command.main, f"--config={config}")
    assert outcome.code == 0, outcome.err
    assert "train: 16 x 1 x 32 vision features, 48 captions in en, de, fr" in outcome.out
    again = call(command.main, f"--config={config}")
    assert "are read from" in again.err
    return arrays(config.parent / "data")


# 48 captions are 6 batches; then come 16 pictures, then the next split
@pytest.mark.slow
@pytest.mark.parametrize("kill_at", [3, 6 + 5, 6 + 16 + 2], ids=["captions", "pictures", "the second split"])
def test_killed_and_resumed_is_as_if_uninterrupted(whole: dict[str, np.ndarray], tmp_path: Path, kill_at: int) -> None:
    config = place(tmp_path / "set")

    def run(kill_at: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", KILLED, str(kill_at), f"--config={config}"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert run(kill_at).returncode == -signal.SIGKILL
    assert not list((tmp_path / "set" / "data" / "features").glob("[0-9a-f]*"))
    left = 6 + 16 + 2 * (3 + 8) - kill_at  # what is not done yet; one more would be one too many
    assert run(left).returncode == -signal.SIGKILL, "the last step was not the last one"
    final = run(left)
    assert final.returncode == 0, final.stderr
    found = arrays(tmp_path / "set" / "data")
    assert found.keys() == whole.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_a_wrong_config_is_one_line() -> None:
    outcome = call(command.main, "--config=configs/emoji.py", "--config.vision.pool=nothing")
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1 and "config.vision.pool" in outcome.err


def test_a_language_that_a_later_split_lacks_is_found_before_anything_is_encoded(tmp_path: Path) -> None:
    config = place(tmp_path / "set")
    captions = config.parent / "captions.csv"
    rows = captions.read_text(encoding="utf-8").splitlines(keepends=True)
    captions.write_text("".join(row for row in rows if ",fr," not in row or ",test" not in row), encoding="utf-8")
    outcome = call(command.main, f"--config={config}")
    assert outcome.code == 2 and "the test split has no caption in 'fr'; it has de, en" in outcome.err
    assert not list((config.parent / "data" / "features").rglob("*.npy"))


@dataclass(frozen=True)
class Placed:
    """The part of a corpus that says where its pictures are."""

    paths: list[str]
    content: str = ""


def test_pictures_are_where_the_set_is_now(tmp_path: Path) -> None:
    """A cache holds paths from the folder of the pictures on; those of earlier versions are absolute."""
    picture = tmp_path / "now" / "emoji" / "png" / "a.png"
    picture.parent.mkdir(parents=True)
    picture.touch()
    root = tmp_path / "now" / "emoji"
    assert cache._folder_before("/before/data/emoji/png/a.png", root) == Path("/before/data/emoji")
    assert cache._folder_before(str(picture), root) == root
    assert {cache._folder_before(path, root) for path in ("png/a.png", "/elsewhere/b.png", "")} == {None}
    old = "/before/data/emoji/png/a.png"
    stored = [old, "png/a.png", "/linked/a.png", ""]  # a link that leads outside stays what it is
    placed = cache._in_place(cast("Any", Placed(stored)), root, "h").paths
    assert placed == [str(picture), str(picture), "/linked/a.png", ""]
