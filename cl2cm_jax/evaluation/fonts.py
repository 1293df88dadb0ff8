"""Fonts for captions in many scripts: packaged Noto fonts, a system's DejaVu, Pillow's own, in this order."""

from __future__ import annotations

import unicodedata
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont, features

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# files in installed packages, and the scripts beside LATIN that they draw (first words of Unicode character names)
_CJK = {"CYRILLIC", "CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL", "BOPOMOFO"}
PACKAGED = {
    ("fontpkg_noto_sans", "files/NotoSans[wdth,wght].ttf"): {"CYRILLIC", "GREEK", "DEVANAGARI"},
    ("fontpkg_noto_sans_arabic", "files/NotoSansArabic[wdth,wght].ttf"): {"ARABIC"},
    ("fontpkg_noto_sans_thai", "files/NotoSansThai[wdth,wght].ttf"): {"THAI"},
    ("noto_cjk_sans_jp_regular", "NotoSansCJKjp-Regular.otf"): _CJK,
}
SHAPED = frozenset({"ARABIC", "DEVANAGARI", "THAI"})  # Pillow draws them right with raqm alone
SYSTEM_FONT = "DejaVuSans.ttf"  # most Linux desktops have it
SYSTEM_SCRIPTS = frozenset({"LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "GEORGIAN", "ARABIC"})


def scripts_of(text: str) -> frozenset[str]:
    """Scripts of the letters of `text`: {"LATIN"}, {"CJK", "HIRAGANA"}, ...; none of digits and punctuation."""
    letters = (char for char in unicodedata.normalize("NFC", text) if char.isalpha())
    return frozenset(unicodedata.name(char, "UNNAMED").split()[0] for char in letters)


def font_for(text: str, *, size: int) -> Font | None:
    """The first font that draws every script of `text` at `size` pixels, or None where no installed font can."""
    scripts = scripts_of(text)
    if scripts & SHAPED and not features.check("raqm"):
        return None
    for (package, file), drawn in PACKAGED.items():
        path = _path(package, file)
        if path and scripts <= {"LATIN", *drawn}:
            return _load(str(path), size)
    if scripts <= SYSTEM_SCRIPTS and (system := _load(SYSTEM_FONT, size)):
        return system
    return _load(None, size) if scripts <= {"LATIN"} else None


@cache
def _path(package: str, file: str) -> Path | None:
    spec = find_spec(package)  # finds the package without running it
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := Path(folder, file)).is_file():
            return path
    return None


@cache
def _load(path: str | None, size: int) -> Font | None:
    try:
        return ImageFont.load_default(size) if path is None else ImageFont.truetype(path, size)
    except OSError:
        return None
