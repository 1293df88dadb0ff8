"""Where the files of the paper's sets lie, what they are called, and who publishes them.

`data.root` is the published tree of a set, with TextData/ and FeatureData/, or the folder that trees of several sets
lie in. Where two names or places are in use, both are accepted.

Source: siblings (their repositories' READMEs and scripts); "by analogy" marks names that they do not print.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from cl2cm_jax.data.sets.paper import flickr8k_files
from cl2cm_jax.errors import UserError

TEXT, FEATURES = "TextData", "FeatureData"
_NRCCR = "https://github.com/LiJiaBei-7/nrccr"


class PaperSet(NamedTuple):
    """What is known of a set."""

    folders: tuple[str, ...]  # of its tree
    prefixes: tuple[str, ...]  # of its file names
    is_video: bool
    sizes: dict[str, dict[str, int]]  # published numbers of images by target language and split; "": any language
    captions_each: int | None  # of an image in each language, where all have as many
    published: str


class Role(NamedTuple):
    """One kind of caption file: what its captions are, and the names that it may have in TextData/."""

    split: str
    language: str
    origin: str
    tags: tuple[str, ...]
    names: tuple[str, ...]
    is_required: bool = True


PAPER_SETS = {
    "multi30k": PaperSet(
        folders=("multi30k",),
        prefixes=("multi30k",),
        is_video=False,
        sizes={"": {"train": 29_000, "validation": 1_014, "test": 1_000}},
        captions_each=None,
        published=f"{_NRCCR} (captions, id lists, features) and https://github.com/multi30k/dataset (raw text, and how "
        "to get the pictures)",
    ),
    "mscoco": PaperSet(
        folders=("mscoco",),
        prefixes=("mscoco",),
        is_video=False,
        sizes={"zh": {"train": 18_341, "validation": 1_000, "test": 1_000}, "ja": {"test": 1_000}},
        captions_each=None,
        published=f"{_NRCCR} (captions, id lists); zh is COCO-CN, https://github.com/li-xirong/coco-cn, ja is STAIR "
        "Captions, https://stair-lab-cit.github.io/STAIR-captions-web/; pictures: https://cocodataset.org",
    ),
    "vatex": PaperSet(
        folders=("vatex", "VATEX"),
        prefixes=("vatex",),
        is_video=True,
        sizes={"": {"train": 25_991, "validation": 1_500, "test": 1_500}},
        captions_each=10,
        published=f"{_NRCCR} (captions, features)",
    ),
    "msrvtt_cn": PaperSet(
        folders=("msrvttcn", "msrvtt10kcn", "msrvtt_cn"),
        prefixes=("msrvtt10kcn", "msrvttcn"),
        is_video=True,
        sizes={"": {"test": 1_000}},  # MLCMR's README, see evaluation/published.py; it states no other split's
        captions_each=None,
        published=f"{_NRCCR} (captions, features)",
    ),
    # none of the paper's (ours), but built and checked in the same way; `flickr8k_files` finds its files
    flickr8k_files.NAME: PaperSet(
        folders=(),
        prefixes=(),
        is_video=False,
        sizes={"": flickr8k_files.SIZES},
        captions_each=None,
        published=flickr8k_files.PUBLISHED,
    ),
}


def roles(name: str, *, target: str, task: int) -> tuple[Role, ...]:
    """The caption files of a set and target language: first those of training, source before target.

    Args:
      name: of the set.
      target: xx.
      task: 2 or 1, of multi30k.
    """
    xx, prefixes = target, PAPER_SETS[name].prefixes
    train = ("Flickr30k",) if (name, task) == ("multi30k", 2) else prefixes
    middle = "" if PAPER_SETS[name].is_video else "_enc"
    test, back, english = _evaluation_names(name, xx, task)
    training = (
        Role("train", "en", "human", ("enc",), _names(train, f"train{middle}")),
        Role("train", xx, "machine", (f"enc2{xx}",), _names(train, f"train_google_enc2{xx}")),
        Role(
            "train",
            f"en2{xx}2en",
            "machine",
            (f"enc2{xx}2enc",),
            _names(train, f"train_google_enc2{xx}2enc"),
            is_required=False,
        ),
    )
    evaluation = ()
    for split, number in (("validation", 0), ("test", 1)):
        tags = (f"{xx}2enc", f"{xx}c2en") if PAPER_SETS[name].is_video else (f"{xx}2enc",)
        evaluation += (
            Role(split, xx, "human", (xx,), _names(prefixes, test[number])),
            Role(split, f"{xx}2en", "machine", tags, _names(prefixes, *back[number]), is_required=False),
            Role(split, "en", "human", ("enc", "en"), _names(prefixes, *english[number]), is_required=False),
        )
    return training + evaluation


class _EvaluationNames(NamedTuple):
    """Parts of file names for validation and test: human targets, their translations to English, English captions."""

    target: tuple[str, str]
    back: tuple[tuple[str, ...], tuple[str, ...]]
    english: tuple[tuple[str, ...], tuple[str, ...]]


def _evaluation_names(name: str, xx: str, task: int) -> _EvaluationNames:
    if PAPER_SETS[name].is_video:
        back = tuple((f"{part}_google_{xx}2enc", f"{part}_google_{xx}c2en") for part in ("val", "test"))
        return _EvaluationNames((f"val_{xx}", f"test_{xx}"), (back[0], back[1]), (("val",), ("test",)))
    if name == "mscoco":
        if xx == "zh":
            return _EvaluationNames(("val_zh", "test_zh"), (("val_google_zh2enc",), ("test_google_zh2enc",)), ((), ()))
        analogy = (f"test_1k_google_{xx}2enc", f"test_google_1k_{xx}2enc", f"test_google_{xx}2enc")
        return _EvaluationNames((f"val_{xx}", f"test_1k_{xx}"), ((f"val_google_{xx}2enc",), analogy), ((), ()))
    end = "_task1" if task == 1 and xx == "de" else ""
    english = "_task1" if task == 1 else ""  # by analogy; that of task 2 has five captions an image
    return _EvaluationNames(
        (f"val_{xx}{end}", f"test_{xx}_2016{end}"),
        ((f"val_google_{xx}2enc{end}",), (f"test_google_{xx}2enc_2016{end}",)),
        (
            (f"val_en{english}", f"val_enc{english}"),
            (f"test_en_2016{english}", f"test_enc_2016{english}"),
        ),
    )


def _names(prefixes: Sequence[str], *parts: str) -> tuple[str, ...]:
    return tuple(f"{prefix}{part}.caption.txt" for part in parts for prefix in prefixes)


class Missing(NamedTuple):
    """Something that a set needs and lacks."""

    what: str  # name, or names "a or b"
    places: tuple[Path, ...]  # folders that were looked through


class Search:
    """Looks for the files of a set and remembers what is missing, so that all of it is said at once."""

    def __init__(self, name: str, root: str):
        self.name = name
        self.root = tree_root(name, root)
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
            f"config.data.root={self._given!r}: {self.name} lacks {', '.join(lacking)}; "
            f"looked in {', '.join(places)}; published at {PAPER_SETS[self.name].published}"
        )


def tree_root(name: str, root: str) -> Path:
    """The tree of a set: `root` itself, or the folder of the set's name within it.

    Raises:
      UserError: `root` is no folder.
    """
    given = Path(root)
    if not given.is_dir():
        raise UserError(
            f"config.data.root={root!r} is not a folder; name the one that holds the published files of {name}: "
            f"{PAPER_SETS[name].published}"
        )
    if (given / TEXT).is_dir():
        return given
    return next((given / folder for folder in PAPER_SETS[name].folders if (given / folder).is_dir()), given)
