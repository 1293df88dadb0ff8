"""The stamps: a tree written by hand with every trap of the package, and the package itself where it is there."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("resvg_py")
pytest.importorskip("tensorflow_datasets")

from support.built_sets import Caption, Record, all_records, build_set, captions_of, open_set
from support.command import call
from support.set_trees import write_stamp, write_stamps

from cl2cm_jax.data.captions import Caption as Row
from cl2cm_jax.data.captions import by_image
from cl2cm_jax.data.media.images import decode
from cl2cm_jax.data.sets.pictograms import stamp_captions as stamps_command
from cl2cm_jax.data.sets.pictograms.stamp_files import (
    WITHIN_PACKAGE,
    concepts_of,
    picture,
    read_captions,
    split_of,
    stamps,
    stamps_folder,
)
from cl2cm_jax.data.sets.stamps import with_translations
from cl2cm_jax.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An unpacked package in small."""
    return write_stamps(tmp_path / "unpacked")


def by_id(root: Path) -> dict[str, list[Row]]:
    return by_image(stamps(root))


def text_of(rows: list[Row]) -> dict[str, str]:
    return {row.language: row.caption for row in rows}


def test_captioned_pictures_outside_symbols_are_read_once_for_each_english_caption(root: Path) -> None:
    found = by_id(root)
    assert sorted(name for name in found if not name.startswith("animals/")) == [
        "food/fruit/apple_core",
        "food/fruit/apple_red",  # not the cartoon of the same caption
        "town/houses/lighthouse",
    ]
    assert list(found) == sorted(found)
    assert list(by_id(root / WITHIN_PACKAGE)) == list(found)  # the folder itself is fine too


def test_captions_by_language_without_the_packages_quirks(root: Path) -> None:
    assert text_of(by_id(root)["food/fruit/apple_red"]) == {
        "en": "A red apple.",
        "ar": "تفاحة حمراء.",  # the full stop stood first
        "ja": "あかい りんご",
        "pt-BR": "Uma maçã.",
        "ca-valencia": "Una poma.",
        "zh": "红苹果。",
        "zh-TW": "紅蘋果",
        "de": "Ein roter Apfel.",
    }


def test_a_file_in_another_encoding_is_named(root: Path) -> None:
    path = root / WITHIN_PACKAGE / "food/fruit/pear"
    write_stamp(path.parent, "pear", "A pear.\nde.utf8=Eine süße Birne.\n", encoding="latin-1")
    with pytest.raises(UserError, match=r"pear.txt cannot be read as UTF-8 text"):
        stamps(root)
    path.with_suffix(".txt").write_bytes("\ufeffA pear.\r\nde.utf8=Eine Birne.\r\n".encode())
    assert read_captions(path.with_suffix(".txt")) == {"en": "A pear.", "de": "Eine Birne."}


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        (("town/redflag", "A red flag."), ("town/flags/blueflag", "A blue flag."), True),  # colour
        (("halloween/grave-d", "A tombstone."), ("halloween/grave-h", "Another tombstone."), True),
        (("halloween/grave-a", "A gravestone."), ("halloween/grave-c", "A grave marker."), True),  # file name
        (("people/woman_nurse", "A nurse."), ("people/woman_doctor", "A doctor."), True),
        (("vehicles/cementMixer", "A colorful toy cement truck."), ("tools/cement", "Cement."), True),  # camelCase
        (("food/apple_fuji", "A “Fuji” apple."), ("food/cartoon/apple", "A red apple."), True),
        (("animals/lion-2", "A lion."), ("animals/tiger", "A tiger."), False),
        (("people/fireman240a", "A fireman."), ("vehicles/fire_engine", "A fire truck."), False),
        (("toys/1", "The one."), ("toys/2", "Another two."), False),  # nothing is left: nothing in common
    ],
)
def test_near_duplicates_are_of_one_concept(one: tuple[str, str], other: tuple[str, str], together: bool) -> None:
    concepts = concepts_of([one[0], other[0]], [one[1], other[1]])
    assert (concepts[0] == concepts[1]) is together


