"""Apertium, the rule-based translator that Debian and Ubuntu package: `apt-get install apertium apertium-eng-spa`.

A batch is one process. Captions are separated by a sentence end and a numbered superblank of Apertium's stream format,
which no rule may translate; the numbers must come back complete and in order. If they do not, the batch is halved, down
to single captions, so that captions are never merged or lost. Apertium's tagger still carries state from sentence to
sentence, which null flush does not reset: in a long batch a caption is sometimes translated differently than alone.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from collections.abc import Sequence

from cl2cm_jax.errors import UserError
from cl2cm_jax.translation.engine import Item
from cl2cm_jax.translation.languages import three_letters

_SPECIAL = re.compile(r"([\[\]{}^$@\\/<>])")  # of the stream format
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_TILDE = "[~]"  # protected: Apertium's last step removes a bare ~
_END = ".[]"  # an artificial full stop, as Apertium's own text format puts at the end of a paragraph
_MARK = re.compile(r"\[\n#(\d+)\n\]")
_BLANK = re.compile(r"(?<!\\)\[(?:[^\]\\]|\\.)*\]", re.DOTALL)
OPTIONS = {"--pair": {"help": "direction, or several in a chain (default: SOURCE-TARGET)"}}


def create(options: argparse.Namespace, items: Sequence[Item]) -> Apertium:
    """The engine of a command line."""
    pair = options.pair or f"{options.source}-{options.target}"
    return Apertium(pair=pair, source=options.source, target=options.target)


class Apertium:
    """One or more installed directions, applied one after the other.

    Args:
      pair: "en-es", or a chain "en-es,es-pt"; names as of `apertium -l` or with two-letter codes.
      source: language of the captions; the chain must begin with it.
      target: language of the translations; the chain must end with it.

    Raises:
      UserError: Apertium or a direction is not installed, or the chain does not lead from source to target.
    """

    name = "apertium"
    by_sentence = True

    def __init__(self, *, pair: str, source: str, target: str):
        if shutil.which("apertium") is None:
            raise UserError(
                f"--engine=apertium: the command is not installed; run: "
                f"apt-get install apertium {_package(pair.split(',')[0])}"
            )
        steps = [step.strip() for step in pair.split(",")]
        _check_chain(steps, source=source, target=target)
        installed = _run(["apertium", "-l"]).split()
        self._modes = [_mode(step, installed) for step in steps]
        self.model = ",".join(self._modes)
        self.version = _versions(self._modes)

    def translate(self, items: Sequence[Item]) -> list[str]:
        texts = [item.text for item in items]
        for mode in self._modes:
            texts = _translate(texts, mode)
        return texts


def _translate(texts: list[str], mode: str) -> list[str]:
    full = [text for text in texts if text]
    translated = iter(_separated(full, mode))
    return [next(translated) if text else "" for text in texts]


def _separated(texts: list[str], mode: str) -> list[str]:
    """Translations of non-empty texts by one process, or by several if separators were lost."""
    if not texts:
        return []
    stream = "".join(f"{_escape(text)}{_END}[\n#{number}\n]" for number, text in enumerate(texts))
    output = _run(["apertium", "-u", "-f", "none", mode], stream)
    if not output.strip():
        raise UserError(f"apertium {mode} gave 0 translations for {len(texts)} captions; try it on a line of text")
    if (translated := split_stream(output, len(texts))) is not None:
        return translated
    if len(texts) == 1:
        return [_plain(output)]
    middle = len(texts) // 2
    return _separated(texts[:middle], mode) + _separated(texts[middle:], mode)


def split_stream(output: str, count: int) -> list[str] | None:
    """Splits a translated stream into captions; None unless each mark occurs once, in order, after a sentence end."""
    pieces = _MARK.split(output)  # text, number, text, number, ..., rest
    texts, numbers, rest = pieces[0:-1:2], pieces[1::2], pieces[-1]
    if numbers != [str(number) for number in range(count)] or rest.strip():
        return None
    if not all(text.rstrip().endswith(_END) for text in texts):
        return None
    return [_plain(text) for text in texts]


def _escape(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text).replace("~", _TILDE)


def _plain(stream: str) -> str:
    """The text of a stream: marks, ends and superblanks removed, unescaped, whitespace collapsed."""
    text = _BLANK.sub(" ", _MARK.sub(" ", stream).replace(_END, " ").replace(_TILDE, "~"))
    return " ".join(_ESCAPED.sub(r"\1", text).split())


def _run(command: list[str], text: str = "") -> str:
    """Output of a command, in a session of its own: Ctrl-C must stop the job between batches, not within one."""
    done = subprocess.run(command, input=text.encode(), capture_output=True, start_new_session=True)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"{' '.join(command)} failed: {lines[0]}; try it on a line of text")
    return done.stdout.decode(errors="replace")


def _check_chain(steps: list[str], *, source: str, target: str) -> None:
    ends = []
    for step in steps:
        first, dash, second = step.partition("-")
        if not (first and dash and second):
            raise UserError(f"--pair={','.join(steps)!r}: {step!r} is not a pair; write en-es, or a chain en-es,es-pt")
        ends.append((three_letters(first), three_letters(second)))
    wanted = three_letters(source)
    for step, (first, second) in zip(steps, ends, strict=True):
        if first != wanted:
            raise UserError(
                f"--pair={','.join(steps)!r}: {step!r} should start from {wanted!r}; write a chain en-es,es-pt"
            )
        wanted = second
    if wanted != three_letters(target):
        raise UserError(f"--pair={','.join(steps)!r} ends in {wanted!r}, not in --target={target!r}; add a pair")


def _mode(step: str, installed: list[str]) -> str:
    """The installed direction of that name, or of other codes of the same languages."""
    if step in installed:
        return step
    for mode in installed:
        if _canonical(mode) == _canonical(step):
            return mode
    raise UserError(
        f"--pair: Apertium has no direction {step!r}; run: apt-get install {_package(step)} "
        f"(apt-cache search apertium- lists all), or use one of {', '.join(installed) or 'none, none is installed'}"
    )


def _canonical(mode: str) -> tuple[str, ...]:
    first, _, second = mode.partition("-")
    language, *variant = second.split("_", 1)
    return three_letters(first), three_letters(language), *variant


def _package(step: str) -> str:
    """The likely name of a direction's package; its languages may be in the other order."""
    first, _, second = step.partition("-")
    return f"apertium-{three_letters(first)}-{three_letters(second)}"


def _versions(modes: list[str]) -> str:
    """Version of Apertium, and of the directions' packages if dpkg knows them."""
    versions = [" ".join(_run(["apertium", "-V"]).split())]
    for mode in modes if shutil.which("dpkg-query") else ():
        owner = subprocess.run(["dpkg-query", "-S", f"*/apertium/modes/{mode}.mode"], capture_output=True, text=True)
        if owner.returncode == 0:
            package = owner.stdout.split(":")[0]
            versions.append(f"{package} {_run(['dpkg-query', '-W', '-f=${Version}', package])}")
    return "; ".join(versions)
