"""The evaluator of CONTRIBUTING.md measures a run: in metrics.jsonl, results.json and results.md."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from support.command import call
from support.documented import example

pytest.importorskip("tensorflow")

from cl2cm_jax import config as configuration
from cl2cm_jax import main
from cl2cm_jax.errors import UserError
from cl2cm_jax.evaluation.evaluators import load_evaluators
from cl2cm_jax.evaluation.report import read_results, write_results
from cl2cm_jax.training.workdir import read_config

FLAG = "--config.evaluation.evaluators=retrieval,mine.spread"


def test_the_example_of_an_evaluator_measures_a_run(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    example("An evaluator", tmp_path / "mine")
    monkeypatch.syspath_prepend(tmp_path)
    workdir = tmp_path / "run"
    outcome = call(main.main, f"--config={home / 'config.py'}", f"--workdir={workdir}", FLAG)
    assert outcome.code == 0, outcome.err

    content = json.loads((workdir / "results.json").read_text(encoding="utf-8"))
    numbers = content["evaluators"]["mine.spread"]
    for split in ("test", "validation"):
        assert set(numbers[split]) == {"en", "de", "fr"}
        for metrics in numbers[split].values():
            assert 0 <= metrics["alignment"] <= 4 and -8 <= metrics["uniformity"] <= 0
            assert 1 <= metrics["worst_rank"] <= 8
    assert set(content["test"]) == {"en", "de", "fr"} and "alignment" not in content["test"]["de"]
    with np.load(workdir / "ranks.npz") as ranks:
        assert numbers["test"]["de"]["worst_rank"] == ranks["de/text_to_vision"].max()
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert all("validation/mine.spread/de/uniformity" in row for row in rows if "validation/selection" in row) and any(
        "validation/selection" in row for row in rows
    )
    markdown = (workdir / "results.md").read_text(encoding="utf-8")
    assert "mine.spread on the test split" in markdown and "mine.spread on the test split" in outcome.out

    with monkeypatch.context() as patch:  # search and export need no evaluator
        patch.setattr(sys, "path", [folder for folder in sys.path if folder != str(tmp_path)])
        assert read_config(workdir).evaluation.evaluators == ("retrieval", "mine.spread")
    (tmp_path / "again").mkdir()
    write_results(tmp_path / "again", read_results(workdir))
    assert (tmp_path / "again" / "results.json").read_bytes() == (workdir / "results.json").read_bytes()
    # a finished run may be evaluated by others
    outcome = call(main.main, f"--config={home / 'config.py'}", f"--workdir={workdir}", "--mode=evaluate")
    assert outcome.code == 0, outcome.err
    assert "evaluators" not in json.loads((workdir / "results.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("retrieval,retrievel", "config.evaluation.evaluators='retrievel' is unknown; did you mean 'retrieval'"),
        ("retrieval,mine.nothing", "config.evaluation.evaluators='mine.nothing' is unknown"),
        ("json.decoder", "must contain 'retrieval'"),
    ],
)
def test_evaluators_that_do_not_exist_are_one_line(names: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load_evaluators(configuration.override_all(configuration.defaults(), {"evaluation.evaluators": names}))
    assert message in str(error.value)


def test_a_module_without_the_function_is_named_before_training(home: Path, tmp_path: Path) -> None:
    flags = (f"--config={home / 'config.py'}", f"--workdir={tmp_path / 'run'}")
    outcome = call(main.main, *flags, "--config.evaluation.evaluators=retrieval,json.decoder")
    assert outcome.code == 2 and "the module json.decoder does not define evaluate" in outcome.err
    assert not (tmp_path / "run").exists()


def test_a_configuration_of_unknown_origin_imports_no_other_module() -> None:
    flat = configuration.flatten(configuration.defaults()) | {
        "evaluation.evaluators": ["retrieval", "somebodys.module"]
    }
    with pytest.raises(UserError, match="is a module outside this package"):
        configuration.from_flat(flat, own_modules=False)
