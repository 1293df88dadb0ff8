"""Executes notebooks and writes their outputs into them.

python -m notebooks.execute [notebooks/quick_start.ipynb ...]

The run of `make demo` must be there. What is kept is what a reader wants to see: standard error (progress, logs), times
and the machine's versions are not.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from cl2cm_jax.errors import UserError, exit_cleanly
from cl2cm_jax.runtime.atomic import write_text
from cl2cm_jax.training.results import is_finished

FOLDER = Path(__file__).parent
DEMO = Path("runs/emoji")
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def executed(path: Path, *, folder: Path, timeout: int = 600) -> nbformat.NotebookNode:
    """The notebook with the outputs of a fresh kernel that starts in `folder`.

    Args:
        path: the .ipynb, which is not changed.
        folder: where the kernel starts.
        timeout: seconds that one cell may take.

    Raises:
        CellExecutionError: a cell failed; its traceback is the message.
    """
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=timeout, kernel_name="python3", resources=resources).execute()
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
        if cell.cell_type == "code":
            cell.outputs = _kept(cell.outputs)
    return notebook


def _kept(outputs: Sequence[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """What a reader wants of a cell's outputs; standard output in one piece, however it came."""
    kept: list[nbformat.NotebookNode] = []
    for output in outputs:
        if output.output_type != "stream":
            kept.append(output)
        elif output.name == "stdout" and kept and kept[-1].output_type == "stream":
            kept[-1].text += output.text
        elif output.name == "stdout":
            kept.append(output)
    return kept


def main(arguments: Sequence[str] | None = None) -> None:
    """Executes the named notebooks, or all, in an empty folder beside the configurations and the demo's run."""
    names = sys.argv[1:] if arguments is None else arguments
    if not is_finished(DEMO):
        raise UserError(f"{DEMO} holds no finished run, which the notebooks show; run: make demo")
    for path in [Path(name) for name in names] or sorted(FOLDER.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "runs").mkdir()
            (Path(folder) / "configs").symlink_to(FOLDER.parent / "configs")
            (Path(folder) / DEMO).symlink_to(DEMO.resolve())
            notebook = executed(path, folder=Path(folder))
        write_text(path, nbformat.writes(notebook) + "\n")
        print(f"{path}: {len(notebook.cells)} cells, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    exit_cleanly(main)
