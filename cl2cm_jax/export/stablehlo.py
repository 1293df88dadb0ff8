"""Each tower as serialized StableHLO: one file with its weights, any batch, and for text any length.

It runs without this package: `jax.export.deserialize(open(file, "rb").read()).call(input_ids, attention_mask)`.

Source: ours.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.export
import numpy as np

from cl2cm_jax.export.towers import Tower, check_agrees
from cl2cm_jax.trained.bundle import Parts

FOLDER = "stablehlo"
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
AGREES = 1e-5


def stablehlo_file(folder: Path, tower: Tower) -> Path:
    """Where a tower lies in a bundle."""
    return folder / FOLDER / f"{tower.name}.stablehlo"


def write_stablehlo(folder: Path, tower: Tower, example: dict[str, np.ndarray]) -> float:
    """Writes a tower.

    Args:
      folder: the bundle.
      tower: what to write.
      example: inputs by name, to compare with.

    Returns:
      The largest difference of its vectors from the tower's.

    Raises:
      UserError: they differ by more than `AGREES`.
    """
    constraints = [f"{name.lower()} <= {most}" for name, most in tower.most.items()]
    scope = jax.export.SymbolicScope(constraints)
    shapes = [
        jax.ShapeDtypeStruct(jax.export.symbolic_shape(_spelt(shape), scope=scope), dtype)
        for shape, dtype in tower.inputs.values()
    ]
    exported = jax.export.export(jax.jit(lambda *inputs: tower.apply(tower.params, *inputs)), platforms=PLATFORMS)
    path = stablehlo_file(folder, tower)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(exported(*shapes).serialize())
    inputs = [example[name] for name in tower.inputs]
    found = jax.export.deserialize(bytearray(path.read_bytes())).call(*inputs)
    return check_agrees(tower, example, np.asarray(found), most=AGREES, flag="--stablehlo")


def _spelt(shape: tuple[int | str, ...]) -> str:
    return ", ".join(str(size).lower() if isinstance(size, str) else str(size) for size in shape)


def note(parts: Parts, worst: dict[str, float]) -> str:
    """The section of the card."""
    rows = [f"| `{FOLDER}/{name}.stablehlo` | {value:.1e} |" for name, value in worst.items()]
    names = {"text": "input_ids, attention_mask", "vision": "pixel_values"}
    if parts.vision is None or parts.config.data.frames > 1:
        names["vision"] = "features or pixel_values, frame_mask"
    return "\n".join(
        [
            "## StableHLO",
            "",
            f"Serialized by jax.export of JAX {jax.__version__} for {', '.join(PLATFORMS)}, fp32, weights",
            "inside; batch and text length are free. It runs without cl2cm_jax:",
            "",
            "```python",
            "import jax.export",
            "",
            f'text = jax.export.deserialize(bytearray(open("{FOLDER}/text.stablehlo", "rb").read()))',
            f"text.call({names['text']})  # int32 (B, L) each",
            "```",
            "",
            f"The vision tower takes {names['vision']}.",
            "",
            "| file | largest difference from JAX |",
            "|---|---:|",
            *rows,
        ]
    )
