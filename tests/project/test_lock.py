"""Lock files: every package has one version for each environment, and hashes."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted(path.name for path in ROOT.glob("requirements*.txt"))
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def requirements(name: str) -> dict[str, list[str]]:
    """The hashes of each line "package==version ; marker"."""
    lines = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", "").splitlines()
    return {line.partition(" --hash")[0].strip(): HASH.findall(line) for line in lines}


def pins(name: str) -> set[str]:
    return {line.partition(";")[0].strip() for line in requirements(name)}


def test_the_locks_are_those_that_make_lock_writes() -> None:
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert set(re.findall(r"-o (requirements\S*\.txt)", recipe)) == set(LOCKS)


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_has_one_version_and_hashes(name) -> None:
    found = requirements(name)
    assert found and all(re.fullmatch(r"[\w.-]+==[\w.]+( ;.*)?", line) and hashes for line, hashes in found.items())


def test_the_development_lock_contains_the_runtime_lock() -> None:
    assert pins("requirements.txt") <= pins("requirements-dev.txt")


@pytest.mark.parametrize(
    ("name", "extras"),
    [("requirements.txt", ("data", "demo")), ("requirements-dev.txt", ("dev", "export", "serve")),
     ("requirements-beam.txt", ("data", "beam"))],
)  # fmt: skip
def test_every_declared_package_is_locked(name, extras) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [
        *project["dependencies"],
        *(line for extra in extras for line in project["optional-dependencies"][extra]),
    ]
    wanted = {re.split(r"[\s\[<>=~;]", line, maxsplit=1)[0].lower().replace("_", "-") for line in declared}
    assert wanted - {project["name"]} <= {pin.partition("==")[0] for pin in pins(name)}


def test_the_packages_without_dependencies_are_those_of_the_makefile() -> None:
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8")
    apart = re.search(r"^APART := (.*)$", recipe, re.MULTILINE)
    assert apart is not None and set(apart[1].split()) == pins("requirements-apart.txt")
    converter = next(pin for pin in pins("requirements-apart.txt") if pin.startswith("jax2onnx"))
    assert converter in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_constraints_are_the_pins_without_their_hashes() -> None:
    """With hashes pip would require one of the checkout too, which has none."""
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8")
    command = re.search(r"(sed .* requirements\.txt) >", recipe)
    assert command is not None
    printed = subprocess.check_output(command[1].replace("$$", "$"), shell=True, cwd=ROOT, text=True)
    assert set(printed.splitlines()) == set(requirements("requirements.txt"))
