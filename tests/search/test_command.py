from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest
from PIL import Image
from support.colour_encoder import paint

from cl2cm_jax.errors import UserError
from cl2cm_jax.search import __main__ as command
from cl2cm_jax.trained.bundle_layout import MANIFEST


@pytest.fixture
def run(workdir, colours, monkeypatch, capsys):
    """Runs the command on the workdir with the fake model; returns what it prints on standard output."""
    monkeypatch.setattr("cl2cm_jax.load", lambda path: colours.model("colours", "en", "de"))

    def main(*arguments: str, model: str = f"--model={workdir}") -> str:
        command.main([model, *arguments])
        return capsys.readouterr().out

    return main


def test_tables(run) -> None:
    out = run("red", "grün", "--top=2")
    lines = [line.split() for line in out.splitlines()]
    assert ["1", "1.000", "a", "red", "dog", "犬"] in lines  # no path: the id
    assert ["1", "1.000", "a", "[leaf]", "leaf.png"] in lines  # brackets are text, not markup
    assert "2 queries over 4 pictures" in out


def test_pictures_that_are_gone_are_said(run, workdir, capsys) -> None:
    command.main([f"--model={workdir}", "grün", "--top=1"])
    said = "1 of the pictures found are not there now, the first is leaf.png; if they were moved, name their place"
    assert said in capsys.readouterr().err


def test_json_is_one_list(run) -> None:
    answers = json.loads(run("赤", "blau", "--json", "--top=1"))
    assert [answer["query"] for answer in answers] == ["赤", "blau"]
    assert answers[0]["results"] == [{"rank": 1, "id": "犬", "score": 1.0, "caption": "a red dog", "path": ""}]
    assert answers[1]["results"][0]["id"] == "sea"


def test_options_may_stand_anywhere(run) -> None:
    assert json.loads(run("red", "--top=1", "blue", "--json"))[1]["query"] == "blue"


def test_queries_from_standard_input(run, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("赤\n\n  blau \r\n".encode())))
    answers = json.loads(run("green", "-", "--json", "--top=1"))
    assert [answer["query"] for answer in answers] == ["green", "赤", "blau"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe")))
    with pytest.raises(UserError, match="not UTF-8 at byte 0"):
        run("-")


def test_a_folder_of_pictures(run, tmp_path, workdir) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("red", "lime", "blue"):
        Image.new("RGB", (9, 9), name).save(tmp_path / "photos" / f"{name}.png")
    out = run("blau", f"--images={tmp_path / 'photos'}", "--top=1")
    assert "blue.png" in out and "caption" not in out
    assert len(list((workdir / "cache").iterdir())) == 1
    everything = json.loads(run("blau", f"--images={tmp_path / 'photos'}", "--top=9", "--json"))
    assert len(everything[0]["results"]) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top=five", "red"], "invalid int value: 'five'"),
        (["--tpo=5", "red"], "unrecognized arguments: --tpo=5"),
        ([], "no query"),
        ([""], "query 1 is empty"),
        (["red", "--top=0"], "--top=0"),
    ],
)
def test_mistakes(run, arguments, message) -> None:
    with pytest.raises(UserError, match=message):
        run(*arguments)


def test_the_old_name_of_the_option_is_accepted_and_not_shown(run, workdir, capsys) -> None:
    assert "a red dog" in run("red", model=f"--workdir={workdir}")
    with pytest.raises(SystemExit):
        command.parse(["--help"])
    shown = capsys.readouterr().out
    assert "--model MODEL" in shown and "--workdir" not in shown
    with pytest.raises(UserError, match="the following arguments are required: --model"):
        command.parse(["red"])


@pytest.mark.parametrize("kind", ["bundle", "hub id"])
def test_a_model_without_a_gallery_needs_a_folder_of_pictures(run, tmp_path, monkeypatch, kind) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / MANIFEST).touch()
    model = "--model=bundle" if kind == "bundle" else "--model=org/name"
    with pytest.raises(UserError, match="is not a workdir, so it has no gallery of its own; add --images=DIR"):
        run("red", model=model)
    paint(tmp_path / "photos" / "sea.png", "blue")
    assert "sea.png" in run("blau", "--images=photos", model=model)
    assert [path.suffix for path in (tmp_path / "home" / "cl2cm_jax").iterdir()] == [".npz"]
    assert os.listdir(tmp_path / "bundle") == [MANIFEST]


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path) -> None:
    for workdir, message in ((tmp_path / "nowhere", "no such folder"), (tmp_path, "finish its training with")):
        done = subprocess.run(
            [sys.executable, "-m", "cl2cm_jax.search", f"--workdir={workdir}", "rot"], capture_output=True, text=True
        )
        assert done.returncode == 2
        assert message in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""
