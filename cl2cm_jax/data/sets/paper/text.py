"""The captions of a paper's set, from its TextData/: which file says what, and how the files belong together.

Training captions are the English ones (human) and their translations (machine); those without their partner are named.
Validation and test captions are the target's (human). Their translations back to English become captions of a language
of their own, "de2en", in the order of the captions that they translate; so do the training captions translated there
and back, "en2de2en", which no term reads: what is wrong with them is a note and costs no training caption. English
validation and test captions are read where the tree has them.

Source: siblings (training and evaluation files); the names of the languages are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cl2cm_jax.data.readers.cap_ids import Key
from cl2cm_jax.data.readers.problems import Problem
from cl2cm_jax.data.records import SPLITS, Caption
from cl2cm_jax.data.sets.paper.captions import CaptionLines, partners, read_caption_lines
from cl2cm_jax.data.sets.paper.files import TEXT, Role, Search, roles
from cl2cm_jax.data.sets.paper.raw_multi30k import Captions


class TextFiles:
    """The caption files of a set, found and not yet read.

    Args:
      search: remembers what is missing.
      targets: the target languages.
      task: 2 or 1, of multi30k.
    """

    def __init__(self, search: Search, *, targets: Sequence[str], task: int):
        self._targets = targets
        self._found: dict[Role, Path] = {}
        for target in targets:
            for role in roles(search.name, target=target, task=task):
                path = search.file(role.names, [search.root / TEXT], is_required=role.is_required)
                if path and role not in self._found:
                    self._found[role] = path

    @property
    def paths(self) -> list[Path]:
        """All files."""
        return list(self._found.values())

    def read(self) -> tuple[dict[str, Captions], list[Problem]]:
        """Captions of each split by media id, and what is wrong with lines.

        Raises:
          UserError: a file cannot be read or is empty.
        """
        read = {role: read_caption_lines(path, tags=role.tags) for role, path in self._found.items()}
        problems = [
            replace(problem, is_note=_is_unread(role)) for role, lines in read.items() for problem in lines.problems
        ]
        splits: dict[str, Captions] = {}
        for split in SPLITS:
            files = {role: lines for role, lines in read.items() if role.split == split}
            english = {role: lines for role, lines in files.items() if role.language == "en"}
            captions: Captions = {}
            if split == "train":
                problems += _add(captions, files)
            else:
                for target in self._targets:
                    own = (target, f"{target}2en")
                    problems += _add(captions, {role: lines for role, lines in files.items() if role.language in own})
                problems += _add_english(captions, english)
            splits[split] = captions
        return splits, problems


def _add(captions: Captions, files: dict[Role, CaptionLines]) -> list[Problem]:
    """Adds the captions that have their partner in every file that something reads, in the order of the first."""
    first, *others = (lines for role, lines in files.items() if not _is_unread(role))
    keys, problems = partners(first, others)
    for media, k in keys:
        captions.setdefault(media, []).extend(
            Caption(role.language, lines.lines[media, k].text, role.origin)
            for role, lines in files.items()
            if (media, k) in lines.lines
        )
    return problems + [note for role, lines in files.items() if _is_unread(role) for note in _gaps(lines, keys)]


def _is_unread(role: Role) -> bool:
    """Whether nothing reads these captions: those there and back, in training; in evaluation they are queries."""
    return role.split == "train" and not role.is_required


def _gaps(lines: CaptionLines, keys: Sequence[Key]) -> list[Problem]:
    """A note where a file that nothing reads lacks captions or has some of none."""
    wanted = set(keys)
    lacking = [f"{media}#{lines.tag}#{k}" for media, k in keys if (media, k) not in lines.lines]
    others = [f"{media}#{line.tag}#{k}" for (media, k), line in lines.lines.items() if (media, k) not in wanted]
    reasons = []
    if lacking:
        reasons.append(f"{len(lacking)} training captions have no partner here, first {lacking[0]!r}; nothing reads it")
    if others:
        reasons.append(f"{len(others)} captions have no partner in training and are not used, first {others[0]!r}")
    return [Problem(str(lines.path), None, "cap_id", reason, is_note=True) for reason in reasons]


def _add_english(captions: Captions, files: dict[Role, CaptionLines]) -> list[Problem]:
    """Adds English captions of the images that have target captions; those of others are a note."""
    notes = []
    for role, lines in files.items():
        others = [media for media, _ in lines.lines if media not in captions]
        for (media, _), line in lines.lines.items():
            if media in captions:
                captions[media].append(Caption(role.language, line.text, role.origin))
        if others:
            reason = f"{len(others)} captions of images without a target caption are not used, first {others[0]!r}"
            notes.append(Problem(str(lines.path), None, "cap_id", reason, is_note=True))
    return notes
