"""The captions of Flickr8k-CN: published ones, those of a caption file, or both.

Published: English by people (Flickr8k) and Chinese by people; in training also Chinese by machine. A caption file adds
further languages to the images of the lists, or is the whole set, with splits of its own. Translations are not matched
with what they translate: the published files lack some, and nothing here needs the pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from cl2cm_jax.data.captions import SPLITS, Caption, CaptionTable
from cl2cm_jax.data.readers.cap_ids import media_id, parse_line, parse_token_line
from cl2cm_jax.data.readers.caption_file import read_caption_file
from cl2cm_jax.data.readers.problems import Problem
from cl2cm_jax.data.sets.paper.captions import CaptionLines, read_caption_lines
from cl2cm_jax.data.sets.paper.features import read_image_ids
from cl2cm_jax.data.sets.paper.flickr8k_files import TOKENS, Published
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

    def read(self) -> CaptionTable:
        """The captions of all splits.

        Raises:
          UserError: a file cannot be read or is empty, or a caption file that is the whole set names no split.
        """
        own = read_caption_file(self._captions, image_is_path=False) if self._captions else CaptionTable([])
        rows = [row._replace(image=media_id(row.image)) for row in own.rows]
        if self._published:
            lists = {split: read_image_ids(path) for split, path in self._published.lists.items()}
            table = _of_published(self._published, lists)
            table.problems.extend(own.problems)
            _add(table, rows, lists, self._captions)
            place = {(split, media): n for split, medias in lists.items() for n, media in enumerate(medias)}
            table.rows.sort(key=lambda row: place[row.split, row.image])
            return table
        if not all(row.split for row in rows):
            raise UserError(
                f"config.data.captions={self._captions!r} has no column split, which the set needs without "
                "config.data.root; give each image train, validation or test, or name the folder with the published "
                "lists"
            )
        return CaptionTable(rows, own.problems)


def _of_published(files: Published, lists: Mapping[str, list[str]]) -> CaptionTable:
    """The published captions of the images in `lists`."""
    if files.english.name == TOKENS:
        english = read_caption_lines(files.english, tags=("",), parse=parse_token_line)
    else:
        english = _lines(files.english, "enc")
    by_people, by_machine = _lines(files.chinese, "zhc"), _lines(files.translated, *_ENGINE_TAGS)
    listed = {split: frozenset(medias) for split, medias in lists.items()}
    table = CaptionTable([], [problem for lines in (english, by_people, by_machine) for problem in lines.problems])
    for lines, language, origin, wanted in (
        (english, "en", "human", SPLITS),
        (by_machine, "zh", "machine", ("train",)),
        (by_people, "zh", "human", SPLITS),
    ):
        for (media, _), line in lines.lines.items():
            splits = (split for split in wanted if media in listed[split])
            table.rows.extend(Caption(media, language, line.text, split, origin) for split in splits)
        captioned = {media for media, _ in lines.lines}
        for split in wanted:
            lacking = [media for media in lists[split] if media not in captioned]
            if lacking:
                reason = f"{len(lacking)} of {files.lists[split].name} have no caption here, first {lacking[0]!r}"
                table.problems.append(Problem(str(lines.path), None, "cap_id", reason, is_note=True))
    return table


def _lines(path: Path, *tags: str) -> CaptionLines:
    return read_caption_lines(path, tags=tags, parse=parse_line)


def _add(table: CaptionTable, rows: Iterable[Caption], lists: Mapping[str, list[str]], path: str) -> None:
    """Adds the rows of a caption file to the listed images; one that is there already counts once."""
    split_of = {media: split for split, medias in lists.items() for media in medias}
    there = {row[:5] for row in table.rows}
    unlisted: dict[str, None] = {}
    for row in rows:
        split = split_of.get(row.image)
        if split is None:
            unlisted[row.image] = None
        elif row.split and row.split != split:
            reason = f"is {row.split!r} but the published lists have {row.image!r} in {split!r}; keep the published one"
            table.problems.append(Problem(path, row.line, "split", reason))
        elif (added := row._replace(split=split, line=0))[:5] not in there:
            there.add(added[:5])
            table.rows.append(added)
    if unlisted:
        first = next(iter(unlisted))
        reason = f"{len(unlisted)} images are in none of the published lists and are not used, first {first!r}"
        table.problems.append(Problem(path, None, "image", reason, is_note=True))
