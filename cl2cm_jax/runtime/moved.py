"""A folder that a file names, both by its absolute path and as seen from the file: both may be moved together."""

from __future__ import annotations

import os
from pathlib import Path


def seen_from(folder: Path, root: str) -> str:
    """The path of `root` as seen from a folder; "" if there is no `root`, or it is on another drive of Windows."""
    try:
        return os.path.relpath(root, folder.resolve()) if root else ""
    except ValueError:
        return ""


def present_place(root: str, *, near: str, folder: Path) -> str:
    """The stored root, or if it is gone the one at the place `near` as seen from `folder`."""
    beside = os.path.normpath(folder.resolve() / near) if near else root
    return beside if root and not os.path.isdir(root) and os.path.isdir(beside) else root
