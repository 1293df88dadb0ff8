"""The command, uninterrupted, killed and stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from support.command import Outcome, call

from cl2cm_jax.data.readers.caption_file import read_caption_file
from cl2cm_jax.runtime.storage import exclusive
from cl2cm_jax.translation import __main__ as translate
from cl2cm_jax.translation.provenance import provenance_path

ROOT = Path(__file__).resolve().parents[2]
ROWS = "image,language,caption,split\na.png,en,a dog,train\nb.png,en,a cat,train\nc.png,en,a dog,test\n"


def run(folder: Path, **options: object) -> Outcome:
    options = {"captions": folder / "in.csv", "out": folder / "out.csv", "source": "en", "target": "de"} | options
    return call(translate.main, *(f"--{name.replace('_', '-')}={value}" for name, value in options.items()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in.csv").write_text(ROWS, encoding="utf-8")
    (tmp_path / "de.txt").write_text("ein Hund\neine Katze\nder Hund\n", encoding="utf-8")
    return tmp_path


def translations(path: Path, language: str = "de") -> list[tuple[str, str, str]]:
    rows = read_caption_file(str(path), image_is_path=True).rows
    return [(row.image, row.caption, row.origin) for row in rows if row.language == language]


def provenance(out: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in provenance_path(out).read_text(encoding="utf-8").splitlines()]


def test_existing_translations(folder: Path) -> None:
    outcome = run(folder, engine="file", translations=folder / "de.txt")
    assert outcome.code == 0, outcome.err
    assert translations(folder / "out.csv") == [
        ("a.png", "ein Hund", "machine"),
        ("b.png", "eine Katze", "machine"),
        ("c.png", "der Hund", "machine"),
    ]
    assert "3 captions from en to de; 3 sentences translated now, 0 captions before" in outcome.out
    assert "note: test now have machine translations" in outcome.out
    assert {entry["engine"] for entry in provenance(folder / "out.csv")} == {"file"}


def test_missing_evaluation_captions_are_noted(folder: Path) -> None:
    options = {"engine": "file", "translations": folder / "de.txt"}
    outcome = run(folder, splits="train", **options)
    assert (
        f"note: no caption in de: test; training needs some there, written by people: add them to {folder}"
        in outcome.out
    )
    assert "now have machine translations" not in outcome.out
    (folder / "in.csv").write_text(ROWS + "c.png,de,ein Hund,test\n", encoding="utf-8")
    assert "note" not in run(folder, splits="train", **options).out


def test_a_file_without_splits_is_noted(folder: Path) -> None:
    (folder / "in.csv").write_text("image,language,caption\na.png,en,a dog\n", encoding="utf-8")
    (folder / "de.txt").write_text("ein Hund\n", encoding="utf-8")
    outcome = run(folder, engine="file", translations=folder / "de.txt")
    assert "note: without a column split" in outcome.out and outcome.out.count("note:") == 1


def test_a_second_run_changes_nothing(folder: Path) -> None:
    run(folder, engine="file", translations=folder / "de.txt")
    before = (folder / "out.csv").read_bytes(), provenance(folder / "out.csv")
    outcome = run(folder, engine="file", translations=folder / "de.txt")
    assert "0 sentences translated now, 3 captions before" in outcome.out
    assert ((folder / "out.csv").read_bytes(), provenance(folder / "out.csv")) == before


def test_two_at_once_do_not_write_into_one_file(folder: Path) -> None:
    with exclusive(folder / ".out.csv.lock"):
        outcome = run(folder, engine="file", translations=folder / "de.txt")
    assert outcome.code == 2 and outcome.err.startswith(
        f"error: --out={folder / 'out.csv'}: another process translates"
    )
    assert {path.name for path in folder.iterdir()} == {"in.csv", "de.txt"}


def test_a_second_language_keeps_rows_and_provenance(folder: Path, nllb_folder: Path) -> None:
    options = {"engine": "ctranslate2", "device": "cpu", "model": nllb_folder}
    assert run(folder, splits="train", **options).code == 0
    second = run(folder, captions=folder / "out.csv", out=folder / "both.csv", target="fr", **options)
    assert second.code == 0, second.err
    assert translations(folder / "both.csv") == [("a.png", "ein Hund", "machine"), ("b.png", "ein Kater", "machine")]
    assert translations(folder / "both.csv", "fr") == [
        ("a.png", "un chien", "machine"),
        ("b.png", "un chat", "machine"),
        ("c.png", "un chien", "machine"),
    ]
    languages = [entry["language"] for entry in provenance(folder / "both.csv")]
    assert Counter(languages) == {"de": 2, "fr": 3}
    assert "2 sentences translated now" in second.out  # "a dog" once


def test_queries_have_a_language_of_their_own(folder: Path) -> None:
    outcome = call(
        translate.main,
        *("--captions", folder / "in.csv", "--out", folder / "out.csv", "--source=en", "--target=de", "--queries"),
        *("--engine=file", "--translations", folder / "de.txt", "--splits=test"),
    )
    assert outcome.code == 0, outcome.err
    assert translations(folder / "out.csv", "en2de") == [("c.png", "der Hund", "machine")]
    assert [entry["language"] for entry in provenance(folder / "out.csv")] == ["en2de"]
    assert "note" not in outcome.out


def test_lines_of_the_papers_format(folder: Path) -> None:
    (folder / "train_enc.caption.txt").write_text("1.jpg#enc#0 a dog\n2.jpg#enc#0 a cat", encoding="utf-8")
    (folder / "xx.txt").write_text("2#enc2de#0 eine Katze\n1#enc2de#0 ein Hund\n", encoding="utf-8")
    files = {"captions": folder / "train_enc.caption.txt", "out": folder / "train_google_enc2de.caption.txt"}
    outcome = run(folder, engine="file", translations=folder / "xx.txt", **files)
    assert outcome.code == 0, outcome.err
    assert files["out"].read_text(encoding="utf-8") == "1.jpg#enc2de#0 ein Hund\n2.jpg#enc2de#0 eine Katze\n"
    assert [entry["image"] for entry in provenance(files["out"])] == ["1.jpg#enc2de#0", "2.jpg#enc2de#0"]


def test_fewer_lines_than_captions_write_nothing(folder: Path) -> None:
    (folder / "de.txt").write_text("ein Hund\n", encoding="utf-8")
    outcome = run(folder, engine="file", translations=folder / "de.txt")
    assert (outcome.code, outcome.out) == (2, "")
    assert "has 1 lines for 3 captions" in outcome.err and outcome.err.count("\n") == 1
    assert not (folder / "out.csv").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"engine": "google"},
            "or the dotted name of a module",
        ),
        ({"engine": "file"}, "--engine=file needs --translations"),
        ({"engine": "ctranslate2"}, "--engine=ctranslate2 needs --model"),
        ({"engine": "file", "translations": "x", "pair": "en-de"}, "--pair is for --engine=apertium, not file"),
        ({"engine": "apertium", "source": "english"}, "--source='english' is not a language code"),
        ({"engine": "apertium", "target": "en"}, "--target='en' is also the source"),
        ({"engine": "apertium", "splits": "trian"}, "did you mean 'train'"),
        ({"engine": "apertium", "batch": "0"}, "argument --batch: '0'"),
        ({"engine": "apertium", "out": "out.tsv"}, "must end in .csv"),
        ({"engine": "apertium", "captions": "none.csv"}, "is not a file"),
    ],
)
def test_a_wrong_option_is_one_line(folder: Path, options: dict[str, str], message: str) -> None:
    outcome = run(folder, **options)
    assert outcome.code == 2 and message in outcome.err and outcome.err.count("\n") == 1


@pytest.mark.parametrize("name", ["out.csv", "out.csv.provenance.jsonl"])
def test_a_symbolic_link_in_a_loop_is_refused_before_anything_is_translated(folder: Path, name: str) -> None:
    (folder / name).symlink_to(folder / "other")
    (folder / "other").symlink_to(folder / name)
    outcome = run(folder, engine="file", translations=folder / "de.txt")
    assert outcome.code == 2 and f"{name} is a symbolic link in a loop" in outcome.err
    assert outcome.err.count("\n") == 1 and (folder / name).is_symlink()


def test_captions_behind_a_link_loop(folder: Path) -> None:
    (folder / "loop.csv").symlink_to(folder / "loop.csv")
    outcome = run(folder, engine="file", translations=folder / "de.txt", captions=folder / "loop.csv")
    assert outcome.code == 2 and "loop.csv" in outcome.err and outcome.err.count("\n") == 1


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="this system has no /proc")
@pytest.mark.parametrize("out", ["/proc/x.csv", "/proc/x/y.csv"])
def test_a_location_without_files(folder: Path, out: str) -> None:
    outcome = run(folder, engine="file", translations=folder / "de.txt", out=out)
    assert outcome.code == 2 and "/proc/x" in outcome.err and outcome.err.count("\n") == 1


def test_the_input_is_never_the_output(folder: Path) -> None:
    outcome = run(folder, engine="file", translations=folder / "de.txt", out=folder / "x" / ".." / "in.csv")
    assert outcome.code == 2 and "give another one" in outcome.err
    assert (folder / "in.csv").read_text(encoding="utf-8") == ROWS


CAPTIONS = 60
SIGNALLED = """
import os, sys
from cl2cm_jax.translation.__main__ import main
left, fsync = int(sys.argv[1]), os.fsync
def counted(file):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), int(sys.argv[2]))
    fsync(file)
