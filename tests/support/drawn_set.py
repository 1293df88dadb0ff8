"""The tiny set as drawings: photos/ with 32 pictures, captions.csv and a configuration that trains in seconds."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from PIL import Image, ImageDraw
from support.tiny_set import COLOURS, CONFIG, SPLITS, THINGS


def draw(colour: str, thing: str) -> Image.Image:
    """A picture of a thing in a colour."""
    picture = Image.new("RGB", (40, 30), "brown")
    pen = ImageDraw.Draw(picture)
    fill = {"golden": "gold"}.get(colour, colour)
    if thing == "car":
        pen.rectangle((2, 14, 38, 24), fill=fill)
    elif thing == "dog":
        pen.ellipse((2, 4, 22, 26), fill=fill)
    elif thing == "house":
        pen.polygon([(8, 28), (32, 28), (20, 2)], fill=fill)
    else:
        pen.rectangle((16, 0, 24, 30), fill=fill)
    return picture


def write_drawn_set(folder: Path) -> Path:
    """Writes the set and config.py; returns the folder."""
    (folder / "photos").mkdir()
    names = [(colour, thing) for colour in COLOURS for thing in THINGS]
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "language", "caption", "split"])
        for (colour, thing), split in zip(names, SPLITS, strict=True):
            draw(colour, thing).save(folder / "photos" / f"{colour}-{thing}.png")
            words = [(colour, thing), *zip(COLOURS[colour], THINGS[thing], strict=True)]
            for language, pair in zip(("en", "de", "fr"), words, strict=True):
                writer.writerow([f"{colour}-{thing}.png", language, " ".join(pair), split])
    paths = f'c.data.captions, c.data.images = "{folder}/captions.csv", "{folder}/photos"'
    text = re.sub(r"c\.data\.captions, .*", paths, CONFIG).replace('"data"', f'"{folder}/data"')
    (folder / "config.py").write_text(text.replace('c.vision.backbone = "precomputed"', ""))
    return folder
