"""A language that hardly counts in the training is named."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from cl2cm_jax.maths.confidence import UNJUDGED
from cl2cm_jax.training import loop


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_languages_without_or_with_little_confidence_are_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        loop._log_shares({"de": 0.1, "hi": UNJUDGED, "fi": 0.7}, backbone="use_multilingual")
    assert "estimated share of wrong translations: de 10%, fi 70%" in caplog.text
    off, many = warnings(caplog)
    assert off.startswith("pair confidence is off for hi:") and "'use_multilingual' does not know" in off
    assert many.startswith("most training captions in fi are taken for wrong translations")


def test_sound_data_are_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    loop._log_shares({"de": 0.0, "fr": 0.4}, backbone="use_multilingual")
    assert warnings(caplog) == []


@pytest.mark.parametrize(("mean", "count"), [(0.02, 1), (0.3, 0), (1.0, 0)])
def test_a_small_mean_weight_is_named(caplog: pytest.LogCaptureFixture, mean: float, count: int) -> None:
    config = SimpleNamespace(confidence=SimpleNamespace(kind="softmax"), text=SimpleNamespace(backbone="bert"))
    run: Any = SimpleNamespace(config=config)
    loop._warn_of_low_confidence(run, mean)
    assert len(warnings(caplog)) == count
    assert all("confidence.kind='softmax'" in line and "'bert'" in line for line in warnings(caplog))
