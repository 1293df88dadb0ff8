"""Loading the student of a workdir, complete or damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save
from support.finished_runs import GOLDEN, write_finished_run
from support.flipped_bits import flipped_bits
from support.tiny_models import write_tiny_bert

from cl2cm_jax.errors import UserError
from cl2cm_jax.runtime.checksums import LIST_NAME, write_checked
from cl2cm_jax.trained.student import load_encoder
from cl2cm_jax.training.workdir import MODEL_FILE, read_config

KERNEL = "text/project_sentence/kernel"
Arrays = dict[str, np.ndarray]


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 200_000], ids=["empty", "list", "cut short", "deep"])
def test_a_damaged_config_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(
        UserError, match=r"config\.json cannot be read .*; give the --workdir of a training run"
    ) as error:
        read_config(tmp_path)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    text = {"text__backbone": "bert", "text__path": str(write_tiny_bert(folder / "bert")), "text__max_tokens": 8}
    vision = {"vision__backbone": "clip_vit", "vision__path": str(GOLDEN / "clip")}
    return write_finished_run(folder / "run", student__dim=12, **text, **vision)


def test_a_complete_student_is_loaded(finished: Path) -> None:
    assert load_encoder(finished).text(["red", "dog"]).shape == (2, 12)


def test_word_pieces_are_counted_and_unknown_ones_are_many(finished: Path) -> None:
    known, longer, unknown = load_encoder(finished).pieces(["red", "red dog", "xyzzy"])
    assert 0 < known < longer < unknown


def test_every_flipped_bit_of_a_workdir_is_seen(finished: Path) -> None:
    for name in (MODEL_FILE, "config.json"):
        for _ in flipped_bits(finished / name, count=12):
            with pytest.raises(UserError, match=rf"{name} changed after it was written, by its checksum"):
                load_encoder(finished)
    load_encoder(finished)


def test_a_config_that_its_user_changed_is_accepted_when_he_says_so(finished: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(finished, tmp_path / "copy"))
    fields = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(fields | {"evaluation.block": 77}))
    with pytest.raises(UserError, match=r"if you changed it yourself, delete .*checksums\.json") as error:
        read_config(copy)
    assert error.value.id == "changed-file" and "\n" not in str(error.value)
    (copy / LIST_NAME).unlink()
    assert read_config(copy).evaluation.block == 77


def without_vision(arrays: Arrays) -> None:
    for name in [name for name in arrays if name.startswith("vision/")]:
        del arrays[name]


def narrow_vision(arrays: Arrays) -> None:
    for name, array in arrays.items():
        if name.startswith("vision/"):
            arrays[name] = array[:7] if "norm" in name or "kernel" in name else array


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda a: a.pop(KERNEL), f"{KERNEL} is missing"),
        (lambda a: a.update({KERNEL: np.ones(3, np.float32)}), rf"{KERNEL} has shape \(3,\) instead of"),
        (
            lambda a: a.update({KERNEL + "/x": np.ones(2, np.float32)}),
            "(is not known to the model|is not a complete)",
        ),
        (lambda a: a.update(strange=np.ones(2, np.float32)), "strange is not known to the model"),
        (lambda a: a.update({KERNEL: np.full_like(a[KERNEL], np.nan)}), f"{KERNEL} holds values that are not finite"),
        (narrow_vision, r"of 7 features, but the vision backbone yields \d+"),
        (without_vision, "is not a complete student checkpoint"),
    ],
    ids=["no tensor", "one axis", "clash", "strange", "nan", "narrow vision", "no vision"],
)
def test_a_damaged_student_is_one_line(finished: Path, damage: Callable[[Arrays], object], message: str) -> None:
    path = finished / MODEL_FILE
    whole = path.read_bytes()
    arrays = load_file(path)
    damage(arrays)
    write_checked(path, save(arrays))
    try:
        with pytest.raises(UserError, match=rf"model\.safetensors.*{message}") as error:
            load_encoder(finished)
    finally:
        write_checked(path, whole)
    assert "\n" not in str(error.value)
