from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from support.colour_encoder import ColourEncoder, paint
from support.galleries import four_pictures

from cl2cm_jax.evaluation.gallery import GALLERY_FILE, Gallery, save_gallery
from cl2cm_jax.search.stores.milvus import Manifest, Store


@pytest.fixture
def colours() -> ColourEncoder:
    return ColourEncoder()


@pytest.fixture
def gallery() -> Gallery:
    return four_pictures()


@pytest.fixture
def workdir(tmp_path: Path, gallery: Gallery) -> Path:
    save_gallery(tmp_path / "run" / GALLERY_FILE, gallery)
    return tmp_path / "run"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    paint(root / "red.png", "red")
    paint(root / "b%_ch" / 'li"me.png', "lime")
    paint(root / "b%_ch" / "blue.png", "blue")
    return root


@pytest.fixture
def store(tmp_path: Path):
    with Store(str(tmp_path / "index.db")) as opened:
        opened.create(Manifest(weights="step 10", model="colours", dim=3, images=str(tmp_path / "photos")))
        yield opened


@pytest.fixture
def forbid(monkeypatch):
    """Makes a system call fail for paths with `text` in them, as it does for users without permission."""

    def forbid(owner, name: str, text: str, number: int = errno.EACCES) -> None:
        call = getattr(owner, name)

        def refused(path, *arguments, **named):
            if text in os.fspath(path):
                raise OSError(number, os.strerror(number), os.fspath(path))
            return call(path, *arguments, **named)

        monkeypatch.setattr(owner, name, refused)

    return forbid
