"""Names, captions and queries with control characters go through the commands: none reaches the terminal raw."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.colour_encoder import ColourEncoder, paint
from support.command import Outcome, call
from support.galleries import four_pictures

from cl2cm_jax.evaluation.gallery import GALLERY_FILE, save_gallery
from cl2cm_jax.evaluation.report import Protocol, Results, write_results
from cl2cm_jax.evaluation.retrieval import Ranks, metrics
from cl2cm_jax.search import __main__ as search
from cl2cm_jax.search import index_command as index
from cl2cm_jax.studies.comparison import __main__ as compare
from cl2cm_jax.translation import __main__ as translate

CONTROL = {
    *map(chr, range(32)),
    *map(chr, range(0x7F, 0xA0)),
    *"\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2069",
}
BAD = "\x1b]52;c;cHduZWQ=\x07\x9b31m\u202eerror\r\n\x1b[1Aerror: fake\u2028b"


def assert_harmless(outcome: Outcome) -> None:
    assert outcome.code == 0, outcome.err
    printed = outcome.out + outcome.err
    assert not set(printed) & (CONTROL - {"\n"}), ascii(printed)
    assert not any(line.lstrip().startswith("error: fake") for line in printed.splitlines()), printed


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A picture, one that cannot be read and a link to the outside, whose names are hostile."""
    monkeypatch.setattr("cl2cm_jax.load", lambda path: ColourEncoder().model("colours", "en", "de"))
    root = tmp_path / "photos"
    paint(root / f"red{BAD}.png", "red")
    paint(root / "lime.png", "lime")
    (root / f"bad{BAD}.jpg").write_bytes(b"no picture")
    (root / f"link{BAD}.png").symlink_to("/usr")
    return root


def test_search_of_a_folder(photos: Path, tmp_path: Path) -> None:
    save_gallery(tmp_path / "run" / GALLERY_FILE, four_pictures())
    outcome = call(search.main, f"--model={tmp_path / 'run'}", f"--images={photos}", f"red{BAD}", "red")
    assert_harmless(outcome)
    assert "skipped" in outcome.err and "red\\x1b]52;c;cHduZWQ=\\x07\\x9b31m\\u202eerror" in outcome.out
    outcome = call(search.main, f"--model={tmp_path / 'run'}", f"--images={photos}", f"red{BAD}", "red", "--json")
    assert_harmless(outcome)
    answers = json.loads(outcome.out)
    assert answers[0]["query"] == f"red{BAD}" and Path(answers[1]["results"][0]["path"]).name == f"red{BAD}.png"


def test_index_of_a_folder(photos: Path, tmp_path: Path) -> None:
    captions = tmp_path / "captions.csv"
    captions.write_text(f'image,language,caption\nlime.png,en,"green\x1b[31m{BAD[1:8]}\u202e"\nno{BAD[:5]}.png,en,b\n')
    outcome = call(index.main, "--model=m", f"--images={photos}", f"--captions={captions}", f"--index={tmp_path}/i.db")
    assert_harmless(outcome)
    assert "skipped" in outcome.err
    for options in ([], ["--json"]):
        outcome = call(index.main, "search", "--model=m", f"--index={tmp_path}/i.db", f"green{BAD}", *options)
        assert_harmless(outcome)
        assert "green[31m" in outcome.out  # of captions only what is seen is kept


def test_comparison_of_runs(tmp_path: Path) -> None:
    found = metrics(Ranks(*[[1, 2, 3]] * 4, *[[0.5, 1.0, 1.0]] * 2))  # type: ignore[arg-type]
    scores = {"en": found, "de": found}
    config = {"data.name": "emoji", "data.source": "en"}
    protocol = Protocol("test", 3, dict.fromkeys(scores, 3), query="target", fusion_weight=None)
    write_results(tmp_path / BAD, Results("en", ["de"], protocol, scores, scores, config, {}))
    for options in ([], ["--markdown"]):
        assert_harmless(call(compare.main, f"--workdirs={tmp_path / BAD}", *options))


def test_translation(tmp_path: Path) -> None:
    rows = f'a.png,en,"a {BAD[:14]} dog",train\nb\x1b[31m.png,en,"a {BAD[:14]} dog",test\n'
    (tmp_path / "in.csv").write_text(f"image,language,caption,split\n{rows}", encoding="utf-8")
    (tmp_path / "de.txt").write_text("ein Hund\x1b[31m\nein Hund\u202e\n", encoding="utf-8")
    options = [f"--captions={tmp_path}/in.csv", f"--out={tmp_path}/out{BAD}.csv", "--source=en", "--target=de"]
    outcome = call(translate.main, *options, "--engine=file", f"--translations={tmp_path}/de.txt")
    assert_harmless(outcome)
    assert "2 captions from en to de" in outcome.out
