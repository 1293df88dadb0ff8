"""The card says what the run measured, and the hub's own reader understands it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from support.finished_runs import METRICS, write_finished_run

from cl2cm_jax.export.bundle import read_trained, write_bundle
from cl2cm_jax.models.credits import UNKNOWN

hub = pytest.importorskip("huggingface_hub")


def written(folder: Path, fields: dict[str, Any], **options: Any) -> Any:
    run = write_finished_run(folder / "run", **fields)
    write_bundle(read_trained(run), folder / "bundle", **options)
    return hub.ModelCard.load(folder / "bundle" / "README.md")


def test_front_matter_and_results(bundle: Path) -> None:
    card = hub.ModelCard.load(bundle / "README.md")
    data = card.data
    assert data.language == ["en", "de"] and data.library_name == "cl2cm_jax"
    assert "sentence-transformers" in data.tags and data.license == "other" and data.license_link
    values = {(r.dataset_config, r.metric_name): r.metric_value for r in data.eval_results}
    assert values["de", "text_to_vision/R@1"] == METRICS["text_to_vision/R@1"]
    assert values["mean of 1 targets", "SumR"] == METRICS["SumR"]
    assert {r.dataset_split for r in data.eval_results} == {"test"}
    assert all("captions_per_image=all" in r.dataset_args for r in data.eval_results)
    assert "| de | 40.0 |" in card.text and "captions_per_image=all, ties against us, query=target" in card.text


def test_licences_are_read_from_the_model_folders(fields: dict[str, Any], bert: Path, tmp_path: Path) -> None:
    shutil.copytree(bert, tmp_path / "bert")
    (tmp_path / "bert" / "README.md").write_text("---\nlanguage: en\nlicense: MIT\n---\n# BERT\n")
    (tmp_path / "bert" / "LICENSE").write_text("Permission is hereby granted")
    card = written(tmp_path, fields | {"text__path": str(tmp_path / "bert")})
    assert card.data.license == "other" and "bert: mit" in card.text and f": {UNKNOWN} (" in card.text
    notices = (tmp_path / "bundle" / "THIRD_PARTY_NOTICES.md").read_text()
    assert "licences/text/LICENSE" in notices and "not stated in its folder" in notices
    assert (tmp_path / "bundle" / "licences" / "text" / "LICENSE").read_text().startswith("Permission")
    assert "Apache License" in (tmp_path / "bundle" / "LICENSE").read_text()


def test_the_weakest_are_named(bundle: Path, fields: dict[str, Any], tmp_path: Path) -> None:
    assert "Weakest target language by SumR: `de`, 260.0 of 600." in (bundle / "README.md").read_text()
    card = written(tmp_path, fields | {"data__reported": ("fa",)})
    assert "Weakest of those reported apart: `fa`, 90.0 of 600." in card.text
    assert "Trained in the same way, and reported apart: fa." in card.text


def test_obstacles_to_other_libraries_are_named(fields: dict[str, Any], tmp_path: Path) -> None:
    card = written(tmp_path, fields | {"student__text_pool": "both"}, licence="cc-by-sa-4.0")
    assert card.data.license == "cc-by-sa-4.0" and "sentence-transformers" not in card.data.tags
    assert "config.student.text_pool='both'" in card.text
    assert not (tmp_path / "bundle" / "modules.json").exists()
    assert not (tmp_path / "bundle" / "config.json").exists()  # nobody takes its backbone for the whole
