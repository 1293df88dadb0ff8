from __future__ import annotations

import errno
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from support.colour_encoder import paint

from cl2cm_jax.errors import UserError
from cl2cm_jax.search import vector_files
from cl2cm_jax.search.incremental import update
from cl2cm_jax.search.vector_files import read_manifest, read_vectors, write_vectors


def test_vectors_round_trip(store, photos, colours, tmp_path) -> None:
    update(store, colours.encoder, photos, captions={"red.png": {"de": ("rot",), "en": ("red",)}})
    assert write_vectors(store, tmp_path / "out", shard=2) == 3
    shards = list(read_vectors(tmp_path / "out"))
    assert [len(entries) for entries, _ in shards] == [2, 1]
    assert sorted((e for part, _ in shards for e in part), key=lambda e: e.id) == sorted(
        store.entries(), key=lambda e: e.id
    )
    for entries, vectors in shards:
        kept = store.vectors([entry.id for entry in entries])
        np.testing.assert_allclose(vectors, [kept[entry.id] for entry in entries], atol=1e-6)
    assert read_manifest(tmp_path / "out") == store.manifest
    # as clip-retrieval reads it: a float array, and columns beside it in the same order
    array = np.load(tmp_path / "out" / "img_emb" / "img_emb_0.npy", allow_pickle=False)
    table = pyarrow.parquet.read_table(tmp_path / "out" / "metadata" / "metadata_0.parquet").to_pydict()
    assert array.dtype == np.float32 and len(table["image_path"]) == len(table["caption"]) == len(array)
    write_vectors(store, tmp_path / "out")
    assert [len(entries) for entries, _ in read_vectors(tmp_path / "out")] == [3]  # no shard of before is left


@pytest.fixture
def clip_retrieval(tmp_path):
    (tmp_path / "img_emb").mkdir()
    (tmp_path / "metadata").mkdir()
    np.save(tmp_path / "img_emb" / "img_emb_0.npy", np.array([[3, 4], [0, 2]], np.float16))
    table = pyarrow.table({"image_path": ["a.jpg", "b.jpg"], "caption": ["a dog", None], "key": ["0", "1"]})
    pyarrow.parquet.write_table(table, tmp_path / "metadata" / "metadata_0.parquet")
    return tmp_path


def test_files_of_clip_retrieval_are_read(clip_retrieval) -> None:
    ((entries, vectors),) = read_vectors(clip_retrieval)
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [0, 1]], atol=1e-3)
    assert [entry.path for entry in entries] == ["a.jpg", "b.jpg"]
    assert entries[0].caption() == ("und", "a dog") and read_manifest(clip_retrieval) is None


def test_the_size_of_dictionary_columns_is_checked_before_they_are_expanded(clip_retrieval, monkeypatch) -> None:
    monkeypatch.setattr(vector_files, "MAX_TEXT", 1_000_000, raising=False)
    file = clip_retrieval / "metadata" / "metadata_0.parquet"
    for length in (400_000, 600_000):
        table = pyarrow.table({"image_path": ["a.jpg", "b.jpg"], "caption": ["x" * length] * 2})
        pyarrow.parquet.write_table(table, file, store_schema=False)
        if length == 400_000:
            assert [len(entry.caption()[1]) for entry in next(read_vectors(clip_retrieval))[0]] == [length] * 2
    with pytest.raises(UserError, match="unpacks to 1,200,010 bytes, over the limit of 1,000,000"):
        list(read_vectors(clip_retrieval))


class Payload:
    def __reduce__(self):
        return (open, ("ran", "w"))


