"""The command that computes features, killed and resumed."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from support.command import call
from support.flipped_bits import flipped_bits
from support.small_files import no_file_larger_than
from support.tiny_set import write_tiny_set

from cl2cm_jax import main
from cl2cm_jax.config import defaults
from cl2cm_jax.data import stored_sets
from cl2cm_jax.errors import UserError
from cl2cm_jax.features import __main__ as command
from cl2cm_jax.features import cache, picture_places
from cl2cm_jax.features.cache import read_cache
from cl2cm_jax.features.caption_counts import CaptionCounts
from cl2cm_jax.runtime import storage
from cl2cm_jax.runtime.checksums import LIST_NAME
from cl2cm_jax.runtime.storage import exclusive

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


def test_every_flipped_bit_of_features_is_seen(tmp_path: Path) -> None:
    config = place(tmp_path / "set")
    assert call(command.main, f"--config={config}").code == 0
    (folder,) = (tmp_path / "set" / "data" / "features").glob("[0-9a-f]*")
    languages = dict.fromkeys(("train", "validation", "test"), ("en", "de", "fr"))
    for file in [path for path in folder.rglob("*") if path.is_file() and path.name != LIST_NAME]:
        for _ in flipped_bits(file, count=4):
            name = file.relative_to(folder).as_posix()
            with pytest.raises(
                UserError, match=rf"{folder} is damaged \(.*{name}.*\); delete it, and it is computed again"
            ):
                read_cache(folder, languages)
    read_cache(folder, languages)


def test_features_of_an_earlier_version_get_checksums(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = place(tmp_path / "set")
    assert call(command.main, f"--config={config}").code == 0
    (folder,) = (tmp_path / "set" / "data" / "features").glob("[0-9a-f]*")
    (folder / LIST_NAME).unlink()
    languages = dict.fromkeys(("train", "validation", "test"), ("en", "de", "fr"))
    for _ in range(2):
        read_cache(folder, languages)
    assert [record.getMessage().split(" (")[0] for record in caplog.records if record.levelname == "WARNING"] == [
        f"{folder} has no checksums"
    ]


@pytest.mark.parametrize("size", [1000, 3000])
def test_a_full_disk_is_one_line_and_the_next_start_goes_on(tmp_path: Path, size: int) -> None:
    """The arrays do not fit, or the table does not."""
    config = place(tmp_path / "set")
    assert call(main.main, f"--config={config}", "--mode=check", f"--workdir={tmp_path}").code == 0
    shutil.rmtree(tmp_path / "set" / "data" / "features")
    with no_file_larger_than(size):
        outcome = call(command.main, f"--config={config}")
    last = outcome.err.strip().splitlines()[-1]
    assert outcome.code == 2 and "Traceback" not in outcome.err and "File too large" in last and "/train" in last
    assert not list((tmp_path / "set" / "data" / "features").glob("[0-9a-f]*"))
    assert call(command.main, f"--config={config}").code == 0


def test_two_processes_compute_the_same_features_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_SHORT", 0)
    begun, go_on, written = threading.Event(), threading.Event(), []

    def write(split: str, place: Path) -> CaptionCounts:
        begun.set()
        assert go_on.wait(60)
        place.mkdir(parents=True)
        written.append(split)
        return CaptionCounts({}, {}, {}, {})

    def compute() -> None:
        cache.write_cache(tmp_path / "a", write, about={}, splits=["train"])

    threads = [threading.Thread(target=compute) for _ in range(2)]
    threads[0].start()
    assert begun.wait(60)
    threads[1].start()
    threads[1].join(timeout=0.5)
    assert "another process is working on" in caplog.text and threads[1].is_alive()
    go_on.set()
    for thread in threads:
        thread.join()
    assert written == ["train"] and (tmp_path / "a" / "done.json").exists()


def test_a_clock_that_jumps_ahead_removes_no_features_that_a_process_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, in_use, abandoned = (tmp_path / f".{name}.partial" / "train" / "rows.npy" for name in "abc")
    for file in (ours, in_use, abandoned):
        file.parent.mkdir(parents=True)
        file.touch()
    later = time.time() + 30 * 86400
    monkeypatch.setattr(cache.time, "time", lambda: later)

    def write(split: str, place: Path) -> CaptionCounts:
        assert ours.exists() and in_use.exists() and not abandoned.exists()
        return CaptionCounts({}, {}, {}, {})

    with exclusive(tmp_path / ".b.lock"):
        cache.write_cache(tmp_path / "a", write, about={}, splits=["train"])
    assert (tmp_path / "a" / "train" / "rows.npy").exists() and in_use.exists()


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
    assert picture_places.folder_before("/before/data/emoji/png/a.png", root) == Path("/before/data/emoji")
    assert picture_places.folder_before(str(picture), root) == root
    assert {picture_places.folder_before(path, root) for path in ("png/a.png", "/elsewhere/b.png", "")} == {None}
    old = "/before/data/emoji/png/a.png"
    stored = [old, "png/a.png", "/linked/a.png", ""]  # a link that leads outside stays what it is
    placed = picture_places.in_place(cast("Any", Placed(stored)), root, "h").paths
    assert placed == [str(picture), str(picture), "/linked/a.png", ""]


@pytest.mark.parametrize(("backbone", "is_new"), [("efficientnet_lite0", True), ("precomputed", False)])
def test_features_of_pictures_that_were_decoded_whole_are_used_as_they_are(
    backbone: str, is_new: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_sets, "records_hash", lambda stored: "records")
    monkeypatch.setattr(cache.configured, "fingerprint", lambda *arguments: "weights")
    config = defaults()
    config.data.dir, config.vision.backbone = str(tmp_path), backbone
    now = cache._folder(config, cast("stored_sets.StoredSet", None), ("en", "de"))
    with monkeypatch.context() as patch:
        patch.setattr(cache, "DECODING", 1)  # as before large pictures were decoded smaller
        before = cache._folder(config, cast("stored_sets.StoredSet", None), ("en", "de"))
    assert (now != before) == is_new
    before.mkdir(parents=True)
    assert cache._folder(config, cast("stored_sets.StoredSet", None), ("en", "de")) == now  # it is not complete
    (before / "done.json").touch()
    assert cache._folder(config, cast("stored_sets.StoredSet", None), ("en", "de")) == before


def test_what_is_lost_of_the_captions_is_counted_by_kind_and_language(tmp_path: Path) -> None:
    config = place(tmp_path / "set")
    with (config.parent / "captions.csv").open("a", encoding="utf-8") as captions:
        captions.write("red-car,fi,punainen auto,train\nred-car,pt-BR,carro vermelho,train\n")
        captions.write("red-car,DE,ein rotes Auto,train\nred-dog,de_DE,ein roter Hund,train\n")
        captions.write(f"red-car,fr,{'voiture rouge ' * 30},train\nred-car,fr,शेर लाल,train\n")
    first = call(command.main, f"--config={config}")
    again = call(command.main, f"--config={config}")
    assert (first.code, again.code) == (0, 0), first.err
    assert "train: 16 x 1 x 32 vision features, 52 captions in en, de, fr" in first.out
    for outcome in (first, again):
        assert "captions left out, because config.data names no such language: fi 1, pt-BR 1" in outcome.err
        assert "cut after config.text.max_tokens=32 word pieces, whose end is not read: fr 1 of 34" in outcome.err, (
            outcome.err
        )
        assert "config.text.backbone='use_multilingual' does not know: fr 1 of 34" in outcome.err
    (done,) = (config.parent / "data" / "features").rglob("done.json")
    done.write_text('{"languages": {}}')  # as earlier versions wrote it
    assert "captions" not in call(command.main, f"--config={config}").err
