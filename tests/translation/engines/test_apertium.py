"""The installed Apertium: separation of captions, chains, language codes, and errors."""

from __future__ import annotations

import random
import shutil
import subprocess

import pytest

from cl2cm_jax.errors import UserError
from cl2cm_jax.translation.engine import Item
from cl2cm_jax.translation.engines import apertium
from cl2cm_jax.translation.engines.apertium import Apertium, split_stream

INSTALL = "apt-get install apertium apertium-eng-spa apertium-es-pt"
MODES = (
    subprocess.run(["apertium", "-l"], capture_output=True, text=True).stdout.split()
    if shutil.which("apertium")
    else []
)
needs_apertium = pytest.mark.skipif(not {"eng-spa", "es-pt"} <= set(MODES), reason=INSTALL)

# Each of the first pairs is one expression ("in front of", "as well as") if captions run into each other.
CAPTIONS = [
    *("A cat in front", "of the house.", "A dog as well", "as a horse", "because", "of the rain", "A watch tower."),
    *(
        "Who is it?",
        "3.5 [x] a/b ^c$ {d} @e <i>f</i> \\ g",
        "foozle *bar #7 ~",
        "犬 and été 😀",
        ".",
        "...[]",
        "]",
        "\\",
    ),
]


def items(texts: list[str]) -> list[Item]:
    return [Item(number, f"{number}.png", text, "") for number, text in enumerate(texts)]


def alone(text: str, mode: str) -> str:
    """One caption through Apertium's own text format."""
    done = subprocess.run(["apertium", "-u", mode], input=text, capture_output=True, text=True, check=True)
    return " ".join(done.stdout.split())


@needs_apertium
def test_captions_are_not_merged() -> None:
    # In a batch of hundreds the tagger chooses other words for one caption in fifty or so; not in this small one.
    engine = Apertium(pair="eng-spa", source="en", target="es")
    translated = engine.translate(items(CAPTIONS))
    assert translated == [alone(text, "eng-spa") for text in CAPTIONS]
    assert translated[6] == "Una torre de reloj."
    assert translated[9].startswith("foozle")  # unknown words are not marked


@needs_apertium
def test_special_characters_keep_number_and_order(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = random.Random(1)
    odd = ["".join(chosen.choices("[]{}^$@\\/<>*#~+&.,;:!?'\"|=%-_019é日😀ab", k=4)) for _ in range(200)]
    texts = [f"{word} dog {number}" for number, word in enumerate(odd)]
    calls = []
    run = apertium._run
    monkeypatch.setattr(apertium, "_run", lambda *arguments: calls.append(arguments) or run(*arguments))
    engine = Apertium(pair="en-es", source="en", target="es")
    calls.clear()
    translated = engine.translate(items(texts))
    assert [text.split()[-1] for text in translated] == [str(number) for number in range(200)]
    assert len(calls) == 1  # one process for all


@needs_apertium
def test_a_chain_of_pairs() -> None:
    chain = Apertium(pair="en-es, es-pt", source="en", target="pt")
    assert chain.model == "eng-spa,es-pt"
    assert chain.translate(items(["The dog and the cat.", "", "A house"])) == [
        alone(alone("The dog and the cat.", "eng-spa"), "es-pt"),
        "",
        alone(alone("A house", "eng-spa"), "es-pt"),
    ]


@needs_apertium
def test_provenance_names_directions_and_versions() -> None:
    engine = Apertium(pair="en-es", source="en", target="es")
    assert (engine.name, engine.model) == ("apertium", "eng-spa")
    assert engine.version.startswith("Apertium ")


@needs_apertium
@pytest.mark.parametrize(
    ("pair", "target", "message"),
    [
        ("en-sw", "sw", "no direction 'en-sw'; run: apt-get install apertium-eng-swa .* eng-spa"),
        ("en-es", "pt", "ends in 'spa', not in --target='pt'"),
        ("es-pt", "pt", "'es-pt' should start from 'eng'"),
        ("en-es,fr-ca", "ca", "'fr-ca' should start from 'spa'"),
        ("english", "es", "'english' is not a pair"),
    ],
)
def test_a_wrong_pair_is_named(pair: str, target: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Apertium(pair=pair, source="en", target=target)


def test_apertium_not_installed_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apertium.shutil, "which", lambda _: None)
    with pytest.raises(UserError, match="is not installed; run: apt-get install apertium apertium-eng-spa"):
        Apertium(pair="en-es", source="en", target="es")


def test_a_stream_is_split_only_with_all_marks_in_order() -> None:
    good = "Uno.[][\n#0\n]Dos \\[x\\]..[][\n#1\n]"
    assert split_stream(good, 2) == ["Uno", "Dos [x]."]
    assert split_stream(good, 3) is None
    assert split_stream("Dos.[][\n#1\n]Uno.[][\n#0\n]", 2) is None
    assert split_stream("Uno dos.[][\n#0\n][\n#1\n]", 2) is None
    assert split_stream(good + "tres", 2) is None
    assert split_stream(good.replace("#1", "#0"), 2) is None


def test_lost_marks_halve_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake Apertium that drops the second mark of any batch."""
    sizes = []

    def run(command: list[str], stream: str = "") -> str:
        sizes.append(stream.count("#"))
        return stream.upper().replace("[\n#1\n]", "")

    monkeypatch.setattr(apertium, "_run", run)
    assert apertium._separated(["a", "b", "c"], "x") == ["A", "B", "C"]
    assert sizes == [3, 1, 2, 1, 1]


def test_empty_output_is_an_error_with_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apertium, "_run", lambda *_: "")
    with pytest.raises(UserError, match="eng-spa gave 0 translations for 2 captions"):
        apertium._separated(["a", "b"], "eng-spa")


def test_a_failing_command_is_one_line() -> None:
    with pytest.raises(UserError, match="sh -c echo broken >&2; exit 3 failed: broken"):
        apertium._run(["sh", "-c", "echo broken >&2; exit 3"])
