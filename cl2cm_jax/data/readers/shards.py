"""Webdataset tar shards, as img2dataset writes them: files that share a name up to the first dot are one sample.

    00000.tar    000000001.jpg  000000001.txt  000000001.json  000000002.jpg ...

Nothing is unpacked: names in a tar are never used as paths, only regular files are read, and only up to a limit. A
picture is known by its offset in the shard, so a shard is read once to check it and once to build the set.
"""

from __future__ import annotations

import glob
import os
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

from cl2cm_jax.data.captions import Caption, ShardOffset
from cl2cm_jax.data.media.images import SUFFIXES
from cl2cm_jax.data.media.looks import Look
from cl2cm_jax.data.readers.picture_checks import Checked, check
from cl2cm_jax.data.readers.problems import Problem
from cl2cm_jax.data.readers.sample_captions import SampleError, read_captions
from cl2cm_jax.errors import UserError, shortened

MAX_PICTURE_BYTES = 100_000_000
MAX_TEXT_BYTES = 1_000_000  # of a .txt or .json
MAX_GLOBAL = 100  # fields of global headers, which tarfile copies for each file
MAX_HEADER_BYTES = 16_000  # of an extended header: a long name, and a few times
_SPARSE = b"GNU.sparse."
_EXTENDED = frozenset(
    (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
)
_PICTURES = frozenset(suffix[1:] for suffix in SUFFIXES)
_TEXTS = frozenset({"txt", "json"})
_READ = _PICTURES | _TEXTS


class Shard(NamedTuple):
    """The content of a shard."""

    samples: list[list[Caption]]  # the rows of each picture; one with caption="" if it has no caption
    left_out: list[str]  # keys of samples that have a problem
    problems: list[Problem]
    looks: dict[str, Look]  # of the picture of each sample, by key, see `Checked.look`
    unread: Counter[str]  # files of other endings, which are not read


class _BrokenError(Exception):
    """A shard that cannot be read further."""


class _File(NamedTuple):
    """A file of a sample."""

    ending: str
    offset: ShardOffset
    content: bytes  # b"" where it cannot be read
    reason: str  # why it cannot be read; "" if it can


def shard_files(shards: str) -> list[str]:
    """The shards that a folder (its *.tar) or a pattern such as "shards/*.tar" names, in order.

    Raises:
      UserError: there is none.
    """
    pattern = os.path.join(glob.escape(shards), "*.tar") if os.path.isdir(shards) else shards
    files = sorted(file for file in glob.glob(pattern, recursive=True) if os.path.isfile(file))
    if not files:
        raise UserError(
            f"config.data.shards={shards!r} matches no file; name a folder with .tar files, or a pattern such as "
            "'shards/*.tar'"
        )
    return files


def read_picture(place: ShardOffset) -> bytes:
    """The bytes of a picture.

    Raises:
      UserError: the shard is not what it was when it was checked.
    """
    try:
        with open(place.shard, "rb") as file:
            file.seek(place.offset)
            content = file.read(place.size)
    except OSError as error:
        raise UserError(f"{place.shard} cannot be read any more ({error.strerror}); put it back") from error
    if len(content) < place.size:
        raise UserError(f"{place.shard} became shorter while it was read; leave it alone until the set is built")
    return content


def read_shard(path: str, *, source: str, frames: int) -> Shard:
    """Reads and checks a shard, one sample in memory at a time."""
    shard = Shard([], [], [], {}, Counter())
    seen: set[str] = set()
    try:
        for key, files in _grouped(_files(path)):
            problems, picture = _file_problems(path, key, files, frames, is_repeated=key in seen)
            seen.add(key)
            shard.unread.update(shortened(file.ending, limit=20) for file in files if file.ending not in _READ)
            sample: list[Caption] = []
            if all(problem.is_note for problem in problems):
                sample, further = _sample(path, key, files, source, sha256=picture.sha256)
                problems += further
            shard.problems.extend(problems)
            if sample:
                shard.samples.append(sample)
                shard.looks[key] = picture.look
            else:
                shard.left_out.append(key)
    except (_BrokenError, tarfile.TarError, OSError, RecursionError, ValueError, OverflowError) as error:
        reason = str(error) if isinstance(error, _BrokenError) else f"cannot be read ({error})"
        good = f"; {len(shard.samples)} samples before that are good" if shard.samples else ""
        shard.problems.append(Problem(path, None, "shard", f"{reason}{good}; fetch it again or take it away"))
    if not seen and not shard.problems:
        shard.problems.append(Problem(path, None, "shard", "has no sample", is_note=True))
    return shard


def _files(path: str) -> Iterator[tuple[str, _File]]:
    """(key, file) of every file that can belong to a sample."""
    with open(path, "rb") as raw:
        if raw.read(2) == b"\x1f\x8b":
            raise _BrokenError("is compressed; unpack it with gunzip")
        _check_extended(raw, 0)
        raw.seek(0)
        try:
            tar = tarfile.open(fileobj=raw, mode="r:")
        except tarfile.ReadError as error:
            raise _BrokenError(f"is empty or no tar file ({error})") from error
        end = 0
        while member := _next(tar, raw):
            if member.size < 0 or tar.offset <= end:  # a forged size would lead round in a circle
                raise _BrokenError(f"is damaged at byte {end:,}")
            end = tar.offset
            folder, name = os.path.split(member.name.removeprefix("./"))
            stem, _, ending = name.partition(".")
            if stem and ending and not member.isdir() and not stem.startswith("__"):  # as webdataset; not ._name
                yield os.path.join(folder, stem), _file(raw, path, member, ending.lower())
        _check_end(raw, end)


def _check_extended(raw: BinaryIO, offset: int) -> None:
    """Refuses sparse files and large extended headers: of one of digits, the time grows with its square in tarfile."""
    while True:
        raw.seek(offset)
        header = raw.read(tarfile.BLOCKSIZE)
        if len(header) < tarfile.BLOCKSIZE or header[156:157] not in _EXTENDED:
            return
        try:
            size = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").size
        except tarfile.HeaderError:
            return  # tarfile raises it
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise _BrokenError(
                f"has an extended header of {size:,} bytes at byte {offset:,}, over the limit of {MAX_HEADER_BYTES:,}"
            )
        if _SPARSE in raw.read(size):  # tarfile would read its map, which may be of any length, number by number
            raise _BrokenError(f"has a sparse file at byte {offset:,}, which is not read; write it without --sparse")
        offset += tarfile.BLOCKSIZE * (1 + -(-size // tarfile.BLOCKSIZE))


def _next(tar: Any, raw: BinaryIO) -> tarfile.TarInfo | None:
    if tar.firstmember is None:  # else it is read already
        _check_extended(raw, tar.offset)
    try:
        member = tar.next()
    except tarfile.ReadError as error:
        raise _BrokenError(f"is cut short ({error})") from error
    if len(tar.pax_headers) > MAX_GLOBAL:
        raise _BrokenError(f"has {len(tar.pax_headers):,} fields of global headers, over the limit of {MAX_GLOBAL}")
    tar.members = []  # else all headers stay in memory
    return member


def _file(raw: BinaryIO, path: str, member: tarfile.TarInfo, ending: str) -> _File:
    offset = ShardOffset(path, member.offset_data, member.size)
    if ending not in _READ:
        return _File(ending, offset, b"", "")
    limit = MAX_TEXT_BYTES if ending in _TEXTS else MAX_PICTURE_BYTES
    if not member.isreg() or member.issparse():
        return _File(ending, offset, b"", "is a link or a special file; store the file itself")
    if member.size > limit:
        return _File(ending, offset, b"", f"has {member.size:,} bytes, over the limit of {limit:,}; make it smaller")
    raw.seek(member.offset_data)
    content = raw.read(member.size)
    if len(content) < member.size:
        raise _BrokenError("is cut short")
    return _File(ending, offset, content, "")


def _check_end(raw: BinaryIO, end: int) -> None:
    """Python's tarfile takes a missing end, and a header that it does not understand, for the end."""
    raw.seek(end)
    block = raw.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise _BrokenError("is cut short")
    if block.strip(b"\0"):
        raise _BrokenError(f"is damaged at byte {end:,}")


def _grouped(files: Iterable[tuple[str, _File]]) -> Iterator[tuple[str, list[_File]]]:
    """Samples: files of one key that follow each other. Where a shard breaks off, the last one is not given out."""
    current, group = "", list[_File]()
    for key, file in files:
        if group and key != current:
            yield current, group
            group = []
        current = key
        group.append(file)
    if group:
        yield current, group


def _file_problems(
    path: str, key: str, files: list[_File], frames: int, *, is_repeated: bool
) -> tuple[list[Problem], Checked]:
    """What is wrong with the name, the set of files and the picture of a sample; and the picture, if there is one."""
    problems, checked = list[Problem](), Checked()
    try:
        key.encode()
    except UnicodeEncodeError:
        return [Problem(path, None, ascii(key), "is a name that is not UTF-8; rename the sample")], checked
    if is_repeated:
        reason = "is the key of two samples, or its files do not follow each other; rename one"
        return [Problem(path, None, key, reason)], checked
    endings = [file.ending for file in files]
    named = shortened(", ".join(endings), limit=200)
    pictures = [file for file in files if file.ending in _PICTURES]
    if len(pictures) > 1 or any(endings.count(text) > 1 for text in _TEXTS):
        reason = f"has the files {named}; keep one picture, one .txt and one .json"
        problems.append(Problem(path, None, key, reason))
    elif not pictures:
        reason = f"has no picture, only {named}; add one or remove the sample"
        problems.append(Problem(path, None, key, reason))
    for file in files:
        reason, is_note = file.reason, False
        if not reason and pictures == [file]:
            checked = check(file.content, frames)
            reason, is_note = checked.reason, checked.is_note
        if reason:
            problems.append(Problem(path, None, f"{key}.{file.ending}", reason, is_note=is_note))
    return problems, checked


def _picture(files: list[_File]) -> _File:
    return next(file for file in files if file.ending in _PICTURES)


def _sample(
    path: str, key: str, files: list[_File], source: str, *, sha256: str
) -> tuple[list[Caption], list[Problem]]:
    """The rows of a sample whose files are good, none where its .json or all captions are wrong; and its problems."""
    content = {file.ending: file.content for file in files}
    try:
        found = read_captions(key, text=content.get("txt"), described=content.get("json"), source=source)
    except SampleError as error:
        return [], [Problem(path, None, f"{key}.{error.ending}", error.reason)]
    problems = [Problem(path, None, f"{key}.{ending}", reason) for ending, reason in found.problems]
    if problems and not found.rows:
        return [], problems
    offset = _picture(files).offset
    rows = found.rows or (Caption(key, "", ""),)
    return [row._replace(split=found.split, picture=offset, sha256=sha256) for row in rows], problems
