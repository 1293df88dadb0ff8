"""Project rules: file names, lengths of files and functions, declared packages."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "cl2cm_jax"
FORBIDDEN_NAMES = {"utils", "helpers", "common", "misc", "manager"}
TEXT = {".py", ".md", ".toml", ".sh", ".txt", ".yaml", ".cff", ".csv", ".ipynb", ".json", ""}
MODULES = sorted(PACKAGE.rglob("*.py"))
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
NEEDED_BY_OTHERS = {"importlib_resources", "onnx-ir"}  # imported by packages that do not declare them


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def project_files() -> list[Path]:
    folders = [
        PACKAGE,
        *(ROOT / name for name in ("benchmarks", "configs", "docs", "launch", "notebooks", "tests", ".ci")),
    ]
    files = [*ROOT.iterdir(), *(path for folder in folders for path in folder.rglob("*"))]
    return [path for path in files if path.is_file() and "__pycache__" not in path.parts]


def test_no_file_has_a_vague_name() -> None:
    assert [relative(path) for path in project_files() if path.stem in FORBIDDEN_NAMES] == []


def test_imported_packages_are_declared_and_declared_packages_are_used() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deptry", "--no-ansi", PACKAGE.name], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_packages_that_are_used_without_an_import_statement_are_named_in_the_source() -> None:
    """deptry sees import statements only; the packages that it leaves out are opened or imported by their name."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in MODULES)
    left_out = set(SETTINGS["deptry"]["per_rule_ignores"]["DEP002"]) - NEEDED_BY_OTHERS
    assert [name for name in sorted(left_out) if not re.search(rf"\b{name.replace('-', '_')}\b", source)] == []


def test_no_file_names_a_path_of_a_personal_machine() -> None:
    personal = re.compile(r"(?<![\w.~}/])/(home|root|Users|work|opt)/\w")
    texts = [
        path for path in project_files() if path.suffix in TEXT and path.name not in ("LICENSE", ".git")
    ]  # a worktree has .git as a file
    hits = [relative(path) for path in texts if personal.search(path.read_text(encoding="utf-8", errors="ignore"))]
    assert hits == []


def test_functions_have_under_60_lines() -> None:
    long = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.end_lineno and node.name != "defaults":  # a list
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                if body and node.end_lineno - body[0].lineno >= 60:
                    long.append(f"{relative(path)}:{node.lineno} {node.name}")
    assert long == []


def test_files_have_at_most_400_lines() -> None:
    lengths = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: lines for name, lines in lengths.items() if lines > 400} == {}
