"""The launch scripts pass arguments through untouched; stand-ins for gcloud, srun and make record what would run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ARGUMENTS = ["--config=configs/captions.py", "--workdir=/mnt/a folder/run", "--config.data.targets=('de','fr')"]
RECORD = '#!/usr/bin/env bash\nprintf "%s\\n" "$(basename "$0")" "$@" >> "$RECORD"\n'


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "launch", tmp_path / "clone" / "launch")
    for program in ("bin/gcloud", "bin/srun", "bin/make", "bin/git", "clone/.venv/bin/python"):
        (tmp_path / program).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / program).write_text(RECORD)
        (tmp_path / program).chmod(0o755)
    return tmp_path / "clone"


def launch(clone: Path, script: str, **variables: str) -> list[str]:
    record = clone.parent / "record"
    path = f"{clone.parent / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "RECORD": str(record)} | variables
    environment.pop("SLURM_SUBMIT_DIR", None)
    subprocess.run([str(clone / "launch" / script), *ARGUMENTS], check=True, env=environment, timeout=30)
    return record.read_text().splitlines()


def test_local_passes_arguments(clone: Path) -> None:
    lines = launch(clone, "local.sh", DEVICES="8")
    assert lines == ["make", ".venv/.installed", "python", "-m", "cl2cm_jax.main", *ARGUMENTS]


def test_slurm_starts_one_step_with_the_arguments(clone: Path) -> None:
    lines = launch(clone, "gpu_slurm.sh")
    step = lines[lines.index("srun") :]
    assert step[-4 - len(ARGUMENTS) :] == ["--gpu-bind=none", ".venv/bin/python", "-m", "cl2cm_jax.main", *ARGUMENTS]


def test_tpu_pod_quotes_arguments_for_the_workers(clone: Path) -> None:
    lines = launch(clone, "tpu_pod.sh", TPU="slice", ZONE="here")
    assert lines.count("gcloud") == 5 and lines.count("--worker=all") == 5
    command = lines[-1].split("-m cl2cm_jax.main ")[1]
    echoed = subprocess.run(["bash", "-c", f'printf "%s\\n" {command}'], capture_output=True, text=True, check=True)
    assert echoed.stdout.splitlines() == ARGUMENTS


def test_tpu_pod_names_what_is_missing(clone: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("TPU", "ZONE")}
    done = subprocess.run(
        [str(clone / "launch/tpu_pod.sh")], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0 and "set TPU to the name of the TPU" in done.stderr
