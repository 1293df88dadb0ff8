"""What is published of a set of the paper: where its files are in the tree, and their names.

`data.root` is the published tree of a set, with TextData/ and FeatureData/, or the folder that trees of several sets
are in. Where two names or places are in use, both are accepted.

Source: NRCCR, LECCR (their repositories' READMEs and scripts); "by analogy" marks names that they do not print.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from cl2cm_jax.errors import UserError

TEXT, FEATURES = "TextData", "FeatureData"
NRCCR = "https://github.com/LiJiaBei-7/nrccr"


class EvaluationNames(NamedTuple):
    """Parts of file names, each for validation and test; several parts are alternatives.

    Attributes:
      target: human captions in the target language.
      back: their translations to English.
      english: English captions.
    """

    target: tuple[str, str]
    back: tuple[tuple[str, ...], tuple[str, ...]]
    english: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())


def video_names(target: str, task: int) -> EvaluationNames:
    """The evaluation files of the sets of videos."""
    del task
    validation, test = ((f"{part}_google_{target}2enc", f"{part}_google_{target}c2en") for part in ("val", "test"))
    return EvaluationNames((f"val_{target}", f"test_{target}"), (validation, test), (("val",), ("test",)))


@dataclass(frozen=True)
class PaperSet:
    """What is known of a set.

    Attributes:
      name, description, published: its name, what it is, and where it is published.
      sizes: published numbers of images by target language and split; "": any language.
      captions_each: number of captions of an image in each language, if all have as many.
      folders: names of its tree.
      prefixes: of its file names.
      train_prefixes: of training files by `config.data.task`, where they differ.
      names: (target, task) -> the names of its evaluation files; those of the sets of videos are alike.
      pictures: name of the folder of pictures; "" for a set of videos, which has features.
      id_lists: (target) -> names of the list of images of each split.
      picture_names: name of the file that has the name of each picture; "": they are `<id>.jpg`.
    """

    name: str
    description: str
    published: str
    sizes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    captions_each: int | None = None
    folders: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    train_prefixes: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    names: Callable[[str, int], EvaluationNames] = video_names
    pictures: str = ""
    id_lists: Callable[[str], dict[str, tuple[str, ...]]] = lambda target: {}
    picture_names: str = ""


class Role(NamedTuple):
    """One kind of caption file: split, language and origin of its captions, and its alternative names in TextData/."""

    split: str
    language: str
    origin: str
    tags: tuple[str, ...]
    names: tuple[str, ...]
    is_required: bool = True


def roles(paper: PaperSet, *, target: str, task: int) -> tuple[Role, ...]:
    """The caption files of a set and target language: first those of training, source before target."""
    xx, prefixes, is_video = target, paper.prefixes, not paper.pictures
    train = paper.train_prefixes.get(task, prefixes)
    english, both = _names(train, "train" if is_video else "train_enc"), _names(train, f"train_google_enc2{xx}2enc")
    found = [
        Role("train", "en", "human", ("enc",), english),
        Role("train", xx, "machine", (f"enc2{xx}",), _names(train, f"train_google_enc2{xx}")),
        Role("train", f"en2{xx}2en", "machine", (f"enc2{xx}2enc",), both, is_required=False),
    ]
    tags = (f"{xx}2enc", f"{xx}c2en") if is_video else (f"{xx}2enc",)
    names = paper.names(xx, task)
    for split, own, back, source in zip(("validation", "test"), *names, strict=True):
        found += [
            Role(split, xx, "human", (xx,), _names(prefixes, own)),
            Role(split, f"{xx}2en", "machine", tags, _names(prefixes, *back), is_required=False),
            Role(split, "en", "human", ("enc", "en"), _names(prefixes, *source), is_required=False),
        ]
    return tuple(found)


def _names(prefixes: Sequence[str], *parts: str) -> tuple[str, ...]:
    return tuple(f"{prefix}{part}.caption.txt" for part in parts for prefix in prefixes)


class Missing(NamedTuple):
    """Something that a set needs and lacks."""

    what: str  # name, or names "a or b"
    places: tuple[Path, ...]  # folders that were looked through


class Search:
    """Looks for the files of a set and remembers what is missing, so that one error lists all of it."""

    def __init__(self, paper: PaperSet, root: str):
        self.paper = paper
        self.root = _tree_root(paper, root)
        self._given = root
        self._missing: list[Missing] = []

    def file(self, names: Sequence[str], places: Iterable[Path], *, is_required: bool = True) -> Path | None:
        """The first of the files (or folders) that is in one of the places; None, and missing if it is required."""
        places = tuple(dict.fromkeys(places))
        for place in places:
            for name in names:
                if (place / name).exists():
                    return place / name
        if is_required:
            self._missing.append(Missing(" or ".join(names), places))
        return None

    def check(self) -> None:
        """Raises a UserError that lists what is missing, where it was looked for and who publishes it."""
        if not self._missing:
            return
        lacking = dict.fromkeys(missing.what for missing in self._missing)
        places = dict.fromkeys(str(place) for missing in self._missing for place in missing.places)
        raise UserError(
            f"config.data.root={self._given!r}: {self.paper.name} lacks {', '.join(lacking)}; "
            f"looked in {', '.join(places)}; published at {self.paper.published}",
            id="missing-files",
        )


def _tree_root(paper: PaperSet, root: str) -> Path:
    """The tree of a set: `root` itself, or the folder of the set's name within it; raises UserError."""
    given = Path(root)
    if not given.is_dir():
        raise UserError(
            f"config.data.root={root!r} is not a folder; name the one that holds the published files of {paper.name}: "
            f"{paper.published}"
        )
    if (given / TEXT).is_dir():
        return given
    return next((given / folder for folder in paper.folders if (given / folder).is_dir()), given)
