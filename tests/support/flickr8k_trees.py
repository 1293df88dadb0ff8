"""Writes the published files of Flickr8k and Flickr8k-CN, shrunk, as their authors name and lay them out.

The names are written out here and not asked of the package, as in `paper_trees`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from support.paper_trees import write_ids, write_pictures

TRAIN = [f"10{i}_abc" for i in range(8)]
VALIDATION = [f"20{i}_abc" for i in range(3)]
TEST = [f"30{i}_abc" for i in range(3)]
SPLITS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
EVERY = TRAIN + VALIDATION + TEST
UNLISTED = "999_abc"


def write_flickr8k_cn(root: Path, *, chinese_lists: bool = False, chinese_english: bool = False) -> Path:
    """Both sets in folders of their archives; lists and English of either of them."""
    flickr, text = root / "Flickr8k_Dataset" / "Flicker8k_Dataset", root / "Flickr8k_text"
    write_pictures(flickr, [f"{media}.jpg" for media in EVERY])
    write_pictures(root / "Flickr8k_Dataset" / "__MACOSX" / "Flicker8k_Dataset", [f"._{media}.jpg" for media in EVERY])
    data = root / "flickr8kcn" / "data"
    data.mkdir(parents=True)
    text.mkdir()
    if chinese_lists:
        for part, medias in zip(("train", "val", "test"), SPLITS.values(), strict=True):
            write_ids(data / f"flickr8k{part}.txt", medias)
    else:
        for part, medias in zip(("train", "dev", "test"), SPLITS.values(), strict=True):
            write_ids(text / f"Flickr_8k.{part}Images.txt", [f"{media}.jpg" for media in medias])
    if chinese_english:
        tagged(data / "flickr8kenc.caption.txt", [*EVERY, UNLISTED], "enc")
    else:
        lines = [f"{media}.jpg#{k}\tA sentence {k} of {media} ." for media in [*EVERY, UNLISTED] for k in range(5)]
        (text / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tagged(data / "flickr8kzhc.caption.txt", EVERY, "zhc")
    for tag in ("zhb", "zhg"):
        tagged(data / f"flickr8k{tag}.caption.txt", EVERY, tag)
    tagged(data / "flickr8kzhg.caption.txt.v20160816", EVERY, "zhg", note="later")
    return root


def tagged(file: Path, medias: Iterable[str], tag: str, *, note: str = "") -> None:
    """Lines "media.jpg#tag#k sentence", five an image."""
    lines = [f"{media}.jpg#{tag}#{k} {note}{tag} 句子 {k} {media}" for media in medias for k in range(5)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