def test_concepts_reach_through_others_and_decide_the_split(root: Path) -> None:
    names = ["a/apple_fuji", "b/apple", "c/mela"]
    assert len(set(concepts_of(names, ["A Fuji.", "A red apple.", "An apple!"]))) == 1
    for stamp in stamps(root):
        assert stamp.split == split_of(stamp.concept)
    splits = Counter(split_of(f"concept {n}") for n in range(4000))
    assert splits["train"] / 4000 == pytest.approx(0.8, abs=0.03)
    assert splits["test"] / 4000 == pytest.approx(0.1, abs=0.03)


def test_pictures_are_whole_and_on_white(root: Path) -> None:
    wide = decode(picture(Path(str(by_id(root)["food/fruit/apple_red"][0].picture))))
    assert wide.shape == (224, 224, 3)
    assert wide[112, 2].tolist() == wide[112, 221].tolist() == [0, 0, 255]  # from side to side
    assert wide[2, 112].tolist() == [255, 255, 255]  # and white above


def test_a_drawing_in_absolute_units_is_drawn(root: Path) -> None:
    tall = decode(picture(Path(str(by_id(root)["town/houses/lighthouse"][0].picture))))
    assert tall[2, 112].tolist() == tall[221, 112].tolist() == [255, 0, 0]
    assert tall[112, 2].tolist() == [255, 255, 255]


@pytest.mark.parametrize(("suffix", "content"), [(".svg", "<svg"), (".png", "no picture")])
def test_a_damaged_picture_is_named(root: Path, suffix: str, content: str) -> None:
    file = root / f"broken{suffix}"
    file.write_text(content)
    with pytest.raises(UserError, match=f"broken{suffix}"):
        picture(file)


@pytest.mark.parametrize(("folder", "says"), [("", "config.data.root=''"), ("nowhere", "nowhere"), (".", "has no usr")])
def test_a_folder_without_stamps_says_how_to_get_them(tmp_path: Path, folder: str, says: str) -> None:
    with pytest.raises(UserError, match=f"{says}.*make stamps-source.*tuxpaint-stamps-default"):
        stamps_folder(tmp_path / folder if folder else "")


def built(root: Path, home: Path, captions: str = "") -> dict[str, list[Record]]:
    return all_records(build_set("stamps", home, root=root, captions=captions))


def test_a_stamp_written_over_in_place_is_a_changed_input(root: Path, tmp_path: Path) -> None:
    """No folder's own time of change says it."""

    def name() -> str:
        return open_set("stamps", tmp_path / "home", root=root).data_dir

    first, folder = name(), root / WITHIN_PACKAGE
    (folder / "animals" / ".hidden").write_text("of the file manager")
    assert name() == first
    (folder / "animals" / "bear.txt").write_text("A brown bear.\n")
    second = name()
    (folder / "animals" / "round").symlink_to(folder)
    write_stamp(folder, "town/houses/lighthouse", "A lighthouse.\nde.utf8=Ein Leuchtturm.\n", picture=".png")
    assert len({first, second, name()}) == 3


