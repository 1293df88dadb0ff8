"""The captions of one sample of a shard."""

from __future__ import annotations

import json
from typing import cast

import pytest

from cl2cm_jax.data.captions import Caption
from cl2cm_jax.data.readers import sample_captions


def test_many_captions_of_one_sample_take_few_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row is compared with the earlier ones by a set: reading its caption again and again would be quadratic."""
    count, reads = 400, [0]
    texts = [f"{number:x}" for number in range(count)] * 2

    class Counted(str):
        def __eq__(self, other: object) -> bool:
            reads[0] += 1
            return str.__eq__(self, str(other))

        __hash__ = str.__hash__

    checked = sample_captions.checked_row
    monkeypatch.setattr(
        sample_captions,
        "checked_row",
        lambda cells: cast(Caption, checked(cells))._replace(caption=Counted(cells["caption"])),
    )
    described = json.dumps({"captions": {"de": texts}}).encode()
    found = sample_captions.read_captions("k", text=None, described=described, source="en")
    assert len(found.rows) == count and reads[0] <= 4 * count


@pytest.mark.parametrize(
    ("text", "described", "message"),
    [
        (b"a\n" * 1000 + b"b", None, "has 1,001 captions, and 1,000 are read"),
        (None, {"captions": {"de": ["a"] * 1000}}, "has 1,001 captions, and 1,000 are read"),
        (None, {"captions": {f"de-{number:04}": "a" for number in range(1001)}}, "captions has 1,001 languages"),
        (None, {"origins": {f"de-{number:04}": "human" for number in range(1001)}}, "origins has 1,001 languages"),
    ],
)
def test_captions_and_languages_of_a_sample_are_bounded(text, described, message) -> None:
    """Those of a shard of 10 MB took 8 s."""
    about = None if described is None else json.dumps(described).encode()
    with pytest.raises(sample_captions.SampleError, match=message):
        sample_captions.read_captions("k", text=text, described=about, source="en")
