"""What a workdir must hold to be searched."""

from __future__ import annotations

from pathlib import Path

import pytest

from cl2cm_jax.errors import UserError
from cl2cm_jax.search.model import read_config


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 200_000], ids=["empty", "list", "cut short", "deep"])
def test_a_damaged_config_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(
        UserError, match=r"config\.json cannot be read .*; give the --workdir of a training run"
    ) as error:
        read_config(tmp_path)
    assert "\n" not in str(error.value)
