"""One form of each language code."""

from __future__ import annotations

import pytest

from cl2cm_jax.config import defaults, from_flat, override_all
from cl2cm_jax.errors import UserError
from cl2cm_jax.text.languages import canonical, counted, is_code, is_translation, spellings


@pytest.mark.parametrize(
    ("written", "form"),
    [
        ("de", "de"),
        ("DE", "de"),
        ("de-DE", "de"),
        ("de_DE", "de"),
        ("de-Latn-DE", "de"),
        ("deu", "de"),
        ("GER", "de"),
        ("de-AT", "de-AT"),
        ("zh_CN", "zh"),
        ("zh-Hans", "zh"),
        ("zh-hans-cn", "zh"),
        ("cmn", "zh"),
        ("zh-tw", "zh-TW"),
        ("zh-Hant", "zh-TW"),
        ("zh_Hant_TW", "zh-TW"),
        ("zh-Hant-HK", "zh-HK"),
        ("pt-br", "pt-BR"),
        ("pt-PT", "pt"),
        ("en_US", "en"),
        ("en-gb", "en-GB"),
        ("sr-cyrl", "sr"),
        ("sr-Latn", "sr-Latn"),
        ("tel_Telu", "te"),
        ("te-Latn", "te-Latn"),
        ("pan_Guru", "pa"),
        ("amh-Ethi", "am"),
        ("yue_Hant", "yue"),
        ("iw", "he"),
        ("in_ID", "id"),
        ("no", "nb"),
        ("nb-NO", "nb"),
        ("nno", "nn"),
        ("arb_Arab", "ar"),
        ("pes", "fa"),
        ("npi_Deva", "ne"),
        ("kor_Hang", "ko"),
        ("fil-PH", "tl"),
        ("sh", "sr-Latn"),
        ("prs_Arab", "fa-AF"),
        ("zh-CHT", "zh-TW"),
        ("zh-yue-HK", "yue-HK"),
        ("zh-cmn-Hans-CN", "zh"),
        ("en-x-simple", "en-x-simple"),
        ("es-419", "es-419"),
        ("DE2EN", "de2en"),
        ("zh-Hant2en_US", "zh-TW2en"),
        ("german!", "german!"),
    ],
)
def test_canonical_form(written: str, form: str) -> None:
    assert canonical(written) == form
    assert canonical(form) == form


@pytest.mark.parametrize("code", ["de", "te", "fil", "zh", "zh-Hant", "zh-HK", "pt-BR", "sr-Latn", "es-419", "de2en"])
def test_spellings_are_of_one_language(code: str) -> None:
    found = spellings(code)
    assert found[0] == canonical(code) and code in found and len(set(found)) == len(found)
    assert {canonical(one) for one in found} == {canonical(code)}


def test_what_is_a_code() -> None:
    assert is_code("zh-TW")
    assert not is_code("de2en")
    assert is_translation("zh-TW2en")
    assert not is_translation("de")
    assert not is_code("german!")
    assert not is_code("a" * 10**6)
    assert canonical("de-" + "a" * 10**6) == "de-" + "a" * 10**6


def test_languages_of_a_configuration() -> None:
    config = override_all(defaults(), {"data.source": "EN-us", "data.targets": "de_DE,zh-Hans,pt-br"})
    assert (config.data.source, tuple(config.data.targets)) == ("en", ("de", "zh", "pt-BR"))
    assert tuple(from_flat({"data.targets": ["FRA", "deu"]}).data.targets) == ("fr", "de")
    with pytest.raises(UserError, match="language 'de' is named twice"):
        override_all(defaults(), {"data.targets": "de,DE"})


def test_counts_are_one_bounded_line() -> None:
    assert counted({"fi": 2, "hi": 1_000}) == "hi 1,000, fi 2"
    many = counted({f"x{number:03}": 1 for number in range(100)})
    assert many.endswith(" and 92 more")
