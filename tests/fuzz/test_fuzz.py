"""Fuzz the file readers with mutated valid files: each gives a value or a one-line error."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cl2cm_jax.errors import UserError
from cl2cm_jax.search import parquet_rows
from fuzz.attempt import Finding, Target, attempt
from fuzz.targets import targets

FOUND = sorted(path for path in (Path(__file__).parent / "found").rglob("*") if path.is_file())
FEW = settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
ODD = [b"\x00", b"\xff" * 8, b"[" * 2000, b"-1", b"NaN", b"9" * 5000, b"../", b"\r\n", b"\\ud800", b"\xed\xa0\x80"]


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A valid file with a few bytes replaced, inserted, deleted or repeated."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 16)))
        piece = draw(st.one_of(st.binary(max_size=9), st.sampled_from(ODD), st.just(data[start:end] * 2)))
        data = data[:start] + piece + data[end:]
    return data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data


@pytest.mark.parametrize("name", targets())
def test_valid_files_are_read(name) -> None:
    target = targets()[name]
    assert all(attempt(target, seed) for seed in target.seeds())


@pytest.mark.parametrize("name", targets())
def test_mutated_files_are_read_or_refused(name) -> None:
    target = targets()[name]

    @FEW
    @given(data=st.one_of(mutated(list(target.seeds())), st.binary(max_size=64)))
    def look(data: bytes) -> None:
        attempt(target, data)

    look()


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.name)
def test_inputs_that_failed_before_are_read_or_refused(path, monkeypatch) -> None:
    """The folders below found/ have the names of the targets, with _ for a slash.

    Parquet files are read in a process of their own, as a command does: Arrow ends it on some.
    """
    monkeypatch.setattr("fuzz.targets.rows", parquet_rows.rows)
    target = next(target for name, target in targets().items() if name.replace("/", "_") == path.parent.name)
    attempt(target, path.read_bytes())


def test_anything_but_a_value_or_a_one_line_refusal_is_a_finding() -> None:
    def refuse(data: bytes, _: Path) -> None:
        raise UserError(data.decode())

    def fail(*_: object) -> None:
        raise KeyError("name")

    target = Target(read=refuse, seeds=lambda: [])
    assert not attempt(target, b"a line") and attempt(Target(read=lambda *_: 1, seeds=lambda: []), b"")
    with pytest.raises(Finding, match="not one line"):
        attempt(target, b"")
    with pytest.raises(KeyError):
        attempt(Target(read=fail, seeds=lambda: []), b"")
