"""Writes the packages of the `stamps` and `fluent` sets, shrunk: layout and special cases, a few made-up pictures.

The names are written out here and not asked of the package, as in `paper_trees`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

CENTIMETRES = """<svg xmlns="http://www.w3.org/2000/svg" width="5cm" height="10cm">
<rect width="5cm" height="10cm" fill="red"/></svg>"""
# chosen so that every split gets some
NOUNS = "badger bear bee camel dingo dog ferret fox frog goat horse koala lynx mole newt otter pony quail raven seal"

STILL = "1f34e"  # red apple
PLAIN = ("1f3c4", "1f436", "1f308", "1f383", "1f5e3-fe0f", "1f3c4-200d-2640-fe0f")
TONES = ("1f3c4-1f3fb", "1f3c4-1f3ff-200d-2640-fe0f", "1f44d-1f3fd")


def write_stamps(root: Path, *, languages: Sequence[str] = ("de", "es")) -> Path:
    """An unpacked package; `languages` are those of the plain stamps, beside English."""
    folder = root / "usr/share/tuxpaint/stamps"
    write_stamp(folder, "food/fruit/cartoon/apple", "A red apple.\nde.utf8=Ein Zeichentrickapfel.\n")
    write_stamp(
        folder,
        "food/fruit/apple_red",
        "A red  apple.\nar.utf8=.تفاحة حمراء\nja.utf8=あかい りんご\npt_BR.utf8=Uma maçã.\nca@valencia.utf8=Una poma.\n"
        "zh_CN.utf8=红苹果。\nzh_TW.utf8=紅蘋果\nfr.utf8=\nnonsense\nde.utf8=Ein roter Apfel.",
    )
    write_stamp(folder, "food/fruit/apple_core", "An apple core.\nde.utf8=Ein Apfelgriebs.\n")
    write_stamp(folder, "symbols/money/cent", "A cent.\nde.utf8=Ein Cent.\n")
    write_stamp(folder, "space/nothing", "A description without a picture.\n", picture="")
    write_stamp(folder, "town/houses/lighthouse", "A lighthouse.\nde.utf8=Ein Leuchtturm.\n", picture=".svg")
    (folder / "town/houses/lighthouse_desc_de.ogg").write_bytes(b"")
    (folder / "town/houses/lighthouse.dat").write_text("noflip")
    for noun in NOUNS.split():
        others = "".join(f"{language}.utf8=({language}) {noun}.\n" for language in languages)
        write_stamp(folder, f"animals/{noun}", f"A {noun}.\n{others}")
    return root


def write_stamp(folder: Path, name: str, text: str, *, picture: str = ".png", encoding: str = "utf-8") -> None:
    """One stamp: its text and a picture, of a drawing or of none."""
    path = folder / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)
    if picture == ".png":
        Image.new("RGBA", (40, 20), (0, 0, 255, 255)).save(path.with_suffix(".png"))
    elif picture:
        path.with_suffix(".svg").write_text(CENTIMETRES)


def write_fluent(root: Path) -> Path:
    """assets/ with one still picture and an animation of five frames for each of `PLAIN` and `TONES`."""
    assets = root / "assets"
    assets.mkdir(parents=True)
    frames = [Image.new("RGBA", (16, 16), (40 * number, 0, 0, 255)) for number in range(5)]
    frames[0].save(assets / f"{STILL}.webp")
    for name in PLAIN + TONES:
        frames[0].save(assets / f"{name}.webp", save_all=True, append_images=frames[1:], lossless=True)
    return root
