"""Imports point down only: a module uses its own unit and the layers below, nothing above or beside."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "cl2cm_jax"

# From top to bottom. Units of one line do not import each other.
LAYERS = (
    ("noise_curve", "tune"),
    ("main", "ablate", "compare", "judge", "plan", "serve", "show", "stamps", "translate", "word_level"),
    ("ablation_runs",),
    ("train", "finish", "index"),
    ("run", "export"),
    ("evaluation", "search", "translation"),
    ("features",),
    ("encoders",),
    ("runtime",),
    ("steps",),
    ("models", "data", "parallel"),
    ("maths",),
    ("config", "storage", "command_line", "e5_file"),
    ("atomic",),
    ("errors",),
)
HEIGHT = {unit: -level for level, units in enumerate(LAYERS) for unit in units}


def unit_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, dotted name) of every import, also those inside functions; `from a import b` gives a.b."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return found


def upward_imports(unit: str, source: str) -> list[str]:
    problems = []
    for line, name in imported_modules(ast.parse(source)):
        if name.startswith("."):
            problems.append(f"line {line}: relative import {name}; write cl2cm_jax.{unit}...")
        if not name.startswith("cl2cm_jax."):
            continue
        target = name.split(".")[1]
        if target in HEIGHT and target != unit and HEIGHT[target] >= HEIGHT[unit]:
            problems.append(f"line {line}: {unit} must not import {target}")
    return problems


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.name != "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    assert unit_of(path) in HEIGHT, f"give {unit_of(path)} its place in LAYERS"
    assert upward_imports(unit_of(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("unit", "source", "count"),
    [
        ("steps", "from cl2cm_jax.maths import ranking\nfrom cl2cm_jax.errors import UserError", 0),
        ("steps", "from cl2cm_jax.steps.objective import total", 0),
        ("steps", "def f():\n    from cl2cm_jax import train", 1),
        ("models", "import cl2cm_jax.data.images", 1),
        ("data", "from .images import decode", 1),
    ],
)
def test_the_check_sees_what_it_should(unit: str, source: str, count: int) -> None:
    assert len(upward_imports(unit, source)) == count
