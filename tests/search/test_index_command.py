from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from support.colour_encoder import paint

from cl2cm_jax.config import defaults, flatten
from cl2cm_jax.errors import UserError
from cl2cm_jax.evaluation.gallery import GALLERY_FILE, Gallery, save_gallery
from cl2cm_jax.runtime.checksums import write_checked
from cl2cm_jax.search import index_command as command
from cl2cm_jax.search.stores.milvus import Manifest, Store
from cl2cm_jax.search.vector_files import MANIFEST_FILE
from cl2cm_jax.trained.bundle_layout import MANIFEST
from cl2cm_jax.training.workdir import CONFIG_FILE


@pytest.fixture
def run(monkeypatch, capsys, colours, photos, tmp_path):
    """Runs the command with a model of colours; returns what it prints."""
    models = {"model": colours, "other": type(colours)(weights="step 20")}
    made = {name: model.model(name, "en", "de") for name, model in models.items()}
    monkeypatch.setattr("cl2cm_jax.load", lambda path: made[Path(path).name])
    monkeypatch.setattr(command, "log_to_stderr", lambda: None)  # it replaces the handler of caplog

    def main(*arguments: str, model: str = "model", index: str = "i.db") -> str:
        capsys.readouterr()
        named = [] if "export" in arguments else [f"--model={model}"]
        command.main([*arguments, *named, f"--index={tmp_path / index}"])
        return capsys.readouterr().out

    return main


def test_build_update_and_search(run, photos, tmp_path, colours) -> None:
    (tmp_path / "c.csv").write_text("image,language,caption\nred.png,de,ein [roter] Apfel\nred.png,en,an apple\n")
    out = run(f"--images={photos}", f"--captions={tmp_path / 'c.csv'}")
    assert "3 pictures; 3 embedded" in out and "recall@3 against exact search: 1.000 (3 queries)" in out
    assert "0 embedded" in run(f"--images={photos}") and colours.seen == 3

    answers = json.loads(run("search", "rot", "赤", "--top=1", "--json"))
    assert [answer["query"] for answer in answers] == ["rot", "赤"]
    assert answers[0]["results"] == [
        {"rank": 1, "id": "red.png", "score": 1.0, "caption": "an apple", "path": str(photos / "red.png")}
    ]
    narrowed = json.loads(run("search", "blau", "--language=de", "--json"))[0]["results"]
    assert [(one["id"], one["caption"]) for one in narrowed] == [("red.png", "ein [roter] Apfel")]
    table = run("search", "blau", "--path=b%_", "--since=2000", "--until=2999")
    assert "blue.png" in table and "red.png" not in table and "1 query over 3 pictures" in table


