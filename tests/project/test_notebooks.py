"""The notebooks run from top to bottom, and their outputs have the form of the committed ones."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
from support.command import call
from support.documented import ROOT, SMALL

pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("tensorflow")
pytest.importorskip("resvg_py")
sys.path.insert(0, str(ROOT))

import nbformat

from cl2cm_jax import main
from cl2cm_jax.config import read
from cl2cm_jax.data.sets.pictograms.drawings import drawings, render
from notebooks.execute import executed

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST = 250_000  # bytes of a notebook with its outputs


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with configs/ and notebooks/, where kernels can import the package."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("XLA_FLAGS", "")  # one device for the kernels, as users have
    return tmp_path


def train_a_small_demo(folder: Path) -> None:
    """Trains runs/emoji with the languages of the demo on 48 drawings for two steps."""
    demo = read(str(ROOT / "configs" / "emoji.py"), {}).data
    chosen = [one for one in drawings() if one.rows[0].group == "headline"][::30][:48]
    (folder / "photos").mkdir()
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "language", "caption"])
        for one, png in zip(chosen, render([one.image_id for one in chosen]), strict=True):
            (folder / "photos" / f"{one.image_id}.png").write_bytes(png)
            writer.writerows([f"{one.image_id}.png", row.language, row.caption] for row in one.rows)
    fields = [
        "data.images=photos",
        "data.captions=captions.csv",
        f"data.source={demo.source}",
        f"data.targets={','.join(demo.targets)}",
        f"data.reported={','.join(demo.reported)}",
    ]
    flags = ["--config=configs/captions.py", "--workdir=runs/emoji", *(f"--config.{field}" for field in fields)]
    outcome = call(main.main, *flags, *SMALL)
    assert outcome.code == 0, outcome.err


def form(notebook: nbformat.NotebookNode) -> list[tuple[str, list[object]]]:
    """Source of each code cell, with the number of lines or the media types of each output.

    The line that a table of few images has is not counted: the small demo has fewer than the committed one.
    """
    cells = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            shown = [
                sum("one more hit is" not in line for line in output.text.splitlines())
                if output.output_type == "stream"
                else sorted(output.data)
                for output in cell.outputs
            ]
            cells.append((cell.source, shown))
    return cells


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_its_outputs_have_the_committed_form(place: Path, path: Path) -> None:
    if path.stem == "quick_start":
        train_a_small_demo(place)
    assert form(executed(path, folder=place / "notebooks")) == form(nbformat.read(path, as_version=4))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_executed_and_small(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))  # from top to bottom, once
    outputs = [output for cell in code for output in cell.outputs]
    assert {output.output_type for output in outputs} == {"stream", "execute_result"}
    assert not any(output.get("name") == "stderr" for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert path.stat().st_size < LARGEST


def test_there_are_two_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["quick_start", "your_own_pictures"]
