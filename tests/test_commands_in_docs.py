"""Every command line that the documents show can be typed: modules, flags, fields, configs and make targets exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from cl2cm_jax import ablate, compare, features, main, noise_curve, stamps, translate
from cl2cm_jax.config import read
from cl2cm_jax.search import __main__ as search
from cl2cm_jax.word_level import __main__ as word_level

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))


def command_lines() -> list[str]:
    """The lines of fenced blocks and inline code that call the package or make, continuation lines joined."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8").replace("\\\n", " ")
        blocks = "".join(re.findall(r"^```.*?$(.*?)^```", text, flags=re.MULTILINE | re.DOTALL))
        inline = "\n".join(re.findall(r"`([^`\n]+)`", text))
        lines = (line.split("  #")[0].strip() for line in f"{blocks}\n{inline}".splitlines())
        found += [line for line in lines if "python -m cl2cm_jax." in line or re.match(r"make |launch/\w", line)]
    return sorted({line for line in found if " ... " not in line})  # "..." stands for what was said before


LINES = command_lines()


def test_there_are_some() -> None:
    assert len(LINES) > 15 and "make demo" in LINES


@pytest.mark.parametrize("line", LINES)
def test_a_line_can_be_typed(line: str) -> None:
    words = shlex.split(line.replace("...", "x") if "--mode=..." not in line else line.replace("--mode=...", ""))
    if words[0] == "make":
        assert {word for word in words[1:] if "=" not in word} <= TARGETS
        return
    if "-m" not in words:
        script = next(word for word in words if word.startswith("launch/"))
        assert (ROOT / script).is_file()
        return
    module, arguments = words[words.index("-m") + 1], words[words.index("-m") + 2 :]
    if module == "cl2cm_jax.search":
        search.parse(arguments)
        return
    if module in ("cl2cm_jax.compare", "cl2cm_jax.stamps"):
        {"cl2cm_jax.compare": compare, "cl2cm_jax.stamps": stamps}[module].parse(arguments)
        return
    if module == "cl2cm_jax.translate":
        translate.parse(arguments) if any(word.startswith("--") for word in arguments) else None
        return
    command = {
        "cl2cm_jax.features": features,
        "cl2cm_jax.main": main,
        "cl2cm_jax.ablate": ablate,
        "cl2cm_jax.noise_curve": noise_curve,
        "cl2cm_jax.word_level": word_level,
    }[module]
    if not any(word.startswith("--") for word in arguments):
        return  # the name of a command in a sentence
    options, overrides = command.parse(arguments)
    if options.config and (ROOT / options.config.partition(":")[0]).is_file():
        read(str(ROOT / options.config), overrides)
    else:
        assert options.config in (None, "x")
