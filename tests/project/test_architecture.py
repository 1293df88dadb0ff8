"""Structure of the package: import layers, size of folders, tests that mirror the package."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "cl2cm_jax"
TESTS = ROOT / "tests"
MOST_FILES = 14


def test_imports_point_inward() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_package_has_a_layer() -> None:
    """A package that the contract does not name could import anything."""
    layers = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - {"old_commands"}
    assert {name for name in packages if f"cl2cm_jax.{name}" not in layers} == set()


def test_no_folder_has_too_many_files() -> None:
    files = Counter(path.parent for path in PACKAGE.rglob("*.py"))
    assert {str(folder): count for folder, count in files.items() if count > MOST_FILES} == {}


def test_folders_of_tests_mirror_those_of_the_package() -> None:
    others = {"end_to_end", "fuzz", "golden", "launch", "peers", "project", "support"}
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
    mirrored = {folder for folder in folders if folder.parts[:1] not in {(name,) for name in others}}
    assert {str(folder) for folder in mirrored if not (PACKAGE / folder).is_dir()} == set()
