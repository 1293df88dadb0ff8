"""transport_plans.png: where each word of a sentence sends its mass in the translation, before and after training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from cl2cm_jax.evaluation.fonts import font_for
from cl2cm_jax.evaluation.picture import AMBER, INK, LANGUAGE_NAMES, LINE, MARGIN, SOFT
from cl2cm_jax.runtime.atomic import replacing

CELL, LABEL, HEADER, GAP = 18, 14, 108, 34
MAPS_A_LINE = 4
TURN = 60  # degrees of the labels above a plan
DEEP = np.array([9, 72, 146])  # the colour of all of a word's mass; none is white


class ShownPair(NamedTuple):
    """One pair of the picture.

    Attributes:
      language: of the target sentence.
      source, target: their word pieces.
      plans: (M, N) by the caption of each map.
      linked: (k, 2) places that are framed.
    """

    language: str
    source: Sequence[str]
    target: Sequence[str]
    plans: Mapping[str, np.ndarray]
    linked: np.ndarray


class _Size(NamedTuple):
    left: int  # room for the labels of rows
    top: int  # room for the labels of columns
    step: int  # from one map to the next
    height: int


def label(piece: str) -> str:
    """A piece as it is shown: "▁dog" is "dog", and what goes on within a word begins with a hyphen: "-s"."""
    if piece.startswith("▁"):
        return piece[1:] or "_"
    within = piece.removeprefix("##")
    return f"-{within}" if within[:1].isalnum() else within


def draw_plans(path: Path, pairs: Sequence[ShownPair], *, title: str, notes: Sequence[str]) -> None:
    """Draws the pairs, each with its maps side by side; writes a PNG, whole or not at all.

    Args:
      path: the PNG.
      pairs: in their order.
      title: what the picture shows.
      notes: lines below it.
    """
    sizes = [_size(pair) for pair in pairs]
    abreast = min(len(pairs), max(1, MAPS_A_LINE // len(pairs[0].plans)))  # pairs in a line
    lines = [range(i, min(i + abreast, len(pairs))) for i in range(0, len(pairs), abreast)]
    left, step = max(size.left for size in sizes), max(size.step for size in sizes)  # so that maps stand in columns
    block = left + step * len(pairs[0].plans)
    heights = [max(sizes[i].height for i in line) for line in lines]
    top = HEADER + 20 * len(notes)
    width = 2 * MARGIN + block * abreast
    canvas = Image.new("RGB", (width, top + sum(heights) + GAP * len(heights)), "white")
    draw = ImageDraw.Draw(canvas)
    _write(draw, (MARGIN, 56), title, size=28, fill=INK)
    for number, note in enumerate(notes):
        _write(draw, (MARGIN, 86 + 22 * number), note, size=16, fill=SOFT)
    for line, height in zip(lines, heights, strict=True):
        draw.line((MARGIN, top - GAP // 2, width - MARGIN, top - GAP // 2), fill=LINE)
        for place, i in enumerate(line):
            _pair(canvas, pairs[i], sizes[i]._replace(left=left, step=step), (MARGIN + place * block, top))
        top += height + GAP
    with replacing(path) as temporary:
        canvas.save(temporary, format="PNG", optimize=True)


def _size(pair: ShownPair) -> _Size:
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left = max(_length(draw, label(piece)) for piece in pair.source) + 8
    longest = max(_length(draw, label(piece)) for piece in pair.target)
    top = int(longest * np.sin(np.radians(TURN))) + LABEL + 26
    lean = int(longest * np.cos(np.radians(TURN)))  # the last label leans over the edge
    step = max(CELL * len(pair.target) + lean, *(_length(draw, f"{name}  ") for name in pair.plans)) + GAP
    return _Size(left, top, step, top + CELL * len(pair.source))


def _pair(canvas: Image.Image, pair: ShownPair, size: _Size, corner: tuple[int, int]) -> None:
    """The maps of one pair; the source's pieces stand once, to the left of all."""
    draw = ImageDraw.Draw(canvas)
    x, y = corner[0] + size.left, corner[1] + size.top
    name = LANGUAGE_NAMES.get(pair.language, pair.language)
    for row, piece in enumerate(pair.source):
        middle = (x - 6, y + CELL * row + CELL // 2)
        _write(draw, middle, label(piece), size=LABEL, fill=INK, anchor="rm")
    for number, (caption, plan) in enumerate(pair.plans.items()):
        left = x + size.step * number
        heading = f"{name}, {caption}" if number == 0 else caption
        _write(draw, (left, corner[1] + 12), heading, size=LABEL, fill=SOFT)
        for column, piece in enumerate(pair.target):
            _turned(canvas, label(piece), (left + CELL * column + CELL // 2, y - 4))
        _map(draw, plan, (left, y), pair.linked)


def _map(draw: ImageDraw.ImageDraw, plan: np.ndarray, corner: tuple[int, int], linked: np.ndarray) -> None:
    share = plan / np.maximum(plan.sum(axis=1, keepdims=True), 1e-12)
    framed = {tuple(place) for place in linked.tolist()}

    def box(row: int, column: int, inset: int = 0) -> tuple[int, int, int, int]:
        x, y = corner[0] + CELL * column, corner[1] + CELL * row
        return x + inset, y + inset, x + CELL - inset, y + CELL - inset

    for row, column in np.ndindex(*share.shape):
        colour = tuple(int(round(255 + (deep - 255) * share[row, column])) for deep in DEEP)
        draw.rectangle(box(row, column), fill=colour, outline=LINE)
    for row, column in framed:
        draw.rectangle(box(row, column), outline=AMBER, width=2)


def _turned(canvas: Image.Image, text: str, foot: tuple[int, int]) -> None:
    """Writes slanted text that rises to the right from `foot`."""
    draw = ImageDraw.Draw(Image.new("L", (1, 1)))
    width, height = _length(draw, text) + 2, LABEL + 8
    strip = Image.new("L", (2 * width, height), 0)  # its middle is where the text begins, and what it is turned about
    ImageDraw.Draw(strip).text((width, height // 2), text, font=font_for(text, size=LABEL), fill=255, anchor="lm")
    turned = strip.rotate(TURN, expand=True, resample=Image.Resampling.BICUBIC)
    ink = Image.new("RGB", turned.size, INK)
    canvas.paste(ink, (foot[0] - turned.width // 2, foot[1] - turned.height // 2), turned)


def _length(draw: ImageDraw.ImageDraw, text: str) -> int:
    return int(draw.textlength(text, font=font_for(text, size=LABEL)))


def _write(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, *, size: int, fill: str, anchor: str = "ls"
) -> None:
    draw.text(at, text, font=font_for(text, size=size), fill=fill, anchor=anchor)
