"""Where the pictures of cached features are: stored from the folder of a data set on, so that it may be moved."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from cl2cm_jax.data.captions import Caption
from cl2cm_jax.data.corpus import Corpus


def in_place(corpus: Corpus, root: Path, content: str) -> Corpus:
    """A split as the cache has it, with its pictures where they are now."""
    before = folder_before(next(filter(None, corpus.paths), ""), root)
    moved = [
        Path(path).relative_to(before) if before and Path(path).is_relative_to(before) else path
        for path in corpus.paths
    ]
    return replace(corpus, paths=[path and str(root / path) for path in moved], content=content)


def folder_before(path: str, root: Path) -> Path | None:
    """The folder that is `root` now, from an absolute path in it as earlier versions stored them; None of others."""
    parents = reversed(Path(path).parents) if os.path.isabs(path) else ()
    return next((folder for folder in parents if (root / Path(path).relative_to(folder)).exists()), None)


def relative(row: Caption, root: Path) -> Caption:
    """A caption whose picture is named from `root` on, so that the cache is right wherever the pictures are."""
    inside = isinstance(row.picture, str) and row.picture and Path(row.picture).is_relative_to(root)
    return row._replace(picture=Path(str(row.picture)).relative_to(root).as_posix()) if inside else row
