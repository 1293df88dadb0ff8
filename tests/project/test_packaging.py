"""What surrounds the code: workflows, Dockerfile, hooks, the release script and the shipped configs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from cl2cm_jax import __version__
from cl2cm_jax.config import read
from cl2cm_jax.config.config_files import config_file, shipped_names
from cl2cm_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = {
    "vendor.github-workflows": sorted((ROOT / ".github" / "workflows").glob("*.yml")),
    "vendor.dependabot": [ROOT / ".github" / "dependabot.yml"],
    "vendor.readthedocs": [ROOT / ".readthedocs.yaml"],
}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_hosted_services_can_read_their_files(schema: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", f"--builtin-schema={schema}", *map(str, SCHEMAS[schema])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_workflows_call_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    steps = "\n".join(path.read_text(encoding="utf-8") for path in SCHEMAS["vendor.github-workflows"])
    called = set(re.findall(r"run: make ([a-z-]+)", steps))
    assert called and called <= targets
    assert all((ROOT / script).is_file() for script in re.findall(r"run: (\.ci/\w+)", steps))


def test_the_dockerfile_passes_its_linter() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    if not linter.exists():
        pytest.skip("hadolint is installed on Linux x86-64 only")
    done = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_dockerfile_gets_every_file_that_it_copies() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert all((ROOT / name).exists() for name in kept)
    assert {"cl2cm_jax", "configs", "pyproject.toml", "requirements-serve.txt"} <= kept
    assert "tensorflow" not in (ROOT / "requirements-serve.txt").read_text(encoding="utf-8")


def test_the_hooks_have_the_locked_version_of_ruff() -> None:
    (locked,) = re.findall(r"^ruff==(\S+)", (ROOT / "requirements-dev.txt").read_text(), flags=re.MULTILINE)
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert {repo["rev"] for repo in hooks if "ruff" in repo["repo"]} == {f"v{locked}"}


def release(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([folder / ".ci" / "release", *options], capture_output=True, text=True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="the script needs bash")
@pytest.mark.parametrize(
    ("file", "old", "new", "option", "message"),
    [
        ("CITATION.cff", f"version: {__version__}", "version: 9.9.9", "--dry-run", "CITATION.cff has 9.9.9; set both"),
        ("CHANGELOG.md", f"## {__version__} - ", "## 9.9.9 - ", "--dry-run", "CHANGELOG.md has no heading"),
        ("CITATION.cff", "", "", "--tag=v9.9.9", f"the tag is v9.9.9, the version is {__version__}"),
        ("CITATION.cff", "", "", "--dryrun", "--dryrun is not an option"),
        ("CHANGELOG.md", f"## {__version__} - ", f"## {__version__} - unreleased ", "--tag=", "date the heading"),
    ],
)
def test_a_release_that_is_not_ready_is_refused(
    tmp_path: Path, file: str, old: str, new: str, option: str, message: str
) -> None:
    for name in (".ci/release", "cl2cm_jax/__init__.py", "CITATION.cff", "CHANGELOG.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    text = (tmp_path / file).read_text(encoding="utf-8")
    (tmp_path / file).write_text(text.replace(old, new) if old else text, encoding="utf-8")
    done = release(tmp_path, option)
    assert done.returncode == 2 and message in done.stderr, done.stderr


def extras() -> dict[str, list[str]]:
    """Packages of each extra but `dev`, whose tools are neither run by the package nor passed on."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    return {
        name: [re.split(r"[\[<>=~; ]", one)[0] for one in needed] for name, needed in declared.items() if name != "dev"
    }


def test_the_notices_name_every_package_of_an_extra() -> None:
    notices = (ROOT / "THIRD_PARTY_NOTICES.md").read_text(encoding="utf-8")
    needed = {(extra, package) for extra, packages in extras().items() for package in packages}
    missing = {
        (extra, package) for extra, package in needed if package != "cl2cm-jax" and f"`{package}`" not in notices
    }
    assert {"hub", "export", "serve"} <= set(extras()) and missing == set()


def test_configs_of_the_package_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert {"emoji", "captions", "multi30k"} <= set(shipped_names())
    for name in ("emoji", "emoji.py", "configs/emoji.py"):
        assert read(name).data.name == "emoji"
    assert read("multi30k:lang=fr,task=1").data.targets == ("fr",)
    (tmp_path / "emoji.py").write_text("")
    assert config_file("emoji.py") == Path("emoji.py")  # a file that is there comes first
    with pytest.raises(UserError, match=r"no such file; did you mean 'emoji'\?"):
        read("configs/emojy.py")
    with pytest.raises(UserError, match="no such file"):
        read("elsewhere/emoji.py")
