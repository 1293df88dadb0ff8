"""Every command line in documents and configs is valid: modules, flags, fields, configs, make targets."""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from cl2cm_jax import main
from cl2cm_jax.__main__ import VERBS
from cl2cm_jax.config import defaults, override, read
from cl2cm_jax.errors import UserError
from cl2cm_jax.runtime.command_line import split_flags

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "launch/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
COMMAND = re.compile(
    r"(^|\s)(\S*cl2cm [a-z][a-z-]*( |$)|\S*python -m (cl2cm_jax|benchmarks)\.\w|launch/\w+\.sh )|^make |^--config"
)


def lines_of_document(path: Path) -> list[str]:
    """The lines of fenced blocks and inline code, continuation lines joined."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = "".join(re.findall(r"^```.*?$(.*?)^```", text, flags=re.MULTILINE | re.DOTALL))
    inline = [code for code in re.findall(r"`([^`\n]+)`", text) if not code.startswith("--")]  # an option in a sentence
    return [*blocks.splitlines(), *inline]


def lines_of_config(path: Path) -> list[str]:
    """The lines of the header, without the words before the colon."""
    header = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return [re.sub(r"^[A-Z]\w+: +", "", line).strip() for line in header.splitlines()]


def command_lines() -> list[str]:
    """The lines that call the package, its benchmarks, a launch script or make, and those that hold flags alone."""
    lines = [line for path in DOCUMENTS for line in lines_of_document(path)]
    lines += [line for path in CONFIGS for line in lines_of_config(path)]
    found = {line.split("  #")[0].strip() for line in lines}
    own = "=mine."  # a module of a CONTRIBUTING example, which tests/project/test_contributing_*.py run
    return sorted(line for line in found if COMMAND.search(line) and own not in line)


LINES = command_lines()


def test_documents_show_commands() -> None:
    assert len(LINES) > 60 and "make demo" in LINES
    for part in ("cl2cm search", "configs/vatex.py", "launch/tpu_pod.sh", "configs/word_level.py"):
        assert any(part in line for line in LINES)


def test_every_config_opens_with_its_command_hardware_time_and_numbers() -> None:
    for path in CONFIGS:
        header = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        places = [header.find(f"\n{name}:") for name in ("Command", "Hardware", "Time", "Numbers")]
        assert -1 not in places and places == sorted(places), path.name
        assert any(
            f"configs/{path.name}" in line and ("python -m" in line or "cl2cm " in line)
            for line in lines_of_config(path)
        ), path.name


@pytest.mark.parametrize("line", LINES)
def test_a_documented_command_is_valid(line: str) -> None:
    words = shlex.split(line.replace("--mode=...", "").replace(" ... ", " --workdir=x "))  # "..." was said before
    words = [word.replace("...", "x") for word in words]
    if words[0] == "make":
        assert {word for word in words[1:] if "=" not in word} <= TARGETS
    elif words[0].startswith("--config"):
        check_flags(words)
    elif any(word.endswith("cl2cm") for word in words):
        place = next(place for place, word in enumerate(words) if word.endswith("cl2cm"))
        check_verb(words[place + 1], words[place + 2 :])
    elif "-m" in words:
        module, arguments = words[words.index("-m") + 1], words[words.index("-m") + 2 :]
        (check_benchmark if module.startswith("benchmarks.") else check_command)(module, arguments)
    else:
        place = next(place for place, word in enumerate(words) if word.startswith("launch/"))
        assert (ROOT / words[place]).is_file()
        check_options(main.parse(words[place + 1 :]))


def check_flags(words: list[str]) -> None:
    """Checks flags without a command: names and values of fields, and a config with them."""
    flags = [word.removesuffix(",") for word in words if word.startswith("--")]
    rest, overrides = split_flags(flags)
    if rest:
        check_options(main.parse(["--workdir=x", *flags]))
        return
    for name, text in overrides.items():
        override(defaults(), name, text)


def check_command(module: str, arguments: list[str]) -> None:
    """Checks that a module exists and, where there are options, that its parser accepts them."""
    assert importlib.util.find_spec(module), module
    if any(word.startswith("-") for word in arguments):
        check_options(importlib.import_module(module).parse(arguments))


def check_verb(verb: str, arguments: list[str]) -> None:
    """Checks that a verb of `cl2cm` exists and, where there are options, that its parser accepts them."""
    module = f"cl2cm_jax.{VERBS[verb].module}"
    if any(word.startswith("-") for word in arguments):
        check_options(importlib.import_module(module).parse(arguments))


def check_options(parsed: argparse.Namespace | tuple[argparse.Namespace, dict[str, str]]) -> None:
    """Checks a config that exists together with the overrides of the command line."""
    if not isinstance(parsed, tuple):
        return
    options, overrides = parsed
    if options.config and (ROOT / options.config.partition(":")[0]).is_file():
        read(str(ROOT / options.config), overrides)
    else:
        assert options.config in (None, "x", "runs/tune/best.py")  # the last one is made by a command


def check_benchmark(module: str, arguments: list[str]) -> None:
    """Checks that a benchmark has the flags, and that the fields exist."""
    source = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    rest, overrides = split_flags(arguments)
    for word in rest:
        assert f'"{word.partition("=")[0]}"' in source, word
    for name, text in overrides.items():
        override(defaults(), name, text)


@pytest.mark.parametrize(
    "line",
    [
        "python -m cl2cm_jax.main --config=configs/emoji.py --config.train.batch=512",
        "cl2cm search --workdir=runs/emoji --tops=5",
        "python -m cl2cm_jax.nothing",
        "cl2cm nothing --workdir=x",
        "python -m benchmarks.train_step --nothing=3",
        "launch/local.sh --confg=configs/emoji.py",
        "make nothing",
        "--config.data.pictures=photos",
        "--config=configs/vatex.py --config.data.features=",
    ],
)
def test_the_check_finds_mistakes(line: str) -> None:
    with pytest.raises((UserError, AssertionError, KeyError)):
        test_a_documented_command_is_valid(line)
