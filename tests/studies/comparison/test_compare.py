"""The compare command on written results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.command import call

from cl2cm_jax.evaluation.report import Protocol, Results, write_results
from cl2cm_jax.evaluation.retrieval import Ranks, metrics
from cl2cm_jax.runtime.checksums import write_checked
from cl2cm_jax.studies.comparison import __main__ as compare

METRICS = metrics(Ranks(*[[1, 2, 3]] * 4, *[[0.5, 1.0, 1.0]] * 2))  # type: ignore[arg-type]


def write_run(folder: Path, *, name: str = "multi30k", query: str = "target") -> Path:
    test = {"en": METRICS, "de": METRICS}
    protocol = Protocol("test", 3, dict.fromkeys(test, 3), query=query, fusion_weight=0.5 if query == "fused" else None)
    config = {"data.name": name, "data.source": "en"}
    write_results(folder, Results("en", ["de"], protocol, test, test, config, {}))
    return folder


def test_runs_stand_beside_what_was_published_for_their_set_and_language(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", query="fused")]
    outcome = call(compare.main, f"--workdirs={runs[0]},{runs[1]}")
    assert outcome.code == 0, outcome.err
    tables = {table.splitlines()[0]: table for table in outcome.out.split("\n\n")}
    fused = tables["multi30k, de: query=fused, captions_per_image=all"].splitlines()
    assert [line.split()[0] for line in fused[4:7]] == ["NRCCR", "NRCCR", str(runs[1])]
    assert "480.9" in fused[5] and "query=fused 0.5" in fused[6]
    assert str(runs[0]) in tables["multi30k, de: query=target, captions_per_image=all"]
    assert "CCLM" in outcome.out and "multi30k, fr" not in outcome.out and "vatex" not in outcome.out
    assert not any("CCLM" in table for title, table in tables.items() if not title.startswith("Not comparable"))


def test_a_set_without_published_numbers_is_compared_with_itself(tmp_path: Path) -> None:
    outcome = call(compare.main, f"--workdirs={write_run(tmp_path / 'a', name='emoji')}", "--markdown")
    assert outcome.code == 0 and "NRCCR" not in outcome.out
    assert "**emoji, de: query=target, captions_per_image=all**" in outcome.out and "| --- | ---: |" in outcome.out


def test_own_files_may_be_named(tmp_path: Path) -> None:
    mine = write_run(tmp_path / "mine", name="captions", query="fused")
    assert "NRCCR" not in call(compare.main, f"--workdirs={mine}").out
    assert "NRCCR" in call(compare.main, f"--workdirs={mine}", "--set=multi30k").out


def test_a_set_alone_prints_what_is_published() -> None:
    outcome = call(compare.main, "--set=vatex")
    assert outcome.code == 0 and "366.5" in outcome.out and "383.5" in outcome.out and "480.9" not in outcome.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdirs={}/none"], "none/results.json cannot be read"),
        (["--workdirs={}/broken"], "broken/results.json is damaged"),
        (["--workdirs={}/other"], "other/results.json is damaged"),
        (["--workdirs={}/list"], "list/results.json is damaged"),
        (["--workdirs={}/deep"], "deep/results.json is damaged"),
        (["--workdirs={}/long"], "long/results.json is damaged"),
        (["--workdirs={}/empty"], "'test' has no language); run --mode=evaluate on the workdir to write it again"),
        (["--workdirs={}/good", "--set=vatex"], "was run on the set 'multi30k', not on 'vatex'"),
        (["--set=multi3k"], "did you mean 'multi30k'"),
        ([], "nothing to print"),
        (["--workdir=a"], "see cl2cm compare --help"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    written = json.loads((write_run(tmp_path / "good") / "results.json").read_text())
    damaged = {
        "broken": "{",
        "other": json.dumps({"test": []}),
        "list": "[1]",
        "deep": "[" * 200_000,
        "long": "9" * 5000,
        "empty": json.dumps(written | {"test": {}}),
    }
    for name, content in damaged.items():
        (tmp_path / name).mkdir()
        write_checked(tmp_path / name / "results.json", content)
    outcome = call(compare.main, *(argument.format(tmp_path) for argument in arguments))
    assert outcome.code == 2 and message in outcome.err and len(outcome.err.splitlines()) == 1
