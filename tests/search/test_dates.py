from __future__ import annotations

import contextlib
import io
from datetime import UTC, datetime

import pytest
from PIL import Image
from PIL.EpsImagePlugin import EpsImageFile

from cl2cm_jax.search.dates import taken

ORIGINAL, DIGITIZED, CHANGED = 0x9003, 0x9004, 0x0132
NOON = "2010:06:01 12:00:00"


def at(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp())


def picture(exif: dict[int, object], *, base: dict | None = None, gps: dict | None = None, format: str = "JPEG"):
    block = Image.Exif()
    block.get_ifd(0x8769).update(exif)
    block.get_ifd(0x8825).update(gps or {})
    for tag, value in ({0x010F: "a camera"} | (base or {})).items():
        block[tag] = value
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, format, exif=block)
    return out.getvalue()


@pytest.mark.parametrize(
    ("text", "date"),
    [
        (NOON, at(2010, 6, 1, 12)),
        ("2010:06:01 12:00:00.123", at(2010, 6, 1, 12)),
        ("2010-06-01 12:00:00", at(2010, 6, 1, 12)),
        ("2010/06/01 12:00", at(2010, 6, 1, 12)),
        ("2010-06-01T12:00:00Z", at(2010, 6, 1, 12)),
        ("2010-06-01T12:00:00.5+02:00", at(2010, 6, 1, 10)),
        ("2010:06:01", at(2010, 6, 1)),
        ("2010: 6: 1 12: 0: 0", at(2010, 6, 1, 12)),
        ("2010.06.01 12.00.00", at(2010, 6, 1, 12)),
        ("2010-06-01 12-00-00", at(2010, 6, 1, 12)),
        ("2010:06:01 02:30:00 PM", at(2010, 6, 1, 14, 30)),
        ("2010:06:01 12:00:00 am", at(2010, 6, 1)),
        ("2010-06-01 12:00-05:00", at(2010, 6, 1, 17)),
        ("20100601T120000+0200", at(2010, 6, 1, 10)),
        ("20100601", at(2010, 6, 1)),
        ("0001:01:01 00:00:00", None),
        ("2010:06:01 24:00:00", at(2010, 6, 2)),
        ("1955:06:01 12:00:00", at(1955, 6, 1, 12)),
        ("1970:01:01 00:00:00", 0),
        ("0000:00:00 00:00:00", None),
        ("    :  :     :  :  ", None),
        ("2010:13:01 00:00:00", None),
        ("2010:06:01 25:00:00", None),
        ("yesterday", None),
    ],
)
def test_forms_of_a_date(text, date) -> None:
    assert taken(picture({ORIGINAL: text})) == date


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_formats(format) -> None:
    assert taken(picture({ORIGINAL: NOON}, format=format)) == at(2010, 6, 1, 12)


def test_tiff() -> None:
    assert taken(picture({}, base={CHANGED: NOON}, format="TIFF")) == at(2010, 6, 1, 12)


def test_the_first_field_that_is_a_date_counts() -> None:
    others = {"base": {CHANGED: "2012:01:01 00:00:00"}, "gps": {0x1D: "2013:01:01", 7: (1.0, 2.0, 3.5)}}
    assert taken(picture({ORIGINAL: NOON, DIGITIZED: "2011:01:01 00:00:00"}, **others)) == at(2010, 6, 1, 12)
    assert taken(picture({ORIGINAL: "0000:00:00", DIGITIZED: "2011:01:01 00:00:00"}, **others)) == at(2011, 1, 1)
    assert taken(picture({ORIGINAL: " "}, **others)) == at(2012, 1, 1)
    assert taken(picture({}, gps=others["gps"])) == at(2013, 1, 1, 1, 2, 3)
    assert taken(picture({}, gps={0x1D: "2013:01:01"})) == at(2013, 1, 1)
    assert taken(picture({})) is None


@pytest.mark.parametrize(
    ("field", "offset", "hours"), [(ORIGINAL, 0x9011, -8), (DIGITIZED, 0x9012, 2), (CHANGED, 0x9010, 5)]
)
def test_offsets_from_utc(field, offset, hours) -> None:
    for text in (f"{hours:+03}:00", f"{hours:+03}00", f"{hours:+03}", f"{hours:+}:00"):
        assert taken(picture({field: NOON, offset: text})) == at(2010, 6, 1, 12 - hours)
    assert taken(picture({field: NOON, offset: "   :  "})) == at(2010, 6, 1, 12)


def test_the_pixels_are_not_decoded(monkeypatch) -> None:
    for format in ("PNG", "JPEG"):
        monkeypatch.undo()
        plain, dated = picture({}, format=format), picture({ORIGINAL: NOON}, format=format)
        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: 1 / 0)
        assert taken(plain) is None and taken(dated) == at(2010, 6, 1, 12)


def test_no_other_reader_is_tried(monkeypatch) -> None:
    """Pillow has readers that start programs, such as PostScript's."""
    tried: list[object] = []
    Image.init()
    monkeypatch.setattr(EpsImageFile, "_open", lambda self: tried.append(self))
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "EPS")
    with contextlib.suppress(Exception):
        Image.open(io.BytesIO(out.getvalue()))
    assert tried
    tried.clear()
    assert taken(out.getvalue()) is None and not tried
