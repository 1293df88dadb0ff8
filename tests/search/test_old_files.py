"""Indexes, vector files and gallery caches of earlier versions are still read: tests/golden/search has one of each."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from cl2cm_jax.search.folder import folder_gallery
from cl2cm_jax.search.incremental import update
from cl2cm_jax.search.stores.milvus import Manifest, Store
from cl2cm_jax.search.vector_files import read_manifest, read_vectors

MANIFEST = Manifest(weights="step 10", model="colours", dim=3, images="photos")
PATHS = ["beach/blue.png", "beach/lime.png", "red.png"]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    shutil.copytree(Path(__file__).parents[1] / "golden" / "search", tmp_path / "old")
    for photo in (tmp_path / "old" / "photos").rglob("*.png"):
        os.utime(photo, ns=(1_700_000_000_000_000_000,) * 2)
    return tmp_path / "old"


def test_an_index_is_opened_and_up_to_date(old, colours) -> None:
    with Store(str(old / "index.db")) as store:
        assert store.manifest == MANIFEST
        assert update(store, colours.encoder, old / "photos").unchanged == 3 and colours.seen == 0
        assert {entry.path: entry.captions for entry in store.entries()}["red.png"] == {"de": ("rot",), "en": ("red",)}
        best = store.search(np.eye(3, dtype=np.float32), top=1)
        assert [found[0].entry.path for found in best] == ["red.png", "beach/lime.png", "beach/blue.png"]


def test_vector_files_are_read(old) -> None:
    ((entries, vectors),) = read_vectors(old / "vectors")
    assert read_manifest(old / "vectors") == MANIFEST
    assert sorted(entry.path for entry in entries) == PATHS and vectors.shape == (3, 3)


def test_a_gallery_cache_is_used(old, colours) -> None:
    gallery = folder_gallery(old / "photos", colours.encoder, cache=old / "gallery_cache")
    assert list(gallery.ids) == PATHS and colours.seen == 0
