"""When a photograph was taken, from any of its EXIF dates."""

from __future__ import annotations

import contextlib
import datetime
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from PIL import Image

from cl2cm_jax.data.media.images import open_picture

_EXIF_BLOCK, _GPS_BLOCK = 0x8769, 0x8825
_GPS_DATE, _GPS_TIME = 0x1D, 0x07
# DateTimeOriginal, DateTimeDigitized and DateTime, each with the field of its offset from UTC
_FIELDS = ((0x9003, 0x9011), (0x9004, 0x9012), (0x0132, 0x9010))
_DATE = re.compile(  # the parts of the time are separated by one character, so that an offset is none of them
    r"(?P<year>\d{4})[-:/. ] ?(?P<month>\d{1,2})[-:/. ] ?(?P<day>\d{1,2})"
    r"(?:[T ]+(?P<hour>\d{1,2})(?P<by>[-:.]) ?(?P<minute>\d{1,2})(?:(?P=by) ?(?P<second>\d{1,2})(?:[.,:]\d*)?)?"
    r"(?: ?(?P<half>[AP])\.?M\.?)?)? *(?P<offset>Z|[-+]\d{1,2}(?::?\d{2})?)?",
    re.ASCII | re.IGNORECASE,
)
_COMPACT = re.compile(
    r"(?P<year>\d{4})(?P<month>\d{2})(?P<day>\d{2})"
    r"(?:[T ]?(?P<hour>\d{2})(?P<minute>\d{2})(?P<second>\d{2})?(?P<half>)(?P<offset>Z|[-+]\d{2}(?::?\d{2})?)?)?",
    re.ASCII | re.IGNORECASE,
)
_NO_YEAR = 1  # of what programs write that have no date: 0001-01-01
_PNG_EXIF = re.compile(rb"eXIf|Raw profile type (?:exif|APP1)")
_OFFSET = re.compile(r"([-+])(\d{1,2})(?::?(\d{2}))?", re.ASCII)


def taken(content: bytes) -> int | None:
    """When a picture was taken, in seconds since 1970 (negative before); None if it has no EXIF date.

    The first that is a date counts: DateTimeOriginal, DateTimeDigitized, DateTime, the date of GPS. A date without an
    offset from UTC is read as UTC. Fractions of a second are cut off.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with open_picture(content) as image:
                if image.format == "PNG" and not _PNG_EXIF.search(content):
                    return None  # Pillow decodes the pixels of a PNG in search of a block after them
                return next(_dates(image.getexif()), None)
        except Exception:  # noqa: BLE001  # Pillow raises almost anything on a broken block; the picture is still usable
            return None


def _dates(exif: Image.Exif) -> Iterator[int]:
    block = dict(exif) | _block(exif, _EXIF_BLOCK)
    for field, offset in _FIELDS:
        date = _seconds(_text(block.get(field)), _text(block.get(offset)))
        if date is not None:
            yield date
    date = _gps(_block(exif, _GPS_BLOCK))
    if date is not None:
        yield date


def _block(exif: Image.Exif, tag: int) -> dict[int, Any]:
    try:
        return dict(exif.get_ifd(tag))
    except Exception:  # noqa: BLE001  # as above: the other blocks may be whole
        return {}


def _text(value: object) -> str:
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value or "")
    return text.replace("\0", " ").strip()


def _seconds(text: str, offset: str = "") -> int | None:
    """A date with or without time, as cameras and programs write it; None for any other text."""
    found = _DATE.fullmatch(text) or _COMPACT.fullmatch(text)
    if not found:
        return None
    parts = ("year", "month", "day", "hour", "minute", "second")
    year, month, day, hour, minute, second = (int(found[part] or 0) for part in parts)
    if half := (found["half"] or "").upper():
        hour = hour % 12 + 12 * (half == "P")
    if year == _NO_YEAR or hour > 24 or minute > 59 or second > 60:
        return None
    with contextlib.suppress(ValueError, OverflowError):
        date = datetime.datetime(year, month, day, tzinfo=datetime.UTC)
        date += datetime.timedelta(hours=hour, minutes=minute, seconds=second) - _offset(found["offset"] or offset)
        return int(date.timestamp() // 1)
    return None


def _offset(text: str) -> datetime.timedelta:
    found = _OFFSET.fullmatch(text)
    if not found or int(found[2]) > 14 or int(found[3] or 0) > 59:
        return datetime.timedelta()
    return (1 if found[1] == "+" else -1) * datetime.timedelta(hours=int(found[2]), minutes=int(found[3] or 0))


def _gps(block: Mapping[int, Any]) -> int | None:
    day = _seconds(_text(block.get(_GPS_DATE)))
    if day is None:
        return None
    try:
        hour, minute, second = (float(part) for part in block[_GPS_TIME])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return day
    time = hour * 3600 + minute * 60 + second
    return day + int(time) if 0 <= time <= 24 * 3600 else day  # false for NaN too
