"""The picture of a folder that a name in a caption file means, where the name is written in another way."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from cl2cm_jax.data.captions import Caption
from cl2cm_jax.text.visible import normal_form

_SHOWN = 3  # names in a message
_SEARCHED, _FILES = 20, 2000  # names that a similar one is searched for, and names that are compared with each


def with_files(rows: Sequence[Caption], folder: str) -> list[Caption]:
    """The captions, each image under the path of its file inside the folder; says how many were written otherwise."""
    names = matched({row.image for row in rows}, folder)
    if names:
        examples = ", ".join(f"{name!r} is {file!r}" for name, file in sorted(names.items())[:_SHOWN])
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        logging.info("names of pictures that are written in another way than their files: %s%s", examples, more)
    return [row._replace(image=names.get(row.image, row.image)) for row in rows]


def matched(names: Iterable[str], folder: str) -> dict[str, str]:
    """The paths inside the folder of the pictures that are there under another writing of their names.

    A name may be an absolute path or one from the current folder on, have backslashes, another Unicode form or its
    suffix in other case. A name that two files fit is left as it is.

    Args:
      names: images of a caption file; those that are paths inside the folder are left out of the result.
      folder: of the pictures.
    """
    unknown = [name for name in names if not os.path.lexists(os.path.join(folder, name)) or os.path.isabs(name)]
    if not unknown:
        return {}
    files: dict[str, list[str]] = {}
    for path in _inside(folder):
        files.setdefault(_plain(path), []).append(path)
    found = {}
    for name in unknown:
        fitting = [path for one in _writings(name, folder) for path in files.get(_plain(one), ())]
        if len(set(fitting)) == 1:
            found[name] = fitting[0]
    return found


def similar_files(names: Sequence[str], folder: str) -> dict[str, str]:
    """A picture of the folder whose name is like each of the first names; those without one are left out."""
    return similar(names, _inside(folder)) if names else {}


def similar(names: Sequence[str], paths: Sequence[str]) -> dict[str, str]:
    """Of some paths or ids the one that is like each of the first names; those without one are left out."""
    by_stem = {_stem(path): path for path in reversed(paths)}
    found = {name: by_stem[_stem(name)] for name in names if _stem(name) in by_stem}
    for name in [name for name in names if name not in found][:_SEARCHED]:
        if near := difflib.get_close_matches(name[:200], paths[:_FILES], n=1, cutoff=0.8):
            found[name] = near[0]
    return found


def _writings(name: str, folder: str) -> list[str]:
    """The paths inside the folder that a name may stand for."""
    slashes = name.replace("\\", "/")
    writings = [slashes]
    for root in (os.path.abspath(folder), os.path.realpath(folder)):
        path = os.path.abspath(slashes)
        if path.startswith(root + os.sep):
            writings.append(os.path.relpath(path, root))
    return [os.path.normpath(one).replace(os.sep, "/") for one in writings]


def _inside(folder: str) -> list[str]:
    """All files and folders below a folder, as paths inside it."""
    return sorted(
        os.path.relpath(os.path.join(base, name), folder).replace(os.sep, "/")
        for base, folders, files in os.walk(folder)
        for name in (*folders, *files)
    )


def _plain(path: str) -> str:
    place = PurePosixPath(normal_form("NFC", path))
    return str(place.with_suffix(place.suffix.lower())) if place.suffix else str(place)


def _stem(path: str) -> str:
    """The name without folders and suffix; of a number also without the zeros that spreadsheets leave out."""
    stem = normal_form("NFC", PurePosixPath(path.replace("\\", "/")).stem).casefold()
    return (stem.lstrip("0") or "0") if stem.isdecimal() else stem
