from __future__ import annotations

import errno
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from support.colour_encoder import paint

from cl2cm_jax.errors import UserError
from cl2cm_jax.runtime.storage import exclusive
from cl2cm_jax.search import parquet_rows, vector_files
from cl2cm_jax.search.entry import Entry, id_of
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
    before = sorted((tmp_path / "out").rglob("*"))
    with pytest.raises(UserError, match=f"has {name}, which is not from an export"):
        write_vectors(store, tmp_path / "out")
    assert sorted((tmp_path / "out").rglob("*")) == before and file.read_bytes() == b"mine"


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


def test_two_exports_do_not_write_into_one_folder(store, photos, colours, tmp_path) -> None:
    update(store, colours.encoder, photos)
    with exclusive(tmp_path / "out" / ".export.lock"), pytest.raises(UserError, match="out: another process is writ"):
        write_vectors(store, tmp_path / "out")
    assert write_vectors(store, tmp_path / "out") == 3


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


@pytest.fixture
def export(store, photos, colours, tmp_path) -> Path:
    update(store, colours.encoder, photos, captions={"red.png": {"de": ("rot",), "en": ("red",)}})
    write_vectors(store, tmp_path / "out", shard=2)
    return tmp_path / "out"


def test_an_export_of_much_text_is_read(store, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(vector_files, "TEXT", 500_000)
    monkeypatch.setattr(vector_files, "TEXT_PER_BYTE", 0)
    captions = {"de": ("x" * 50_000,)}
    entries = [Entry(id=id_of(f"{n}.png"), path=f"{n}.png", captions=captions) for n in range(12)]
    store.put(entries, np.ones((12, 3), np.float32))
    assert write_vectors(store, tmp_path / "out") == 12
    assert len(list((tmp_path / "out" / "img_emb").iterdir())) > 1 and len(exported(tmp_path / "out")) == 12


def test_any_flipped_bit_of_an_export_is_found(export) -> None:
    randomly = random.Random(0)
    files = [path for path in export.rglob("*") if path.is_file()]
    assert len(files) == 5
    for path in files:
        whole = path.read_bytes()
        for place in {0, len(whole) - 2, *(randomly.randrange(len(whole)) for _ in range(60))}:
            damaged = bytearray(whole)
            damaged[place] ^= 1 << randomly.randrange(7)
            if path.name == "cl2cm_index.json" and damaged.split() == whole.split():
                continue  # another kind of space
            path.write_bytes(damaged)
            with pytest.raises(UserError, match="damaged|is missing|is not in cl2cm_index.json"):
                list(read_vectors(export))
        path.write_bytes(whole)
    assert len(exported(export)) == 3


def test_a_shard_that_is_missing_or_of_another_export_is_named(export) -> None:
    for name in ("img_emb/img_emb_1.npy", "metadata/metadata_1.parquet"):
        content = (export / name).read_bytes()
        (export / name).unlink()
        with pytest.raises(UserError, match=f"{name} is missing; export the vectors again"):
            list(read_vectors(export))
        (export / name).write_bytes(content)
    for name in ("img_emb/img_emb_{}.npy", "metadata/metadata_{}.parquet"):
        shutil.copy(export / name.format(1), export / name.format(2))
    with pytest.raises(UserError, match="img_emb_2.npy is not in cl2cm_index.json"):
        list(read_vectors(export))


def test_an_export_of_an_earlier_version_is_read(export) -> None:
    path = export / "cl2cm_index.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["checksums"]
    path.write_text(json.dumps(content), encoding="utf-8")
    assert len(exported(export)) == 3 and read_manifest(export) is not None


def test_vectors_of_another_length_are_refused_first(clip_retrieval) -> None:
    (clip_retrieval / "metadata" / "metadata_0.parquet").write_bytes(b"not read")
    with pytest.raises(UserError, match="img_emb_0.npy has vectors of 2 numbers, the model 3"):
        list(read_vectors(clip_retrieval, dim=3))


def test_more_rows_than_bytes_are_refused(clip_retrieval) -> None:
    np.save(clip_retrieval / "img_emb" / "img_emb_0.npy", np.ones((vector_files.SHARD + 1, 2), np.float16))
    with pytest.raises(UserError, match="has 100,001 vectors of 2 numbers; write 100,000 a file"):
        list(read_vectors(clip_retrieval))


def test_a_large_shard_comes_in_parts(clip_retrieval, monkeypatch) -> None:
    monkeypatch.setattr(vector_files, "PART", 3)
    vectors = np.eye(7, dtype=np.float32)
    np.save(clip_retrieval / "img_emb" / "img_emb_0.npy", vectors)
    table = pyarrow.table({"image_path": [f"{number}.png" for number in range(7)]})
    pyarrow.parquet.write_table(table, clip_retrieval / "metadata" / "metadata_0.parquet")
    parts = list(read_vectors(clip_retrieval))
    assert [[entry.path for entry in entries] for entries, _ in parts] == [
        ["0.png", "1.png", "2.png"], ["3.png", "4.png", "5.png"], ["6.png"]]  # fmt: skip
    np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), vectors)


