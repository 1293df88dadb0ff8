"""Tux Paint's stamps (GPL-2) as Debian packages them: pictures with human captions in dozens of languages.

`X.png` or `X.svg` is beside `X.txt`, whose first line is the English caption and whose others are `de.utf8=...`.
What is done with it:

- `symbols/` (coins, letters, chess pieces, ...) is left out: names of signs, not captions of pictures.
- Pictures with the same English caption are one: the first that is no cartoon, by path.
- A leading full stop of Arabic, which belongs to its end, is moved there.
- Near-duplicates are of one concept and in one split: see `concepts_of`.

A picture becomes a PNG, padded to 224 x 224 on white. resvg_py takes absolute units (`width="5cm"`) for 0 unless it
has the dots an inch.
"""

from __future__ import annotations

import io
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image, ImageOps

from cl2cm_jax.data.captions import Caption
from cl2cm_jax.data.media.images import decode
from cl2cm_jax.data.sets.pictograms.grouping import grouped, hashed_split
from cl2cm_jax.errors import UserError, not_installed

PACKAGE = "tuxpaint-stamps-default"
WITHIN_PACKAGE = "usr/share/tuxpaint/stamps"
SOURCE = "en"
IMAGE_SIZE = 224
SPLIT_SALT = "cl2cm_jax/stamps/1"
TRAIN_SHARE, VALIDATION_SHARE = 0.8, 0.1

_LEFT_OUT = "symbols"
_SUFFIXES = (".png", ".svg")  # where both are there the PNG is what the painter sees
_TRANSLATION = re.compile(r"([A-Za-z_@]+)\.utf8=(.*)")
_RENAMED = {"zh_CN": "zh"}
_DOTS_PER_INCH = 96.0

_COLOURS = "red green blue yellow brown black white grey gray pink purple silver golden colorful orange"
_SIZES = "big large huge small little tiny very"
_COUNTS = "one two some another a an the of pair couple"
_POSES = "left right front side in out up down photo drawing outline open closed sitting standing stand happy old new"
_NOT_THE_CONCEPT = frozenset(f"{_COLOURS} {_SIZES} {_COUNTS} {_POSES}".split())
_NOT_IN_FILE_NAMES = _NOT_THE_CONCEPT | frozenset("iso toy tux my xmas".split())


def stamps(root: str | os.PathLike[str]) -> list[Caption]:
    """The human captions of all stamps outside `symbols/`, one picture for each English caption, ordered by id.

    An id is the path within the stamps without its ending, e.g. "food/fruit/apple_fuji"; English comes first.

    Raises:
      UserError: the folder is missing or holds no stamps, or a caption is not UTF-8.
    """
    folder = stamps_folder(root)
    chosen: dict[str, tuple[str, Path, dict[str, str]]] = {}
    found = _captioned_pictures(folder)
    for image_id, file in sorted(found.items(), key=lambda item: ("cartoon" in item[0].split("/"), item[0])):
        captions = read_captions(file.with_suffix(".txt"))
        if SOURCE in captions:
            chosen.setdefault(captions[SOURCE].casefold(), (image_id, file, captions))
    if not chosen:
        raise UserError(f"config.data.root={os.fspath(root)!r} holds no captioned stamp; {_how_to_fetch()}")
    rows = sorted(chosen.values(), key=lambda row: row[0])
    concepts = concepts_of([row[0] for row in rows], [row[2][SOURCE] for row in rows])
    return [
        Caption(image_id, language, text, split_of(concept), concept=concept, picture=str(file))
        for (image_id, file, captions), concept in zip(rows, concepts, strict=True)
        for language, text in captions.items()
    ]


def stamps_folder(root: str | os.PathLike[str]) -> Path:
    """The folder of the stamps in an unpacked package, or the folder itself if it is one; raises UserError."""
    if not os.fspath(root):
        raise UserError(f"config.data.root='' must name the folder of the stamps; {_how_to_fetch()}")
    for folder in (Path(root, WITHIN_PACKAGE), Path(root)):
        if folder.is_dir() and (folder != Path(root) or any(folder.glob("*/"))):
            return folder
    raise UserError(f"config.data.root={os.fspath(root)!r} has no {WITHIN_PACKAGE}; {_how_to_fetch()}")


