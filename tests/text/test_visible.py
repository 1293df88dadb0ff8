"""What a reader sees of a text, and queries as the encoder gets them."""

from __future__ import annotations

import unicodedata

import pytest

from cl2cm_jax.text.visible import prepared_query, visible

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
    ],
)
def test_what_is_not_seen_changes_nothing(written: str) -> None:
    assert visible(written) == prepared_query(written) == "red apple"


@pytest.mark.parametrize("text", [PERSIAN, FAMILY, HEART, "\u0915\u094d\u200d\u0937", "日本", "Äpfel"])
def test_what_is_seen_stays(text: str) -> None:
    assert visible(text) == prepared_query(text) == text


def test_letters_are_composed() -> None:
    assert visible(unicodedata.normalize("NFD", "grüner Käfer")) == "grüner Käfer"


@pytest.mark.parametrize(
    ("written", "prepared"),
    [
        ("A RED CAR", "a red car"),
        ("EIN GRÜNER APFEL!", "ein grüner apfel!"),
        ("КОШКА", "кошка"),
        ("İKİ KEDİ", "iki kedi"),
        ("Ein roter Apfel", "Ein roter Apfel"),
        ("a TV set", "a TV set"),
        ("电视 TV", "电视 TV"),
        ("1 + 1", "1 + 1"),
        ("", ""),
    ],
)
def test_only_queries_in_capitals_are_lowered(written: str, prepared: str) -> None:
    assert prepared_query(written) == prepared
