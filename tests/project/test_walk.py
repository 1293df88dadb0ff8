"""The walk of docs/architecture.md from a caption file to an update: short, and of files that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MOST_FILES, MOST_FORMS = 20, 4


def test_a_caption_passes_few_files_and_forms() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    _, _, section = text.partition("\n## From a caption file to an update\n")
    section = section.partition("\n## ")[0]
    files = re.findall(r"`([\w/]+\.py)`", section)
    forms = re.findall(r"^\| \d\. ", section, flags=re.MULTILINE)
    assert [file for file in files if not (ROOT / "cl2cm_jax" / file).is_file()] == []
    assert 0 < len(files) == len(set(files)) <= MOST_FILES
    assert 0 < len(forms) <= MOST_FORMS
