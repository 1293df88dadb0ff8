"""Each tower in ONNX, fp32 and int8, compared with JAX.

Converted by jax2onnx; int8 is onnxruntime's dynamic quantisation of the weights of matrix products and tables.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cl2cm_jax.errors import not_installed
from cl2cm_jax.export.towers import Tower, check_agrees

FOLDER = "onnx"
OPSET = 21  # of onnxruntime 1.20 (2024) and newer
AGREES = 1e-4
QUANTISED = ("MatMul", "Gemm", "Gather")
_BATCH = 32
_NEEDED = "pip install onnx onnx-ir onnxruntime and pip install --no-deps jax2onnx==0.17.1"


def onnx_file(folder: Path, name: str, *, int8: bool = False) -> Path:
    """Path of a tower in a bundle."""
    return folder / FOLDER / f"{name}{'_int8' if int8 else ''}.onnx"


def check_installed() -> None:
    """Refuses to start without the converter; raises UserError with what to install."""
    try:
        _converter()
        import onnxruntime  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise not_installed(error.name, run=_NEEDED, needed_for="--onnx") from error


def write_onnx(folder: Path, tower: Tower, example: dict[str, np.ndarray]) -> float:
    """Writes a tower in both precisions and compares fp32 on the `example` inputs.

    Returns:
      The largest difference of the fp32 graph's vectors from JAX's.

    Raises:
      UserError: they differ by more than `AGREES`.
    """
    path = onnx_file(folder, tower.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    specs = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in tower.inputs.values()]  # pyright: ignore
    params = jax.tree.map(np.asarray, tower.params)  # sliced before the graph: only whole constants are quantised
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Explicitly requested dtype float64")  # the converter's constants
        model = _converter()(
            lambda *inputs: tower.apply(params, *inputs),
            specs,
            model_name=f"cl2cm_{tower.name}",
            opset=OPSET,
            input_names=list(tower.inputs),
            output_names=[tower.output],
        )
    _as_products(model)
    _wide_integers(model)
    for key, value in tower.metadata.items():
        model.metadata_props.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    worst = check_agrees(tower, example, Session(path)(example), tolerance=AGREES, flag="--onnx")
    _quantise(path, onnx_file(folder, tower.name, int8=True))
    return worst


def _as_products(model: Any) -> None:
    """Replaces Gemm without an added matrix by MatMul, which the quantiser handles."""
    graph, dropped = model.graph, set()
    for node in graph.node:
        options = {attribute.name: attribute.f or attribute.i for attribute in node.attribute}
        adds = len(node.input) > 2 and options.get("beta", 1.0)
        if node.op_type == "Gemm" and not adds and not options.get("transA") and not options.get("transB"):
            dropped |= set(node.input[2:])
            del node.input[2:], node.attribute[:]
            node.op_type = "MatMul"
    dropped -= {name for node in graph.node for name in node.input}
    for place in reversed(range(len(graph.initializer))):  # onnxruntime warns about each unused one
        if graph.initializer[place].name in dropped:
            del graph.initializer[place]


def _wide_integers(model: Any) -> None:
    """Makes integer inputs int64, as clients of other encoders send."""
    import onnx  # pyright: ignore[reportMissingImports]

    for given in model.graph.input:
        if given.type.tensor_type.elem_type == onnx.TensorProto.INT32:
            narrow = f"{given.name}_int32"
            for node in model.graph.node:
                node.input[:] = [narrow if name == given.name else name for name in node.input]
            given.type.tensor_type.elem_type = onnx.TensorProto.INT64
            cast = onnx.helper.make_node("Cast", [given.name], [narrow], to=onnx.TensorProto.INT32)
            model.graph.node.insert(0, cast)


class Session:
    """A graph in onnxruntime, on the CPU."""

    def __init__(self, path: Path):
        import onnxruntime  # pyright: ignore[reportMissingImports]

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Vectors (N, D) of inputs by name, (N, ...) each, in batches."""
        count = len(next(iter(inputs.values())))
        inputs = {name: x.astype(np.int64) if np.issubdtype(x.dtype, np.integer) else x for name, x in inputs.items()}
        starts = range(0, count, _BATCH)
        parts = [
            self._session.run(None, {n: x[start : start + _BATCH] for n, x in inputs.items()})[0] for start in starts
        ]
        return np.concatenate([np.asarray(part) for part in parts])


def _quantise(source: Path, target: Path) -> None:
    from onnxruntime.quantization import (  # pyright: ignore[reportMissingImports]
        QuantType,
        quantize_dynamic,
    )

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it warns about a preprocessing step that is not needed here
    try:
        quantize_dynamic(
            str(source),
            str(target),
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(QUANTISED),
            per_channel=False,
        )
    finally:
        root.setLevel(level)


def _converter() -> Any:
    """jax2onnx's function. Importing it imports its examples, which log errors for packages that are missing."""
    for noisy in ("jax2onnx", "onnx_ir"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    from jax2onnx import to_onnx  # pyright: ignore[reportMissingImports]

    return to_onnx
