"""A picture of queries in several languages and their first results: retrieval.png, docs/languages.png."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageOps, features

from cl2cm_jax.data.media.clips import picture_of
from cl2cm_jax.data.media.images import ImageError, decode
from cl2cm_jax.evaluation.fonts import font_for
from cl2cm_jax.maths import ranking
from cl2cm_jax.runtime.atomic import replacing

LANGUAGE_NAMES = {
    "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "ca": "Catalan", "cs": "Czech", "da": "Danish", "de": "German",
    "el": "Greek", "en": "English", "es": "Spanish", "et": "Estonian", "fa": "Persian", "fi": "Finnish",
    "fr": "French", "gl": "Galician", "he": "Hebrew", "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian",
    "id": "Indonesian", "it": "Italian", "ja": "Japanese", "ko": "Korean", "nl": "Dutch", "nb": "Norwegian",
    "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sk": "Slovak", "sv": "Swedish",
    "th": "Thai", "tr": "Turkish", "uk": "Ukrainian", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip
INK, SOFT, LINE = "#1f2328", "#6e7781", "#d8dee4"
GREEN, AMBER = "#1a7f37", "#bc6c00"
MARGIN, TEXT_WIDTH, TILE, GAP, HEADER = 36, 330, 124, 18, 128
ROW = TILE + 34


class Queries(NamedTuple):
    """All queries of one language: M texts, their vectors (M, D), and the row (M,) of their own picture."""

    texts: Sequence[str]
    vectors: np.ndarray
    image: np.ndarray


class Found(NamedTuple):
    """A picture and its rank. `path` is None where there are only features."""

    rank: int
    path: str | None
    image_id: str
    is_right: bool


class QueryRow(NamedTuple):
    """One row of the picture: a query, its gloss in the source language and its first results.

    `missed` is the query's own picture if it is not among the results; `remark` is shown below the language.
    """

    text: str
    language: str
    gloss: str
    found: tuple[Found, ...]
    missed: Found | None = None
    remark: str = ""


def query_rows(
    queries: Mapping[str, Queries],
    vision: np.ndarray,
    *,
    image_ids: Sequence[str],
    paths: Sequence[str | None],
    glosses: Sequence[str],
    top: int = 5,
) -> list[QueryRow]:
    """Searches with one query per language: two hits, then a miss, in turn.

    Each is the next such query after an evenly spaced position in the split. Of the gallery, `vision` (N, D) are the
    vectors, `paths` the picture files (None for features), `glosses` a caption in the source language ("" for none).
    """
    rows = []
    for number, (language, group) in enumerate(queries.items()):
        best, hit = _found(group, vision, top)
        start = int((number + 0.5) / len(queries) * len(vision))
        chosen = _next_query(group.image, hit, start=start, kind=number % 3 != 2)
        own, indices = int(group.image[chosen]), [int(i) for i in best[chosen]]
        found = tuple(Found(rank, paths[i], image_ids[i], i == own) for rank, i in enumerate(indices, start=1))
        missed = None
        if not hit[chosen]:
            vector = group.vectors[chosen : chosen + 1]
            rank = ranking.ranks(vector, vision, query_image=[own], gallery_image=np.arange(len(vision)))
            missed = Found(int(rank[0]), paths[own], image_ids[own], True)
        rows.append(QueryRow(group.texts[chosen], language, glosses[own], found, missed))
    return rows


def hit_share(queries: Mapping[str, Queries], vision: np.ndarray, *, top: int = 5) -> float:
    """Share of all queries whose own picture is among the first `top`."""
    return float(np.concatenate([_found(group, vision, top)[1] for group in queries.values()]).mean())


def _found(group: Queries, vision: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """The first pictures (M, top) of every query, and whether its own is among them (M,)."""
    best = ranking.top(group.vectors, vision, k=min(top, len(vision)))[1]
    return best, (best == group.image[:, None]).any(axis=1)


def _next_query(image: np.ndarray, hit: np.ndarray, *, start: int, kind: bool) -> int:
    """The first query at or after image `start`, wrapping around, that hits (or misses: `kind`), if any does."""
    return int(np.lexsort((image, image < start, hit != kind))[0])


def draw_retrieval(path: Path, rows: Sequence[QueryRow], *, title: str, note: str, source: str = "en") -> None:
    """Writes `retrieval_picture` as a PNG file."""
    picture = retrieval_picture(rows, title=title, note=note, source=source)
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG", optimize=True)


def retrieval_picture(rows: Sequence[QueryRow], *, title: str, note: str, source: str = "en") -> Image.Image:
    """Draws one row per query: its text and its first pictures, the right one framed green.

    `note` is one line below the title; queries in the `source` language are shown without their gloss.
    """
    columns = max(len(row.found) for row in rows)
    has_missed = any(row.missed for row in rows)
    width = 2 * MARGIN + TEXT_WIDTH + (columns + has_missed) * (TILE + GAP) + (GAP if has_missed else 0)
    canvas = Image.new("RGB", (width, HEADER + ROW * len(rows) + MARGIN // 2), "white")
    draw = ImageDraw.Draw(canvas)
    _header(draw, columns, title=title, note=note, has_missed=has_missed)
    for number, row in enumerate(rows):
        top = HEADER + ROW * number
        draw.line((MARGIN, top, width - MARGIN, top), fill=LINE, width=1)
        _query(draw, row, top, source=source)
        for place, found in enumerate(row.found):
            _tile(canvas, draw, found, (_column(place), top + 17), colour=GREEN if found.is_right else None)
        if row.missed:
            _tile(canvas, draw, row.missed, (_column(columns) + GAP, top + 17), colour=AMBER)
    return canvas


def _column(place: int) -> int:
    return MARGIN + TEXT_WIDTH + place * (TILE + GAP)


def _header(draw: ImageDraw.ImageDraw, columns: int, *, title: str, note: str, has_missed: bool) -> None:
    _write(draw, (MARGIN, 52), title, size=28, fill=INK)
    _write(draw, (MARGIN, 80), note, size=16, fill=SOFT)
    for place in range(columns):
        _write(draw, (_column(place) + TILE // 2, HEADER - 16), str(place + 1), size=16, fill=SOFT, anchor="mm")
    if has_missed:
        x = _column(columns) + GAP + TILE // 2
        _write(draw, (x, HEADER - 16), "missed", size=16, fill=AMBER, anchor="mm")


def _query(draw: ImageDraw.ImageDraw, row: QueryRow, top: int, *, source: str) -> None:
    name = LANGUAGE_NAMES.get(row.language, row.language)
    text = row.text if font_for(row.text, size=10) else f"({name}: no font for its script)"
    lines = _wrap(draw, text, size=24, lines=2)
    label = f"{name} ({row.language})" if name != row.language else name
    is_right = any(found.is_right for found in row.found)
    label_colour = AMBER if row.missed else GREEN if is_right else SOFT
    gloss = row.gloss if row.language != source else ""
    small = [(line, fill) for line, fill in ((gloss, SOFT), (label, label_colour), (row.remark, SOFT)) if line]
    y = top + (ROW - 34 * len(lines) - 22 * len(small)) // 2
    for line in lines:
        _write(draw, (MARGIN, y + 25), line, size=24, fill=INK, language=row.language)
        y += 34
    for line, fill in small:
        _write(draw, (MARGIN, y + 16), _wrap(draw, line, size=16, lines=1)[0], size=16, fill=fill)
        y += 22


def _tile(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, found: Found, corner: tuple[int, int], *, colour: str | None
) -> None:
    x, y = corner
    picture = _thumbnail(found.path)
    if picture is None:
        draw.rectangle((x, y, x + TILE, y + TILE), fill="#f6f8fa")
        for line, text in enumerate(_wrap(draw, found.image_id, size=13, lines=3, width=TILE - 16)):
            _write(draw, (x + 8, y + 54 + 18 * line), text, size=13, fill=SOFT)
    else:
        canvas.paste(picture, (x + (TILE - picture.width) // 2, y + (TILE - picture.height) // 2))
    if colour is None:
        draw.rounded_rectangle((x - 1, y - 1, x + TILE + 1, y + TILE + 1), radius=6, outline=LINE, width=1)
        return
    draw.rounded_rectangle((x - 4, y - 4, x + TILE + 4, y + TILE + 4), radius=8, outline=colour, width=5)
    badge = f"rank {found.rank}"
    left = x + TILE - 12 - int(draw.textlength(badge, font=font_for(badge, size=14)))
    draw.rounded_rectangle((left, y + TILE - 20, x + TILE + 4, y + TILE + 4), radius=6, fill=colour)
    _write(draw, ((left + x + TILE + 4) // 2, y + TILE - 8), badge, size=14, fill="white", anchor="mm")


def _thumbnail(path: str | None) -> Image.Image | None:
    """The picture within TILE x TILE pixels, or None if it cannot be read."""
    if path is None:
        return None
    try:
        picture = Image.fromarray(decode(picture_of(path)))
    except ImageError:
        return None
    return ImageOps.contain(picture, (TILE, TILE), Image.Resampling.LANCZOS)


def _wrap(draw: ImageDraw.ImageDraw, text: str, *, size: int, lines: int, width: int = TEXT_WIDTH - 24) -> list[str]:
    """At most `lines` lines, wrapped at spaces or, without any, anywhere; an ellipsis ends a truncated one."""
    text = " ".join(text.split())
    font = font_for(text, size=size)
    between = " " if " " in text else ""
    wrapped = [""]
    for piece in text.split(between) if between else text:
        longer = f"{wrapped[-1]}{between if wrapped[-1] else ''}{piece}"
        if draw.textlength(longer, font=font) <= width or not wrapped[-1]:
            wrapped[-1] = longer
        else:
            wrapped.append(piece)
    kept = wrapped[:lines]
    cut = len(wrapped) > lines
    while kept[-1] and draw.textlength(kept[-1] + ("…" if cut else ""), font=font) > width:
        kept[-1], cut = kept[-1][:-1], True
    if cut:
        kept[-1] += "…"
    return kept


def _write(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    text: str,
    *,
    size: int,
    fill: str,
    anchor: str = "ls",
    language: str | None = None,
) -> None:
    shaping = language if features.check("raqm") else None  # Chinese and Japanese draw some characters differently
    draw.text(at, text, font=font_for(text, size=size), fill=fill, anchor=anchor, language=shaping)
