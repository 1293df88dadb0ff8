"""Reads parallel text: one file a split and language, where line i of each is the same sentence.

Files are called train.en, val.de.gz and the like; the folder may also be a copy of Multi30K's own repository, whose
text is in data/task1/raw and whose test split is called test_2016_flickr.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cl2cm_jax.data.captions import Caption, CaptionTable
from cl2cm_jax.data.readers.text_lines import read_lines
from cl2cm_jax.errors import UserError
from cl2cm_jax.text.languages import spellings

# names of a split's files; the first that exists is taken
FILES = {
    "train": ("train",),
    "validation": ("val", "validation", "valid", "dev"),
    "test": ("test", "test_2016_flickr"),
}
_FOLDERS = (".", "raw", "task1/raw", "data/task1/raw")


def read_parallel(folder: Path, *, languages: Sequence[str], limit: int = 0) -> CaptionTable:
    """Reads the three splits; an image is one line in all languages, without a picture.

    Args:
      folder: with the files, or a copy of Multi30K's repository.
      languages: to read; the first one is the source.
      limit: read this many lines of the training split only; 0: all.

    Raises:
      UserError: a file is missing, damaged or not as long as the others, or a line is empty.
    """
    texts = _folder_of(folder, languages[0])
    table = CaptionTable([])
    for split, names in FILES.items():
        paths = [_file(texts, names, language) for language in languages]
        lines = [_sentences(path) for path in paths]
        for path, others in zip(paths[1:], lines[1:], strict=True):
            if len(others) != len(lines[0]):
                raise UserError(
                    f"{path} has {len(others)} lines but {paths[0]} has {len(lines[0])}; line i of each must be the "
                    "same sentence"
                )
        count = limit if limit and split == "train" else len(lines[0])
        for number, sentences in enumerate(zip(*(own[:count] for own in lines), strict=True), start=1):
            pairs = zip(languages, sentences, strict=True)
            table.rows.extend(Caption(f"{split}-{number}", language, text, split) for language, text in pairs)
    return table


def _folder_of(folder: Path, source: str) -> Path:
    """The folder of the files: itself, or a place below it."""
    if not folder.is_dir():
        raise UserError(f"--text={folder} is not a folder; name one with train.{source}, val.{source}, test.{source}")
    places = [folder / place for place in _FOLDERS]
    found = [place for place in places if _candidates(place, FILES["train"], source)]
    return found[0] if found else folder


def _candidates(folder: Path, names: Sequence[str], language: str) -> list[Path]:
    endings = [f"{code}{packed}" for code in spellings(language) for packed in ("", ".gz")]
    paths = [folder / f"{name}.{ending}" for name in names for ending in endings]
    return [path for path in paths if path.is_file()]


def _file(folder: Path, names: Sequence[str], language: str) -> Path:
    found = _candidates(folder, names, language)
    if not found:
        wanted = " or ".join(f"{name}.{language}[.gz]" for name in names)
        raise UserError(f"{folder} has no {wanted}; add it, or leave {language!r} out of config.data.targets")
    return found[0]


def _sentences(path: Path) -> list[str]:
    """The lines without spaces around them; none may be empty."""
    lines = [line.strip() for line in read_lines(path)]
    if "" in lines:
        where = "is empty" if lines == [""] else f"line {lines.index('') + 1} is empty"
        raise UserError(f"{path}: {where}; line i of every language must be the same sentence")
    return lines
