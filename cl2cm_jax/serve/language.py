"""In which of the model's languages a query is written."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

_SURE = 0.5  # below, a guess is not worth showing
_SCRIPTS = {  # the languages that are written in a script, by how Unicode's names of letters begin
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
    """A function from a query to one of `languages`, "" where it cannot be told.

    The script decides where it leaves one language; else py3langid, which knows 139, chooses among those left.
    """
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    known = {str(label) for label in identifier.labels}
    by_base = {language.split("-")[0]: language for language in reversed(languages)}

    def detect(query: str) -> str:
        script = _script(query)
        if not script:
            return ""
        others = {base for bases in _SCRIPTS.values() for base in bases}
        left = [base for base in by_base if (base in _SCRIPTS[script] if script in _SCRIPTS else base not in others)]
        if len(left) == 1:
            return by_base[left[0]]
        ranked = [(base, chance) for base, chance in identifier.rank(query) if base in left and base in known]
        total = sum(chance for _, chance in ranked)
        if not ranked or ranked[0][1] < _SURE * total:
            return ""
        return by_base[ranked[0][0]]

    return detect


def _script(text: str) -> str:
    """The script of a text's letters; kana before Chinese characters, since Japanese has both. "" without a letter."""
    counts: dict[str, int] = {}
    for letter in filter(str.isalpha, text):
        name = unicodedata.name(letter, "").split(" ")[0].removesuffix("-")
        counts[name] = counts.get(name, 0) + 1
    if not counts:
        return ""
    kana = [name for name in ("HIRAGANA", "KATAKANA") if name in counts]
    return kana[0] if kana else max(counts, key=lambda name: counts[name])
