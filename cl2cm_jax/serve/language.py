"""Language detection of queries, among the languages of the model."""

from __future__ import annotations

import tempfile
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

from cl2cm_jax.runtime.atomic import naming

_MIN_PROBABILITY = 0.5
_SCRIPTS = {  # languages by script, named by the first word of its letters' Unicode names
    "HIRAGANA": ("ja",),
    "KATAKANA": ("ja",),
    "HANGUL": ("ko",),
    "CJK": ("zh", "ja"),
    "ARABIC": ("ar", "fa", "ur"),
    "CYRILLIC": ("ru", "uk", "bg", "sr", "mk", "kk", "mn"),
    "GREEK": ("el",),
    "HEBREW": ("he",),
    "THAI": ("th",),
    "DEVANAGARI": ("hi", "mr", "ne"),
    "BENGALI": ("bn",),
    "TAMIL": ("ta",),
    "GEORGIAN": ("ka",),
    "ARMENIAN": ("hy",),
}


def detector(languages: Sequence[str]) -> Callable[[str], str]:
    """A function from a query to one of `languages`, or "" if that is uncertain.

    If the script leaves several candidates, py3langid decides among those of its 139 languages.
    """
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    with naming(Path(tempfile.gettempdir())):  # where it unpacks its model
        identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    known = {str(label) for label in identifier.labels}
    by_base = {language.split("-")[0]: language for language in reversed(languages)}
    others = set(by_base).difference(*_SCRIPTS.values())  # written in a script without an entry above

    def detect(query: str) -> str:
        script = _script(query)
        if not script:
            return ""
        candidates = [base for base in by_base if base in _SCRIPTS.get(script, others)]
        if len(candidates) == 1:
            return by_base[candidates[0]]
        ranked = [(base, p) for base, p in identifier.rank(query) if base in candidates and base in known]
        if not ranked or ranked[0][1] < _MIN_PROBABILITY * sum(p for _, p in ranked):
            return ""
        return by_base[ranked[0][0]]

    return detect


def _script(text: str) -> str:
    """The main script of a text, "" if it has no letters. Kana decides, since Japanese also has Chinese characters."""
    counts: dict[str, int] = {}
    for letter in filter(str.isalpha, text):
        name = unicodedata.name(letter, "").split(" ")[0].removesuffix("-")
        counts[name] = counts.get(name, 0) + 1
    if not counts:
        return ""
    kana = [name for name in ("HIRAGANA", "KATAKANA") if name in counts]
    return kana[0] if kana else max(counts, key=lambda name: counts[name])
