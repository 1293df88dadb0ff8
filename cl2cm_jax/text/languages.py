"""Language codes: one form of each (BCP 47), so that `DE`, `de_DE` and `deu` are `de` wherever a language is named."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

_CODE = r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{1,8})*"
_ONE = re.compile(_CODE)
_EXTENDED = re.compile("[a-z]{3}")  # a subtag behind the language that is a language itself
_TRANSLATION = re.compile(rf"({_CODE})2({_CODE})")  # "de2en": each caption is the translation of one in "de"
MAX_CODE = 80  # characters

ISO_639 = """
    af:afr am:amh an:arg ar:ara as:asm ast:ast az:aze ba:bak be:bel bg:bul bn:ben bo:bod br:bre bs:bos ca:cat cs:ces
    cy:cym da:dan de:deu el:ell en:eng eo:epo es:spa et:est eu:eus fa:fas fi:fin fo:fao fr:fra ga:gle gd:gla gl:glg
    gn:grn gu:guj ha:hau he:heb hi:hin hr:hrv ht:hat hu:hun hy:hye id:ind ig:ibo is:isl it:ita ja:jpn jv:jav ka:kat
    kk:kaz km:khm kn:kan ko:kor ku:kur ky:kir lb:ltz lo:lao lt:lit lv:lav mg:mlg mi:mri mk:mkd ml:mal mn:mon mr:mar
    ms:msa mt:mlt my:mya nb:nob ne:nep nl:nld nn:nno no:nor oc:oci or:ori pa:pan pl:pol ps:pus pt:por qu:que ro:ron
    ru:rus sc:srd sd:snd se:sme si:sin sk:slk sl:slv sn:sna so:som sq:sqi sr:srp su:sun sv:swe sw:swa ta:tam te:tel
    tg:tgk th:tha tk:tuk tl:tgl tr:tur tt:tat ug:uig uk:ukr ur:urd uz:uzb vi:vie xh:xho yi:yid yo:yor zh:zho zu:zul
"""
# further codes of the same languages: the bibliographic ones of ISO 639-2, withdrawn ones, and those that CLDR
# replaces: of the individual language that stands for its macrolanguage, as in NLLB's codes, and of Norwegian
_OTHER_CODES = """
    sq:alb hy:arm eu:baq my:bur zh:chi cs:cze nl:dut fr:fre ka:geo de:ger el:gre is:ice mk:mac mi:mao ms:may fa:per
    ro:rum sk:slo bo:tib cy:wel he:iw id:in yi:ji jv:jw ro:mo tl:fil
    zh:cmn ar:arb fa:pes az:azj et:ekk ku:kmr lv:lvs mg:plt mn:khk ms:zsm ne:npi or:ory ps:pbt qu:quy sq:als
    sw:swh uz:uzn yi:ydd nb:no nb:nor
"""
THREE_LETTERS = {two: three for two, _, three in (pair.partition(":") for pair in ISO_639.split())}
_SHORTEST = {other: two for two, _, other in (pair.partition(":") for pair in (ISO_639 + _OTHER_CODES).split())}
# the region that adds nothing to a language's name, where it is not the code itself (de-DE)
_HOME = """
    en:US zh:CN ja:JP ko:KR cs:CZ da:DK sv:SE nb:NO nn:NO uk:UA el:GR he:IL fa:IR hi:IN ta:IN te:IN mr:IN ml:IN
    kn:IN gu:IN pa:IN ur:PK bn:BD vi:VN et:EE sl:SI ca:ES eu:ES gl:ES sq:AL hy:AM ka:GE kk:KZ be:BY sr:RS bs:BA ga:IE
    cy:GB ms:MY tl:PH af:ZA my:MM km:KH lo:LA ne:NP si:LK ky:KG mn:MN az:AZ uz:UZ tg:TJ tk:TM
