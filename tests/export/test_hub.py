"""A bundle goes up to a hub and comes down again; nothing goes up unless it is asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hub_stand_in import TOKEN, Hub, hub_stand_in
from support.command import call
from support.finished_runs import TEXTS

import cl2cm_jax
from cl2cm_jax.export import __main__ as export

pytest.importorskip("huggingface_hub")


def run(hub: Hub, home: Path, *arguments: str, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    """A process of its own: the client reads its address when it is imported."""
    settings = {"HF_ENDPOINT": hub.address, "HF_TOKEN": token, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    settings |= {"HF_HUB_DISABLE_TELEMETRY": "1", "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
    environment = os.environ | settings
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=600
    )


def test_without_yes_nothing_is_uploaded(bundle: Path) -> None:
    outcome = call(export.main, "push", f"--bundle={bundle}", "--repo=org/name")
    assert outcome.code == 0, outcome.err
    files = [file for file in bundle.rglob("*") if file.is_file()]
    for file in files:
        assert f"{file.stat().st_size:,}  {file.relative_to(bundle).as_posix()}\n" in outcome.out
    assert f"bytes in {len(files)} files" in outcome.out and "nothing was uploaded" in outcome.out


def test_a_damaged_file_is_not_uploaded(bundle: Path, tmp_path: Path) -> None:
    """Also one that the package does not read, as ONNX and licences; the card is its owner's to edit."""
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    (copy / "README.md").write_text("My model.\n")
    assert call(export.main, "push", f"--bundle={copy}", "--repo=org/name").code == 0
    (copy / "LICENSE").write_bytes((copy / "LICENSE").read_bytes().swapcase())
    outcome = call(export.main, "push", f"--bundle={copy}", "--repo=org/name")
    assert outcome.code == 2 and "LICENSE is damaged, by its checksums; export the run again" in outcome.err


def test_an_uploaded_bundle_can_be_downloaded(bundle: Path, tmp_path: Path) -> None:
    push = ["-m", "cl2cm_jax.export", "push", f"--bundle={bundle}", "--repo=org/name"]
    with hub_stand_in() as hub:
        dry = run(hub, tmp_path, *push)
        assert dry.returncode == 0 and hub.calls == [], dry.stderr
        done = run(hub, tmp_path, *push, "--yes")
        assert done.returncode == 0 and f"uploaded: {hub.address}/org/name/commit/" in done.stdout, done.stderr
        sent = {file.relative_to(bundle).as_posix(): file.read_bytes() for file in bundle.rglob("*") if file.is_file()}
        assert {
            name: content for name, content in hub.repositories["org/name"].items() if name != ".gitattributes"
        } == sent
        hub.repositories["org/name"]["onnx/text.onnx"] = b"not needed"
        code = (
            "import sys, numpy, cl2cm_jax; m = cl2cm_jax.from_pretrained('org/name', revision='main');"
            f"numpy.save(sys.argv[1], m.encode_text({TEXTS!r}))"
        )
        loaded = run(hub, tmp_path, "-c", code, str(tmp_path / "vectors.npy"))
        assert loaded.returncode == 0, loaded.stderr
        assert not any("onnx" in call for call in hub.calls if "/resolve/" in call)
    expected = cl2cm_jax.from_pretrained(bundle).encode_text(TEXTS)
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), expected, atol=1e-6)


def test_a_refusal_of_the_hub_is_one_line(bundle: Path, tmp_path: Path) -> None:
    push = ["-m", "cl2cm_jax.export", "push", f"--bundle={bundle}", "--repo=org/name", "--yes"]
    with hub_stand_in() as hub:
        refused = run(hub, tmp_path, *push, token="hf_wrong")
        missing = run(hub, tmp_path, "-c", "import cl2cm_jax; cl2cm_jax.from_pretrained('org/nothing')")
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert refused.stderr.splitlines()[-1].startswith("error: --repo=org/name: the hub refused (")
    assert "model='org/nothing' is not a folder, and its download failed" in missing.stderr.splitlines()[-1]


@pytest.mark.parametrize("repo", ["name", "org/name/more", "../name", "org/-name", "https://x.org/y", ""])
def test_an_invalid_repository_name_is_refused(repo: str, bundle: Path) -> None:
    outcome = call(export.main, "push", f"--bundle={bundle}", f"--repo={repo}")
    assert outcome.code == 2 and "write org/name" in outcome.err


def test_a_link_is_not_followed(bundle: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(bundle, tmp_path / "bundle")
    (tmp_path / "secret").write_text("key")
    (tmp_path / "bundle" / "notes.txt").symlink_to(tmp_path / "secret")
    outcome = call(export.main, "push", f"--bundle={tmp_path / 'bundle'}", "--repo=org/name")
    assert outcome.code == 2 and "notes.txt is a link" in outcome.err