def varint(number: int) -> bytes:
    """As Thrift's compact protocol writes a positive number."""
    number, out = number << 1, []
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def lying_parquet(path: Path, *, megabytes: int, columns: tuple[str, ...], groups: int) -> None:
    """A small file whose pages unpack to so much, while its own metadata say that they are small."""
    schema = pyarrow.schema([("image_path", pyarrow.string()), *((name, pyarrow.string()) for name in columns)])
    text = "a" * (megabytes * 1_000_000)
    options = {"compression": "zstd", "dictionary_pagesize_limit": 2**31 - 1, "write_statistics": False}
    with pyarrow.parquet.ParquetWriter(path, schema, **options) as writer:
        for group in range(groups):
            content = {"image_path": [f"{group}.png"], **{name: [text] for name in columns}}
            writer.write_table(pyarrow.table(content, schema=schema))
    content, metadata = path.read_bytes(), pyarrow.parquet.read_metadata(path)
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    footer = content[start:]
    row_groups = [metadata.row_group(group) for group in range(groups)]
    sizes = {one.column(place).total_uncompressed_size for one in row_groups for place in range(one.num_columns)}
    for size in sizes | {one.total_byte_size for one in row_groups}:
        if len(written := varint(size)) >= 4:
            footer = footer.replace(written, b"\x82" + b"\x80" * (len(written) - 2) + b"\0")
    path.write_bytes(content[:start] + footer)
    assert pyarrow.parquet.read_metadata(path).row_group(0).column(1).total_uncompressed_size < 1000


READ = """
import resource, sys
from pathlib import Path
from cl2cm_jax.search.parquet_rows import rows
try:
    print(len(list(rows(Path(sys.argv[1]), count=int(sys.argv[2]), text_limit=10**8))))
except ValueError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limits are those of Linux")
@pytest.mark.parametrize(
    ("megabytes", "columns", "groups"),
    [(300, ("caption",), 1), (200, ("caption", "captions", "id", "hash"), 4), (1200, ("hash",), 2)],
)
def test_a_parquet_that_lies_about_its_sizes_is_read_within_limits(tmp_path, megabytes, columns, groups) -> None:
    path = tmp_path / "metadata_0.parquet"
    lying_parquet(path, megabytes=megabytes, columns=columns, groups=groups)
    assert path.stat().st_size < 500_000
    arguments = [sys.executable, "-c", READ, str(path), str(groups)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    message, peak = done.stdout.splitlines()
    assert message == "needs more memory than its size allows; write smaller shards" and int(peak) < 500_000_000


def test_columns_of_another_type_are_named(clip_retrieval, caplog) -> None:
    path = clip_retrieval / "metadata" / "metadata_0.parquet"
    columns = {"image_path": ["a.png", "b.png"], "captions": [["x"], ["y"]], "date": [1.5, 2.0], "size": [7, 8]}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    entries = [entry for part, _ in read_vectors(clip_retrieval) for entry in part]
    assert [(entry.path, entry.size, entry.date) for entry in entries] == [("a.png", 7, 0), ("b.png", 8, 0)]
    for part in ("the column captions of list<", "which must be text", "the column date of double", "whole seconds"):
        assert part in caplog.text
    assert "column size" not in caplog.text


def test_a_parquet_on_which_pyarrow_aborts_is_an_error(clip_retrieval) -> None:
    path = clip_retrieval / "metadata" / "metadata_0.parquet"
    shutil.copy(Path(__file__).parents[1] / "golden" / "search" / "abort.parquet", path)
    with pytest.raises(UserError, match="metadata_0.parquet cannot be read "):
        list(read_vectors(clip_retrieval))


def test_metadata_that_are_missing_or_a_pipe(clip_retrieval) -> None:
    path = clip_retrieval / "metadata" / "metadata_0.parquet"
    path.unlink()
    for _ in range(2):
        with pytest.raises(UserError, match="metadata_0.parquet is missing, or is not a regular file"):
            list(read_vectors(clip_retrieval))
        if not path.exists():
            os.mkfifo(path)


def test_a_parquet_of_many_row_groups_is_refused(clip_retrieval) -> None:
    path = clip_retrieval / "metadata" / "metadata_0.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"image_path": ["a"] * 1001}), path, row_group_size=1)
    np.save(clip_retrieval / "img_emb" / "img_emb_0.npy", np.ones((1001, 2), np.float32))
    with pytest.raises(UserError, match="has 1,001 row groups and 1 columns, over the limit"):
        list(read_vectors(clip_retrieval))


def test_closing_early_ends_the_reader(clip_retrieval, monkeypatch) -> None:
    before, started, popen = set(threading.enumerate()), [], parquet_rows.subprocess.Popen
    monkeypatch.setattr(parquet_rows.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    reader = parquet_rows.rows(clip_retrieval / "metadata" / "metadata_0.parquet", count=2, text_limit=1000)
    assert next(reader)["image_path"] == "a.jpg"
    assert all(thread.daemon for thread in set(threading.enumerate()) - before)
    reader.close()
    assert started[0].returncode is not None
