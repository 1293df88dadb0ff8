from __future__ import annotations

from pathlib import Path

import pytest
from support.galleries import four_pictures

from cl2cm_jax.evaluation.gallery import GALLERY_FILE, Gallery, save_gallery


@pytest.fixture
def gallery() -> Gallery:
    return four_pictures()


@pytest.fixture
def workdir(tmp_path: Path, gallery: Gallery) -> Path:
    save_gallery(tmp_path / "run" / GALLERY_FILE, gallery)
    return tmp_path / "run"
