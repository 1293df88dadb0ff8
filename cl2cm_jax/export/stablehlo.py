"""Each tower as serialized StableHLO: one file with its weights, any batch, and for text any length.

It runs without this package: `jax.export.deserialize(open(file, "rb").read()).call(input_ids, attention_mask)`.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.export
import numpy as np

from cl2cm_jax.export.render import render
from cl2cm_jax.export.towers import Tower, check_agrees
from cl2cm_jax.models.configured import text_prompt
from cl2cm_jax.trained.bundle import Parts

FOLDER = "stablehlo"
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
AGREES = 1e-5


def stablehlo_file(folder: Path, tower: Tower) -> Path:
    """Path of a tower in a bundle."""
    return folder / FOLDER / f"{tower.name}.stablehlo"


def write_stablehlo(folder: Path, tower: Tower, example: dict[str, np.ndarray]) -> float:
    """Writes a tower and compares it on the `example` inputs.

    Returns:
      The largest difference of its vectors from the tower's.

    Raises:
      UserError: they differ by more than `AGREES`.
    """
    constraints = [f"{name.lower()} <= {limit}" for name, limit in tower.limits.items()]
    scope = jax.export.SymbolicScope(constraints)
    shapes = [
        jax.ShapeDtypeStruct(jax.export.symbolic_shape(_symbolic(shape), scope=scope), dtype)
        for shape, dtype in tower.inputs.values()
    ]
    exported = jax.export.export(jax.jit(lambda *inputs: tower.apply(tower.params, *inputs)), platforms=PLATFORMS)
    path = stablehlo_file(folder, tower)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(exported(*shapes).serialize())
    inputs = [example[name] for name in tower.inputs]
    found = jax.export.deserialize(bytearray(path.read_bytes())).call(*inputs)
    return check_agrees(tower, example, np.asarray(found), tolerance=AGREES, flag="--stablehlo")


def _symbolic(shape: tuple[int | str, ...]) -> str:
    return ", ".join(str(size).lower() if isinstance(size, str) else str(size) for size in shape)


def note(parts: Parts, worst: dict[str, float]) -> str:
    """The section of the card."""
    inputs = ["pixel_values"]
    if parts.vision is None or parts.config.data.frames > 1:
        inputs = ["features" if parts.vision is None else "pixel_values", "frame_mask"]
    return render(
        "stablehlo",
        folder=FOLDER,
        jax_version=jax.__version__,
        platforms=PLATFORMS,
        prompt=text_prompt(parts.config),
        vision_inputs=inputs,
        worst=worst,
    )
