from __future__ import annotations

import ast
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from milvus_lite.server_manager import server_manager_instance
from pymilvus.exceptions import MilvusException

from cl2cm_jax.errors import UserError
from cl2cm_jax.search.entry import Entry, Filters, captions_from_text, captions_to_text, day, id_of
from cl2cm_jax.search.recall import recall
from cl2cm_jax.search.stores.memory import load
from cl2cm_jax.search.stores.milvus import Manifest, Store

DOCS = Path(__file__).parents[3] / "docs" / "search.md"
ODD = ['a"b.png', "a\\b.png", "a%b_c.png", 'x" or id != "', "日本/犬.jpg", "emoji/🍎.png", "a\U0010fffd.png", "A.png"]


def fill(store: Store, count: int = 40) -> tuple[list[Entry], np.ndarray]:
    names = [*ODD, *(f"n/{number:03}.jpg" for number in range(count - len(ODD)))]
    vectors = np.random.default_rng(3).standard_normal((count, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    languages: list[dict] = [{}, {"de": ("Hund",)}, {"de": ("Katze",), "zh-TW": ("貓", "貓咪")}]
    entries = [
        Entry(
            id=id_of(name), path=name, size=number, mtime=number, hash="ab", date=number, captions=languages[number % 3]
        )
        for number, name in enumerate(names)
    ]
    store.put(entries, vectors)
    return entries, vectors


def test_memory_and_milvus_give_equal_results(store) -> None:
    """The same hits for every filter, against a sort in plain Python."""
    entries, vectors = fill(store)
    in_memory = load(store)
    assert len(in_memory) == len(store) == 40
    assert in_memory.languages() == store.languages() == ["de", "zh-TW"]
    query = np.array([0.6, 0.0, 0.8], np.float32)
    tried = [Filters(), Filters(language="de"), Filters(language="zh-TW"), Filters(language="fr"), Filters(path="n/00"),
             Filters(since=10, until=20), Filters(language="de", path="n/", since=12)]  # fmt: skip
    for filters in [*tried, *(Filters(path=name) for name in ODD), *(Filters(path=name[:-3]) for name in ODD)]:
        scored = [(-float(v @ query), e.path) for e, v in zip(entries, vectors, strict=True) if filters.admits(e)]
        right = [path for _, path in sorted(scored)[:5]]
        for index in (store, in_memory):
            found = index.search(query[None], top=5, filters=filters)[0]
            assert [one.entry.path for one in found] == right, filters
            np.testing.assert_allclose([one.score for one in found], [-s for s, _ in sorted(scored)[:5]], atol=1e-5)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(path=st.text(max_size=30))
def test_paths_are_quoted_in_filter_expressions(store, path) -> None:
    if not len(store):
        fill(store)
    try:
        filters = Filters(path=path)
    except UserError:
        return
    found = store.search(np.eye(3, dtype=np.float32)[:1], top=40, filters=filters)[0]
    assert all(one.entry.path.startswith(path) for one in found)


@pytest.mark.parametrize("language", ['de") or ARRAY_CONTAINS(languages, "fr', "d", "de\n", "de fr", "-"])
def test_a_wrong_language_code_is_refused(language) -> None:
    with pytest.raises(UserError, match="is not a language code"):
        Filters(language=language)


def test_every_form_of_a_language_code_filters_alike(store) -> None:
    """Also where an earlier version stored the codes as they were written."""
    codes = ["de", "DE", "de-DE", "de_DE", "deu", "zh-TW", "zh_Hant", "de-AT"]
    entries = [Entry(id=id_of(code), path=code, captions={code: ("x",)}) for code in codes]
    store.put(entries, np.eye(3, dtype=np.float32)[[0] * len(codes)])
    query, german = np.eye(3, dtype=np.float32)[:1], set(codes[:5])
    for written in ("de", "DE", "de-DE", "de_de", "ger", "de-Latn"):
        for index in (store, load(store)):
            found = index.search(query, top=10, filters=Filters(language=written))[0]
            assert {one.entry.path for one in found} == german, (written, index)
    assert store.languages() == ["de", "de-AT", "zh-TW"]


def test_entries_round_trip(store) -> None:
    entries, vectors = fill(store)
    assert sorted(store.entries(), key=lambda e: e.size) == entries
    found = store.vectors([entry.id for entry in entries] + ["0" * 32])
    np.testing.assert_array_equal(np.stack([found[entry.id] for entry in entries]), vectors)
    assert store.entry(entries[4].id) == entries[4] and store.entry("0" * 32) is None
    store.remove([entries[4].id])
    assert store.entry(entries[4].id) is None and len(store) == 39


def test_recall_counts_missed_entries(store) -> None:
    fill(store)
    assert recall(store) == 1.0
    answers = store.search
    store.search = lambda queries, *, top: [found[: top // 2] for found in answers(queries, top=top)]
    assert recall(store) == 0.5


def test_another_model_is_refused_by_name() -> None:
    manifest = Manifest(weights="abc", model="emoji", dim=3)
    manifest.check(weights="abc", model="renamed", uri="x.db")
    with pytest.raises(
        UserError, match=r"x.db holds vectors of the model 'emoji' \(abc\), but --model is 'mine' \(def\)"
    ):
        manifest.check(weights="def", model="mine", uri="x.db")


def test_the_manifest_is_kept(store, tmp_path) -> None:
    store.close()
    with Store(str(tmp_path / "index.db")) as again:
        assert again.manifest == store.manifest
        again.set_manifest(Manifest(weights="w", model="m", dim=3, images="/ü"))
    with Store(str(tmp_path / "index.db")) as again:
        assert again.manifest == Manifest(weights="w", model="m", dim=3, images="/ü")


def test_pictures_that_were_moved_with_their_index_are_found(store, photos, tmp_path) -> None:
    store.close()
    there = tmp_path / "elsewhere"
    there.mkdir()
    for name in ("index.db", photos.name):
        shutil.move(tmp_path / name, there / name)
    with Store(str(there / "index.db")) as moved:
        assert moved.manifest is not None and moved.manifest.images == str(there / photos.name)
    shutil.rmtree(there / photos.name)
    with Store(str(there / "index.db")) as moved:
        assert moved.manifest is not None and moved.manifest.images == str(photos)


def test_a_file_is_open_in_one_process_only(store, tmp_path) -> None:
    code = f"from cl2cm_jax.search.stores.milvus import Store; Store({str(tmp_path / 'index.db')!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "cannot be opened" in done.stderr and "in one process only" in done.stderr
    store.close()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_locations_that_cannot_be_an_index(tmp_path) -> None:
    (tmp_path / "x.db").write_text("something else")
    with pytest.raises(UserError, match="a file of another program"):
        Store(str(tmp_path / "x.db"))
    with pytest.raises(UserError, match="must end in .db"):
        Store(str(tmp_path / "x"))
    with pytest.raises(UserError, match="has a collection 'pictures' that is not an index of cl2cm"):
        from pymilvus import MilvusClient

        client = MilvusClient(str(tmp_path / "y.db"))
        client.create_collection("pictures", dimension=3)
        client.insert("pictures", [{"id": 1, "vector": [1.0, 0.0, 0.0]}])
        client.close()
        Store(str(tmp_path / "y.db"))


@pytest.mark.slow
def test_an_interrupted_creation_can_be_repeated(tmp_path, monkeypatch) -> None:
    """The folder is copied at every step of the creation, as a kill would leave it; each copy must open and work."""
    seen: dict[tuple[tuple[str, int], ...], Path] = {}

    def copy() -> None:
        place = tmp_path / "index.db"
        state = tuple(sorted((str(path), path.stat().st_size) for path in place.rglob("*")))
        if state not in seen:
            seen[state] = tmp_path / f"{len(seen)}.db"
            shutil.copytree(place, seen[state])

    def watched(call):
        def watched(*arguments, **named):
            result = call(*arguments, **named)
            copy()
            return result

        return watched

    manifest = Manifest(weights="w", model="m", dim=3)
    with Store(str(tmp_path / "index.db")) as store, monkeypatch.context() as patch:
        for name in ("makedirs", "replace", "fsync"):
            patch.setattr(os, name, watched(getattr(os, name)))
        store.create(manifest)
    stages = [path / "collections" / "pictures" for path in seen.values()]
    assert any(path.is_dir() and not any(path.iterdir()) for path in stages)
    assert any([one.name for one in path.iterdir()] == ["schema.json.tmp"] for path in stages)
    assert any((path / "schema.json").exists() for path in stages) and len(stages) > 4
    for place in seen.values():
        with Store(str(place)) as again:
            if again.manifest is None:
                again.create(manifest)
            assert again.manifest == manifest
            fill(again)
            assert len(again) == 40


@pytest.mark.parametrize("content", [None, b"", b'{"collection_name": "pict', b"[]"])
def test_data_without_a_schema_is_kept(store, tmp_path, content) -> None:
    fill(store)
    store.flush()
    store.close()
    collection = tmp_path / "index.db" / "collections" / "pictures"
    before = (collection / "schema.json").read_bytes()
    (collection / "schema.json").unlink()
    if content is not None:
        (collection / "schema.json").write_bytes(content)
    with pytest.raises(UserError, match=r"pictures/schema.json is (missing|damaged), .* from a copy, or build"):
        Store(str(tmp_path / "index.db"))
    (collection / "schema.json").write_bytes(before)
    with Store(str(tmp_path / "index.db")) as again:
        assert len(again) == 40


@pytest.mark.parametrize("content", [None, b"", b"{"])
def test_an_index_without_schema_and_data_is_created_again(store, tmp_path, content) -> None:
    store.close()
    schema = tmp_path / "index.db" / "collections" / "pictures" / "schema.json"
    schema.unlink()
    if content is not None:
        schema.write_bytes(content)
    with Store(str(tmp_path / "index.db")) as again:
        assert again.manifest is None
        again.create(store.manifest)
        fill(again)
        assert len(again) == 40


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.put([Entry(id="0" * 32, path="a")], np.ones((1, 2))),
        lambda store: fill(store) and store.search(np.ones((1, 2)), top=1),
        lambda store: store.create(store.manifest),
    ],
    ids=["put", "search", "create"],
)
def test_errors_of_milvus_are_one_line(store, tmp_path, call) -> None:
    store.close()
    refused = pytest.raises(UserError, match=r"^--index=.*index.db: Milvus ended with an error \(.+\); ")
    with refused as raised, Store(str(tmp_path / "index.db")) as again:
        call(again)
    assert "\n" not in str(raised.value)
    with Store(str(tmp_path / "index.db")) as again:  # and the index is closed
        assert again.manifest == store.manifest


def test_a_damaged_schema_without_checksums_is_one_line(store, tmp_path) -> None:
    store.close()
    (tmp_path / "index.db" / "collections" / "pictures" / "checksums.json").unlink()
    (tmp_path / "index.db" / "collections" / "pictures" / "schema.json").write_text('{"fields": []}')
    with pytest.raises(UserError, match=r"^--index=.*index.db: Milvus ended with an error \(.+\); "):
        Store(str(tmp_path / "index.db"))


@pytest.mark.parametrize("name", ["../pictures", "a-b", "", "1a", "ü"])
def test_wrong_collection_names_are_refused(tmp_path, name) -> None:
    with pytest.raises(UserError, match="^--collection=.* is not valid; use"):
        Store(str(tmp_path / "index.db"), collection=name)


def test_a_folder_with_other_files_is_refused(tmp_path) -> None:
    (tmp_path / "else.db" / "collections").mkdir(parents=True)
    (tmp_path / "else.db" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"else.db is a folder with other files in it \(notes.txt\)"):
        Store(str(tmp_path / "else.db"))
    assert sorted(path.name for path in (tmp_path / "else.db").rglob("*")) == ["collections", "notes.txt"]


def test_another_file_inside_an_index_is_accepted(store, tmp_path) -> None:
    store.close()
    (tmp_path / "index.db" / "notes.txt").write_text("mine")
    with Store(str(tmp_path / "index.db")) as again:
        assert again.manifest == store.manifest


@pytest.mark.parametrize("place", ["index.db", "index.db/LOCK", "new.db"])
def test_a_location_without_write_permission_is_named(store, tmp_path, monkeypatch, place) -> None:
    """Root may write everywhere, so the answer of the system is replaced."""
    store.close()
    locked = tmp_path / place if place != "new.db" else tmp_path
    monkeypatch.setattr(os, "access", lambda path, mode: os.fspath(path) != str(locked))
    with pytest.raises(UserError, match=f"^--index=.*: {locked} is not writable, .* fix the permissions"):
        Store(str(tmp_path / place.split("/")[0]))


def test_the_documented_pymilvus_client_reads_an_index(tmp_path, monkeypatch, capsys) -> None:
    (code,) = re.findall(r"```python\n(.*?MilvusClient.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL)
    vectors = np.eye(3, dtype=np.float32)
    with Store(str(tmp_path / "photos.db")) as store:
        store.create(Manifest(weights="w", model="m", dim=3))
        paths = ("beach/sea.png", "beach/sand.png", "wood.png")
        store.put([Entry(id=id_of(path), path=path) for path in paths], vectors)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    try:
        exec(code, names)  # noqa: S102
        assert len(ast.literal_eval(capsys.readouterr().out)) == 3
        names["client"].release_collection("pictures")
        with pytest.raises(MilvusException):  # the line about it is there for a reason
            names["client"].query("pictures", filter='path like "beach/%"', limit=1)
    finally:
        names["client"].close()
        server_manager_instance.release_server("photos.db")


@pytest.mark.slow
def test_a_milvus_server(tmp_path) -> None:
    """Milvus Lite's own server in place of a cluster, with the same client."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "milvus_lite", "server", "--data-dir", str(tmp_path / "data"), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    try:
        while server.poll() is None:
            with socket.socket() as attempt:
                if attempt.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        with Store(f"http://127.0.0.1:{port}") as store:
            store.create(Manifest(weights="w", model="m", dim=3))
            _, vectors = fill(store)
            assert store.search(vectors[:1], top=1)[0][0].score == pytest.approx(1, abs=1e-5)
        with Store(f"http://127.0.0.1:{port}") as store:
            assert len(store) == 40 and store.manifest == Manifest(weights="w", model="m", dim=3)
    finally:
        server.kill()
        server.wait()


def test_long_captions_are_truncated() -> None:
    captions = {"de": ("kurz",), "fr": ("é" * 50, "è" * 50)}
    text = captions_to_text(captions, limit=160)
    assert captions_from_text(text) == {"de": ("kurz",), "fr": ("é" * 50,)} and len(text.encode()) <= 160
    assert json.loads(captions_to_text(captions, limit=10**6))["fr"][1] == "è" * 50
    assert captions_from_text('{"de": "Haus", "DE": ["Hof"]}') == {"de": ("Haus", "Hof")}
    assert captions_from_text("[1]") == captions_from_text('{"a": 1}') == captions_from_text("{") == {}


@pytest.mark.parametrize(
    ("text", "begin", "end"),
    [("2024", 1704067200, 1735689600), ("2024-02", 1706745600, 1709251200), ("2024-12", 1733011200, 1735689600),
     ("2024-02-29", 1709164800, 1709251200), ("9999", 253370764800, 253402300800),
     ("9999-12", 253399622400, 253402300800), ("9999-12-31", 253402214400, 253402300800)],
)  # fmt: skip
def test_dates(text, begin, end) -> None:
    assert (day(text, name="since"), day(text, name="until", after=True)) == (begin, end)
    assert day("", name="since") is None


@pytest.mark.parametrize(
    "text", ["2024-13", "2023-02-29", "24", "yesterday", "2024-1-1", "0000", "2024-00", "2024-05-00", "١٩٩٩", "2024-٠١"]
)
def test_wrong_dates_are_refused(text) -> None:
    with pytest.raises(UserError, match="is not a date"):
        day(text, name="since", after=True)


def test_truncating_many_captions_is_fast() -> None:
    captions = {"de": tuple(f"a{number}" for number in range(10_000))}
    began = time.process_time()
    text = captions_to_text(captions, limit=1000)
    assert time.process_time() - began < 2  # written anew after each caption: 20 s
    assert 990 < len(text) <= 1000