def test_a_language_without_captions_is_named(run, photos, tmp_path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(command, "log_to_stderr", lambda: None)  # it replaces the handler of caplog
    (tmp_path / "c.csv").write_text("image,language,caption\nred.png,de-DE,ein Apfel\nred.png,EN,an apple\n")
    run(f"--images={photos}", f"--captions={tmp_path / 'c.csv'}")
    for code in ("DE", "de_DE", "deu"):
        (found,) = json.loads(run("search", "blau", f"--language={code}", "--json"))
        assert [(one["id"], one["caption"]) for one in found["results"]] == [("red.png", "ein Apfel")], code
    assert not caplog.text
    assert json.loads(run("search", "blau", "--language=pt-br", "--json"))[0]["results"] == []
    assert "no picture has a caption in 'pt-BR'; the index has captions in de, en" in caplog.text


def test_export_and_import(run, photos, tmp_path) -> None:
    run(f"--images={photos}")
    assert "3 vectors" in run("export", f"--out={tmp_path / 'v'}")
    assert "3 pictures" in run("import", f"--vectors={tmp_path / 'v'}", index="j.db")
    assert "blue.png" in run("search", "blau", "--top=1", index="j.db")
    with pytest.raises(UserError, match="the model 'model' .step 10., but --model is 'other' .step 20."):
        run("import", f"--vectors={tmp_path / 'v'}", index="k.db", model="other")


def test_a_gallery_of_another_model_or_folder_is_refused(run, photos, tmp_path) -> None:
    run(f"--images={photos}")
    for arguments in ((f"--images={photos}",), ("search", "rot")):
        with pytest.raises(UserError, match="the model 'model' .step 10., but --model is 'other' .step 20."):
            run(*arguments, model="other")
    moved = photos.rename(tmp_path / "moved")
    with pytest.raises(UserError, match="is of the folder .*photos, not of .*moved.*--moved"):
        run(f"--images={moved}")
    assert "3 unchanged" in run(f"--images={moved}", "--moved")
    assert json.loads(run("search", "rot", "--json", "--top=1"))[0]["results"][0]["path"] == str(moved / "red.png")


def without_a_folder(vectors: Path) -> None:
    """Makes exported vectors as clip-retrieval writes them, whose manifest has no folder of pictures."""
    (vectors / "cl2cm_index.json").unlink()


def test_a_folder_does_not_replace_imported_vectors(run, photos, tmp_path, caplog) -> None:
    run(f"--images={photos}")
    run("export", f"--out={tmp_path / 'v'}")
    without_a_folder(tmp_path / "v")
    run("import", f"--vectors={tmp_path / 'v'}", index="j.db")
    assert "has no cl2cm_index.json: neither the model that made them nor their checksums can be" in caplog.text
    one = paint(tmp_path / "one" / "red.png", "red").parent
    with pytest.raises(UserError, match="is of vectors whose folder is unknown, not of the folder .*one; .*--moved"):
        run(f"--images={one}", index="j.db")
    assert "3 pictures" in run("import", f"--vectors={tmp_path / 'v'}", index="j.db")
    with pytest.raises(UserError, match="whose folder is unknown, not of the folder .*photos; give another --index"):
        run("import", f"--vectors={tmp_path / 'v'}", f"--images={photos}", index="j.db")
    assert "3 pictures; 0 embedded, 0 taken over" in run(f"--images={photos}", "--moved", index="j.db")


def test_an_import_into_the_index_of_a_folder_names_the_remedy(run, photos, tmp_path) -> None:
    run(f"--images={photos}")
    run("export", f"--out={tmp_path / 'v'}")
    without_a_folder(tmp_path / "v")
    with pytest.raises(UserError, match="photos, not of vectors whose folder is unknown") as raised:
        run("import", f"--vectors={tmp_path / 'v'}")
    (advice,) = re.findall(r"--images=\S+", str(raised.value))
    assert "--moved" not in str(raised.value)
    assert "3 pictures" in run("import", f"--vectors={tmp_path / 'v'}", advice)


def test_an_empty_index_accepts_any_folder(run, photos, tmp_path, store) -> None:
    store.close()  # made, and nothing in it: of a run that was killed before its first batch
    other = paint(tmp_path / "other" / "red.png", "red").parent
    assert "1 pictures; 1 embedded" in run(f"--images={other}", index="index.db")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "rot"], "does not exist; make it with"),
        (["search"], "no query"),
        (["search", "rot", "--top=0"], "--top=0"),
        (["search", "rot", "--top=100000"], "more than an index gives"),
        (["search", "rot", "--since=May"], "--since='May' is not a date"),
        (["--images=nowhere"], "--images=nowhere: no such folder"),
        (["--captions=x.csv"], "--captions needs --images"),
        (["--imagse=x"], "unrecognized arguments: --imagse=x"),
        (["export", "--out=x"], "does not exist; make it with"),
    ],
)
def test_mistakes(run, arguments, message) -> None:
    with pytest.raises(UserError, match=message):
        run(*arguments)


def finished(workdir: Path, paths: Sequence[Path | str], **data: str) -> None:
    """A run's gallery of the pictures at `paths`, and its configuration."""
    count = len(paths)
    names = tuple(f"p{row}" for row in range(count))
    vectors = np.eye(3, dtype=np.float32)[:count]
    save_gallery(workdir / GALLERY_FILE, Gallery(vectors, names, names, tuple(map(str, paths)), "step 10"))
    fields = flatten(defaults()) | {f"data.{name}": value for name, value in data.items()}
    write_checked(workdir / CONFIG_FILE, json.dumps(fields))


def test_a_workdir_without_images_indexes_its_gallery(run, photos, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    drawn = [tmp_path / "data" / "emoji" / "1.0.0" / "png" / name for name in ("a.png", "b.png")]
    for path in drawn:
        paint(path, "red")
    finished(tmp_path / "model", drawn)
    assert "2 pictures" in run(model=str(tmp_path / "model"))
    own = [photos / "red.png", photos / "b%_ch" / "blue.png"]
    finished(tmp_path / "model", own, name="captions", images="photos", captions="c.csv")
    assert "2 pictures" in run(model=str(tmp_path / "model"), index="j.db")


def test_a_bundle_without_images_is_an_error(run, tmp_path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / MANIFEST).touch()
    with pytest.raises(UserError, match="model is not a workdir, so it has no gallery of its own; add --images=DIR"):
        run(model=str(tmp_path / "model"))


@pytest.mark.parametrize(
    ("paths", "data"),
    [
        (("/etc/hostname", "/var/a.png"), {}),
        (("/etc/hostname", "/etc/hosts"), {}),
        (("/etc/hostname", "/var/a.png"), {"images": "/", "dir": "/"}),
        (("data/../../a.png", "data/b.png"), {}),
        (("a\0/b.png",), {}),
    ],
)
def test_a_gallery_of_files_outside_the_run_is_refused(run, tmp_path, monkeypatch, paths, data) -> None:
    monkeypatch.chdir(tmp_path)
    finished(tmp_path / "model", paths, **data)
    with pytest.raises(UserError, match="--model: the pictures of its gallery .* give --images=DIR"):
        run(model=str(tmp_path / "model"))
    assert not (tmp_path / "i.db").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--language=fr"], "no picture has a caption in 'fr'; the index has captions in de"),
        (["--path=beach/"], "no picture of the index meets --path=beach/"),
        (["--until=1990-05"], "no picture of the index meets --until=1990-05-31"),
        (["--since=2990"], "no picture of the index meets --since=2990-01-01"),
        (["--language=de", "--path=b%"], "no picture of the index meets --language=de and --path=b%"),
        (["--language=de", "--path=beach/"], "no picture of the index meets --path=beach/"),
        (["--language=de"], ""),
    ],
)
def test_filters_that_select_nothing_say_so(run, photos, tmp_path, caplog, arguments, line) -> None:
    (tmp_path / "c.csv").write_text("image,language,caption\nred.png,de,rot\n")
    run(f"--images={photos}", f"--captions={tmp_path / 'c.csv'}")
    assert bool(json.loads(run("search", "rot", "--json", *arguments))[0]["results"]) == (not line)
    assert [record.getMessage() for record in caplog.records if "no picture " in record.getMessage()] == (
        [line] if line else []
    )


