"""The captions of a paper's set, from its TextData/: the contents of each file, and how the files belong together.

Training captions are the English ones (human) and their translations (machine); those without their partner are named.
Validation and test captions are the target's (human). Their translations back to English become captions of a language
of their own, "de2en", in the order of the captions that they translate; so do the training captions translated there
and back, "en2de2en", which no term reads: their problems are notes and cost no training caption. English
validation and test captions are read where the tree has them.

Source: NRCCR, LECCR (training and evaluation files).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cl2cm_jax.data.captions import SPLITS, Caption, CaptionTable
from cl2cm_jax.data.readers.cap_ids import Key
from cl2cm_jax.data.readers.problems import Problem
from cl2cm_jax.data.sets.paper.captions import CaptionLines, partners, read_caption_lines
from cl2cm_jax.data.sets.paper.files import TEXT, Role, Search, roles


class TextFiles:
    """The caption files of a set, found and not yet read."""

    def __init__(self, search: Search, *, targets: Sequence[str], task: int):
        self._targets = targets
        self._found: dict[Role, Path] = {}
        for target in targets:
            for role in roles(search.paper, target=target, task=task):
                path = search.file(role.names, [search.root / TEXT], is_required=role.is_required)
                if path and role not in self._found:
                    self._found[role] = path

    @property
    def paths(self) -> list[Path]:
        """All files."""
        return list(self._found.values())

    def read(self) -> CaptionTable:
        """The captions of all splits.

        Raises:
          UserError: a file cannot be read or is empty.
        """
        read = {role: read_caption_lines(path, tags=role.tags) for role, path in self._found.items()}
        table = CaptionTable([])
        for role, lines in read.items():
            table.problems.extend(replace(problem, is_note=_is_unread(role)) for problem in lines.problems)
        for split in SPLITS:
            files = {role: lines for role, lines in read.items() if role.split == split}
            if split == "train":
                _add(table, files)
                continue
            for target in self._targets:
                own = (target, f"{target}2en")
                _add(table, {role: lines for role, lines in files.items() if role.language in own})
            _add_english(table, split, {role: lines for role, lines in files.items() if role.language == "en"})
        return table


def _add(table: CaptionTable, files: dict[Role, CaptionLines]) -> None:
    """Adds the captions that have their partner in every file that a term reads, in the order of the first file."""
    first, *others = (lines for role, lines in files.items() if not _is_unread(role))
    keys, problems = partners(first, others)
    table.problems.extend(problems)
    for media, k in keys:
        table.rows.extend(
            Caption(media, role.language, lines.lines[media, k].text, role.split, role.origin)
            for role, lines in files.items()
            if (media, k) in lines.lines
        )
    for role, lines in files.items():
        if _is_unread(role):
            table.problems.extend(_gaps(lines, keys))


def _is_unread(role: Role) -> bool:
    """Whether no term reads these captions: training captions translated there and back."""
    return role.split == "train" and not role.is_required


def _gaps(lines: CaptionLines, keys: Sequence[Key]) -> list[Problem]:
    """A note where a file that no term reads lacks captions or has further ones."""
    wanted = set(keys)
    lacking = [f"{media}#{lines.tag}#{k}" for media, k in keys if (media, k) not in lines.lines]
    others = [f"{media}#{line.tag}#{k}" for (media, k), line in lines.lines.items() if (media, k) not in wanted]
    reasons = []
    if lacking:
        reasons.append(f"{len(lacking)} training captions have no partner here, first {lacking[0]!r}; nothing reads it")
    if others:
        reasons.append(f"{len(others)} captions have no partner in training and are not used, first {others[0]!r}")
    return [Problem(str(lines.path), None, "cap_id", reason, is_note=True) for reason in reasons]


def _add_english(table: CaptionTable, split: str, files: dict[Role, CaptionLines]) -> None:
    """Adds English captions of the images that have target captions; those of others are a note."""
    known = {row.image for row in table.rows if row.split == split}
    for role, lines in files.items():
        others = [media for media, _ in lines.lines if media not in known]
        table.rows.extend(
            Caption(media, role.language, line.text, split, role.origin)
            for (media, _), line in lines.lines.items()
            if media in known
        )
        if others:
            reason = f"{len(others)} captions of images without a target caption are not used, first {others[0]!r}"
            table.problems.append(Problem(str(lines.path), None, "cap_id", reason, is_note=True))