def test_a_pickle_is_not_executed(clip_retrieval, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    np.save(clip_retrieval / "img_emb" / "img_emb_0.npy", np.array([Payload()], object), allow_pickle=True)
    with pytest.raises(UserError, match="Python objects"):
        list(read_vectors(clip_retrieval))
    (clip_retrieval / "img_emb" / "img_emb_0.npy").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(UserError, match="magic string"):
        list(read_vectors(clip_retrieval))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("array", "columns", "message"),
    [
        (np.zeros((2, 2), np.float32), None, "not finite, or zero"),
        (np.full((2, 2), np.nan, np.float32), None, "not finite, or zero"),
        (np.ones((2, 2), np.int64), None, "save floats .n, D."),
        (np.ones((3, 2), np.float32), None, "2 rows for 3 vectors"),
        (np.ones((2, 2), np.float32), {"url": ["a", "b"]}, "no column image_path; it has url"),
        (np.ones((2, 2), np.float32), {"image_path": ["a", ""]}, "has the image_path ''"),
    ],
)
def test_vectors_and_metadata_must_match(clip_retrieval, array, columns, message) -> None:
    np.save(clip_retrieval / "img_emb" / "img_emb_0.npy", array)
    if columns:
        pyarrow.parquet.write_table(pyarrow.table(columns), clip_retrieval / "metadata" / "metadata_0.parquet")
    with pytest.raises(UserError, match=message):
        list(read_vectors(clip_retrieval))


def test_a_folder_without_vectors_and_one_of_another_program(store, clip_retrieval, tmp_path) -> None:
    with pytest.raises(UserError, match="has no img_emb"):
        list(read_vectors(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="has img_emb/img_emb_0.npy, which is not from an export; give a new folder"):
        write_vectors(store, clip_retrieval)


@pytest.mark.parametrize(
    ("name", "ours"),
    [("metadata/metadata_7.parquet", False)]  # beside an export nobody can tell whose it is
    + [(name, ours) for name in ("metadata/notes.txt", "img_emb/mine.npy") for ours in (False, True)],
)
def test_files_of_other_programs_are_kept(store, photos, colours, tmp_path, name, ours) -> None:
    update(store, colours.encoder, photos)
    if ours:
        write_vectors(store, tmp_path / "out")
    file = tmp_path / "out" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=f"has {name}, which is not from an export"):
        write_vectors(store, tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before and file.read_bytes() == b"mine"


class Cut(BaseException):
    """Interrupts a call like a kill."""


def exported(folder) -> list[str]:
    return sorted(entry.path for entries, _ in read_vectors(folder) for entry in entries)


def test_an_export_interrupted_at_any_step_loses_nothing(store, photos, colours, tmp_path, monkeypatch) -> None:
    update(store, colours.encoder, photos)
    write_vectors(store, tmp_path / "first", shard=1)
    old = exported(tmp_path / "first")
    new = [*old, "zz.png"]
    paint(photos / "zz.png", "red", side=21)
    update(store, colours.encoder, photos)
    rename, moves, seen = Path.rename, 0, []
    for cut in range(8):
        out, moves = tmp_path / f"out{cut}", 0
        shutil.copytree(tmp_path / "first", out)

        def counted(path: Path, target: Path, cut: int = cut) -> Path:
            nonlocal moves
            if moves == cut:
                raise Cut
            moves += 1
            return rename(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", counted)
            try:
                write_vectors(store, out, shard=2)
            except Cut:
                seen.append(cut)
        try:
            assert exported(out) == (old if cut == 0 else new)
        except UserError as error:
            assert cut in seen and "from an interrupted export; run that export again" in str(error)
            assert len(list(out.rglob("img_emb_*.npy"))) == 3 + 2  # of both, whole
        assert write_vectors(store, out, shard=2) == 4 and exported(out) == new
        assert sorted(path.name for path in out.iterdir()) == ["cl2cm_index.json", "img_emb", "metadata"]
    assert seen == [0, 1, 2, 3, 4, 5]


def test_a_failed_export_keeps_the_previous_one(store, photos, colours, tmp_path, monkeypatch) -> None:
    update(store, colours.encoder, photos)
    write_vectors(store, tmp_path / "out", shard=1)
    (photos / "red.png").unlink()
    update(store, colours.encoder, photos)
    save, done = np.save, []

    def full(file, array) -> None:
        if done:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done.append(save(file, array))

    monkeypatch.setattr(np, "save", full)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OSError, match="No space left"):
        write_vectors(store, tmp_path / "out", shard=1)
    assert len(exported(tmp_path / "out")) == 3 and sorted(tmp_path.rglob("*")) == before