os.fsync = counted
main(sys.argv[3:])
"""  # sends itself a signal when it saves the batch of that number, 0: never


def translate_many(folder: Path, model: Path, *, batch: int = 0, sent: int = 0) -> subprocess.CompletedProcess[str]:
    """Translates many.jsonl in batches of 3 sentences; the process gets the signal `sent` in the given batch."""
    options = {"captions": folder / "many.jsonl", "out": folder / "out.jsonl", "source": "en", "target": "de"}
    options |= {"engine": "ctranslate2", "device": "cpu", "model": model, "batch": 3, "beam": 1}
    command = [sys.executable, "-c", SIGNALLED, str(batch), str(sent)]
    command += [f"--{name}={value}" for name, value in options.items()]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture
def many(tmp_path: Path) -> list[str]:
    """Writes many.jsonl, where every sentence occurs twice; returns its captions."""
    texts = [f"a {('dog', 'cat', 'horse')[number % 3]} {number // 6}" for number in range(CAPTIONS)]
    rows = [{"image": f"{number}.png", "language": "en", "caption": text} for number, text in enumerate(texts)]
    (tmp_path / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return texts


def test_a_run_killed_several_times_neither_loses_nor_repeats(tmp_path: Path, nllb_folder: Path, many) -> None:
    journal, before = provenance_path(tmp_path / "out.jsonl"), b""
    for batch in (1, 3, 2):
        killed = translate_many(tmp_path, nllb_folder, batch=batch, sent=signal.SIGKILL)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not (tmp_path / "out.jsonl").exists()
        content = journal.read_bytes()
        assert content.startswith(before) and len(content) > len(before)  # finished translations are kept
        before = content
        with journal.open("ab") as file:  # as a kill within a write leaves it
            file.write(b'{"image": "0.png", "lang')
    last = translate_many(tmp_path, nllb_folder)
    assert last.returncode == 0, last.stderr
    assert f"{CAPTIONS} captions from en to de" in last.stdout
    words = {"dog": "ein Hund", "cat": "ein Kater", "horse": "ein Pferd"}
    expected = [(f"{number}.png", words[text.split()[1]], "machine") for number, text in enumerate(many)]
    assert translations(tmp_path / "out.jsonl") == expected
    lines = [line for line in journal.read_bytes().split(b"\n") if line.endswith(b"}")]
    assert Counter(json.loads(line)["image"] for line in lines) == {f"{n}.png": 1 for n in range(CAPTIONS)}


def test_a_stop_signal_saves_and_prints_how_to_resume(tmp_path: Path, nllb_folder: Path, many) -> None:
    stopped = translate_many(tmp_path, nllb_folder, batch=2, sent=signal.SIGTERM)
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    assert stopped.stdout.startswith("stopped and saved; resume with: cl2cm translate --captions=")
    journal = provenance_path(tmp_path / "out.jsonl").read_bytes()
    assert not (tmp_path / "out.jsonl").exists() and journal.endswith(b"}\n") and journal.count(b"\n") == 12
