"""The captions of Flickr8k-CN by split and image: published ones, those of a caption file, or both.

Published: English by people (Flickr8k) and Chinese by people; in training also Chinese by machine. A caption file adds
further languages to the images of the lists, or makes the set alone, with splits of its own. Translations are not
matched with what they translate: the published files lack some, and nothing here needs the pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from cl2cm_jax.data.readers.cap_ids import media_id, parse_line, parse_token_line
from cl2cm_jax.data.readers.caption_file import CaptionFile, Row, read_caption_file
from cl2cm_jax.data.readers.problems import Problem
from cl2cm_jax.data.records import SPLITS, Caption
from cl2cm_jax.data.sets.paper.captions import CaptionLines, read_caption_lines
from cl2cm_jax.data.sets.paper.features import read_image_ids
from cl2cm_jax.data.sets.paper.flickr8k_files import TOKENS, Published
from cl2cm_jax.data.sets.paper.raw_multi30k import Captions
from cl2cm_jax.errors import UserError

_ENGINE_TAGS = ("zhb", "zhg")


class Flickr8kText:
    """The files of captions, found and not yet read.

    Args:
      published: the published ones; None if the caption file has everything.
      captions: path of the caption file, "" if there is none.
    """

    def __init__(self, published: Published | None, captions: str):
        self._published, self._captions = published, captions

    @property
    def paths(self) -> list[Path]:
        """All files."""
        own = [Path(self._captions)] if self._captions else []
        return own + (self._published.texts if self._published else [])

    def read(self) -> tuple[dict[str, Captions], list[Problem]]:
        """Captions of each split by media id, and what is wrong with lines.

        Raises:
          UserError: a file cannot be read or is empty, or a caption file that makes the set names no split.
        """
        own = read_caption_file(self._captions, image_is_path=False) if self._captions else CaptionFile([], [])
        if self._published is None:
            return _of_file(self._captions, own.rows), own.problems
        splits, problems = _of_published(self._published)
        return splits, [*problems, *own.problems, *_add(splits, own.rows, self._captions)]


def _of_file(path: str, rows: Iterable[Row]) -> dict[str, Captions]:
    splits: dict[str, Captions] = {split: {} for split in SPLITS}
    for row in rows:
        if not row.split:
            raise UserError(
                f"config.data.captions={path!r} has no column split, which the set needs without config.data.root; "
                "give each image train, validation or test, or name the folder with the published lists"
            )
        splits[row.split].setdefault(media_id(row.image), []).append(_caption(row))
    return splits


def _of_published(files: Published) -> tuple[dict[str, Captions], list[Problem]]:
    """Captions of the listed images in the order of the lists."""
    if files.english.name == TOKENS:
        english = read_caption_lines(files.english, tags=("",), parse=parse_token_line)
    else:
        english = _lines(files.english, "enc")
    by_people, by_machine = _lines(files.chinese, "zhc"), _lines(files.translated, *_ENGINE_TAGS)
    splits = {split: {media: [] for media in read_image_ids(path)} for split, path in files.lists.items()}
    problems = [problem for lines in (english, by_people, by_machine) for problem in lines.problems]
    for lines, language, origin, wanted in (
        (english, "en", "human", SPLITS),
        (by_machine, "zh", "machine", ("train",)),
        (by_people, "zh", "human", SPLITS),
    ):
        for (media, _), line in lines.lines.items():
            for split in wanted:
                if media in splits[split]:
                    splits[split][media].append(Caption(language, line.text, origin))
        problems += _gaps(lines, {split: files.lists[split] for split in wanted}, splits)
    return splits, problems


def _lines(path: Path, *tags: str) -> CaptionLines:
    return read_caption_lines(path, tags=tags, parse=parse_line)


def _gaps(lines: CaptionLines, lists: dict[str, Path], splits: dict[str, Captions]) -> Iterator[Problem]:
    """A note for each list that has images without a caption in a file."""
    captioned = {media for media, _ in lines.lines}
    for split, path in lists.items():
        lacking = [media for media in splits[split] if media not in captioned]
        if lacking:
            reason = f"{len(lacking)} of {path.name} have no caption here, first {lacking[0]!r}"
            yield Problem(str(lines.path), None, "cap_id", reason, is_note=True)


def _add(splits: dict[str, Captions], rows: Iterable[Row], path: str) -> list[Problem]:
    """Adds the rows of a caption file to the listed images; one that is there already counts once."""
    split_of = {media: split for split, captions in splits.items() for media in captions}
    problems: list[Problem] = []
    unlisted: dict[str, None] = {}
    for row in rows:
        media, caption = media_id(row.image), _caption(row)
        split = split_of.get(media)
        if split is None:
            unlisted[row.image] = None
        elif row.split and row.split != split:
            reason = f"is {row.split!r} but the published lists have {row.image!r} in {split!r}; keep theirs"
            problems.append(Problem(path, row.line, "split", reason))
        elif caption not in splits[split][media]:
            splits[split][media].append(caption)
    if unlisted:
        first = next(iter(unlisted))
        reason = f"{len(unlisted)} images are in none of the published lists and are not used, first {first!r}"
        problems.append(Problem(path, None, "image", reason, is_note=True))
    return problems


def _caption(row: Row) -> Caption:
    return Caption(row.language, row.caption, row.origin)
