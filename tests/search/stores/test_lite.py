"""Damage to the files of a local index is found before Milvus Lite opens them, and nothing is lost by a search."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from cl2cm_jax.errors import UserError
from cl2cm_jax.search.entry import Entry, id_of
from cl2cm_jax.search.stores import lite
from cl2cm_jax.search.stores.milvus import Manifest, Store

ROWS = 6
LISTS = "checksums.json*"


def put(store: Store, names: list[str]) -> None:
    store.put([Entry(id=id_of(name), path=name) for name in names], np.eye(3, dtype=np.float32)[np.arange(ROWS) % 3])
    store.flush()


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """An index with a data file, a file of deletions and a copy of vectors."""
    place = tmp_path / "index.db"
    with Store(str(place)) as store:
        store.create(Manifest(weights="w", model="m", dim=3))
        put(store, [f"{number}.png" for number in range(ROWS)])
        store.remove([id_of("0.png")])
    return place


@pytest.fixture
def old(index: Path) -> Path:
    """An index of a version without checksums."""
    for path in index.rglob(LISTS):
        path.unlink()
    return index


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def data(folder: Path) -> dict[str, bytes]:
    return {name: found for name, found in content(folder).items() if name.endswith((".parquet", ".arrow"))}


def collection(place: Path) -> Path:
    return place / "collections" / "pictures"


def count(place: Path) -> int:
    with Store(str(place)) as store:
        return len(store)


def test_any_flipped_bit_is_found(index) -> None:
    randomly = random.Random(0)
    files = [path for path in collection(index).rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"schema.json", "manifest.json", "checksums.json"} <= names
    assert {path.suffix for path in files} >= {".parquet", ".idx"}
    for path in files:
        whole = path.read_bytes()
        places = sorted({0, len(whole) - 1, *(randomly.randrange(len(whole)) for _ in range(60))})
        for place in places:
            damaged = bytearray(whole)
            damaged[place] ^= 1 << randomly.randrange(8)
            path.write_bytes(damaged)
            with pytest.raises(UserError):
                lite.check(index, "pictures")
        path.write_bytes(whole)
    assert lite.check(index, "pictures")


@pytest.mark.parametrize("name", ["schema.json", "manifest.json", "checksums.json", "data_*.parquet", "*.idx"])
@pytest.mark.parametrize("how", ["bit", "cut", "empty", "missing"])
def test_a_search_in_a_damaged_index_changes_nothing(index, name, how) -> None:
    (path,) = collection(index).rglob(name)
    whole = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        damaged = {"bit": bytes([whole[0] ^ 8]) + whole[1:], "cut": whole[: len(whole) // 2], "empty": b""}
        path.write_bytes(damaged[how])
    before = content(collection(index))
    if (name, how) == ("checksums.json", "missing"):  # as before there were checksums
        assert count(index) == ROWS - 1
    else:
        with pytest.raises(UserError, match="restore"):
            Store(str(index))
        assert content(collection(index)) == before
    path.write_bytes(whole)
    assert count(index) == ROWS - 1


def rename(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:200],
        lambda text: "[]",
        lambda text: rename(text, "data_0", "date_0"),
        lambda text: rename(text, '"data_files"', '"date_files"'),
        lambda text: rename(text, '"partitions"', '"partition{"'),
        lambda text: rename(text, '"_default"', '"_defaulu"'),
        lambda text: rename(text, '"current_seq"', '"current_sew"'),
        lambda text: rename(text, '"FLAT"', '"FLAU"'),
        lambda text: rename(text, '"field_name"', '"fiele_name"'),
        None,
    ],
)
def test_a_damaged_manifest_without_checksums_loses_nothing(old, damage) -> None:
    path = collection(old) / "manifest.json"
    whole, before = path.read_text(encoding="utf-8"), data(old)
    path.unlink() if damage is None else path.write_text(damage(whole), encoding="utf-8")
    with pytest.raises(UserError, match=r"manifest.json is (damaged|missing)|missing, which the manifest names|FLAU"):
        Store(str(old))
    assert data(old) == before
    path.write_text(whole, encoding="utf-8")
    assert count(old) == ROWS - 1


@pytest.mark.parametrize("how", ["missing", "cut"])
def test_a_damaged_data_file_without_checksums_is_named(old, how) -> None:
    (path,) = collection(old).rglob("data_*.parquet")
    path.unlink() if how == "missing" else os.truncate(path, path.stat().st_size - 1)
    before = data(old)
    with pytest.raises(UserError, match="data_.*parquet is (missing|damaged)"):
        Store(str(old))
    assert data(old) == before


def test_an_index_without_checksums_gets_them_with_the_next_update(old, caplog) -> None:
    assert count(old) == ROWS - 1 and not list(old.rglob(LISTS))
    assert f"--index={old} has no checksums (an earlier version wrote it?)" in caplog.text
    with Store(str(old)) as store:
        store.flush()  # also where nothing has changed
    assert [path.name for path in old.rglob(LISTS)] == ["checksums.json"]
    before = content(old)
    caplog.clear()
    with Store(str(old)) as store:
        store.flush()
    assert content(old) == before and not caplog.text


def test_a_half_written_copy_of_vectors_is_written_again(old) -> None:
    (path,) = old.rglob("*.idx")
    os.truncate(path, 100)  # as a kill leaves it
    with Store(str(old)) as store:
        best = store.search(np.eye(3, dtype=np.float32)[:1], top=1)
    assert best[0][0].score == pytest.approx(1) and path.stat().st_size > 100
    assert not (old / lite.TRASH).exists()


def test_searching_and_reading_change_no_file(index) -> None:
    before = content(index)
    with Store(str(index)) as store:
        store.search(np.eye(3, dtype=np.float32), top=2)
        assert len(list(store.entries())) == ROWS - 1
    assert content(index) == before


def test_a_data_file_that_the_manifest_does_not_name_is_kept(old, caplog) -> None:
    (path,) = collection(old).rglob("data_*.parquet")
    orphan = path.with_name("data_000900_000901.parquet")
    shutil.copy(path, orphan)
    assert count(old) == ROWS - 1
    (kept,) = (old / lite.TRASH).rglob("*.parquet")
    assert kept.name == orphan.name and kept.read_bytes() == path.read_bytes() and not orphan.exists()
    assert "moved 1 data files that the manifest does not name" in caplog.text and str(kept.parents[3]) in caplog.text


def test_the_trash_of_many_interrupted_updates_is_bounded(old, caplog) -> None:
    (path,) = collection(old).rglob("data_*.parquet")
    for number in range(lite.KEPT + 2):
        shutil.copy(path, path.with_name(f"data_00090{number}_000909.parquet"))
        assert count(old) == ROWS - 1
    assert len(list((old / lite.TRASH).iterdir())) == lite.KEPT + 2, "a search removes nothing"
    (old / lite.TRASH / "1.removed").mkdir()  # by a kill between the renaming and the removal
    with Store(str(old)) as store:
        store.remove([id_of("1.png")])
    left = [file.name for file in sorted((old / lite.TRASH).rglob("*.parquet"))]
    assert left == ["data_000902_000909.parquet", "data_000903_000909.parquet"]
    assert len(list((old / lite.TRASH).iterdir())) == lite.KEPT and count(old) == ROWS - 2
    size = lite.KEPT * path.stat().st_size / 1e6
    assert f"{old / lite.TRASH} has {size:.1f} MB that interrupted updates have left" in caplog.text


@pytest.fixture
def killed(index: Path, tmp_path: Path) -> Path:
    """An index as a kill leaves it: with one data file, and a log of the changes after it."""
    with Store(str(index)) as store:
        names = [f"{number}.jpg" for number in range(ROWS)]
        store.put([Entry(id=id_of(name), path=name) for name in names], np.ones((ROWS, 3), np.float32))
        store.remove([id_of("1.png")])
        shutil.copytree(index, tmp_path / "killed.db")
    return tmp_path / "killed.db"


def test_an_interrupted_update_is_read_and_completed(killed) -> None:
    assert len(list(killed.rglob("*.arrow"))) == 2
    assert count(killed) == 2 * ROWS - 2 and count(killed) == 2 * ROWS - 2
    with Store(str(killed)) as store:
        store.remove([id_of("2.png")])
    assert count(killed) == 2 * ROWS - 3
    assert [path.name for path in killed.rglob(LISTS)] == ["checksums.json"] and not list(killed.rglob("*.arrow"))


@pytest.mark.parametrize("name", ["data_*.parquet", "wal_data_*.arrow", "wal_delta_*.arrow"])
def test_damage_after_an_interrupted_update_is_found(killed, name) -> None:
    (path,) = killed.rglob(name)
    whole = path.read_bytes()
    for place in range(0, len(whole), 41):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"{path.name} is damaged, by the checksums"):
            lite.check(killed, "pictures")
    path.write_bytes(whole + (b"the beginning of what the kill cut off" if path.suffix == ".arrow" else b""))
    assert lite.check(killed, "pictures")


def test_changes_are_on_disk_before_their_checksums(index, monkeypatch) -> None:
    steps: list[str] = []
    sync, write = os.fsync, lite.write_text
    with Store(str(index)) as store:
        monkeypatch.setattr(os, "fsync", lambda file: steps.append("sync") or sync(file))
        monkeypatch.setattr(lite, "write_text", lambda *given: steps.append("list") or write(*given))
        store.put([Entry(id=id_of("a.jpg"), path="a.jpg")], np.ones((1, 3), np.float32))
        assert steps == ["sync", "list"]


def test_an_index_that_was_copied_without_its_lock_is_opened(index) -> None:
    (index / lite.LOCK).unlink()
    (index / lite.TRASH).mkdir()
    assert count(index) == ROWS - 1


def test_the_rest_of_a_creation_is_removed_by_the_next_one_only(index) -> None:
    shutil.rmtree(collection(index))
    collection(index).mkdir()
    (collection(index) / "schema.json.tmp").write_text("{")
    with Store(str(index)) as store:
        assert store.manifest is None
    assert content(collection(index)) == {"schema.json.tmp": b"{"}
    with Store(str(index)) as store:
        store.create(Manifest(weights="w", model="m", dim=3))
        put(store, [f"{number}.png" for number in range(ROWS)])
    assert count(index) == ROWS and not (index / lite.TRASH).exists()


def test_a_proxy_in_the_environment_is_not_used(index, monkeypatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert count(index) == ROWS - 1


def test_the_list_has_every_file(index) -> None:
    listed = json.loads((collection(index) / "checksums.json").read_text(encoding="utf-8"))
    assert {*listed, "checksums.json"} == set(content(collection(index)))
