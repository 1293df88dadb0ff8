from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.finished_runs import GOLDEN, write_finished_run
from support.tiny_models import write_tiny_bert

from cl2cm_jax.export.bundle import read_trained, write_bundle


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bert(tmp_path_factory.mktemp("model") / "bert")


@pytest.fixture(scope="session")
def fields(bert: Path) -> dict[str, Any]:
    """A student with a linear map on the sentences of a BERT and on the vectors of a CLIP."""
    text = {"text__backbone": "bert", "text__path": str(bert), "text__max_tokens": 8}
    return text | {"student__dim": 12, "vision__backbone": "clip_vit", "vision__path": str(GOLDEN / "clip")}


@pytest.fixture(scope="session")
def workdir(tmp_path_factory: pytest.TempPathFactory, fields: dict[str, Any]) -> Path:
    return write_finished_run(tmp_path_factory.mktemp("finished") / "run", **fields)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, workdir: Path) -> Path:
    folder = tmp_path_factory.mktemp("written") / "bundle"
    write_bundle(read_trained(workdir), folder)
    return folder


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (30 + 9 * i, 50, 3), np.uint8)) for i in range(3)]