"""
_HOME_OF = {language: region for language, _, region in (pair.partition(":") for pair in _HOME.split())}
_SCRIPTS = {  # the script that a language is written in where its code names none; Latn of all others
    "Arab": "ar fa ur ps ug sd ks ckb arb arz ary pes prs pbt azb",
    "Cyrl": "ru uk be bg mk sr kk ky mn tg tt ba cv os ce",
    "Deva": "hi mr ne sa mai bho",
    "Hans": "zh",
    "Hant": "yue",
    "Jpan": "ja",
    "Kore": "ko",
    "Grek": "el",
    "Hebr": "he yi",
    "Thai": "th",
    "Beng": "bn as",
    "Taml": "ta",
    "Telu": "te",
    "Knda": "kn",
    "Mlym": "ml",
    "Gujr": "gu",
    "Guru": "pa",
    "Orya": "or",
    "Sinh": "si",
    "Khmr": "km",
    "Laoo": "lo",
    "Mymr": "my shn",
    "Ethi": "am ti",
    "Tibt": "bo dz",
    "Thaa": "dv",
    "Geor": "ka",
    "Armn": "hy",
}
_SCRIPT_OF = {language: script for script, languages in _SCRIPTS.items() for language in languages.split()}
_TRADITIONAL = ("TW", "HK", "MO")  # regions that write Chinese in traditional characters
_SUBTAGS = {"chs": "Hans", "cht": "Hant", "hang": "Kore"}  # other names of scripts
_WHOLE = {"sh": "sr-Latn", "prs": "fa-AF"}  # withdrawn codes that become two subtags


def is_code(text: str) -> bool:
    """Whether a text has the form of a language code, "de" or "zh-TW"."""
    return len(text) <= MAX_CODE and _ONE.fullmatch(text) is not None


def is_translation(code: str) -> bool:
    """Whether a code names the translations of another language's captions, such as "de2en"."""
    return len(code) <= MAX_CODE and _TRANSLATION.fullmatch(code) is not None


def canonical(code: str) -> str:
    """The one form of a language code: "de" of "DE", "de_DE", "de-Latn-DE", "deu" and "ger"; "zh-TW" of "zh-Hant".

    The language is in lower case and as short as possible, a script is "Latn", a region "TW". The language's usual
    script and home region are left out. All other regions and scripts are kept, as captions may differ in them: zh-TW
    and zh, pt-BR and pt, de-AT and de, sr-Latn and sr are different languages. Of a translation ("de2en") both codes
    are put into this form. What is no code stays as it is.
    """
    return code if len(code) > MAX_CODE else _canonical(code)


@lru_cache(1024)
def _canonical(code: str) -> str:
    if found := _TRANSLATION.fullmatch(code):
        return "2".join(_canonical(part) for part in found.groups())
    if not _ONE.fullmatch(code):
        return code
    first, *others = re.split("[-_]", code.lower())
    first, *implied = _WHOLE.get(first, first).split("-")
    parts = [*implied, *(_subtag(part) for part in others)]
    if parts and _EXTENDED.fullmatch(parts[0]):  # zh-yue is yue
        first = parts.pop(0)
    language = _SHORTEST.get(first, first)
    home = _HOME_OF.get(language, language.upper())
    if language == "zh" and "Hant" in parts:
        parts.remove("Hant")
        parts += [] if any(part in _TRADITIONAL for part in parts) else ["TW"]
    kept = [part for part in parts if part not in (_SCRIPT_OF.get(language, "Latn"), home)]
    return "-".join([language, *kept])


def spellings(code: str) -> list[str]:
    """Common forms of a code, the canonical one first: "de", "DE", "de-DE", "de_DE", "deu" and so on."""
    form = canonical(code)
    forms = [form, code]
    if form.isalpha():  # without a script or region
        script, region = _SCRIPT_OF.get(form, "Latn"), _HOME_OF.get(form, form.upper())
        forms += [f"{form}-{region}", f"{form}-{script}", *(other for other, two in _SHORTEST.items() if two == form)]
    if form == "zh-TW":
        forms += ["zh-Hant", "zh-Hant-TW"]
    written = [one.replace("-", separator) for one in forms for separator in "-_"]
    return list(dict.fromkeys(cased for one in written for cased in (one, one.lower(), one.upper())))


def _subtag(part: str) -> str:
    """A script in title case, a region in upper case, anything else in lower case; given in lower case."""
    part = _SUBTAGS.get(part, part)
    if len(part) == 4 and part.isalpha():
        return part.title()
    return part.upper() if len(part) == 2 else part


def counted(counts: Mapping[str, int], *, limit: int = 8) -> str:
    """Names with their numbers, the most frequent first: "fi 80, hi 12 and 3 more"."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    listed = ", ".join(f"{name} {count:,}" for name, count in ranked[:limit])
    return listed + (f" and {len(ranked) - limit} more" if len(ranked) > limit else "")


def canonical_all(codes: Iterable[str]) -> tuple[str, ...]:
    """The canonical form of several codes, in their order."""
    return tuple(map(canonical, codes))
