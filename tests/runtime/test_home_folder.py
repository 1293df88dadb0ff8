""" "~" is the home folder wherever a path is named: in options, in config fields, in a workdir and in `load`."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.command import call
from support.tiny_set import write_tiny_set

import cl2cm_jax
from cl2cm_jax import main
from cl2cm_jax.config import PLACES, defaults, flatten, from_flat, override_all
from cl2cm_jax.errors import UserError
from cl2cm_jax.features import __main__ as features
from cl2cm_jax.runtime.command_line import Arguments, add_model_option
from cl2cm_jax.search import __main__ as search
from cl2cm_jax.studies.ablation import __main__ as ablation
from cl2cm_jax.studies.tpu_estimate import __main__ as tpu_estimate
from cl2cm_jax.studies.tuning import __main__ as tuning


@pytest.fixture(autouse=True)
def home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_every_path_option(home_folder: Path) -> None:
    parser = Arguments()
    parser.add_argument("--out", type=Path)
    parser.add_argument("queries", nargs="*")
    add_model_option(parser)
    options = parser.parse_args(["--model=~/runs/x", "--out=~/bundle", "~ tilde"])
    expected = argparse.Namespace(model=f"{home_folder}/runs/x", out=home_folder / "bundle", queries=["~ tilde"])
    assert options == expected
    assert parser.parse_args(["--model=org/name@v1", "--out=~nobody-of-this-name/x"]).out == Path(
        "~nobody-of-this-name/x"
    )


@pytest.mark.parametrize("arguments", [["--model="], ["--model=m", "--out="], ["--model=m", "--out", " "]])
def test_an_empty_place_is_not_the_present_folder(arguments: list[str]) -> None:
    parser = Arguments()
    parser.add_argument("--out", type=Path)
    add_model_option(parser)
    with pytest.raises(UserError, match="it is empty; name a place"):
        parser.parse_args(arguments)


def test_every_place_of_a_configuration(home_folder: Path) -> None:
    for name in PLACES:
        fields = {"data.name": "captions", "data.captions": "c.csv", name: "~/x"}
        if name == "data.features":
            fields["vision.backbone"] = "precomputed"
        assert flatten(override_all(defaults(), fields))[name] == f"{home_folder}/x"
        assert flatten(from_flat(fields))[name] == f"{home_folder}/x"
    assert {"data.images", "data.dir", "text.path", "vision.path"} <= set(PLACES)


@pytest.mark.parametrize(
    ("parse", "more"),
    [
        (tuning.parse, []),
        (tpu_estimate.parse, ["--topology=v5e:2x4"]),
        (ablation.parse, ["--workdir=x"]),
        (features.parse, []),
    ],
    ids=["tune", "estimate", "ablate", "features"],
)
def test_every_command_with_a_config(
    parse: Callable[[Sequence[str]], tuple[argparse.Namespace, Any]], more: list[str], home_folder: Path
) -> None:
    options, _ = parse(["--config=~/config.py", *more])
    assert options.config == f"{home_folder}/config.py"


def test_a_workdir_is_trained_searched_and_loaded(home_folder: Path, trained_workdir: Path) -> None:
    write_tiny_set(home_folder)
    shutil.copytree(trained_workdir, home_folder / "run")
    fields = [f"--config.data.{name}=~/{file}" for name, file in (("captions", "captions.csv"), ("dir", "data"))]
    outcome = call(main.main, "--config=~/config.py", "--workdir=~/run", "--mode=evaluate", *fields)
    assert outcome.code == 0, outcome.err
    assert call(search.main, "--model=~/run", "red car").code == 0
    assert cl2cm_jax.load("~/run").dim == 16