def read_captions(path: Path) -> dict[str, str]:
    """The captions of one text file by language: "en" is its first line, "pt-BR" is written there as `pt_BR.utf8=`.

    Empty ones are left out. Raises UserError.
    """
    try:
        first, *others = path.read_text(encoding="utf-8-sig").splitlines() or [""]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text ({error}); unpack {PACKAGE} again") from error
    captions = {SOURCE: _clean(first)}
    for line in others:
        if match := _TRANSLATION.fullmatch(line):
            captions.setdefault(_language(match[1]), _clean(match[2]))
    return {language: caption for language, caption in captions.items() if caption}


def concepts_of(image_ids: Sequence[str], english: Sequence[str]) -> list[str]:
    """The concept of each stamp.

    Two stamps are of one concept when they share any of these, transitively:

    1. *Caption*: the same English words once articles, numbers, colours, sizes and poses are dropped ("A red flag.",
       "A blue flag."; "A tombstone.", "Another tombstone.").
    2. *File*: the same first word of the file's name, dropped the same and digits and single letters too ("apple_fuji"
       and "cartoon/apple", "grave-a" to "grave-j", "woman_doctor" and "woman_nurse").

    Returns:
      The first of its stamps' captions' words, in (length, alphabet) order.
    """
    captions = [_caption_key(caption) for caption in english]
    keys = [[f"caption {own}", f"file {_file_key(name)}"] for name, own in zip(image_ids, captions, strict=True)]
    groups = grouped(keys)
    labels: dict[int, str] = {}
    for group, own in sorted(zip(groups, captions, strict=True), key=lambda pair: (len(pair[1]), pair[1])):
        labels.setdefault(group, own)
    return [labels[group] for group in groups]


def split_of(concept: str) -> str:
    """The split of a concept: a fixed hash, 80 / 10 / 10 in expectation."""
    return hashed_split(concept, salt=SPLIT_SALT, train=TRAIN_SHARE, validation=VALIDATION_SHARE)


def picture(file: Path) -> bytes:
    """A PNG file of a stamp, padded to 224 x 224 on white.

    Raises:
      UserError: the file is damaged, or resvg_py is missing.
    """
    source = _rendered(file) if file.suffix == ".svg" else file
    image = Image.fromarray(decode(source))
    padded = ImageOps.pad(image, (IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS, color="white")
    content = io.BytesIO()
    padded.save(content, format="PNG")
    return content.getvalue()


def _rendered(file: Path) -> bytes:
    try:
        import resvg_py
    except ModuleNotFoundError as error:
        raise not_installed("resvg_py") from error
    options = {"background": "white", "skip_system_fonts": True, "dpi": _DOTS_PER_INCH}
    try:
        return bytes(
            resvg_py.svg_to_bytes(svg_string=file.read_text(encoding="utf-8"), width=2 * IMAGE_SIZE, **options)
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is damaged ({error}); unpack {PACKAGE} again") from error


def _captioned_pictures(folder: Path) -> dict[str, Path]:
    """Picture files by id: those that have a text file, outside what is left out."""
    found: dict[str, Path] = {}
    for text in folder.rglob("*.txt"):
        place = text.relative_to(folder)
        files = (text.with_suffix(suffix) for suffix in _SUFFIXES)
        file = next((file for file in files if file.is_file()), None)
        if file is not None and place.parts[0] != _LEFT_OUT:
            found[place.with_suffix("").as_posix()] = file
    return found


def _language(code: str) -> str:
    return _RENAMED.get(code, code.replace("_", "-").replace("@", "-"))


def _clean(caption: str) -> str:
    text = " ".join(unicodedata.normalize("NFC", caption).split())
    is_arabic = any("\u0600" <= letter <= "\u06ff" for letter in text)
    if is_arabic and re.match(r"\.[^.]", text):
        return text.removeprefix(".").strip() + "."
    return text


def _words(text: str, dropped: Iterable[str]) -> list[str]:
    plain = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).replace("’", ""))
    return [word for word in (word.lower() for word in plain) if word not in dropped]


def _caption_key(caption: str) -> str:
    plain = re.sub(r"[’']s\b", "", caption)
    return " ".join(_words(plain, _NOT_THE_CONCEPT)) or " ".join(_words(plain, ())) or caption


def _file_key(image_id: str) -> str:
    name = image_id.rsplit("/", 1)[-1]
    words = [word for word in _words(name, _NOT_IN_FILE_NAMES) if len(word) > 1]
    return words[0] if words else name


def _how_to_fetch() -> str:
    return f"make stamps-source fetches the Debian package {PACKAGE}, or unpack it with dpkg-deb -x and name the folder"
