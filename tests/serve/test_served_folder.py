"""Which folder is shown, and that no answer has a path of this machine."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np
import pytest
from support.colour_encoder import ColourEncoder, paint

from cl2cm_jax.errors import UserError
from cl2cm_jax.search.entry import Entry, id_of
from cl2cm_jax.search.stores.memory import MemoryIndex
from cl2cm_jax.search.stores.milvus import Manifest, Store
from cl2cm_jax.serve import __main__ as command
from cl2cm_jax.serve.app import _shown, create_app
from cl2cm_jax.serve.limits import Limits
from cl2cm_jax.serve.pictures import Pictures
from cl2cm_jax.serve.service import Service

from .conftest import LOOPBACK, serving


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    paint(tmp_path / "secret" / "photos" / "red.png", "red")
    paint(tmp_path / "secret" / "private.png", "red")
    return tmp_path / "secret" / "photos"


def test_no_answer_has_a_path_of_this_machine(photos: Path) -> None:
    names = ["red.png", str(photos / "red.png"), str(photos.parent / "private.png"), "C:\\Users\\me\\a.png", "gone.png"]
    entries = [Entry(id=id_of(name), path=name) for name in names]
    manifest = Manifest(weights="step 10", model="colours", dim=3, images=str(photos))
    model = ColourEncoder().model("colours", "en", "de")
    service = Service(MemoryIndex(entries, np.eye(5, 3, dtype=np.float32), manifest), model, lambda query: "")
    with serving(create_app(service, Pictures(str(photos)), Limits(hosts=LOOPBACK))) as running:
        asked = ["/", "/app.js", "/api/about", "/api/openapi.json", "/api/search?q=red", "/api/search?q=&top=x"]
        asked += ["/api/search?q=a&since=x", "/api/search?q=a&path=%2F", "/api/none", "/api/pictures/" + "0" * 32]
        asked += [f"/api/pictures/{entry.id}{end}" for entry in entries for end in ("", "/similar", "/thumbnail")]
        answers = [running.ask(path).content for path in asked]
        answers.append(running.ask("/api/search/picture", method="POST", body=b"no picture").content)
        found = running.ask("/api/search?q=red").json()["results"]
        outside = running.ask(f"/api/pictures/{id_of(names[2])}/thumbnail").status
    assert not [answer for answer in answers if re.search(rb"secret|/tmp|Users|/srv", answer)]
    assert sorted(result["path"] for result in found) == ["a.png", "gone.png", "private.png", "red.png", "red.png"]
    assert outside == 404


def test_answers_have_no_control_characters(photos: Path) -> None:
    name = "a\x1b[31m\x9b\u202e\u2028\x7f\udce4犬.png"
    entry = Entry(id=id_of("a"), path=name, captions={"en": (name,)})
    manifest = Manifest(weights="step 10", model="colours", dim=3, images=str(photos))
    model = ColourEncoder().model("colours", "en", "de")
    service = Service(MemoryIndex([entry], np.eye(1, 3, dtype=np.float32), manifest), model, lambda query: "")
    with serving(create_app(service, Pictures(str(photos)), Limits(hosts=LOOPBACK))) as running:
        for path in ("/api/search?q=red", f"/api/pictures/{entry.id}"):
            text = running.ask(path).content.decode()
            found = json.loads(text)
            result = found["results"][0] if "results" in found else found
            assert result["path"] == result["caption"] == name and "犬" in text
            assert not re.search("[\0-\x1f\x7f-\x9f\u2028\u202e]", text)


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("sea/blue.png", "sea/blue.png"),
        ("../a.png", "../a.png"),
        ("/srv/me/a.png", "a.png"),
        ("C:\\a\\b.png", "b.png"),
        ("C:/a/b.png", "b.png"),
        ("\\\\server\\share\\b.png", "b.png"),
        ("odd\\name.png", "odd\\name.png"),
        ("12:30.png", "12:30.png"),
    ],
)
def test_an_absolute_path_is_shown_as_a_name(path: str, shown: str) -> None:
    assert _shown(path) == shown


@pytest.fixture
def options(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes the options of the service for an index that names a folder."""
    monkeypatch.setattr("cl2cm_jax.load", lambda path: ColourEncoder().model("colours", "en", "de"))

    def made(*arguments: str, images: str) -> argparse.Namespace:
        with Store(str(tmp_path / "i.db")) as store:
            store.create(Manifest(weights="step 10", model="colours", dim=3, images=images))
            store.put([Entry(id=id_of("red.png"), path="red.png")], np.eye(1, 3, dtype=np.float32))
            store.flush()
        return command.parse(["--model=m", f"--index={tmp_path / 'i.db'}", *arguments])

    return made


def test_the_whole_disk_is_not_shown(options, photos: Path) -> None:
    with pytest.raises(UserError, match="its pictures are in /, the whole disk; name their folder with --images=DIR"):
        command.application(options(images="/"), "")
    command.application(command.parse(["--model=m", f"--index={photos.parents[1]}/i.db", f"--images={photos}"]), "")


def test_the_folder_of_the_index_is_printed_and_a_named_one_replaces_it(
    options, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = command.application(options(images=str(photos.parent)), "")
    assert f"Shows the pictures in {photos.parent}, which the index names" in capsys.readouterr().out
    for arguments, status in (([], 404), ([f"--images={photos}"], 200)):
        app = command.application(options_again(photos, *arguments), "")
        with serving(app) as running:
            assert running.ask(f"/api/pictures/{id_of('red.png')}/thumbnail").status == status


def options_again(photos: Path, *arguments: str) -> argparse.Namespace:
    return command.parse(["--model=m", f"--index={photos.parents[1] / 'i.db'}", *arguments])
