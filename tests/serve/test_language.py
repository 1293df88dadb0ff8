from __future__ import annotations

import errno
import os
import tempfile

import pytest
from py3langid.langid import LanguageIdentifier

from cl2cm_jax.serve.language import detector

LANGUAGES = ("en", "ar", "de", "es", "fr", "it", "ja", "ko", "pt", "ru", "tr", "zh-TW")


@pytest.mark.parametrize(
    ("query", "language"),
    [
        ("zwei Hunde laufen am Meer", "de"),
        ("un gato sonriente en la mesa", "es"),
        ("赤いりんご", "ja"),
        ("빨간 사과", "ko"),
        ("تفاحة حمراء", "ar"),
        ("красное яблоко", "ru"),
        ("les enfants jouent dans la rue", "fr"),
        ("12 + 3", ""),
        ("🍎", ""),
        ("γάτα", ""),
    ],
)
def test_languages_of_queries(query, language) -> None:
    assert detector(LANGUAGES)(query) == language


def test_only_languages_of_the_model() -> None:
    assert detector(("en", "de"))("赤い") == "" and detector(("zh",))("一只鸟") == "zh"


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(LanguageIdentifier, "from_model_file", full)
    with pytest.raises(OSError, match="No space left") as error:
        detector(LANGUAGES)
    assert error.value.filename == tempfile.gettempdir()
