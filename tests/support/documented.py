"""Commands as the documents type them, for tests that run them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SMALL = tuple(  # what makes a documented training short
    f"--config.{field}"
    for field in (
        "teacher.steps=2",
        "train.steps=2",
        "train.evaluate_every=1",
        "train.checkpoint_every=1",
        "student.dim=16",
    )
)


def commands(document: str, *parts: str) -> list[tuple[str, list[str]]]:
    """(module, arguments) of each `python -m` line in the one block of the document that has all the parts."""
    text = (ROOT / document).read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    (block,) = [block for block in blocks if all(part in block for part in parts)]
    lines = [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]
    return [(words[2], words[3:]) for words in lines if words[:2] == ["python", "-m"]]
