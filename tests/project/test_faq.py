"""Every error that docs/faq.md and launch/README.md list is one that the program has, somewhere in its source."""

from __future__ import annotations

import ast
import itertools
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ANY = "\0"  # stands for anything: a name or number, "..." in the FAQ and {...} or %s in the source
ENOUGH = 0.7  # of a phrase's letters must be there as letters; the others may be within a {...}
DOCUMENTS = (ROOT / "docs" / "faq.md", ROOT / "launch" / "README.md")
OF_OTHERS = (  # Python's, JAX's and the system's own words
    "ensurepip is not available",
    "RESOURCE_EXHAUSTED",
    "RESOURCE_EXHAUSTED: Out of memory",
    "JAX distributed service detected fatal errors",
    "DEADLINE_EXCEEDED",
    "ended with exit code 137",
    "The TPU is already in use by process",
    "Unable to initialize backend 'cuda'",
    "No space left on device",
)


def phrases() -> list[str]:
    """The code spans of the first column of each table of errors."""
    rows = [line for path in DOCUMENTS for line in path.read_text(encoding="utf-8").splitlines() if line[:2] == "| "]
    return list(dict.fromkeys(phrase for row in rows for phrase in re.findall("`([^`]+)`", row.split("|")[1])))


Known = dict[str, list[ast.expr]]  # what a variable or constant may be, and what a function may return


def values(tree: ast.AST, *, constants_only: bool) -> Known:
    """What is assigned to each name of a module, or to its constants and functions, which others import."""
    found: Known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if not constants_only or name.isupper():
                found.setdefault(name, []).append(node.value)
        elif isinstance(node, ast.FunctionDef):
            returned = [below.value for below in ast.walk(node) if isinstance(below, ast.Return) and below.value]
            found.setdefault(node.name, []).extend(returned)
    return found


def texts_of(node: ast.AST, known: Known, *, depth: int = 3) -> list[str]:
    """What is known of a text before the program runs; adjacent literals are one for Python already."""
    if isinstance(node, ast.Constant):
        return [re.sub(r"%[sdr]", ANY, node.value) if isinstance(node.value, str) else ANY]
    if isinstance(node, ast.JoinedStr):
        return joined(node.values, known, depth)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return joined([node.left, node.right], known, depth)
    if isinstance(node, ast.FormattedValue):
        return [ANY, *(texts_of(node.value, known, depth=depth) if depth else ())]
    if isinstance(node, ast.IfExp):
        return [*texts_of(node.body, known, depth=depth), *texts_of(node.orelse, known, depth=depth)]
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Dict):
        return [text for value in node.value.values for text in texts_of(value, known, depth=depth)]
    name = node.func if isinstance(node, ast.Call) else node
    if isinstance(name, ast.Name) and depth:
        return [text for value in known.get(name.id, ()) for text in texts_of(value, known, depth=depth - 1)] or [ANY]
    return [ANY]


def joined(nodes: list[ast.expr], known: Known, depth: int) -> list[str]:
    """All that the parts can say together, the first hundred of it."""
    parts = [dict.fromkeys(texts_of(node, known, depth=depth)) for node in nodes]
    return ["".join(chosen) for chosen in itertools.islice(itertools.product(*parts), 100)]


@cache
def source() -> dict[str, frozenset[str]]:
    """Every text of the package that is no docstring, every line of the Makefile and of launch/, with its words."""
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in (ROOT / "cl2cm_jax").rglob("*.py")]
    shared: Known = {}
    for tree in trees:
        shared |= values(tree, constants_only=True)
    found: set[str] = set()
    for tree in trees:
        known = shared | values(tree, constants_only=False)
        documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp) and id(node) not in documentation:
                found.update(texts_of(node, known))
    for file in (ROOT / "Makefile", *(ROOT / "launch").glob("*.sh")):
        lines = file.read_text(encoding="utf-8").splitlines()
        found.update(re.sub(r"\$\([^)]*\)|\$\$?\{?\w+\}?|%[sd]", ANY, line) for line in lines)
    return {re.sub(f"{ANY}+", ANY, text): frozenset(re.findall(r"\w+", text)) for text in found}


def matched(phrase: str, text: str) -> int:
    """The most letters of the phrase that stand in the text where the two can be parts of one message; -1: they cannot.

    Either's ANY takes up any part of the other; the phrase may begin and end anywhere in the text.
    """
    best = [0] * (len(text) + 1)  # by how much of the text is used up; it may begin anywhere
    for wanted in phrase:
        row = [-1] * (len(text) + 1)
        for place in range(len(text) + 1):
            if wanted == ANY:
                row[place] = max(best[place], row[place - 1] if place else -1)
                continue
            if place and text[place - 1] == wanted and best[place - 1] >= 0:
                row[place] = best[place - 1] + wanted.isalnum()
            if place and text[place - 1] == ANY:
                row[place] = max(row[place], best[place - 1], best[place])
        for place in range(1, len(text) + 1):  # the text's ANY may be nothing
            if text[place - 1] == ANY:
                row[place] = max(row[place], row[place - 1])
        best = row
    return max(best)


def is_said(phrase: str) -> bool:
    """Whether a text of the source can say it."""
    words = re.findall(r"\w+", phrase)
    pattern = phrase.replace("....", f"{ANY}.", 1) if phrase.startswith("....") else phrase
    pattern = pattern.replace("....", f".{ANY}").replace("...", ANY)
    needed = ENOUGH * sum(letter.isalnum() for letter in phrase)
    for text, theirs in source().items():
        could_be = sum(len(word) for word in words if any(word in other for other in theirs))
        if could_be >= needed and matched(pattern, text) >= needed:
            return True
    return False


@pytest.mark.parametrize("phrase", [phrase for phrase in phrases() if phrase not in OF_OTHERS])
def test_a_listed_error_is_one_that_the_program_has(phrase: str) -> None:
    assert is_said(phrase)


def test_only_what_can_be_one_message_matches() -> None:
    assert matched(f"is {ANY} of", f"it is {ANY}5 of 7") == 4
    assert matched("is red", f"is {ANY}") == 2
    assert matched("must be a number", "config. must be 0 or more") == -1
    assert not is_said("must be a number or a schedule") and is_said("must be 0 or more, or a schedule")
    assert len(phrases()) > 100
