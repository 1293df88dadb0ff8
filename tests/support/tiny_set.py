"""A set of 32 made-up pictures with captions in three languages, and a configuration that trains on it in seconds."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np

COLOURS = {
    "red": ("rot", "rouge"),
    "green": ("grün", "vert"),
    "blue": ("blau", "bleu"),
    "white": ("weiß", "blanc"),
    "black": ("schwarz", "noir"),
    "golden": ("golden", "doré"),
    "pink": ("rosa", "rose"),
    "grey": ("grau", "gris"),
}
THINGS = {
    "car": ("Auto", "voiture"),
    "dog": ("Hund", "chien"),
    "house": ("Haus", "maison"),
    "flower": ("Blume", "fleur"),
}
SPLITS = ["train"] * 16 + ["validation"] * 8 + ["test"] * 8
PLANTED = "red-car"  # the first picture, of the training split

CONFIG = """
from cl2cm_jax.config import defaults


def get_config():
    c = defaults()
    c.data.name, c.data.dir = "captions", "data"
    c.data.captions, c.data.features, c.data.feature_ids = "captions.csv", "features.npy", "ids.txt"
    c.data.targets = ("de", "fr")
    c.vision.backbone = "precomputed"
    c.student.dim, c.student.dropout = 16, 0.1
    c.teacher.head, c.teacher.steps, c.teacher.pool = "linear", "4", "backbone"
    c.confidence.kind = "posterior"
    c.optimizer.learning_rate, c.optimizer.warmup = 0.01, "0"
    c.train.batch_size, c.train.steps, c.train.ema = 8, "8", 0.5
    c.train.evaluate_every, c.train.checkpoint_every, c.train.log_every = "4", "2", "3"
    return c
"""


def write_tiny_set(folder: Path) -> None:
    """Writes captions.csv, features.npy, ids.txt and config.py; built sets and caches will go there too."""
    names = [(colour, thing) for colour in COLOURS for thing in THINGS]
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "language", "caption", "split"])
        for (colour, thing), split in zip(names, SPLITS, strict=True):
            words = [(colour, thing), *zip(COLOURS[colour], THINGS[thing], strict=True)]
            for language, pair in zip(("en", "de", "fr"), words, strict=True):
                writer.writerow([f"{colour}-{thing}", language, " ".join(pair), split])
    (folder / "ids.txt").write_text("".join(f"{colour}-{thing}\n" for colour, thing in names))
    np.save(folder / "features.npy", np.eye(len(names), dtype=np.float32) + 0.01)
    (folder / "config.py").write_text(re.sub(r'"(data|\w+\.(?:csv|npy|txt))"', rf'"{folder}/\1"', CONFIG))
