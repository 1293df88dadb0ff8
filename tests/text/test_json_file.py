"""JSON of unknown origin: what is refused before or while it is parsed."""

from __future__ import annotations

import json

import pytest

from cl2cm_jax.text import json_file
from cl2cm_jax.text.json_file import parse_json, read_json


def test_usual_content_is_read_as_json_does(tmp_path):
    content = {"a": [1, -2.5, 1e-9, True, None, "\u72d7, [ok]"], "b": {"c": 2**63 - 1}}
    path = tmp_path / "it.json"
    path.write_text(json.dumps(content))
    assert read_json(path) == content == parse_json(path.read_bytes())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": 2, "a": 3}', "'a' is there twice"),
        ('{"a": {"x": 1, "x": 1}}', "'x' is there twice"),
        ("[1e999]", "1e999 is not a finite number"),
        ("[NaN]", "NaN is not a number"),
        ("[-Infinity]", "-Infinity is not a number"),
        ("[1" + "0" * 400 + "]", "is not a number of 64 bits"),
        (f"[{2**63}]", "is not a number of 64 bits"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("[1", "Expecting"),
    ],
)
def test_what_no_program_of_this_package_writes_is_refused(text, message):
    with pytest.raises(ValueError, match=message) as error:
        parse_json(text.encode())
    assert len(str(error.value)) < 300


def test_a_file_of_another_program_may_have_any_number():
    """A tokenizer_config.json names 10**30 for "no limit", and a config.json Infinity."""
    assert parse_json(b'{"a": Infinity, "b": 1' + b"0" * 30 + b"}", strict=False)["b"] == 10**30


@pytest.mark.parametrize("item", [b"[]", b"{}", b"[[]]", b"1"])
def test_many_small_values_are_counted_before_they_are_made(item, monkeypatch):
    """An empty list takes 3 bytes of a file and about 60 of memory."""
    few, many = (b"[" + b",".join([item] * number) + b"]" for number in (100, 1000))
    assert len(parse_json(few, values=400)) == 100
    monkeypatch.setattr(json_file.json, "loads", lambda *_, **__: pytest.fail("it was parsed"))
    for content in (many, many.decode()):
        with pytest.raises(ValueError, match="values, and 400 are read"):
            parse_json(content, values=400)


def test_a_large_file_is_not_read_whole(tmp_path):
    path = tmp_path / "it.json"
    path.write_bytes(b'"' + b"a" * 1000 + b'"')
    assert len(read_json(path, largest=1002)) == 1000
    with pytest.raises(ValueError, match="more than 1,001 bytes"):
        read_json(path, largest=1001)
