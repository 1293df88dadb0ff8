"""The tokens of NLLB for language codes.

Source: FLORES-200 (the individual language that NLLB-200 has for a macrolanguage).
"""

from __future__ import annotations

import re
from collections.abc import Collection

from cl2cm_jax.errors import UserError
from cl2cm_jax.text.languages import THREE_LETTERS

_NLLB_INDIVIDUAL = """
    ara:arb aze:azj fas:pes kur:kmr lav:lvs mlg:plt mon:khk msa:zsm nep:npi nor:nob ori:ory pus:pbt que:quy
    sqi:als swa:swh uzb:uzn yid:ydd
"""
_NLLB = {macro: single for macro, _, single in (pair.partition(":") for pair in _NLLB_INDIVIDUAL.split())}
_NLLB_SCRIPT = {
    **dict.fromkeys(("ace", "bjn", "knc", "min", "taq"), "Latn"),
    **dict.fromkeys(("arb", "kas"), "Arab"),
    "zho": "Hans",
}
_NLLB_TOKEN = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")
_TRADITIONAL = {"tw", "hk", "mo", "hant"}


def three_letters(code: str) -> str:
    """The three-letter code of a language without its script or region: "de" and "deu" are "deu"."""
    primary = re.split("[-_]", code)[0].lower()
    return THREE_LETTERS.get(primary, primary)


def nllb_tokens(vocabulary: Collection[str]) -> list[str]:
    """The language tokens of NLLB in a vocabulary, such as "deu_Latn"; none for other models."""
    return sorted(token for token in vocabulary if _NLLB_TOKEN.fullmatch(token))


def nllb_token(code: str, tokens: Collection[str], *, option: str) -> str:
    """The token of a language.

    Args:
      code: "de", "zh-TW", "sr-Cyrl", or the token itself.
      tokens: those of the model.
      option: the command-line option that sets the token, for the error.

    Raises:
      UserError: the model has none, or several that the code does not distinguish.
    """
    if code in tokens:
        return code
    language = three_letters(code)
    found = {token for token in tokens if token.split("_")[0] in (language, _NLLB.get(language, language))}
    parts = {part.lower() for part in re.split("[-_]", code)[1:]}
    wanted = {"hant"} if language == "zho" and parts & _TRADITIONAL else parts
    if by_script := {token for token in found if token.split("_")[1].lower() in wanted}:
        found = by_script
    if len(found) > 1:
        found = {token for token in found if token.split("_")[1] == _NLLB_SCRIPT.get(token.split("_")[0])} or found
    if len(found) != 1:
        names = ", ".join(sorted(found or tokens)[:8]) + ("" if found or len(tokens) <= 8 else ", ...")
        raise UserError(f"language {code!r} has no unique token in the model; give one by {option}: {names}")
    return found.pop()
