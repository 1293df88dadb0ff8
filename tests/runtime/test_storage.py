"""Resumable arrays, and locks between processes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from cl2cm_jax.errors import UserError
from cl2cm_jax.runtime import storage
from cl2cm_jax.runtime.storage import InMemory, OnDisk, exclusive

ROOT = Path(__file__).parents[2]


def fill(space: InMemory, *, until: int, batch: int = 2) -> list[int]:
    """Fills rows of an array of 6 with their numbers; returns the starts of the batches that were filled."""
    rows = space.array("rows", (6, 3), np.float32, job="job")
    starts = list(range(space.done("job"), until, batch))
    for start in starts:
        rows[start : start + batch] = np.arange(start, start + batch)[:, None]
        space.reached("job", start + batch)
    return starts


def test_a_job_is_resumed(tmp_path: Path) -> None:
    first = OnDisk(tmp_path)
    assert fill(first, until=4) == [0, 2]
    first.flush()
    second = OnDisk(tmp_path)
    assert fill(second, until=6) == [4]
    second.flush()
    np.testing.assert_array_equal(np.load(tmp_path / "rows.npy")[:, 0], np.arange(6))


def test_damaged_rows_of_a_killed_job_are_computed_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def start(folder: Path) -> int:
        space = OnDisk(folder)
        rows = space.array("rows", (6, 3), np.float32, job="job")
        done = space.done("job", lambda start, stop: [rows[start:stop], rows[start:stop, :1]])
        for count in range(done + 1, 5):
            rows[count - 1] = count
            space.reached("job", count)
            space.flush()
        rows[4] = 9  # what was written after the last flush may be anything
        return done

    assert start(tmp_path) == 0 and start(tmp_path) == 4
    (tmp_path / "progress.json").write_text((tmp_path / "progress.json").read_text().replace('"job": 4', '"job": 3'))
    assert start(tmp_path) == 0 and start(tmp_path) == 4
    assert len(caplog.records) == 1 and "what was computed of job is damaged, and is computed again" in caplog.text
    whole = np.load(tmp_path / "rows.npy")
    for place in range(0, 48, 5):
        content = bytearray((tmp_path / "rows.npy").read_bytes())
        content[len(content) - 72 + place] ^= 16
        (tmp_path / "rows.npy").write_bytes(content)
        assert start(tmp_path) == 0
        np.testing.assert_array_equal(np.load(tmp_path / "rows.npy"), whole)


def test_rows_that_were_not_flushed_are_computed_again(tmp_path: Path) -> None:
    fill(OnDisk(tmp_path), until=4)
    assert OnDisk(tmp_path).done("job") == 0


def test_arrays_in_memory_have_no_progress() -> None:
    space = InMemory()
    fill(space, until=6)
    assert space.done("job") == 0


def test_an_array_of_another_shape_starts_again(tmp_path: Path) -> None:
    space = OnDisk(tmp_path)
    fill(space, until=6)
    space.flush()
    again = OnDisk(tmp_path)
    assert again.array("rows", (7, 3), np.float32, job="job").sum() == 0
    assert again.done("job") == 0 and OnDisk(tmp_path).done("job") == 0


def test_a_new_array_keeps_the_progress_of_other_jobs(tmp_path: Path) -> None:
    space = OnDisk(tmp_path)
    fill(space, until=4)
    space.array("other", (3,), np.int32, job="another job")
    space.flush()
    assert OnDisk(tmp_path).done("job") == 4


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY"], ids=["empty", "cut short"])
def test_an_unfinished_array_file_starts_again(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "rows.npy").write_bytes(damage)
    assert fill(OnDisk(tmp_path), until=6) == [0, 2, 4]


def test_empty_arrays(tmp_path: Path) -> None:
    assert OnDisk(tmp_path).array("none", (0, 5), np.float16, job="job").shape == (0, 5)
    assert OnDisk(tmp_path).array("none", (0, 5), np.float16, job="job").shape == (0, 5)


def test_a_full_disk_is_an_error_before_anything_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        UserError, match=r"no room for rows.npy, 0.0 GB \(No space left on device\); free some"
    ) as caught:
        fill(OnDisk(tmp_path), until=6)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "rows.npy").exists()


def test_progress_is_reported_at_intervals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_SECONDS", 0.0)
    reported: list[tuple[str, int]] = []
    fill(OnDisk(tmp_path, on_progress=lambda job, count: reported.append((job, count))), until=4)
    assert reported == [("job", 2), ("job", 4)]


def test_a_second_holder_waits_for_the_first(tmp_path: Path) -> None:
    events: list[str] = []

    def second() -> None:
        with exclusive(tmp_path / ".lock"):
            events.append("second")

    thread = threading.Thread(target=second)
    with exclusive(tmp_path / ".lock"):
        thread.start()
        thread.join(timeout=0.2)
        events.append("first ends")
    thread.join()
    assert events == ["first ends", "second"]


def test_an_error_releases_the_lock(tmp_path: Path) -> None:
    with pytest.raises(UserError), exclusive(tmp_path / ".lock"):
        raise UserError("wrong input")
    with exclusive(tmp_path / ".lock"):
        pass


def test_a_busy_lock_is_an_error_if_it_has_a_message(tmp_path: Path) -> None:
    with exclusive(tmp_path / ".lock"), pytest.raises(UserError, match="in use"):
        with exclusive(tmp_path / ".lock", busy="in use"):
            pytest.fail("two at once")


def test_a_waiter_does_not_take_a_lock_file_that_its_holder_has_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the waiter's opening of the file and its locking, the holder ends and a newcomer locks a new file."""
    fcntl = pytest.importorskip("fcntl")
    flock, lock = fcntl.flock, tmp_path / ".lock"
    holder, newcomer = exclusive(lock), exclusive(lock)
    holder.__enter__()

    def meanwhile(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        holder.__exit__(None, None, None)
        newcomer.__enter__()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", meanwhile)
    with pytest.raises(UserError, match="in use"), exclusive(lock, busy="in use"):
        pytest.fail("two at once")
    newcomer.__exit__(None, None, None)
    with exclusive(lock, busy="in use"):
        pass


HOLDS = """
import os, sys, time
from pathlib import Path
from cl2cm_jax.runtime.storage import exclusive
with exclusive(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDS, str(lock)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert holder.stdout and holder.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match="in use"), exclusive(lock, busy="in use"):
            pytest.fail("two at once")
    finally:
        holder.kill()
        holder.wait()
    with exclusive(lock, busy="in use"):
        assert lock.exists()
    assert not lock.exists()


def test_the_package_imports_where_there_is_no_fcntl() -> None:
    code = "import sys; sys.modules['fcntl'] = None; import cl2cm_jax.main, cl2cm_jax.runtime.storage"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
