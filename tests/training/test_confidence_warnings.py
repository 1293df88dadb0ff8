"""A language that hardly counts in the training is named."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from cl2cm_jax.maths.confidence import TOO_FEW, UNJUDGED
from cl2cm_jax.training import loop


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_languages_without_or_with_little_confidence_are_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        shares = {"de": 0.1, "hi": UNJUDGED, "fi": 0.7, "sw": TOO_FEW}
        loop._log_shares(shares, backbone="use_multilingual")
    assert "estimated share of wrong translations: de 10%, fi 70%\n" in caplog.text
    off, few, many = warnings(caplog)
    assert few.startswith("pair confidence is off for sw: it needs 8 captions and more")
    assert off.startswith("pair confidence is off for hi:") and "'use_multilingual' does not know" in off
    assert many.startswith("most training captions in fi are taken for wrong translations")


def test_sound_data_are_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    loop._log_shares({"de": 0.0, "fr": 0.4}, backbone="use_multilingual")
    assert warnings(caplog) == []


def test_one_language_of_small_weight_is_named(caplog: pytest.LogCaptureFixture) -> None:
    config = SimpleNamespace(confidence=SimpleNamespace(kind="softmax"), text=SimpleNamespace(backbone="bert"))
    run: Any = SimpleNamespace(config=config)
    logged = {"total": 1.0, "confidence": 0.7, "confidence/0": -1.0, "confidence/1": 0.9, "confidence/2": 0.02}
    values, weights = loop._by_language(logged, ("en", "de", "hi"))
    assert values == {"total": 1.0, "confidence": 0.7, "confidence/de": 0.9, "confidence/hi": 0.02}
    loop._warn_of_low_confidence(run, weights)
    (line,) = warnings(caplog)
    assert "captions in hi (0.02) weigh little" in line and "kind='softmax'" in line and "'bert'" in line
    loop._warn_of_low_confidence(run, {"de": 0.3})
    assert len(warnings(caplog)) == 1
