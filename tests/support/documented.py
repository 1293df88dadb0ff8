"""Commands and examples of the documentation, for tests that run them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

MAIN = ["python", "-m", "cl2cm_jax.main"]
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
    """(verb, arguments) of each command in the one block of the document that has all the parts."""
    text = (ROOT / document).read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    (block,) = [block for block in blocks if all(part in block for part in parts)]
    lines = [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]
    typed = [["cl2cm", "train", *words[3:]] if words[:3] == MAIN else words for words in lines]
    return [(words[1], words[2:]) for words in typed if words and words[0] == "cl2cm"]


def example(title: str, folder: Path) -> Path:
    """Writes the example below a heading of CONTRIBUTING.md to the folder; its first line, "# name.py", names it."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    _, _, section = text.partition(f"\n### {title}\n")
    found = re.search(
        r"^```python\n# (\w+\.py)\n(.*?)^```", section.partition("\n### ")[0], flags=re.MULTILINE | re.DOTALL
    )
    assert found, f"CONTRIBUTING.md has no example below ### {title}"
    path = folder / found[1]
    path.write_text(found[2], encoding="utf-8")
    return path
