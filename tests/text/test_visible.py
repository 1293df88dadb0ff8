"""What a reader sees of a text, and queries as the encoder gets them."""

from __future__ import annotations

import itertools
import random
import time
import unicodedata
from typing import Literal

import pytest

from cl2cm_jax.text.visible import normal_form, prepared_query, spellings, visible

PERSIAN = "\u0645\u06cc\u200c\u0631\u0648\u0645"  # a word that is spelt with a joiner
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
HEART = "\u2764\ufe0f\u200d\U0001f525"


@pytest.mark.parametrize(
    "written",
    [
        "  red apple\n",
        "red\u00a0apple",
        "red\u3000apple",
        "red  \tapple",
        "\u200bred apple",
        "red\u200b apple",
        "re\u200bd ap\u00adple",
        "\u202ared apple\u202c",
        "\u2067red apple\u2069\u200e",
        "\ufeffred apple",
        "red\u2060 apple",
        "r\u200ded ap\u200cple\u200d",
        "\u3164red\u2800apple",
        "\ufffcred\x07 apple\x02",
        "red a\ufe0fpple",
        "red\U000e0001 apple\U000e0068",
        "ｒｅｄ ａｐｐｌｅ",
        "𝐫𝐞𝐝 𝑎𝑝𝑝𝑙𝑒",
    ],
)
def test_what_is_not_seen_changes_nothing(written: str) -> None:
    assert visible(written) == prepared_query(written) == "red apple"


CHILLU = "\u0d28\u0d4d\u200d"  # a last letter of Malayalam that is spelt with a joiner
ENGLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"


@pytest.mark.parametrize(
    "text", [PERSIAN, FAMILY, HEART, "\u0915\u094d\u200d\u0937", CHILLU, ENGLAND, "1\ufe0f\u20e3", "日本，", "äpfel"]
)
def test_what_is_seen_stays(text: str) -> None:
    assert visible(text) == prepared_query(text) == text


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("ﾄﾞｱ", "ドア"),
        ("２匹", "2匹"),
        ("ﬁsh", "fish"),
        ("\ufe97\ufed4\ufe8e\ufea3\ufe94", "تفاحة"),
        ("辻\U000e0101町", "辻町"),
        ("葛\ufe00", "葛"),
    ],
)
def test_letters_of_another_form_are_the_usual_ones(written: str, text: str) -> None:
    assert visible(written) == prepared_query(written) == text


def test_letters_are_composed() -> None:
    assert visible(unicodedata.normalize("NFD", "grüner Käfer")) == "grüner Käfer"


@pytest.mark.parametrize(
    ("written", "prepared"),
    [
        ("A RED CAR", "a red car"),
        ("EIN GRÜNER APFEL!", "ein grüner apfel!"),
        ("КОШКА", "кошка"),
        ("İKİ KEDİ", "iki kedi"),
        ("YAĞMUR ALTINDA", "yağmur altinda"),
        ("kırmızı", "kirmizi"),
        ("RED TAXI", "red taxi"),
        ("GROßE STRAẞE", "grosse strasse"),
        ("ꭰᏼ ᏣᎳᎩ", "ᎠᏴ ᏣᎳᎩ"),
        ("ΚΟΚΚΙΝΟΣ ΣΚΥΛΟΣ", "κοκκινος σκυλος"),
        ("1º PRÊMIO", "1º prêmio"),
        ("Red Apple", "red apple"),
        ("Ein roter Apfel", "ein roter apfel"),
        ("Iğdır'da", "iğdir'da"),
        ("电视 TV", "电视 tv"),
        ("1 + 1", "1 + 1"),
        ("", ""),
    ],
)
def test_queries_are_in_lower_case(written: str, prepared: str) -> None:
    assert prepared_query(written) == prepared


@pytest.mark.parametrize(
    ("written", "prepared"),
    [
        ('"red apple"', "red apple"),
        ("„ein roter Apfel“", "ein roter apfel"),
        ("« une pomme »", "une pomme"),
        ("「赤い」", "赤い"),
        ("'\"A DOG\"'", "a dog"),
        ('"red" and "blue"', '"red" and "blue"'),
        ('a sign "STOP"', 'a sign "stop"'),
        ('""', '""'),
        ("تفـــاحة", "تفاحة"),
    ],
)
def test_quotation_marks_around_a_query_are_left_out(written: str, prepared: str) -> None:
    assert prepared_query(written) == prepared


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_many_combining_marks_in_a_row_are_normalised_as_few_are(form: Literal["NFC", "NFD"]) -> None:
    marks = [chr(code) for code in range(0x110000) if unicodedata.combining(chr(code))]
    odd = ["\u0344", "\u0f73", "\u0f75", "\u0f81", "\u1e69", "é", "e", " ", "≠", "\u0f71", "한", "\u1100", "\u1161"]
    chance = random.Random(0)
    for length in (31, 33, 100, 400):
        for _ in range(30):
            text = "".join(chance.choice(chance.choice((marks, marks, marks[:60], odd))) for _ in range(length))
            assert normal_form(form, text) == unicodedata.normalize(form, text)


@pytest.mark.parametrize(
    "marks", ["\u0301\u0323", "\u0f73", "\u0f81\u0344", "\u0344\u0323", "e\u0301\u0323" + "\u0323\u0301" * 50]
)
def test_combining_marks_take_time_in_proportion(marks: str) -> None:
    """Python alone takes minutes for these."""
    text = "a" + "".join(itertools.islice(itertools.cycle(marks), 400_000))
    start = time.process_time()
    assert len(visible(text)) > 300_000
    assert time.process_time() - start < 5


CASES = (str.upper, str.lower, str.title, str.capitalize, str.swapcase, str.casefold)
CASED = [char for char in map(chr, range(0x20000)) if any(case(char) != char for case in CASES)]


def test_no_letter_has_two_forms_by_its_case() -> None:
    assert len(CASED) > 2500
    for char in CASED:
        for text in (char, f"a{char}", f"{char}b", f"a{char}b {char}", f"Σ{char}σ"):
            forms = {prepared_query(text), *(prepared_query(case(text)) for case in CASES)}
            assert len(forms) == 1, (text, forms)


def test_spellings_are_one_in_capitals() -> None:
    assert spellings("kirmizi") == ("kirmizi", "kırmızı", "Kirmizi")
    assert spellings("weiss") == ("weiss", "weıss", "weiß", "Weiss")
    assert {word.upper() for word in spellings("weiss")} == {"WEISS"}
    for word in ("苹果", "تفاحة", "თბილისი", "2", ""):  # Georgian capitals begin no word
        assert spellings(word) == (word,)
