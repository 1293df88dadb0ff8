"""Reads parallel text: one file a split and language, line i of each says the same, as translators publish it.

Files are called train.en, val.de.gz and the like; the folder may also be a copy of Multi30K's own repository, whose
text lies in data/task1/raw and whose test split is called test_2016_flickr.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cl2cm_jax.data.readers.text_lines import read_lines
from cl2cm_jax.data.records import HEADLINE, Caption, Record
from cl2cm_jax.errors import UserError

# names of a split's files; the first that is there is taken
SPLITS = {
    "train": ("train",),
    "validation": ("val", "validation", "valid", "dev"),
    "test": ("test", "test_2016_flickr"),
}
_FOLDERS = (".", "raw", "task1/raw", "data/task1/raw")


def read_parallel(folder: Path, *, languages: Sequence[str], limit: int = 0) -> dict[str, list[Record]]:
    """Reads the three splits; a record is one line in all languages, without a picture.

    Args:
      folder: with the files, or a copy of Multi30K's repository.
      languages: to read; the first one is the source.
      limit: read so many lines of the training split only; 0: all.

    Raises:
      UserError: a file is missing, damaged or not as long as its partner, a line is empty, or nothing is there.
    """
    texts = _folder_of(folder, languages[0])
    records = {}
    for split, names in SPLITS.items():
        paths = [_file(texts, names, language) for language in languages]
        lines = [_sentences(path) for path in paths]
        for path, theirs in zip(paths[1:], lines[1:], strict=True):
            if len(theirs) != len(lines[0]):
                raise UserError(
                    f"{path} has {len(theirs)} lines but {paths[0]} has {len(lines[0])}; line i of each must say the "
                    "same"
                )
        kept = limit if limit and split == "train" else len(lines[0])
        records[split] = [
            _record(f"{split}-{number}", languages, sentences)
            for number, sentences in enumerate(zip(*(theirs[:kept] for theirs in lines), strict=True), start=1)
        ]
    return records


def _record(name: str, languages: Sequence[str], sentences: Sequence[str]) -> Record:
    captions = tuple(Caption(language, text, "human") for language, text in zip(languages, sentences, strict=True))
    return Record(None, None, name, HEADLINE, name, "", captions)


def _folder_of(folder: Path, source: str) -> Path:
    """The folder of the files: itself, or a place below it."""
    if not folder.is_dir():
        raise UserError(f"--text={folder} is no folder; name one with train.{source}, val.{source} and test.{source}")
    places = [folder / place for place in _FOLDERS]
    found = [place for place in places if _candidates(place, SPLITS["train"], source)]
    return found[0] if found else folder


def _candidates(folder: Path, names: Sequence[str], language: str) -> list[Path]:
    paths = [folder / f"{name}.{language}{ending}" for name in names for ending in ("", ".gz")]
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
        raise UserError(f"{path}: {where}; line i of every language must say the same")
    return lines