def test_results_whose_files_are_away_are_named(run, photos, caplog) -> None:
    run(f"--images={photos}")
    (photos / "red.png").rename(photos.parent / "away.png")
    assert "red.png" in run("search", "rot", "--top=3")
    assert (
        f"1 of the pictures found are not there now, the first is {photos / 'red.png'}; is a disk away?" in caplog.text
    )


def test_exclude_and_prune(run, photos) -> None:
    run(f"--images={photos}")
    assert "2 removed, 0 skipped, 0 away" in run(f"--images={photos}", "--exclude=b*", "--exclude=x")
    run(f"--images={photos}")
    (photos / "b%_ch").rename(photos.parent / "away")
    assert "0 removed, 0 skipped, 2 away" in run(f"--images={photos}")
    assert "2 removed, 0 skipped, 0 away" in run(f"--images={photos}", "--prune")
    with pytest.raises(UserError, match="--exclude and --prune need --images"):
        run("--prune")


def test_a_folder_that_a_workdir_names_is_not_shown_unasked(run, photos, tmp_path, monkeypatch, caplog) -> None:
    """A stranger's workdir may name any folder; the user names it, or its pictures are not served."""
    monkeypatch.chdir(tmp_path)
    private = [photos / "red.png", photos / "b%_ch" / "blue.png"]
    for number, fields in enumerate(({"name": "captions", "images": "photos", "captions": "c.csv"}, {"dir": "photos"})):
        finished(tmp_path / "model", private, **fields)
        with caplog.at_level("WARNING"):
            assert "2 pictures" in run(model=str(tmp_path / "model"), index=f"{number}.db")
        assert f"if they are yours, show them with: cl2cm serve --images={photos}" in caplog.text
        with Store(str(tmp_path / f"{number}.db")) as store:
            assert store.manifest is not None and store.manifest.images == ""
            assert {entry.path for entry in store.entries()} == {"red.png", "b%_ch/blue.png"}
            assert all(entry.date == 0 for entry in store.entries())  # not even its files are looked at
        assert "2 unchanged" in run(model=str(tmp_path / "model"), index=f"{number}.db")


def test_drawings_of_the_package_are_shown(run, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    built = tmp_path / "data" / "emoji" / "1.0.0"
    drawn = [built / "png" / name for name in ("a.png", "b.png")]
    for path in drawn:
        paint(path, "red")
    (built / "dataset_info.json").write_text("{}")
    finished(tmp_path / "model", drawn)
    run(model=str(tmp_path / "model"))
    with Store(str(tmp_path / "i.db")) as store:
        assert store.manifest is not None and store.manifest.images == str(built / "png")


def test_an_index_of_that_folder_keeps_it(run, photos, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = [photos / "red.png", photos / "b%_ch" / "blue.png"]
    finished(tmp_path / "model", own, name="captions", images="photos", captions="c.csv")
    with Store(str(tmp_path / "i.db")) as store:
        store.create(Manifest(weights="step 10", model="model", dim=3, images=str(photos)))
    run(model=str(tmp_path / "model"))
    with Store(str(tmp_path / "i.db")) as store:
        assert store.manifest is not None and store.manifest.images == str(photos)


def test_vectors_do_not_choose_the_folder_that_is_served(run, photos, tmp_path, caplog) -> None:
    run(f"--images={photos}")
    vectors = tmp_path / "v"
    run("export", f"--out={vectors}")
    manifest = json.loads((vectors / MANIFEST_FILE).read_text())
    del manifest["checksums"]  # which would find it
    (vectors / MANIFEST_FILE).write_text(json.dumps(manifest | {"images": "/"}))
    run("import", f"--vectors={vectors}", index="j.db")
    assert "--vectors are of pictures in /; show them with: cl2cm serve --images=/" in caplog.text
    with Store(str(tmp_path / "j.db")) as store:
        assert store.manifest is not None and store.manifest.images == ""
    run("import", f"--vectors={vectors}", f"--images={photos}", index="k.db")
    with Store(str(tmp_path / "k.db")) as store:
        assert store.manifest is not None and store.manifest.images == str(photos)
    with pytest.raises(UserError, match="is of the folder .*, not of vectors whose folder is unknown; give another"):
        run("import", f"--vectors={vectors}", index="i.db")