@pytest.fixture
def translations(root: Path, tmp_path: Path) -> Path:
    """What a machine makes of the English captions that the command writes."""
    path = tmp_path / "captions.jsonl"
    outcome = call(stamps_command.main, f"--root={root}", f"--out={path}")
    assert outcome.code == 0, outcome.err
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows += [row | {"language": "es", "caption": f"máquina {row['caption']}", "origin": "machine"} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_only_training_captions_are_written_for_translation(root: Path, translations: Path) -> None:
    rows = [json.loads(line) for line in translations.read_text(encoding="utf-8").splitlines()]
    english = {row["image"]: row["caption"] for row in rows if row["language"] == "en"}
    assert english == {row.image: row.caption for row in stamps(root) if (row.split, row.language) == ("train", "en")}
    assert {row["split"] for row in rows} == {"train"}


def test_training_sees_machine_translations_and_evaluation_human_captions(
    root: Path, translations: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorflow")
    found = by_id(root)
    records = built(root, tmp_path / "data", str(translations))
    assert all(records.values())
    for split, rows in records.items():
        assert [row.image_id for row in rows] == [name for name, own in found.items() if own[0].split == split]
        for row in rows:
            expected = captions_of(found[row.image_id])
            if split == "train":
                expected = (expected[0], Caption("es", f"máquina {expected[0].text}", "machine"))
            assert row.captions == expected
            assert row.files == (Path(row.path).read_bytes(),)


def test_without_translations_training_sees_human_captions(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    records = built(root, tmp_path / "data")
    assert {caption.origin for rows in records.values() for row in rows for caption in row.captions} == {"human"}
    assert {"en", "es", "de"} <= {caption.language for row in records["train"] for caption in row.captions}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image": "animals/unicorn"}, "'animals/unicorn' is not a picture of the training split"),
        ({"origin": "human"}, "origin is 'human'; a translation's is 'machine'"),
        ({"caption": ""}, "field caption: is empty"),
    ],
)
def test_a_wrong_row_of_the_translations_is_named(
    root: Path, translations: Path, change: dict[str, str], says: str
) -> None:
    lines = translations.read_text(encoding="utf-8").splitlines()
    lines[-1] = json.dumps(json.loads(lines[-1]) | change)
    translations.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=f"captions.jsonl, line {len(lines)}.*{says}"):
        with_translations(stamps(root), str(translations))


def test_a_human_test_caption_cannot_slip_into_training(root: Path, translations: Path) -> None:
    entries = stamps(root)
    held_out = next(entry.image for entry in entries if entry.split == "test")
    row = {"image": held_out, "language": "es", "caption": "x", "split": "train", "origin": "machine"}
    with translations.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    with pytest.raises(UserError, match="is not a picture of the training split"):
        with_translations(entries, str(translations))


def test_a_missing_file_of_translations_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config.data.captions='.*none.jsonl' is not a file; make stamps writes it"):
        built(root, tmp_path, str(tmp_path / "none.jsonl"))


PACKAGE = Path(os.environ.get("STAMPS_ROOT", "data/stamps-source"))
needs_package = pytest.mark.skipif(
    not (PACKAGE / WITHIN_PACKAGE).is_dir(), reason="make stamps-source fetches the Debian package"
)


@needs_package
def test_counts_of_the_package() -> None:
    folder = PACKAGE / WITHIN_PACKAGE
    captioned = [
        text for text in folder.rglob("*.txt") if any(text.with_suffix(end).is_file() for end in (".png", ".svg"))
    ]
    assert len(captioned) == 950
    assert sum("symbols" not in text.relative_to(folder).parts for text in captioned) == 701
    rows = stamps(PACKAGE)
    english = [row for row in rows if row.language == "en"]
    assert len(english) == len({row.caption for row in english}) == len(by_image(rows)) == 626
    assert Counter(row.split for row in english) == {"train": 475, "validation": 65, "test": 86}
    assert len({row.concept for row in rows}) == 514
    for language in ("es", "pt", "it", "fr", "ca", "gl"):
        assert sum(row.language == language for row in rows) >= 621
    arabic = [row.caption for row in rows if row.language == "ar"]
    assert not [caption for caption in arabic if caption.startswith(".")] and len(arabic) > 500


@needs_package
def test_every_drawing_of_the_package_can_be_drawn() -> None:
    files = dict.fromkeys(Path(str(row.picture)) for row in stamps(PACKAGE))
    drawn = [decode(picture(file)) for file in files if file.suffix == ".svg"]
    assert len(drawn) > 100
    assert min(int(np.ptp(image)) for image in drawn) > 50  # none is blank
