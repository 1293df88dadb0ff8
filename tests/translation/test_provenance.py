"""Translations of earlier runs are found again."""

from __future__ import annotations

from pathlib import Path

import pytest

from cl2cm_jax.translation.engine import Item
from cl2cm_jax.translation.provenance import Entry, Provenance


@pytest.mark.parametrize(
    ("language", "source"), [("de", "a red dog"), ("de-DE", "a red dog"), ("DE", "\u200ba red\u00a0dog")]
)
def test_codes_and_captions_of_earlier_versions_are_found(tmp_path: Path, language: str, source: str) -> None:
    entry = Entry(
        image="a.png",
        language=language,
        caption="ein roter Hund",
        source_language="en",
        source=source,
        engine="glossary",
        model="words",
        version="1",
        date="2024-01-01",
    )
    Provenance(tmp_path / "p.jsonl", inherited=None).append([entry])
    items = [Item(0, "a.png", "a red dog", "")]
    found = Provenance(tmp_path / "p.jsonl", inherited=None).finished(items, source="en", target="de")
    assert [one.caption for one in found.values()] == ["ein roter Hund"]
