"""Every error with an id has its anchor in docs/faq.md, and every anchor there is the id of an error."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def ids_of_errors() -> list[str]:
    """The `id` of each `UserError(..., id="...")` of the package."""
    calls = [
        node
        for path in (ROOT / "cl2cm_jax").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "UserError"
    ]
    return [ast.literal_eval(word.value) for call in calls for word in call.keywords if word.arg == "id"]


def anchors() -> list[str]:
    return re.findall(r'<a id="([^"]+)">', (ROOT / "docs" / "faq.md").read_text(encoding="utf-8"))


def test_ids_of_errors_are_the_anchors_of_the_faq() -> None:
    assert set(ids_of_errors()) == set(anchors())


def test_anchors_are_unique() -> None:
    assert len(anchors()) == len(set(anchors()))


def test_ids_are_lower_case_words_joined_by_hyphens() -> None:
    assert [id for id in ids_of_errors() if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", id)] == []
