"""The data set of CONTRIBUTING.md: found by its dotted name, built, and trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.built_sets import all_records, open_set
from support.command import call
from support.documented import SMALL, example

pytest.importorskip("tensorflow_datasets")

from cl2cm_jax import main
from cl2cm_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def test_a_set_of_ones_own_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "mine"
    package.mkdir()
    assert example("A data set", package).name == "colours.py"
    monkeypatch.syspath_prepend(tmp_path)
    fields = ("data.name=mine.colours", "data.targets=de", f"data.dir={tmp_path / 'data'}", "train.batch_size=8")
    flags = [f"--config={ROOT / 'configs/captions.py'}", f"--workdir={tmp_path / 'run'}"]
    outcome = call(main.main, *flags, *(f"--config.{field}" for field in fields), *SMALL)
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "run/results.json").read_text())["test"]["de"]
    records = all_records(open_set("mine.colours", tmp_path / "data"))
    assert {split: len(some) for split, some in records.items()} == {"train": 20, "validation": 2, "test": 2}
    first = records["train"][0]
    assert first.path.startswith(str(tmp_path / "data/colours")) and first.files == (Path(first.path).read_bytes(),)
    assert [caption.language for caption in first.captions] == ["en", "de"]


def test_a_module_that_is_not_there_or_no_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="config.data.name='mine.nothing' is unknown"):
        open_set("mine.nothing", tmp_path)
    with pytest.raises(UserError, match="the module cl2cm_jax.errors does not define dataset"):
        open_set("cl2cm_jax.errors", tmp_path)
