"""What is kept of arrays that are filled bit by bit, and who may fill them."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from cl2cm_jax.errors import UserError
from cl2cm_jax.runtime import storage
from cl2cm_jax.runtime.storage import InMemory, OnDisk, exclusive


def fill(space: InMemory, *, until: int, batch: int = 2) -> list[int]:
    """Fills rows of an array of 6 with their numbers; returns the starts of the batches that were filled."""
    rows = space.array("rows", (6, 3), np.float32, job="job")
    starts = list(range(space.done("job"), until, batch))
    for start in starts:
        rows[start : start + batch] = np.arange(start, start + batch)[:, None]
        space.reached("job", start + batch)
    return starts


def test_a_job_goes_on_where_it_was(tmp_path: Path) -> None:
    first = OnDisk(tmp_path)
    assert fill(first, until=4) == [0, 2]
    first.flush()
    second = OnDisk(tmp_path)
    assert fill(second, until=6) == [4]
    second.flush()
    np.testing.assert_array_equal(np.load(tmp_path / "rows.npy")[:, 0], np.arange(6))


def test_what_was_not_flushed_is_done_again(tmp_path: Path) -> None:
    fill(OnDisk(tmp_path), until=4)
    assert OnDisk(tmp_path).done("job") == 0


def test_memory_keeps_nothing() -> None:
    space = InMemory()
    fill(space, until=6)
    assert space.done("job") == 0


def test_another_shape_begins_anew(tmp_path: Path) -> None:
    space = OnDisk(tmp_path)
    fill(space, until=6)
    space.flush()
    again = OnDisk(tmp_path)
    assert again.array("rows", (7, 3), np.float32, job="job").sum() == 0
    assert again.done("job") == 0 and OnDisk(tmp_path).done("job") == 0


def test_the_array_of_a_later_job_forgets_no_earlier_one(tmp_path: Path) -> None:
    space = OnDisk(tmp_path)
    fill(space, until=4)
    space.array("other", (3,), np.int32, job="another job")
    space.flush()
    assert OnDisk(tmp_path).done("job") == 4


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY"], ids=["empty", "cut short"])
def test_an_array_that_was_killed_in_the_making_begins_anew(tmp_path: Path, damage: bytes) -> None:
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


def test_how_far_it_is_is_told_at_intervals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_SECONDS", 0.0)
    told: list[tuple[str, int]] = []
    fill(OnDisk(tmp_path, told=lambda job, count: told.append((job, count))), until=4)
    assert told == [("job", 2), ("job", 4)]


def test_one_at_a_time_holds_a_lock(tmp_path: Path) -> None:
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


def test_an_error_frees_the_lock(tmp_path: Path) -> None:
    with pytest.raises(UserError), exclusive(tmp_path / ".lock"):
        raise UserError("wrong input")
    with exclusive(tmp_path / ".lock"):
        pass


def test_who_does_not_wait_is_told(tmp_path: Path) -> None:
    with exclusive(tmp_path / ".lock"), pytest.raises(UserError, match="in use"):
        with exclusive(tmp_path / ".lock", busy="in use"):
            pytest.fail("two at once")
